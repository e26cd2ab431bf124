use std::num::NonZeroUsize;

use super::*;
use crate::dtype::DType;
use crate::matrix::MatrixView;

#[test]
fn stacked_matrices_write_one_row_per_token() {
    let pool = ComputePool::start(NonZeroUsize::MIN).unwrap();
    let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let a = MatrixView::new(DType::F32, 2, 2, &bytes).unwrap();
    let weight = PackedMatrix::pack_stacked(&[a, a.slice_rows(0..1).unwrap()], &pool).unwrap();
    let mut x = Activations::new();
    x.copy_from(&pool, 2, &[1.0, 1.0, 1.0, 0.0]).unwrap();
    let mut out = [0.0; 6];
    matmul(&pool, &weight, &x, MatmulOutput::Set, &mut out).unwrap();
    assert_eq!(out, [3.0, 7.0, 3.0, 1.0, 3.0, 1.0]);
    matmul(&pool, &weight, &x, MatmulOutput::Add, &mut out).unwrap();
    assert_eq!(out, [6.0, 14.0, 6.0, 2.0, 6.0, 2.0]);
    assert!(matmul(&pool, &weight, &x, MatmulOutput::Set, &mut out[1..]).is_err());
}
