//! One vocabulary for three instruction sets, so that a kernel is written once.
//!
//! A kernel is an `#[inline(always)]` function over [`Lanes`]; [`dispatch!`](crate::simd::dispatch)
//! calls it inside a function that has the instruction set switched on, where all of it is inlined.
//! A closure would be compiled apart, without the set and a hundred times slower: no kernel has
//! one. AVX2 and AVX-512 give the same bits: sums of integers are exact and floats are combined by
//! the same fused operations in the same order per lane.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

use half::f16;

use crate::cpu::Cpu;

/// A row of vectors: [`COUNT`](Self::COUNT) floats, as many 32-bit integers, or four times as many
/// bytes.
///
/// # Safety
/// All functions may only be called where the instruction set is present, and read or write as many
/// values at a pointer as their name says; pointers need no alignment.
pub(crate) trait Lanes: Copy {
    /// Lanes of a vector.
    const COUNT: usize;
    /// Whether 8-bit weights are multiplied as signed bytes, so that their offset of 128 is undone
    /// by the multiplication itself.
    const SIGNED_BYTES: bool;
    /// `4 * COUNT` bytes.
    type Bytes: Copy;
    /// `COUNT` signed integers.
    type Ints: Copy;
    /// `COUNT` floats.
    type Floats: Copy;

    /// Reads `4 * COUNT` bytes.
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes;
    /// The same byte everywhere.
    unsafe fn splat_byte(byte: u8) -> Self::Bytes;
    /// `a & b`.
    unsafe fn and(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `a | b`.
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Each pair of bytes, as a little-endian number, shifted left.
    unsafe fn shift_left(a: Self::Bytes, by: u32) -> Self::Bytes;
    /// Each pair of bytes, as a little-endian number, shifted right.
    unsafe fn shift_right(a: Self::Bytes, by: u32) -> Self::Bytes;

    /// The same integer everywhere.
    unsafe fn splat_int(value: i32) -> Self::Ints;
    /// Adds to lane `i` the products of bytes `4 i..4 i + 4` of each of the four weight vectors
    /// with the four signed activations of that vector (16 at `activations`). Weights are unsigned
    /// and below `2^bits`; with 8 bits and [`SIGNED_BYTES`](Self::SIGNED_BYTES) they count as
    /// `weight - 128`. Activations are not -128.
    unsafe fn dot4(
        sum: Self::Ints,
        weights: [Self::Bytes; 4],
        activations: *const i8,
        bits: u32,
    ) -> Self::Ints;
    /// Integers as floats, rounded to nearest.
    unsafe fn to_floats(ints: Self::Ints) -> Self::Floats;

    /// The same float everywhere.
    unsafe fn splat(value: f32) -> Self::Floats;
    /// Reads `COUNT` floats.
    unsafe fn load(from: *const f32) -> Self::Floats;
    /// Reads `COUNT` half floats.
    unsafe fn load_f16(from: *const u16) -> Self::Floats;
    /// Reads `COUNT` bfloats.
    unsafe fn load_bf16(from: *const u16) -> Self::Floats;
    /// Writes `COUNT` floats.
    unsafe fn store(to: *mut f32, value: Self::Floats);
    /// Writes `COUNT` floats as half floats, rounded to nearest, ties to even.
    unsafe fn store_f16(to: *mut u16, value: Self::Floats);
    /// `a + b`.
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a - b`.
    unsafe fn sub(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b`.
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a / b`.
    unsafe fn div(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once where the set can.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The greater of each pair; `b` where one is NaN.
    unsafe fn max(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The lesser of each pair; `b` where one is NaN.
    unsafe fn min(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Absolute values.
    unsafe fn abs(a: Self::Floats) -> Self::Floats;
    /// Rounded to the nearest whole number, ties to even.
    unsafe fn round(a: Self::Floats) -> Self::Floats;
    /// `2^a` of whole numbers in -126..=127.
    unsafe fn exp2_whole(a: Self::Floats) -> Self::Floats;
    /// Lanes below `count` of `a`, the others of `b`.
    unsafe fn first(count: usize, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Adds `COUNT` floats to as many doubles.
    unsafe fn add_to_doubles(to: *mut f64, value: Self::Floats);
    /// Reads `COUNT` doubles as floats, rounded to nearest.
    unsafe fn load_doubles(from: *const f64) -> Self::Floats;
    /// Writes `COUNT` whole numbers in -127..=127 as bytes.
    unsafe fn store_i8(to: *mut i8, value: Self::Floats);

    /// The greatest lane.
    #[inline(always)]
    unsafe fn greatest(a: Self::Floats) -> f32 {
        let mut lanes = [0.0f32; 16];
        // SAFETY: no set has more than 16 lanes.
        unsafe { Self::store(lanes.as_mut_ptr(), a) };
        lanes[..Self::COUNT].iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// The sum of the lanes: halves added to each other until one is left.
    #[inline(always)]
    unsafe fn total(a: Self::Floats) -> f32 {
        let mut lanes = [0.0f32; 16];
        // SAFETY: no set has more than 16 lanes.
        unsafe { Self::store(lanes.as_mut_ptr(), a) };
        let mut half = Self::COUNT / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// `e^a` to 2 units in the last place; 0 below -87.3, `e^88.3` above that.
    #[inline(always)]
    unsafe fn exp(a: Self::Floats) -> Self::Floats {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let low = Self::splat(-87.336_54);
            let a_in = Self::max(Self::min(a, Self::splat(88.3)), low);
            let whole = Self::round(Self::mul(a_in, Self::splat(std::f32::consts::LOG2_E)));
            // ln 2 in two parts, the first exact in few bits (Cody and Waite).
            let rest = Self::fma(whole, Self::splat(-0.693_359_4), a_in);
            let rest = Self::fma(whole, Self::splat(2.121_944_4e-4), rest);
            // e^r on ±ln(2)/2: Taylor to the sixth power, remainder below 2^-26.
            let mut sum = Self::splat(1.0 / 720.0);
            for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
                sum = Self::fma(sum, rest, Self::splat(c));
            }
            Self::mul(sum, Self::exp2_whole(whole))
        }
    }
}

/// Calls `$kernel::<L>($args)` (an unsafe inline function over [`Lanes`]) with the instruction set
/// of `$cpu` switched on.
macro_rules! dispatch {
    ($cpu:expr, $kernel:ident ($($arg:ident : $type:ty),* $(,)?)) => {
        $crate::simd::dispatch!($cpu, $kernel ($($arg: $type),*) -> ())
    };
    ($cpu:expr, $kernel:ident ($($arg:ident : $type:ty),* $(,)?) -> $out:ty) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn with_avx512($($arg: $type),*) -> $out {
            // SAFETY: the instructions are on in this function; the rest is the caller's.
            unsafe { $kernel::<$crate::simd::Avx512>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn with_avx2($($arg: $type),*) -> $out {
            // SAFETY: the instructions are on in this function; the rest is the caller's.
            unsafe { $kernel::<$crate::simd::Avx2>($($arg),*) }
        }
        match $cpu.level() {
            // SAFETY: a `Cpu` of this level exists, so the machine has its instructions.
            #[cfg(target_arch = "x86_64")]
            $crate::CpuLevel::Avx512Vnni => unsafe { with_avx512($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            $crate::CpuLevel::Avx2 => unsafe { with_avx2($($arg),*) },
            // SAFETY: plain Rust needs no instruction set; the rest is the caller's.
            _ => unsafe { $kernel::<$crate::simd::Portable>($($arg),*) },
        }
    }};
}
pub(crate) use dispatch;

/// The greatest finite half float.
const HALF_MAX: f32 = 65504.0;

/// Rounds `from` to half floats, the greatest finite one at most.
pub(crate) fn to_halves(cpu: Cpu, from: &[f32], to: &mut [u16]) {
    dispatch!(cpu, to_halves_lanes (from: &[f32], to: &mut [u16]));
}

#[inline(always)]
unsafe fn to_halves_lanes<L: Lanes>(from: &[f32], to: &mut [u16]) {
    let length = from.len().min(to.len());
    let whole = length / L::COUNT * L::COUNT;
    // SAFETY: vectors end inside both slices.
    unsafe {
        for at in (0..whole).step_by(L::COUNT) {
            let value = L::max(L::load(from.as_ptr().add(at)), L::splat(-HALF_MAX));
            L::store_f16(to.as_mut_ptr().add(at), L::min(value, L::splat(HALF_MAX)));
        }
    }
    for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
        *to = f16::from_f32(from.clamp(-HALF_MAX, HALF_MAX)).to_bits();
    }
}
