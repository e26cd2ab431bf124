//! One folder per op.

pub(crate) mod add;
pub(crate) mod attention;
pub(crate) mod dequantise;
pub(crate) mod gate;
pub(crate) mod logits;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod sampling;
