//! Randomness without state: a number for each (seed, choice, position), whenever it is asked for.
//! So a sequence that is computed again after a preemption, or in another batch, draws the same.

/// A uniform number in [0, 1), a multiple of 2⁻⁵³.
pub(super) fn uniform(seed: u64, choice: u32, position: usize) -> f64 {
    uniform_units(seed, choice, position) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// The same in units of 2⁻⁵³.
pub(super) fn uniform_units(seed: u64, choice: u32, position: usize) -> u64 {
    let mut state = mix(seed ^ 0x6e61_7275_2d64_7261);
    state = mix(state ^ u64::from(choice).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    state = mix(state ^ (position as u64).wrapping_mul(0xd1b5_4a32_d192_ed03));
    state >> 11
}

/// One step of SplitMix64: every input bit changes every output bit with probability about ½.
/// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014).
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}
