//! What a step costs in seconds and watts, for models and accelerators that somebody has measured.
//!
//! ```text
//! seconds = max(a, prefill tokens / r) + c · decoding sequences
//! watts   = devices · min(p1 + k · log2(tokens), limit)
//! ```
//!
//! A step without prefill takes `itl(b) = a + c·b`. `a` is the time of reading the weights once,
//! beneath which that much prefill computes for nothing. In a step that only decodes, a sequence is
//! one token, so `watts(b) = p1 + k·log2(b)`; prefill makes the batch that much larger.

use crate::engine::StepCost;

/// One model on one kind of accelerator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimProfile {
    /// What it is chosen by.
    pub name: &'static str,
    /// Devices that share the model; figures in watts are of one of them.
    pub devices: u32,
    /// `a`: a step's time that does not depend on the batch.
    pub step_seconds: f64,
    /// `c`: what each decoding sequence adds to it.
    pub sequence_seconds: f64,
    /// `r`: of all devices together.
    pub prefill_tokens_per_second: f64,
    /// `p1`: a step of one token.
    pub watts: f64,
    /// `k`: what each doubling of the batch adds.
    pub watts_per_doubling: f64,
    /// Of all devices together.
    pub weight_bytes: u64,
    /// Keys and values of one token, of all devices together.
    pub kv_bytes_per_token: u64,
    /// Tokens of prompt and answer together.
    pub context_tokens: usize,
    /// Where the figures come from.
    pub source: &'static str,
}

/// An H100 SXM's power limit.
const WATTS_MAX: f64 = 700.0;
/// An H100 that holds a model and computes nothing: about 70 W bare, and up to 50 W more once a
/// CUDA context is open, whatever is in memory. Source: "The Model Parking Tax", arXiv 2605.23918,
/// for the 50 W; the 70 W are an estimate.
const WATTS_IDLE: f64 = 120.0;
/// An H100's memory, and the share of it that servers commonly use.
const DEVICE_BYTES: u64 = 80_000_000_000;
const MEMORY_SHARE: f64 = 0.9;

/// `a`, `c`, `p1` and `k` are least squares over the steady-state rows of the ML.ENERGY benchmark
/// v3 (chat, vLLM 0.11.1, H100 SXM, prefill in the mix), R² 0.91 to 0.99 for watts, 1.0 for time.
const MEASURED: &str = "fitted to the ML.ENERGY benchmark v3 (chat, vLLM 0.11.1, H100 SXM); \
    prefill rate, idle watts and memory are estimates";

/// Prefill rates are estimates: 2 FLOP for each active parameter and token, at half of the
/// 780 TFLOP/s (bf16; twice that for FP8) that a large matrix product reaches on an H100, at a
/// quarter for a mixture of experts. Sizes and contexts are those of the models' `config.json`.
///
/// The first is the default.
pub const SIM_PROFILES: &[SimProfile] = &[
    SimProfile {
        name: "llama-3.1-8b-h100",
        devices: 1,
        step_seconds: 6.67e-3,
        sequence_seconds: 0.076e-3,
        prefill_tokens_per_second: 24_300.0,
        watts: 343.0,
        watts_per_doubling: 44.9,
        weight_bytes: 16_060_000_000,
        kv_bytes_per_token: 131_072,
        context_tokens: 131_072,
        source: MEASURED,
    },
    SimProfile {
        name: "qwen3-8b-h100",
        devices: 1,
        step_seconds: 7.81e-3,
        sequence_seconds: 0.095e-3,
        prefill_tokens_per_second: 23_800.0,
        watts: 288.0,
        watts_per_doubling: 40.6,
        weight_bytes: 16_380_000_000,
        kv_bytes_per_token: 147_456,
        context_tokens: 40_960,
        source: MEASURED,
    },
    SimProfile {
        name: "qwen3-14b-h100",
        devices: 1,
        step_seconds: 12.0e-3,
        sequence_seconds: 0.108e-3,
        prefill_tokens_per_second: 13_200.0,
        watts: 309.0,
        watts_per_doubling: 38.7,
        weight_bytes: 29_540_000_000,
        kv_bytes_per_token: 163_840,
        context_tokens: 40_960,
        source: MEASURED,
    },
    SimProfile {
        name: "qwen3-32b-2xh100",
        devices: 2,
        step_seconds: 14.4e-3,
        sequence_seconds: 0.119e-3,
        prefill_tokens_per_second: 11_900.0,
        watts: 313.0,
        watts_per_doubling: 32.5,
        weight_bytes: 65_520_000_000,
        kv_bytes_per_token: 262_144,
        context_tokens: 40_960,
        source: MEASURED,
    },
    SimProfile {
        name: "llama-3.1-70b-4xh100",
        devices: 4,
        step_seconds: 16.4e-3,
        sequence_seconds: 0.091e-3,
        prefill_tokens_per_second: 11_000.0,
        watts: 323.0,
        watts_per_doubling: 31.6,
        weight_bytes: 141_110_000_000,
        kv_bytes_per_token: 327_680,
        context_tokens: 131_072,
        source: MEASURED,
    },
    SimProfile {
        name: "qwen3-30b-a3b-2xh100",
        devices: 2,
        step_seconds: 12.3e-3,
        sequence_seconds: 0.093e-3,
        prefill_tokens_per_second: 59_000.0,
        watts: 256.0,
        watts_per_doubling: 30.3,
        weight_bytes: 61_060_000_000,
        kv_bytes_per_token: 98_304,
        context_tokens: 40_960,
        source: MEASURED,
    },
    SimProfile {
        name: "llama-3.1-405b-fp8-8xh100",
        devices: 8,
        step_seconds: 31.3e-3,
        sequence_seconds: 0.144e-3,
        prefill_tokens_per_second: 7_700.0,
        watts: 258.0,
        watts_per_doubling: 44.6,
        weight_bytes: 410_000_000_000,
        kv_bytes_per_token: 516_096,
        context_tokens: 131_072,
        source: MEASURED,
    },
];

impl SimProfile {
    /// The profile of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SIM_PROFILES.iter().find(|profile| profile.name == name)
    }

    /// What is simulated where nothing was chosen.
    pub fn default_profile() -> &'static Self {
        &SIM_PROFILES[0]
    }

    /// A step in which `decoding` sequences get their next token and `prefill_tokens` of prompts
    /// are computed.
    pub fn step_cost(&self, decoding: usize, prefill_tokens: usize) -> StepCost {
        let prefill = prefill_tokens as f64 / self.prefill_tokens_per_second;
        let seconds = self.step_seconds.max(prefill) + self.sequence_seconds * decoding as f64;
        let tokens = (decoding + prefill_tokens).max(1) as f64;
        let watts = (self.watts + self.watts_per_doubling * tokens.log2()).min(WATTS_MAX);
        StepCost { seconds, watts: watts * f64::from(self.devices) }
    }

    /// What all devices draw while they hold the model and compute nothing.
    pub fn idle_watts(&self) -> f64 {
        WATTS_IDLE * f64::from(self.devices)
    }

    /// No step draws more, on all devices together.
    pub fn watts_max(&self) -> f64 {
        WATTS_MAX * f64::from(self.devices)
    }

    /// Memory that the weights leave for keys and values.
    pub fn kv_memory_bytes(&self) -> u64 {
        let usable = (DEVICE_BYTES as f64 * MEMORY_SHARE) as u64 * u64::from(self.devices);
        usable.saturating_sub(self.weight_bytes)
    }
}
