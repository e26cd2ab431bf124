//! Plain arrays: what any processor can run, and what the others are compared with.

use half::{bf16, f16};

use super::Lanes;

const COUNT: usize = 16;

/// Sixteen lanes without any intrinsic.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type Floats = [f32; COUNT];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Floats {
    std::array::from_fn(f)
}

#[inline(always)]
fn pairs(a: [u8; 64], f: impl Fn(u16) -> u16) -> [u8; 64] {
    let mut out = [0; 64];
    for (out, a) in out.chunks_exact_mut(2).zip(a.chunks_exact(2)) {
        out.copy_from_slice(&f(u16::from_le_bytes([a[0], a[1]])).to_le_bytes());
    }
    out
}

impl Lanes for Portable {
    const COUNT: usize = COUNT;
    const SIGNED_BYTES: bool = false;
    type Bytes = [u8; 64];
    type Ints = [i32; COUNT];
    type Floats = Floats;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes {
        // SAFETY: the caller's pointer has 64 bytes.
        unsafe { from.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat_byte(byte: u8) -> Self::Bytes {
        [byte; 64]
    }
    #[inline(always)]
    unsafe fn and(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn shift_left(a: Self::Bytes, by: u32) -> Self::Bytes {
        pairs(a, |pair| pair << by)
    }
    #[inline(always)]
    unsafe fn shift_right(a: Self::Bytes, by: u32) -> Self::Bytes {
        pairs(a, |pair| pair >> by)
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> Self::Ints {
        [value; COUNT]
    }
    #[inline(always)]
    unsafe fn dot4(
        mut sum: Self::Ints,
        weights: [Self::Bytes; 4],
        activations: *const i8,
        _bits: u32,
    ) -> Self::Ints {
        // SAFETY: the caller's pointer has 16 bytes.
        let activations = unsafe { activations.cast::<[[i8; 4]; 4]>().read_unaligned() };
        for (weights, activations) in weights.iter().zip(activations) {
            for (sum, weights) in sum.iter_mut().zip(weights.as_chunks::<4>().0) {
                for (&w, a) in weights.iter().zip(activations) {
                    *sum += i32::from(w) * i32::from(a);
                }
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn to_floats(ints: Self::Ints) -> Floats {
        each(|i| ints[i] as f32)
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Floats {
        [value; COUNT]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Floats {
        // SAFETY: the caller's pointer has 16 floats.
        unsafe { from.cast::<Floats>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Floats {
        // SAFETY: the caller's pointer has 16 halves.
        let halves = unsafe { from.cast::<[u16; COUNT]>().read_unaligned() };
        each(|i| f16::from_bits(halves[i]).to_f32_const())
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Floats {
        // SAFETY: the caller's pointer has 16 halves.
        let halves = unsafe { from.cast::<[u16; COUNT]>().read_unaligned() };
        each(|i| bf16::from_bits(halves[i]).to_f32_const())
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Floats) {
        // SAFETY: the caller's pointer has room for 16 floats.
        unsafe { to.cast::<Floats>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, value: Floats) {
        let halves: [u16; COUNT] = std::array::from_fn(|i| f16::from_f32_const(value[i]).to_bits());
        // SAFETY: the caller's pointer has room for 16 halves.
        unsafe { to.cast::<[u16; COUNT]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn add(a: Floats, b: Floats) -> Floats {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Floats, b: Floats) -> Floats {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Floats, b: Floats) -> Floats {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Floats, b: Floats) -> Floats {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
        // Not `mul_add`: without the instruction that is a slow call.
        each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Floats, b: Floats) -> Floats {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Floats, b: Floats) -> Floats {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn abs(a: Floats) -> Floats {
        each(|i| a[i].abs())
    }
    #[inline(always)]
    unsafe fn round(a: Floats) -> Floats {
        each(|i| a[i].round_ties_even())
    }
    #[inline(always)]
    unsafe fn exp2_whole(a: Floats) -> Floats {
        each(|i| f32::from_bits(((a[i] as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn first(count: usize, a: Floats, b: Floats) -> Floats {
        each(|i| if i < count { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn add_to_doubles(to: *mut f64, value: Floats) {
        // SAFETY: the caller's pointer has 16 doubles.
        let to = unsafe { &mut *to.cast::<[f64; COUNT]>() };
        to.iter_mut().zip(value).for_each(|(to, value)| *to += f64::from(value));
    }
    #[inline(always)]
    unsafe fn load_doubles(from: *const f64) -> Floats {
        // SAFETY: the caller's pointer has 16 doubles.
        let from = unsafe { &*from.cast::<[f64; COUNT]>() };
        each(|i| from[i] as f32)
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, value: Floats) {
        let bytes: [i8; COUNT] = std::array::from_fn(|i| value[i] as i8);
        // SAFETY: the caller's pointer has room for 16 bytes.
        unsafe { to.cast::<[i8; COUNT]>().write_unaligned(bytes) }
    }
}
