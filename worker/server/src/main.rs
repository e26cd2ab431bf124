//! One member of a replica.
fn main() {}
