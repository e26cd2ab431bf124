//! Rotary position embedding of one token's heads.

pub(crate) mod cuda;

use crate::shape::{self, ShapeError};

/// Which values of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopePairs {
    /// `i` with `i + rotary / 2` (GPT-NeoX; Llama and Qwen checkpoints of Hugging Face).
    Halves,
    /// `2 i` with `2 i + 1` (GPT-J; Llama in GGUF files).
    Neighbours,
}

/// The heads that [`rope`] turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeShape {
    /// Values in a head.
    pub head_dim: usize,
    /// Leading values of a head that are rotated; the others stay. Even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Which of them are pairs.
    pub pairs: RopePairs,
}

/// Rotates each head of `x` [heads, head_dim] (one token) in place: the pair `(a, b)` number `i`
/// becomes `(a cos[i] - b sin[i], b cos[i] + a sin[i])`. `cos` and `sin` [rotary_dim / 2] are the
/// rows of the token's position. Errors: a length does not fit the shape. Source: RoFormer (2021)
/// s.3.
pub fn rope(shape: RopeShape, cos: &[f32], sin: &[f32], x: &mut [f32]) -> Result<(), ShapeError> {
    const OP: &str = "rope";
    shape::multiple(OP, "rotary values", 2, shape.rotary_dim)?;
    shape::at_most(OP, "rotary values", shape.head_dim, shape.rotary_dim)?;
    shape::multiple(OP, "values", shape.head_dim, x.len())?;
    shape::exactly(OP, "cosines", shape.rotary_dim / 2, cos.len())?;
    shape::exactly(OP, "sines", shape.rotary_dim / 2, sin.len())?;
    for head in x.chunks_exact_mut(shape.head_dim) {
        let rotated = &mut head[..shape.rotary_dim];
        match shape.pairs {
            RopePairs::Halves => {
                let (first, second) = rotated.split_at_mut(shape.rotary_dim / 2);
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
            RopePairs::Neighbours => {
                for ((pair, cos), sin) in rotated.chunks_exact_mut(2).zip(cos).zip(sin) {
                    let (a, b) = (pair[0], pair[1]);
                    pair[0] = a * cos - b * sin;
                    pair[1] = b * cos + a * sin;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_turn_by_their_angle_and_the_rest_stays() {
        let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]);
        let check = |pairs, expected: [f32; 5]| {
            let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
            rope(RopeShape { head_dim: 5, rotary_dim: 4, pairs }, &cos, &sin, &mut x).unwrap();
            assert_eq!(x, expected);
        };
        check(RopePairs::Halves, [-3.0, 2.0, 1.0, 4.0, 5.0]);
        check(RopePairs::Neighbours, [-2.0, 1.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let shape = RopeShape { head_dim: 4, rotary_dim: 4, pairs: RopePairs::Halves };
        assert!(rope(shape, &[0.0; 2], &[0.0; 2], &mut [0.0; 6]).is_err());
        assert!(rope(shape, &[0.0; 1], &[0.0; 2], &mut [0.0; 8]).is_err());
        let odd = RopeShape { rotary_dim: 3, ..shape };
        assert!(rope(odd, &[0.0; 1], &[0.0; 1], &mut [0.0; 8]).is_err());
    }
}
