//! Attention over pages against softmax in f64.

use naru_kernels::cuda::{
    AttentionTask, DevicePointer, Element, Launch, decode_attention, decode_scratch_bytes,
    prefill_attention,
};
use naru_kernels::{AttentionShape, KV_BLOCK_TOKENS, ShapeError};

use crate::machine::Machine;
use crate::numbers::{Random, download, encode, rounded, upload_u32};
use crate::report::{Report, Timing};

const OP: &str = "attention";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Decode,
    Prefill,
}

/// A batch and how it is attended.
#[derive(Clone, Copy, Debug)]
struct Case {
    way: Way,
    /// Query heads, key-value heads and the size of a head.
    heads: [usize; 3],
    window: Option<usize>,
    softcap: Option<f32>,
    /// The width of the distribution that queries are of.
    loudness: f64,
    /// Position and tokens of each span; no tokens: a span that pads the batch.
    spans: &'static [(usize, usize)],
}

const DECODE: Case = Case {
    way: Way::Decode,
    heads: [4, 1, 64],
    window: None,
    softcap: None,
    loudness: 1.0,
    spans: &[(0, 1)],
};
const PREFILL: Case = Case { way: Way::Prefill, heads: [2, 2, 64], ..DECODE };
/// Lengths 1, 15, 16, 17, 33 and 257, and padding between.
const MANY: &[(usize, usize)] = &[(0, 1), (14, 1), (15, 1), (0, 0), (16, 1), (32, 1), (256, 1)];
/// Scores of some hundreds: most weights are 0, and their powers overflow if taken as they are.
const LOUD: f64 = 300.0;

const CASES: &[Case] = &[
    Case { spans: MANY, ..DECODE },
    Case { heads: [8, 8, 64], spans: &[(20, 1)], ..DECODE },
    Case { heads: [16, 2, 128], spans: &[(40, 1), (70, 1)], ..DECODE },
    // More heads of a group than a tile has.
    Case { heads: [20, 1, 64], spans: &[(30, 1)], ..DECODE },
    Case { heads: [2, 1, 16], spans: &[(33, 1)], ..DECODE },
    Case { heads: [2, 1, 80], spans: &[(33, 1)], ..DECODE },
    Case { heads: [2, 1, 96], spans: &[(49, 1)], ..DECODE },
    Case { heads: [3, 1, 256], spans: &[(77, 1), (9, 1)], ..DECODE },
    // Two of the splits, four, and parts of windows.
    Case { heads: [2, 1, 128], spans: &[(999, 1), (299, 1)], ..DECODE },
    Case { heads: [2, 1, 256], spans: &[(530, 1)], ..DECODE },
    Case { window: Some(20), spans: MANY, ..DECODE },
    Case { window: Some(33), spans: &[(32, 1), (33, 1), (999, 1)], ..DECODE },
    Case { window: Some(600), spans: &[(998, 1), (599, 1), (90, 1)], ..DECODE },
    Case { window: Some(1), spans: &[(17, 1), (31, 1)], ..DECODE },
    Case { softcap: Some(2.0), spans: &[(300, 1), (40, 1)], ..DECODE },
    Case { loudness: LOUD, spans: &[(600, 1), (0, 1), (40, 1)], ..DECODE },
    Case { loudness: LOUD, softcap: Some(50.0), spans: &[(40, 1)], ..DECODE },
    Case { spans: &[(0, 1), (0, 15), (0, 16), (0, 0), (0, 17), (0, 33)], ..PREFILL },
    Case { heads: [1, 1, 64], spans: &[(0, 257)], ..PREFILL },
    Case { heads: [4, 1, 128], spans: &[(0, 70)], ..PREFILL },
    Case { heads: [8, 1, 64], spans: &[(3, 9)], ..PREFILL },
    Case { heads: [1, 1, 16], spans: &[(5, 20)], ..PREFILL },
    Case { heads: [1, 1, 80], spans: &[(0, 65)], ..PREFILL },
    Case { heads: [1, 1, 96], spans: &[(33, 40)], ..PREFILL },
    Case { heads: [1, 1, 256], spans: &[(20, 70)], ..PREFILL },
    // In the middle of a sequence.
    Case { heads: [1, 1, 64], spans: &[(957, 40), (64, 64), (63, 130), (200, 1)], ..PREFILL },
    Case { heads: [1, 1, 128], window: Some(1), spans: &[(0, 20), (60, 10)], ..PREFILL },
    Case { window: Some(24), spans: &[(0, 24), (0, 12), (77, 100)], ..PREFILL },
    Case { heads: [1, 1, 64], window: Some(100), spans: &[(0, 230)], ..PREFILL },
    Case { softcap: Some(2.0), spans: &[(10, 60)], ..PREFILL },
    Case { loudness: LOUD, spans: &[(0, 100)], ..PREFILL },
    Case { loudness: LOUD, softcap: Some(50.0), spans: &[(100, 30)], ..PREFILL },
];

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    for element in Element::ALL {
        for case in CASES {
            let batch = Batch::new(element, case);
            batch.agree(machine, report);
        }
    }
}

/// What the device is given, and the same numbers as the reference reads them.
struct Batch {
    element: Element,
    case: Case,
    shape: AttentionShape,
    /// `[rows, heads, head_dim]`.
    queries: Vec<f32>,
    /// `[tokens, kv_heads, head_dim]` of each span.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    spans: Vec<u32>,
    tables: Vec<u32>,
    rows: usize,
    blocks: usize,
}

impl Batch {
    fn new(element: Element, case: &Case) -> Self {
        let [heads, kv_heads, head_dim] = case.heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (window, softcap) = (case.window, case.softcap);
        let shape = AttentionShape { heads, kv_heads, head_dim, scale, window, softcap };
        let mut random = Random(case.spans.len() as u64 + head_dim as u64);
        let lengths = case.spans.iter().map(|&(position, tokens)| match tokens {
            0 => 0,
            _ => position + tokens,
        });
        let mut sequences = || -> Vec<Vec<f32>> {
            let of = |length| random.normal(length * kv_heads * head_dim, 1.0);
            lengths.clone().map(of).map(|values| rounded(element, &values)).collect()
        };
        let (keys, values) = (sequences(), sequences());
        let blocks = lengths.clone().map(|length| length.div_ceil(KV_BLOCK_TOKENS)).sum::<usize>();
        // Some blocks are of nobody.
        let blocks = blocks + 3;
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        // The first row and the first entry of the tables are nobody's, as is a row behind each
        // span.
        let (mut spans, mut tables, mut rows) = (Vec::new(), vec![u32::MAX], 1);
        for (&(position, tokens), length) in case.spans.iter().zip(lengths) {
            spans.extend([rows, tokens, position, tables.len()].map(|word| word as u32));
            for _ in 0..length.div_ceil(KV_BLOCK_TOKENS) {
                tables.push(free.swap_remove(random.below(free.len())));
            }
            rows += tokens + 1;
        }
        let queries = random.normal(rows * heads * head_dim, case.loudness);
        let queries = rounded(element, &queries);
        let case = *case;
        Self { element, case, shape, queries, keys, values, spans, tables, rows, blocks }
    }

    /// `[blocks, kv_heads, 16, head_dim]`; what no sequence has written is NaN.
    fn pages(&self, of: &[Vec<f32>]) -> Vec<f32> {
        let AttentionShape { kv_heads, head_dim, .. } = self.shape;
        let mut pages = vec![f32::NAN; self.blocks * kv_heads * KV_BLOCK_TOKENS * head_dim];
        for (span, sequence) in self.spans.as_chunks::<4>().0.iter().zip(of) {
            for (i, head) in sequence.chunks_exact(head_dim).enumerate() {
                let (token, kv_head) = (i / kv_heads, i % kv_heads);
                let block = self.tables[span[3] as usize + token / KV_BLOCK_TOKENS] as usize;
                let row = (block * kv_heads + kv_head) * KV_BLOCK_TOKENS + token % KV_BLOCK_TOKENS;
                pages[row * head_dim..][..head_dim].copy_from_slice(head);
            }
        }
        pages
    }

    fn agree(&self, machine: &mut dyn Machine, report: &mut Report) {
        let element = self.element;
        let Case { way, heads, window, softcap, loudness, spans } = self.case;
        let case = format!(
            "{way:?} {} {heads:?} window={window:?} softcap={softcap:?} x{loudness} {spans:?}",
            element.name()
        );
        // A launch holds for longer sequences too.
        let keys_max = spans.iter().map(|(position, tokens)| position + tokens).max();
        let keys_max = keys_max.unwrap_or(0) + 100;
        let values = self.queries.len();
        let task = AttentionTask {
            element,
            shape: &self.shape,
            queries: machine.upload(&encode(element, &self.queries)),
            keys: machine.upload(&encode(element, &self.pages(&self.keys))),
            values: machine.upload(&encode(element, &self.pages(&self.values))),
            output: machine.allocate(values * Element::BYTES),
            spans: upload_u32(machine, &self.spans),
            tables: upload_u32(machine, &self.tables),
            count: spans.len(),
            rows_max: spans.iter().map(|span| span.1).max().unwrap_or(0),
            keys_max,
            scratch: machine.allocate(decode_scratch_bytes(spans.len(), &self.shape, keys_max)),
        };
        for launch in launches(way, &task).expect("sizes that fit") {
            if let Err(error) = machine.launch(&launch) {
                return report.fail(OP, case, error);
            }
        }
        let found = download(machine, element, task.output, values);
        let (expected, bounds) = self.expected();
        report.compare(OP, case, &found, &expected, |i| bounds[i]);
    }

    /// The output, NaN where nothing is written, and how near it each value must come.
    fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let AttentionShape { heads, head_dim, .. } = self.shape;
        let mut expected = vec![f64::NAN; self.rows * heads * head_dim];
        let mut bounds = expected.clone();
        for (which, span) in self.spans.as_chunks::<4>().0.iter().enumerate() {
            for row in 0..span[1] as usize {
                for head in 0..heads {
                    let at = ((span[0] as usize + row) * heads + head) * head_dim;
                    let outcome = self.one_head(which, at, head, span[2] as usize + row);
                    for (i, (value, bound)) in outcome.into_iter().enumerate() {
                        (expected[at + i], bounds[at + i]) = (value, bound);
                    }
                }
            }
        }
        (expected, bounds)
    }

    /// Values and bounds of the query whose values begin at `at`.
    fn one_head(&self, which: usize, at: usize, head: usize, position: usize) -> Vec<(f64, f64)> {
        let AttentionShape { heads, kv_heads, head_dim, scale, window, softcap } = self.shape;
        let query = &self.queries[at..][..head_dim];
        let kv_head = head / (heads / kv_heads);
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let row = |of: &'_ [Vec<f32>], token: usize, i: usize| {
            f64::from(of[which][(token * kv_heads + kv_head) * head_dim + i])
        };
        let unit = 2f64.powi(-23);
        // The error of a score, as a factor e^±error of its weight: a sum of head_dim products in
        // f32, which tensor cores may cut off rather than round; three more roundings of the score,
        // and one of its difference from the greatest, which is counted below; with a cap 1 unit of
        // an exponential, a sum and a quotient each, all of the size of the cap.
        let score = |token: usize| {
            let terms = || (0..head_dim).map(|i| f64::from(query[i]) * row(&self.keys, token, i));
            let (dot, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            let (score, scale) = (dot * f64::from(scale), f64::from(scale));
            let error = size * scale * (head_dim + 3) as f64 * unit;
            let Some(cap) = softcap.map(f64::from) else { return (score, error) };
            (cap * (score / cap).tanh(), error + 8.0 * cap * unit)
        };
        let scores: Vec<(f64, f64)> = (first..=position).map(score).collect();
        let most = scores.iter().map(|score| score.0).fold(f64::NEG_INFINITY, f64::max);
        let weight = |&(score, error): &(f64, f64)| {
            // 2^x is right to 2 units and its argument to one of its size.
            let error = error + (most - score + most.abs()) * unit + 3.0 * unit;
            ((score - most).exp(), error.min(700.0).exp_m1())
        };
        let weights: Vec<(f64, f64)> = scores.iter().map(weight).collect();
        let total: f64 = weights.iter().map(|weight| weight.0).sum();
        // What the total is wrong by itself, relatively.
        let shared = weights.iter().map(|(weight, error)| weight * error).sum::<f64>() / total;
        // A weight is rounded to the element, and sums of weights and of products in f32 have as
        // many terms as there are keys, and rescalings.
        let rounding = self.element.epsilon() + (3 * weights.len() + 64) as f64 * unit;
        // Halves of less than 2^-14 have a unit of 2^-24; weights count in the scale of the
        // greatest.
        let least = if self.element == Element::F16 { 2f64.powi(-25) } else { 0.0 };
        let value = |i: usize| {
            let (mut sum, mut bound) = (0.0, 0.0);
            for (token, (weight, error)) in (first..).zip(&weights) {
                let value = row(&self.values, token, i);
                sum += weight * value;
                bound += value.abs() * (weight * (error + shared + rounding) + least);
            }
            let (out, bound) = (sum / total, bound / total);
            (out, bound + (out.abs() + bound) * self.element.epsilon() + least)
        };
        (0..head_dim).map(value).collect()
    }
}

fn launches(way: Way, task: &AttentionTask<'_>) -> Result<Vec<Launch>, ShapeError> {
    match way {
        Way::Decode => decode_attention(task),
        Way::Prefill => Ok(vec![prefill_attention(task)?]),
    }
}

/// Sequences and keys of each, and how many of the last are queries.
const TIMED: [(Way, usize, usize); 6] = [
    (Way::Decode, 1, 32 << 10),
    (Way::Decode, 8, 8 << 10),
    (Way::Decode, 64, 4 << 10),
    (Way::Decode, 128, 1 << 10),
    (Way::Prefill, 1, 8 << 10),
    (Way::Prefill, 4, 2 << 10),
];

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    let (heads, kv_heads, head_dim) = (32, 8, 128);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let shape = AttentionShape { heads, kv_heads, head_dim, scale, window: None, softcap: None };
    for (way, count, keys) in TIMED {
        one_time(machine, report, &shape, way, count, keys);
        machine.clear();
    }
}

fn one_time(
    machine: &mut dyn Machine,
    report: &mut Report,
    shape: &AttentionShape,
    way: Way,
    count: usize,
    keys: usize,
) {
    let element = Element::Bf16;
    let tokens = match way {
        Way::Decode => 1,
        Way::Prefill => keys,
    };
    let position = keys - tokens;
    let query_values = count * tokens * shape.heads * shape.head_dim;
    let kv_values = count * keys * shape.kv_heads * shape.head_dim;
    // The same numbers again and again, which takes no time to make.
    let mut upload = |values: usize, seed: u64| {
        let bytes = values * Element::BYTES;
        let some = encode(element, &Random(seed).normal(1 << 20, 1.0));
        machine.upload(&some.repeat(bytes.div_ceil(some.len()))[..bytes])
    };
    let queries = upload(query_values, 1);
    let (key_pages, value_pages) = (upload(kv_values, 2), upload(kv_values, 3));
    let blocks = keys / KV_BLOCK_TOKENS;
    let mut tables: Vec<u32> = (0..(count * blocks) as u32).collect();
    let mut random = Random(4);
    for i in (1..tables.len()).rev() {
        tables.swap(i, random.below(i + 1));
    }
    let span = |i: usize| [i * tokens, tokens, position, i * blocks].map(|word| word as u32);
    let spans: Vec<u32> = (0..count).flat_map(span).collect();
    let task = AttentionTask {
        element,
        shape,
        queries,
        keys: key_pages,
        values: value_pages,
        output: machine.allocate(query_values * Element::BYTES),
        spans: upload_u32(machine, &spans),
        tables: upload_u32(machine, &tables),
        count,
        rows_max: tokens,
        keys_max: keys,
        scratch: match decode_scratch_bytes(count, shape, keys) {
            0 => DevicePointer::NULL,
            bytes => machine.allocate(bytes),
        },
    };
    let launches = launches(way, &task).expect("sizes that fit");
    if let Some(seconds) = machine.seconds(&launches) {
        let bytes = ((2 * kv_values + 2 * query_values) * Element::BYTES) as f64;
        let seen = tokens as f64 * (position as f64 + (tokens + 1) as f64 / 2.0);
        let flop = 4.0 * seen * (count * shape.heads * shape.head_dim) as f64;
        let case = format!("{way:?} bf16 {count}x{keys}").to_lowercase();
        report.timings.push(Timing { op: OP, case, seconds, bytes, flop });
    }
}
