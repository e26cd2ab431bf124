//! The forward pass that computes nothing: logits are a hash of the tokens before them.
//!
//! What it stands for is kept in a KV cache like a real model's: one state for each position, made
//! from the state before it, which is read back through the block table. A wrong table, position
//! or stale block changes every later token, as it would with real keys and values.

use std::error::Error;

use super::profile::SimProfile;
use super::text::{END, FIRST_WORD, is_control, vocabulary_len};
use crate::engine::{Batch, Forward, Span, StepCost};
use crate::kv::KV_BLOCK_TOKENS;

/// An answer has at least so many tokens, then ends after each with a chance of one in
/// `END_CHANCE`: half of them within 127, near the 129 of the conversations that Azure's LLM trace
/// of 2023 holds.
const ANSWER_TOKENS_MIN: u8 = 16;
const END_CHANCE: u64 = 160;

/// Words lie between 0 and this, evenly.
const WORD_LOGIT_MAX: f32 = 8.0;
/// The end, where it has come: above every word at any useful temperature.
const END_LOGIT: f32 = 40.0;
/// Single bytes, which would be no text, and control tokens.
const BYTE_LOGIT: f32 = -40.0;
const CONTROL_LOGIT: f32 = -80.0;

/// The state before the first token.
const START: u64 = 0x6e61_7275;

/// A model without weights. What it answers depends on the tokens before (and, by sampling, on the
/// seed) alone: not on the profile, the batch, the process or the machine.
pub struct SimModel {
    profile: &'static SimProfile,
    /// By slot: what all tokens up to this one come to.
    states: Vec<u64>,
    /// By slot: tokens since the last control token, this one included.
    plain: Vec<u8>,
    logits: Vec<f32>,
    cost: Option<StepCost>,
}

impl SimModel {
    /// A model with a KV cache of `blocks` blocks, which takes nine bytes for each token.
    pub fn new(profile: &'static SimProfile, blocks: usize) -> Self {
        let slots = blocks.saturating_mul(KV_BLOCK_TOKENS);
        let (states, plain) = (vec![0; slots], vec![0; slots]);
        Self { profile, states, plain, logits: Vec::new(), cost: None }
    }

    fn push_logits(&mut self, slot: usize) {
        let (state, plain) = (self.states[slot], self.plain[slot]);
        let chance = mix(state, u64::from(END)).is_multiple_of(END_CHANCE);
        let ends = plain >= ANSWER_TOKENS_MIN && chance;
        let logit = |id: u32| match id {
            END if ends => END_LOGIT,
            _ if is_control(id) => CONTROL_LOGIT,
            _ if id < FIRST_WORD => BYTE_LOGIT,
            // 24 bits, as many as a float holds.
            _ => (mix(state, u64::from(id)) >> 40) as f32 * (WORD_LOGIT_MAX / (1 << 24) as f32),
        };
        self.logits.extend((0..vocabulary_len() as u32).map(logit));
    }
}

impl Forward for SimModel {
    fn vocab_size(&self) -> usize {
        vocabulary_len()
    }

    fn forward(&mut self, batch: &Batch) -> Result<&[f32], Box<dyn Error + Send + Sync>> {
        self.logits.clear();
        let mut rows = batch.logit_rows.iter().copied().peekable();
        let (mut decoding, mut prefill_tokens) = (0, 0);
        for span in &batch.spans {
            match span.tokens.len() {
                1 => decoding += 1,
                tokens => prefill_tokens += tokens,
            }
            for (offset, index) in span.tokens.clone().enumerate() {
                let position = span.position + offset;
                let before = position.checked_sub(1).map(|before| slot(span, before));
                let (state, plain) =
                    before.map_or((START, 0), |slot| (self.states[slot], self.plain[slot]));
                let (token, slot) = (batch.tokens[index], slot(span, position));
                self.states[slot] = mix(state, u64::from(token));
                self.plain[slot] = if is_control(token) { 0 } else { plain.saturating_add(1) };
                if rows.next_if_eq(&index).is_some() {
                    self.push_logits(slot);
                }
            }
        }
        self.cost = Some(self.profile.step_cost(decoding, prefill_tokens));
        Ok(&self.logits)
    }

    fn simulated_cost(&self) -> Option<StepCost> {
        self.cost
    }
}

/// Where in the cache the token at `position` of the span's sequence is.
fn slot(span: &Span, position: usize) -> usize {
    span.blocks[position / KV_BLOCK_TOKENS] as usize * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS
}

/// Every bit of the result depends on every bit of both. Source: the finalizer of SplitMix64.
fn mix(state: u64, value: u64) -> u64 {
    let mut z = state.rotate_left(5) ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
