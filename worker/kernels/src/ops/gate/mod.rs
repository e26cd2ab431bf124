//! Gate: the activation between the projections of a feed-forward block.

mod reference;

use crate::cpu::Cpu;
use crate::shape::{self, ShapeError};

/// The activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateKind {
    /// `x / (1 + e^-x)` (SwiGLU when gated). Source: GLU Variants Improve Transformer (2020).
    Silu,
    /// `x Φ(x)` with the normal distribution's own function. Source: Gaussian Error Linear Units
    /// (2016).
    Gelu,
    /// The tanh approximation of [`Gelu`](Self::Gelu), from the same paper.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
}

/// `out[i] = act(gate[i]) * up[i]`, or `act(gate[i])` when there is no `up`; one row or many.
/// Errors: the lengths differ.
pub fn gate(
    cpu: Cpu,
    kind: GateKind,
    gate: &[f32],
    up: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    if let Some(up) = up {
        shape::exactly("gate", "up values", gate.len(), up.len())?;
    }
    shape::exactly("gate", "output", gate.len(), out.len())?;
    let _ = cpu;
    reference::gate(kind, gate, up, out);
    Ok(())
}
