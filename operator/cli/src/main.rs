//! The one control binary.
fn main() {}
