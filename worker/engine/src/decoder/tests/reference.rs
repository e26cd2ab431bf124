//! The decoder as plain f64 arithmetic, one token at a time, apart from the kernels.

use half::f16;
use naru_kernels::{GateKind, RopePairs};

use super::tiny::TensorMap;
use crate::config::{ModelConfig, NormKind, NormPlacement, QkNorm, Rope};

/// Logits `[tokens, vocabulary]` of one sequence.
pub(super) fn logits(config: &ModelConfig, map: &TensorMap, tokens: &[u32]) -> Vec<Vec<f64>> {
    let model = Model { config, map };
    let table = &map["token_embd.weight"].1;
    let hidden = config.hidden;
    let mut stream: Vec<Vec<f64>> = tokens
        .iter()
        .map(|&token| {
            let row = &table[token as usize * hidden..][..hidden];
            row.iter().map(|&x| f64::from(x) * f64::from(config.multipliers.embedding)).collect()
        })
        .collect();
    for layer in 0..config.layers.len() {
        model.layer(layer, &mut stream);
    }
    let head = if config.tied_embeddings { "token_embd" } else { "output" };
    let logits = stream.iter().map(|x| {
        let logits = model.project(head, false, &model.norm("output_norm", x));
        let scaled = logits.iter().map(|x| x * f64::from(config.multipliers.logit));
        scaled.map(|x| cap(x, config.final_softcap)).collect()
    });
    logits.collect()
}

fn cap(x: f64, cap: Option<f32>) -> f64 {
    cap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
}

struct Model<'a> {
    config: &'a ModelConfig,
    map: &'a TensorMap,
}

impl Model<'_> {
    fn vector(&self, name: &str) -> Vec<f64> {
        self.map[name].1.iter().map(|&x| f64::from(x)).collect()
    }

    fn project(&self, name: &str, bias: bool, x: &[f64]) -> Vec<f64> {
        let weight = self.vector(&format!("{name}.weight"));
        let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let mut out: Vec<f64> = weight.chunks(x.len()).map(dot).collect();
        if bias {
            let bias = self.vector(&format!("{name}.bias"));
            out.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        out
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.vector(&format!("{name}.weight"));
        let kind = self.config.norm.kind;
        let mean = if kind == NormKind::Layer { average(x.iter().copied()) } else { 0.0 };
        let square = average(x.iter().map(|x| (x - mean) * (x - mean)));
        let root = (square + f64::from(self.config.norm.epsilon)).sqrt();
        let has_bias = kind == NormKind::Layer && !name.contains("_q_") && !name.contains("_k_");
        let bias = if has_bias { self.vector(&format!("{name}.bias")) } else { vec![0.0; x.len()] };
        let shift = if kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
        let one = |((x, w), b): ((&f64, &f64), &f64)| (x - mean) / root * (w + shift) + b;
        x.iter().zip(&weight).zip(&bias).map(one).collect()
    }

    fn layer(&self, layer: usize, stream: &mut [Vec<f64>]) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let placement = self.config.norm.placement;
        let before = |norm: &str, x: &Vec<f64>| match placement {
            NormPlacement::Post => x.clone(),
            _ => self.norm(&name(norm), x),
        };
        let after = |norm: &str, x: Vec<f64>| match placement {
            NormPlacement::Post | NormPlacement::Sandwich => self.norm(&name(norm), &x),
            _ => x,
        };
        let inputs: Vec<Vec<f64>> = stream.iter().map(|x| before("attn_norm", x)).collect();
        let attended = self.attention(layer, &inputs);
        let factor = f64::from(self.config.multipliers.residual);
        for ((x, attended), input) in stream.iter_mut().zip(attended).zip(inputs) {
            let attended = after("post_attention_norm", attended);
            x.iter_mut().zip(attended).for_each(|(x, y)| *x += y * factor);
            let input = match placement {
                NormPlacement::Parallel => input,
                _ => before("ffn_norm", x),
            };
            let fed = after("post_ffw_norm", self.feed_forward(layer, &input));
            x.iter_mut().zip(fed).for_each(|(x, y)| *x += y * factor);
        }
    }

    fn feed_forward(&self, layer: usize, x: &[f64]) -> Vec<f64> {
        let block = &self.config.feed_forward;
        let project =
            |part: &str, x: &[f64]| self.project(&format!("blk.{layer}.{part}"), block.bias, x);
        let up = project("ffn_up", x);
        let act = |x: f64| match block.activation {
            GateKind::Silu => x / (1.0 + (-x).exp()),
            GateKind::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            other => panic!("{other:?} is not in this reference"),
        };
        let inner: Vec<f64> = if block.gated {
            project("ffn_gate", x).into_iter().zip(up).map(|(gate, up)| act(gate) * up).collect()
        } else {
            up.into_iter().map(act).collect()
        };
        project("ffn_down", &inner)
    }

    fn attention(&self, layer: usize, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let attention = &self.config.attention;
        let dim = attention.head_dim;
        let heads = |part: &str, norm: &str, turned: bool| -> Vec<Vec<f64>> {
            let one = |(position, x): (usize, &Vec<f64>)| {
                let mut out = self.project(&format!("blk.{layer}.{part}"), attention.input_bias, x);
                for head in out.chunks_mut(dim).filter(|_| turned) {
                    if attention.qk_norm == QkNorm::PerHead {
                        let normed = self.norm(&format!("blk.{layer}.{norm}"), head);
                        head.copy_from_slice(&normed);
                    }
                    if let Some(rope) = &self.config.layers[layer].rope {
                        turn(rope, position, head);
                    }
                }
                out
            };
            inputs.iter().enumerate().map(one).collect()
        };
        let queries = heads("attn_q", "attn_q_norm", true);
        // The cache holds f16, by design: what it rounds is part of the definition.
        let rounded = |rows: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
            let round = |x: &f64| f64::from(f16::from_f64(*x).to_f32());
            rows.iter().map(|row| row.iter().map(round).collect()).collect()
        };
        let keys = rounded(heads("attn_k", "attn_k_norm", true));
        let values = rounded(heads("attn_v", "", false));
        let group = attention.heads / attention.kv_heads;
        let window = self.config.layers[layer].window.unwrap_or(usize::MAX);
        (0..inputs.len())
            .map(|position| {
                let mut out = Vec::new();
                let seen = (position + 1).saturating_sub(window)..position + 1;
                for head in 0..attention.heads {
                    let query = &queries[position][head * dim..][..dim];
                    let at = head / group * dim;
                    let score = |p: usize| {
                        let dot: f64 = query.iter().zip(&keys[p][at..]).map(|(q, k)| q * k).sum();
                        cap(dot * f64::from(attention.scale), attention.softcap)
                    };
                    let shares: Vec<f64> = seen.clone().map(|p| score(p).exp()).collect();
                    let total: f64 = shares.iter().sum();
                    out.extend((0..dim).map(|i| {
                        let parts = seen.clone().zip(&shares);
                        parts.map(|(p, share)| share * values[p][at + i]).sum::<f64>() / total
                    }));
                }
                self.project(&format!("blk.{layer}.attn_output"), attention.output_bias, &out)
            })
            .collect()
    }
}

fn turn(rope: &Rope, position: usize, head: &mut [f64]) {
    for (i, frequency) in rope.frequencies().iter().enumerate() {
        let (sine, cosine) = (position as f64 * frequency).sin_cos();
        let amplitude = f64::from(rope.amplitude());
        let (first, second) = match rope.pairs {
            RopePairs::Halves => (i, i + rope.rotary_dim / 2),
            RopePairs::Neighbours => (2 * i, 2 * i + 1),
        };
        let (a, b) = (head[first], head[second]);
        head[first] = (a * cosine - b * sine) * amplitude;
        head[second] = (b * cosine + a * sine) * amplitude;
    }
}

fn average(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}
