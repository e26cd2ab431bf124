//! One token out of a row of logits.

use super::Sampling;
use super::adjust::{self, History};
use super::random::uniform;
use super::row::{self, BLOCK, Weigh};
use super::select::{self, Candidate};

/// Below this temperature the likeliest token is as good as certain, and taken.
const TEMPERATURE_GREEDY: f32 = 1e-5;
/// Distances below the largest logit, in units of the temperature, within which candidates are
/// looked for in turn. A look that finds little costs little; most rows need no more than three.
const DISTANCES: [f32; 6] = [2.0, 4.0, 7.0, 11.0, 18.0, f32::INFINITY];

/// Which draw of a request this is: randomness depends on nothing else but the seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) choice: u32,
    /// Output tokens before this one.
    pub(crate) position: usize,
}

/// Samples tokens; holds only memory to work in, nothing from one call to the next.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    adjusted: Vec<f32>,
    candidates: Vec<Candidate>,
    masses: Vec<f64>,
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
        let weigh = Weigh { max, scale: 1.0 / sampling.temperature };
        let random = uniform(sampling.seed, draw.choice, draw.position);
        let cut = Cut::new(sampling, logits.len());
        if cut.is_none() {
            return self.draw_from_row(logits, weigh, random);
        }
        self.collect(logits, weigh, &cut);
        draw_from_candidates(&self.candidates, random)
    }

    /// Leaves in `candidates` the tokens that min_p, top_k and top_p let through.
    fn collect(&mut self, logits: &[f32], weigh: Weigh, cut: &Cut) {
        let floor_min = weigh.max + cut.min_p.ln() / weigh.scale;
        // Without min_p and top_k the whole row has a share in the mass that top_p is a part of.
        let whole = (cut.top_k.is_none() && cut.min_p == 0.0).then(|| weigh.mass(logits));
        for distance in DISTANCES {
            let floor = weigh.max - distance / weigh.scale;
            select::collect(logits, floor.max(floor_min), weigh, &mut self.candidates);
            let enough = match (cut.top_k, whole) {
                (Some(count), _) => self.candidates.len() >= count,
                (None, Some(mass)) => select::total(&self.candidates) >= mass * cut.top_p,
                (None, None) => false,
            };
            if enough || floor <= floor_min {
                break;
            }
        }
        if let Some(count) = cut.top_k {
            select::keep_likeliest(&mut self.candidates, count);
        }
        if cut.top_p < 1.0 {
            let mass = whole.unwrap_or_else(|| select::total(&self.candidates));
            select::keep_mass(&mut self.candidates, mass * cut.top_p);
        }
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

fn draw_from_candidates(candidates: &[Candidate], random: f64) -> Option<u32> {
    let mut left = random * select::total(candidates);
    let mut last = None;
    for candidate in candidates.iter().filter(|candidate| candidate.weight > 0.0) {
        last = Some(candidate.id);
        let weight = f64::from(candidate.weight);
        if left < weight {
            break;
        }
        left -= weight;
    }
    last
}

/// The parameters that leave tokens out, those that are off made so that they leave out none.
struct Cut {
    top_k: Option<usize>,
    top_p: f64,
    min_p: f32,
}

impl Cut {
    fn new(sampling: &Sampling, vocab_size: usize) -> Self {
        let top_k = usize::try_from(sampling.top_k).ok();
        Self {
            top_k: top_k.filter(|count| (1..vocab_size).contains(count)),
            top_p: f64::from(sampling.top_p),
            min_p: sampling.min_p,
        }
    }

    fn is_none(&self) -> bool {
        self.top_k.is_none() && self.top_p >= 1.0 && self.min_p == 0.0
    }
}
