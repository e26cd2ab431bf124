//! One token out of a row of logits.

use super::Sampling;
use super::adjust::{self, History};
use super::random::{uniform, uniform_units};
use super::row::{self, BLOCK, Weigh};
use super::select::{self, Candidate};
use super::wide::WideNucleus;

/// Below this temperature the likeliest token is as good as certain, and taken.
const TEMPERATURE_GREEDY: f32 = 1e-5;
/// Distances below the largest logit, in units of the temperature, within which the tokens of top_p
/// are looked for in turn. A look that finds little costs little; peaked rows need no more.
const DISTANCES: [f32; 4] = [2.0, 4.0, 7.0, 11.0];

/// Which draw of a request this is: randomness depends on nothing else but the seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) choice: u32,
    /// Output tokens before this one.
    pub(crate) position: usize,
}

impl Draw {
    /// Its uniform number in [0, 1), in units of 2⁻⁵³.
    pub(crate) fn random_units(self, seed: u64) -> u64 {
        uniform_units(seed, self.choice, self.position)
    }
}

/// Samples tokens; holds only memory to work in, nothing from one call to the next.
#[derive(Debug, Default)]
pub struct Sampler {
    adjusted: Vec<f32>,
    candidates: Vec<Candidate>,
    masses: Vec<f64>,
    wide: WideNucleus,
}

impl Sampler {
    /// The next token; `masked` tokens are never it. None: no token has a logit above -∞.
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: &History,
        masked: &[u32],
        draw: Draw,
    ) -> Option<u32> {
        if !adjust::is_needed(sampling, history, masked) {
            return self.choose(logits, sampling, draw);
        }
        let mut adjusted = std::mem::take(&mut self.adjusted);
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        adjust::apply(&mut adjusted, sampling, history, masked);
        let token = self.choose(&adjusted, sampling, draw);
        self.adjusted = adjusted;
        token
    }

    fn choose(&mut self, logits: &[f32], sampling: &Sampling, draw: Draw) -> Option<u32> {
        let max = row::max(logits);
        if max == f32::NEG_INFINITY {
            return None;
        }
        let greedy = sampling.temperature < TEMPERATURE_GREEDY || sampling.top_k == 1;
        if greedy || max == f32::INFINITY {
            return logits.iter().position(|&logit| logit == max).map(|id| id as u32);
        }
        let scale = 1.0 / sampling.temperature;
        // Off, min_p is 0 and its logarithm -∞.
        let weigh = Weigh { max, scale, floor: max + sampling.min_p.ln() / scale };
        let random = uniform(sampling.seed, draw.choice, draw.position);
        let top_p = f64::from(sampling.top_p);
        let top_k = usize::try_from(sampling.top_k).unwrap_or(0);
        if (1..logits.len()).contains(&top_k) {
            select::likeliest(logits, weigh, top_k, &mut self.candidates);
            if top_p < 1.0 {
                let mass = select::total(&self.candidates);
                select::keep_mass(&mut self.candidates, mass * top_p);
            }
            return select::draw(&self.candidates, random * select::total(&self.candidates));
        }
        if top_p < 1.0 {
            return self.draw_from_nucleus(logits, weigh, top_p, random);
        }
        self.draw_from_row(logits, weigh, random)
    }

    /// Draws from the likeliest tokens that have `top_p` of the row's mass together.
    fn draw_from_nucleus(
        &mut self,
        logits: &[f32],
        weigh: Weigh,
        top_p: f64,
        random: f64,
    ) -> Option<u32> {
        let mass = weigh.mass(logits) * top_p;
        for distance in DISTANCES {
            let floor = (weigh.max - distance / weigh.scale).max(weigh.floor);
            if !select::collect(logits, floor, weigh, &mut self.candidates) {
                break;
            }
            if select::total(&self.candidates) >= mass {
                select::keep_mass(&mut self.candidates, mass);
                return select::draw(&self.candidates, random * select::total(&self.candidates));
            }
        }
        self.wide.draw(logits, weigh, mass, random)
    }

    /// Draws from every token of the row.
    fn draw_from_row(&mut self, logits: &[f32], weigh: Weigh, random: f64) -> Option<u32> {
        self.masses.clear();
        self.masses.extend(logits.chunks(BLOCK).map(|block| weigh.block_mass(block)));
        let mut left = random * self.masses.iter().sum::<f64>();
        let mut last = None;
        for (block, &mass) in self.masses.iter().enumerate() {
            // Rounding may leave a little after a block's last token: the next one then takes it.
            if left >= mass {
                left -= mass;
                continue;
            }
            let first = block * BLOCK;
            for (id, &logit) in logits.iter().enumerate().skip(first).take(BLOCK) {
                let weight = f64::from(weigh.weight(logit));
                if weight > 0.0 {
                    last = Some(id as u32);
                    if left < weight {
                        return last;
                    }
                }
                left -= weight;
            }
            left = left.max(0.0);
        }
        last.or_else(|| logits.iter().position(|&logit| logit == weigh.max).map(|id| id as u32))
    }
}
