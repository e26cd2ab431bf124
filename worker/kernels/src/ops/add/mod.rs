//! Add: residual connections and biases.

use crate::shape::{self, ShapeError};

/// `x[i] += y[i]`. Errors: the lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) -> Result<(), ShapeError> {
    shape::exactly("add", "values", x.len(), y.len())?;
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
    Ok(())
}

/// Adds `bias` [width] to each row of `x` [rows, width]. Errors: `x` is not whole rows.
pub fn add_to_rows(x: &mut [f32], bias: &[f32]) -> Result<(), ShapeError> {
    shape::multiple("add to rows", "values", bias.len(), x.len())?;
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, y) in row.iter_mut().zip(bias) {
            *x += y;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_elementwise_and_biases_repeat() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        add(&mut x, &[1.0, 1.0, 0.0, 0.0]).unwrap();
        add_to_rows(&mut x, &[10.0, 20.0]).unwrap();
        assert_eq!(x, [12.0, 23.0, 13.0, 24.0]);
        assert!(add(&mut x, &[1.0]).is_err());
        assert!(add_to_rows(&mut x, &[1.0; 3]).is_err());
        assert!(add_to_rows(&mut x, &[]).is_err());
    }
}
