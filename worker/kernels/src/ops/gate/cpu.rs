//! Gates in vectors.

use super::GateKind;
use crate::simd::Lanes;

/// Lanes of the longest vector.
const LANES_MAX: usize = 16;

/// See the op; [`GateKind::Gelu`] is not computed here.
///
/// # Safety
/// The instruction set of `L` is present; the slices are equally long.
#[inline(always)]
pub(super) unsafe fn gate<L: Lanes>(
    kind: GateKind,
    gate: &[f32],
    up: Option<&[f32]>,
    out: &mut [f32],
) {
    let whole = gate.len() / L::COUNT * L::COUNT;
    // SAFETY: vectors end before `whole`, or are in arrays of 16.
    unsafe {
        for at in (0..whole).step_by(L::COUNT) {
            let mut value = activate::<L>(kind, L::load(gate.as_ptr().add(at)));
            if let Some(up) = up {
                value = L::mul(value, L::load(up.as_ptr().add(at)));
            }
            L::store(out.as_mut_ptr().add(at), value);
        }
        let mut rest = [0.0; LANES_MAX];
        rest[..gate.len() - whole].copy_from_slice(&gate[whole..]);
        L::store(rest.as_mut_ptr(), activate::<L>(kind, L::load(rest.as_ptr())));
        for (i, out) in out[whole..].iter_mut().enumerate() {
            *out = up.map_or(rest[i], |up| rest[i] * up[whole + i]);
        }
    }
}

#[inline(always)]
unsafe fn activate<L: Lanes>(kind: GateKind, x: L::Floats) -> L::Floats {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let zero = L::splat(0.0);
        match kind {
            GateKind::Silu => times_sigmoid::<L>(x, x),
            GateKind::Gelu | GateKind::GeluTanh => {
                // (1 + tanh y) / 2 is the sigmoid of 2 y; 1.595769 is 2 (2/π)^1/2.
                let cube = L::mul(L::mul(x, x), x);
                let inner = L::fma(cube, L::splat(0.044_715), x);
                times_sigmoid::<L>(x, L::mul(inner, L::splat(1.595_769)))
            }
            GateKind::Relu => L::max(x, zero),
            GateKind::ReluSquared => {
                let x = L::max(x, zero);
                L::mul(x, x)
            }
        }
    }
}

/// `x / (1 + e^-y)`.
#[inline(always)]
unsafe fn times_sigmoid<L: Lanes>(x: L::Floats, y: L::Floats) -> L::Floats {
    // SAFETY: the caller has the instruction set.
    unsafe { L::div(x, L::add(L::splat(1.0), L::exp(L::sub(L::splat(0.0), y)))) }
}
