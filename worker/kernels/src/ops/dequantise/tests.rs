use super::*;

/// Blocks and floats made by the `gguf` package of the format's authors, see the file's head.
const GOLDEN: &str = include_str!("golden.txt");

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

#[test]
fn every_format_reads_as_its_authors_read_it() {
    let mut seen = Vec::new();
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let [name, blocks, floats] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("three words in {line}")
        };
        let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == name).unwrap();
        let expected: Vec<f32> = hex(floats)
            .chunks_exact(4)
            .map(|b| f32::from_be_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let mut found = vec![0.0; expected.len()];
        dequantise(dtype, &hex(blocks), &mut found).unwrap();
        for (i, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            // Both work in f32 but may group the products of K-quants differently: two roundings of
            // either term.
            let tolerance = expected.abs().max(0.25) * 4.0 * f32::EPSILON;
            assert!((found - expected).abs() <= tolerance, "{name} {i}: {found} {expected}");
        }
        seen.push(dtype);
    }
    assert_eq!(seen, DType::ALL, "every format has a line");
}

#[test]
fn wrong_lengths_are_refused() {
    let check = |bytes: usize, values: usize, message: &str| {
        let found = dequantise(DType::Q4_0, &vec![0; bytes], &mut vec![0.0; values]);
        assert_eq!(found.unwrap_err().to_string(), message);
    };
    check(18, 33, "dequantise: values must be a multiple of 32, not 33");
    check(18, 64, "dequantise: bytes must be 36, not 18");
}

#[test]
fn a_row_of_a_table_is_embedded() {
    let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let table = MatrixView::new(DType::F32, 2, 2, &bytes).unwrap();
    let mut out = [0.0; 2];
    embed_row(&table, 1, &mut out).unwrap();
    assert_eq!(out, [3.0, 4.0]);
    let refused = embed_row(&table, 2, &mut out).unwrap_err();
    assert_eq!(refused.to_string(), "embed row: row must be at most 1, not 2");
}
