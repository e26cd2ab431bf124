//! AVX2 with FMA and F16C: eight lanes.

use std::arch::x86_64::*;

use super::Lanes;

/// Eight lanes of AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Four activations in every lane.
#[inline(always)]
unsafe fn four(activations: *const i8) -> __m256i {
    // SAFETY: the caller's pointer has four bytes.
    unsafe { _mm256_set1_epi32(activations.cast::<i32>().read_unaligned()) }
}

/// Products of weights stored 128 too high, in sums of four. With the offset undone a weight is
/// -128..=127: its magnitude times the activation with its sign, twice at most 128 * 127, fits 16
/// bits.
#[inline(always)]
unsafe fn signed_pairs(weights: __m256i, activations: __m256i) -> __m256i {
    // SAFETY: the caller has the instructions.
    unsafe {
        let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
        let activations = _mm256_sign_epi8(activations, weights);
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), activations);
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
    }
}

// SAFETY of every block below: the trait's contract, that the instructions are present and that
// pointers have as many values as are read or written.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx2 {
    const COUNT: usize = 8;
    const SIGNED_BYTES: bool = true;
    type Bytes = __m256i;
    type Ints = __m256i;
    type Floats = __m256;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat_byte(byte: u8) -> __m256i {
        unsafe { _mm256_set1_epi8(byte as i8) }
    }
    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_left(a: __m256i, by: u32) -> __m256i {
        unsafe { _mm256_sll_epi16(a, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_right(a: __m256i, by: u32) -> __m256i {
        unsafe { _mm256_srl_epi16(a, _mm_cvtsi32_si128(by as i32)) }
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn dot4(
        sum: __m256i,
        weights: [__m256i; 4],
        activations: *const i8,
        bits: u32,
    ) -> __m256i {
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let [a, b, c, d] = weights;
            let (x, y) = (four(activations), four(activations.add(4)));
            let (z, w) = (four(activations.add(8)), four(activations.add(12)));
            match bits {
                // A pair of products is at most 2 * 127 * (2^bits - 1): four pairs of 5-bit
                // weights (31,496) and two pairs of 6-bit ones (32,004) fit 16 bits.
                0..=5 => {
                    let low =
                        _mm256_add_epi16(_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, y));
                    let high =
                        _mm256_add_epi16(_mm256_maddubs_epi16(c, z), _mm256_maddubs_epi16(d, w));
                    let all = _mm256_add_epi16(low, high);
                    _mm256_add_epi32(sum, _mm256_madd_epi16(all, ones))
                }
                6 => {
                    let low =
                        _mm256_add_epi16(_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, y));
                    let high =
                        _mm256_add_epi16(_mm256_maddubs_epi16(c, z), _mm256_maddubs_epi16(d, w));
                    let low = _mm256_madd_epi16(low, ones);
                    _mm256_add_epi32(sum, _mm256_add_epi32(low, _mm256_madd_epi16(high, ones)))
                }
                _ => {
                    let low = _mm256_add_epi32(signed_pairs(a, x), signed_pairs(b, y));
                    let high = _mm256_add_epi32(signed_pairs(c, z), signed_pairs(d, w));
                    _mm256_add_epi32(sum, _mm256_add_epi32(low, high))
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn to_floats(ints: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(ints) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m256 {
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m256) {
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, value: __m256) {
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value);
            _mm_storeu_si128(to.cast(), halves);
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(a: __m256) -> __m256 {
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    unsafe fn first(count: usize, a: __m256, b: __m256) -> __m256 {
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let limit = _mm256_set1_epi32(count.min(8) as i32);
            _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, lanes)))
        }
    }
    #[inline(always)]
    unsafe fn add_to_doubles(to: *mut f64, value: __m256) {
        unsafe {
            let low = _mm256_cvtps_pd(_mm256_castps256_ps128(value));
            let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(value));
            _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), low));
            let to = to.add(4);
            _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), high));
        }
    }
    #[inline(always)]
    unsafe fn load_doubles(from: *const f64) -> __m256 {
        unsafe {
            let low = _mm256_cvtpd_ps(_mm256_loadu_pd(from));
            let high = _mm256_cvtpd_ps(_mm256_loadu_pd(from.add(4)));
            _mm256_set_m128(high, low)
        }
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, value: __m256) {
        unsafe {
            let ints = _mm256_cvtps_epi32(value);
            let low = _mm256_castsi256_si128(ints);
            let shorts = _mm_packs_epi32(low, _mm256_extracti128_si256::<1>(ints));
            _mm_storel_epi64(to.cast(), _mm_packs_epi16(shorts, shorts));
        }
    }
}
