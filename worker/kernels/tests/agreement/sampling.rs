//! Sampling against the same in f64, with every token in order.
//!
//! A device draws by the inverse of the cumulative distribution, likeliest first, so each draw is
//! held against the reference's; and a draw near 1 tells which token was the last to be kept.

use naru_kernels::cuda::{DevicePointer, DeviceSampling, SampleTask, TokenChange, sample};

use crate::machine::Machine;
use crate::numbers::{Random, download_f32, download_u32, upload_f32};
use crate::report::{Report, Timing};

const NO_TOKEN: u32 = 0xffff_ffff;
const TOP: usize = DeviceSampling::LOGPROBS_MAX;
/// Half a unit in the last place of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// No filter, no penalty, no logprobs.
const PLAIN: DeviceSampling =
    DeviceSampling { temperature: 1.0, logprobs: Some(0), ..DeviceSampling::GREEDY };

/// One row of a launch.
#[derive(Clone)]
struct Row {
    logits: Vec<f32>,
    sampling: DeviceSampling,
    changes: Vec<TokenChange>,
}

/// What f64 makes of a row.
struct Expected {
    /// Tokens any of which may be found: one, unless the draw is within rounding of a border.
    tokens: Vec<u32>,
    top: Vec<u32>,
}

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    for (case, draws, logits) in rows_of_logits() {
        for (kind, sampling) in samplings() {
            // The border of what is kept shows in the last draw, and all in between.
            let rows = (0..draws).map(|i| Row {
                logits: logits.clone(),
                sampling: DeviceSampling { random: draw(i, draws), ..sampling },
                changes: Vec::new(),
            });
            run(machine, report, format!("{case} {kind}"), &rows.collect::<Vec<_>>());
        }
        machine.clear();
    }
    let peaked = Random(7).normal(40, 2.0);
    let rows = (0..257).map(|i| Row {
        logits: peaked.clone(),
        sampling: DeviceSampling { random: draw(i, 257), logprobs: None, ..PLAIN },
        changes: Vec::new(),
    });
    run(machine, report, "a fine grid of draws".to_owned(), &rows.collect::<Vec<_>>());
    changed(machine, report);
}

/// The `i`th of `draws` from 0 to just below 1.
fn draw(i: usize, draws: usize) -> u64 {
    let last = (1u64 << 53) - 1;
    if i + 1 == draws { last } else { last / draws as u64 * i as u64 }
}

/// Rows, and how many draws of each: the larger, the fewer, for a block costs as many fibers.
fn rows_of_logits() -> Vec<(&'static str, usize, Vec<f32>)> {
    let (nan, least) = (f32::NAN, f32::NEG_INFINITY);
    let mut peaked = Random(2).normal(203, 3.0);
    peaked[17] = 15.0;
    let mut holes = Random(3).normal(64, 2.0);
    for (i, hole) in [nan, least, -0.0, 0.0, f32::MIN, -1e30].into_iter().enumerate() {
        holes[5 * i] = hole;
    }
    let equals: Vec<f32> = (0..100).map(|i| [1.0, -2.0, 0.5][i % 3]).collect();
    vec![
        ("one token", 2, vec![-3.0]),
        ("none to choose", 2, vec![nan, least, nan]),
        ("an infinite one", 2, vec![0.0, f32::INFINITY, nan, f32::INFINITY]),
        ("peaked", 6, peaked),
        ("spread", 6, Random(4).normal(256, 1.0)),
        ("holes", 6, holes),
        ("equals", 6, equals),
        ("far apart", 3, (0..70).map(|i| -7.0 * i as f32).collect()),
        ("flat and long", 2, Random(5).normal(5001, 0.1)),
    ]
}

fn samplings() -> Vec<(&'static str, DeviceSampling)> {
    vec![
        ("plain", PLAIN),
        ("greedy", DeviceSampling { temperature: 0.0, ..PLAIN }),
        ("hot", DeviceSampling { temperature: 30.0, logprobs: None, ..PLAIN }),
        ("top 7", DeviceSampling { top_k: 7, temperature: 0.7, logprobs: Some(20), ..PLAIN }),
        ("top_p", DeviceSampling { top_p: 0.913, logprobs: Some(3), ..PLAIN }),
        (
            "all filters",
            DeviceSampling { top_k: 40, top_p: 0.871, min_p: 0.013, temperature: 1.3, ..PLAIN },
        ),
        ("no share", DeviceSampling { top_p: 0.0, logprobs: None, ..PLAIN }),
    ]
}

/// Rows with biases, penalties and masks, of few tokens so that each shows in some draw; and rows
/// between them that have none.
fn changed(machine: &mut dyn Machine, report: &mut Report) {
    let logits = vec![1.0, -0.5, 2.0, 0.25, -1.0, 1.5, 9.0];
    let of = |token, count, is_in_prompt, is_masked, bias| TokenChange {
        token,
        count,
        is_in_prompt,
        is_masked,
        bias,
    };
    let penalties = DeviceSampling {
        repetition_penalty: 1.7,
        presence_penalty: 0.4,
        frequency_penalty: -0.3,
        logprobs: Some(20),
        ..PLAIN
    };
    let changes = vec![
        of(6, 0, false, true, 50.0),
        of(0, 2, false, false, 0.0),
        of(1, 0, true, false, 0.0),
        of(5, 5, true, false, -2.5),
        of(4, 0, false, false, 2.0),
        of(7, 1, true, true, 0.0),
    ];
    let all_masked = (0..7).map(|token| of(token, 0, false, true, 0.0)).collect();
    let mut rows = Vec::new();
    for i in 0..40 {
        let top_k = [0, 0, 4][i % 3];
        let sampling = DeviceSampling { random: draw(i, 40), top_k, ..penalties };
        rows.push(Row { logits: logits.clone(), sampling, changes: changes.clone() });
        rows.push(Row { logits: logits.clone(), sampling, changes: Vec::new() });
    }
    rows.push(Row { logits, sampling: penalties, changes: all_masked });
    run(machine, report, "changes".to_owned(), &rows);
}

/// Rows on a device.
struct Placed {
    task: SampleTask,
    logits: Vec<f32>,
}

fn place(machine: &mut dyn Machine, rows: &[Row]) -> Placed {
    let (mut sampling, mut changes) = (Vec::new(), Vec::new());
    for row in rows {
        let first = (changes.len() / TokenChange::BYTES) as u32;
        let end = first + row.changes.len() as u32;
        changes.extend(row.changes.iter().flat_map(TokenChange::to_bytes));
        let of_row = DeviceSampling { changes: [first, end], ..row.sampling };
        sampling.extend(of_row.to_bytes());
    }
    let logits: Vec<f32> = rows.iter().flat_map(|row| row.logits.iter().copied()).collect();
    let count = rows.len();
    let task = SampleTask {
        rows: count,
        vocabulary: rows[0].logits.len(),
        logits: upload_f32(machine, &logits),
        sampling: machine.upload(&sampling),
        changes: machine.upload(&changes),
        saved: machine.allocate(changes.len() / TokenChange::BYTES * 4),
        tokens: machine.allocate(count * 4),
        logprobs: machine.allocate(count * 4),
        top_tokens: machine.allocate(count * TOP * 4),
        top_logprobs: machine.allocate(count * TOP * 4),
    };
    Placed { task, logits }
}

fn run(machine: &mut dyn Machine, report: &mut Report, case: String, rows: &[Row]) {
    let Placed { task, logits } = place(machine, rows);
    if let Err(error) = machine.launch(&sample(&task).expect("sizes that fit")) {
        return report.fail("sampling", case, error);
    }
    let expected: Vec<Expected> = rows.iter().map(reference).collect();
    let tokens = download_u32(machine, task.tokens, rows.len());
    let allowed = expected.iter().zip(&tokens).map(|(expected, token)| {
        let is_allowed = expected.tokens.contains(token);
        f64::from(if is_allowed { *token } else { expected.tokens[0] })
    });
    let allowed: Vec<f64> = allowed.collect();
    let found: Vec<f64> = tokens.iter().copied().map(f64::from).collect();
    report.compare("sampling", format!("{case} tokens"), &found, &allowed, |_| 0.0);
    let after = download_f32(machine, task.logits, logits.len());
    let before: Vec<f64> = logits.iter().copied().map(f64::from).collect();
    report.compare("sampling", format!("{case} logits"), &after, &before, |_| 0.0);
    let logprobs = download_f32(machine, task.logprobs, rows.len());
    let top_tokens = download_u32(machine, task.top_tokens, rows.len() * TOP);
    let top_logprobs = download_f32(machine, task.top_logprobs, rows.len() * TOP);
    let (mut ids, mut wanted_ids) = (Vec::new(), Vec::new());
    let (mut values, mut wanted, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
    for (i, row) in rows.iter().enumerate() {
        let Some(count) = row.sampling.logprobs else { continue };
        let top = &top_tokens[i * TOP..][..TOP];
        let mut push = |token: u32, value: f64| {
            let (exact, bound) = logprob(&row.logits, token);
            values.push(value);
            wanted.push(exact);
            bounds.push(bound);
        };
        push(tokens[i], logprobs[i]);
        if count > 0 {
            top.iter()
                .zip(&top_logprobs[i * TOP..])
                .for_each(|(&token, &value)| push(token, value));
            ids.extend(top.iter().copied().map(f64::from));
            let wanted = expected[i].top.iter().copied();
            wanted_ids.extend(wanted.chain(std::iter::repeat(NO_TOKEN)).take(TOP).map(f64::from));
        }
    }
    report.compare("sampling", format!("{case} likeliest"), &ids, &wanted_ids, |_| 0.0);
    report.compare("sampling", format!("{case} logprobs"), &values, &wanted, |i| bounds[i]);
}

/// Likeliest first, of equals the lower id; without what may never be chosen.
fn in_order(logits: &[f32]) -> Vec<u32> {
    let ids = (0..logits.len() as u32).filter(|&id| logits[id as usize] > f32::NEG_INFINITY);
    let mut ids: Vec<u32> = ids.collect();
    // Stable, so equals stay in the order of their ids; both zeros are equal.
    ids.sort_by(|&a, &b| {
        logits[b as usize].partial_cmp(&logits[a as usize]).expect("numbers only")
    });
    ids
}

/// The row after the changes, in f32 as everywhere.
fn adjusted(row: &Row) -> Vec<f32> {
    let mut logits = row.logits.clone();
    let sampling = &row.sampling;
    for change in row.changes.iter().filter(|change| (change.token as usize) < row.logits.len()) {
        let logit = &mut logits[change.token as usize];
        *logit += change.bias;
        if change.is_in_prompt || change.count > 0 {
            let penalty = sampling.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        if change.count > 0 {
            let penalty = sampling.frequency_penalty * change.count as f32;
            *logit -= penalty + sampling.presence_penalty;
        }
        if change.is_masked {
            *logit = f32::NEG_INFINITY;
        }
    }
    logits
}

fn reference(row: &Row) -> Expected {
    let count = row.sampling.logprobs.unwrap_or(0) as usize;
    let mut top = in_order(&row.logits);
    top.truncate(count);
    let (logits, sampling) = (adjusted(row), &row.sampling);
    let order = in_order(&logits);
    let Some(&first) = order.first() else {
        return Expected { tokens: vec![NO_TOKEN], top };
    };
    let max = logits[first as usize];
    if sampling.temperature < 1e-5 || max == f32::INFINITY {
        return Expected { tokens: vec![first], top };
    }
    // Halvings of the weight; as of f32 they are off by 4 roundings, the weight by the 4 units of
    // 2ˣ, and by less than one because it is a whole number of 2⁻⁴⁴.
    let temperature = f64::from(sampling.temperature);
    let weigh = |&id: &u32| {
        let distance = (f64::from(max) - f64::from(logits[id as usize])) / temperature;
        let weight = (-distance).exp();
        (id, weight, weight * (4.0 * U * distance + 4.0 * U) + 2f64.powi(-44))
    };
    let floor = f64::from(max) + f64::from(sampling.min_p).ln() * temperature;
    let is_above = |id: &&u32| f64::from(logits[**id as usize]) >= floor;
    let mut kept: Vec<(u32, f64, f64)> = order.iter().filter(is_above).map(weigh).collect();
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k as usize);
    }
    let sums = |kept: &[(u32, f64, f64)]| {
        kept.iter().fold((0.0, 0.0), |(mass, error), one| (mass + one.1, error + one.2))
    };
    if sampling.top_p < 1.0 {
        let (mass, error) = sums(&kept);
        let (share, mut before) = (mass * f64::from(sampling.top_p), 0.0);
        let mut count = 0;
        while count < kept.len() && (count == 0 || before < share) {
            before += kept[count].1;
            assert!((before - share).abs() > 2.0 * error, "a border that rounding may move");
            count += 1;
        }
        kept.truncate(count);
    }
    let (mass, error) = sums(&kept);
    let target = mass * sampling.random as f64 / (1u64 << 53) as f64;
    let mut before = 0.0;
    let mut tokens = Vec::new();
    for &(id, weight, _) in &kept {
        if before - 2.0 * error <= target && target < before + weight + 2.0 * error {
            tokens.push(id);
        }
        before += weight;
    }
    Expected { tokens, top }
}

/// Of a token under its row, and how far f32 may be from it.
fn logprob(logits: &[f32], token: u32) -> (f64, f64) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let Some(&logit) = logits.get(token as usize) else { return (f64::NEG_INFINITY, 0.0) };
    let (max, logit) = (f64::from(max), f64::from(logit));
    let (mut mass, mut error) = (0.0, 0.0);
    for &other in logits.iter().filter(|other| **other > f32::NEG_INFINITY) {
        let distance = max - f64::from(other);
        mass += (-distance).exp();
        error += (-distance).exp() * (4.0 * U * distance + 4.0 * U) + 2f64.powi(-44);
    }
    let exact = logit - max - mass.ln();
    // The sum's error and its rounding, 2 units of the logarithm, and two differences.
    let rounding = (max - logit).abs() + 4.0 * mass.ln() + exact.abs();
    (exact, error / mass + U + U * rounding)
}

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    let vocabulary = 128_256;
    for rows in [1, 64, 256] {
        let logits = upload_f32(machine, &Random(1).normal(rows * vocabulary, 3.0));
        let kinds = [
            ("greedy", DeviceSampling { temperature: 0.0, logprobs: None, ..PLAIN }),
            ("plain", DeviceSampling { logprobs: None, ..PLAIN }),
            ("plain and 20 logprobs", DeviceSampling { logprobs: Some(20), ..PLAIN }),
            ("top_k 50", DeviceSampling { top_k: 50, logprobs: None, ..PLAIN }),
            ("top_p 0.9", DeviceSampling { top_p: 0.9, logprobs: None, ..PLAIN }),
            ("top_k and top_p", DeviceSampling { top_k: 50, top_p: 0.9, logprobs: None, ..PLAIN }),
        ];
        for (kind, sampling) in kinds {
            let of_row = |i| DeviceSampling { random: draw(i, rows + 1), ..sampling }.to_bytes();
            let sampling: Vec<u8> = (0..rows).flat_map(of_row).collect();
            let task = SampleTask {
                rows,
                vocabulary,
                logits,
                sampling: machine.upload(&sampling),
                changes: DevicePointer::NULL,
                saved: DevicePointer::NULL,
                tokens: machine.allocate(rows * 4),
                logprobs: machine.allocate(rows * 4),
                top_tokens: machine.allocate(rows * TOP * 4),
                top_logprobs: machine.allocate(rows * TOP * 4),
            };
            let launch = sample(&task).expect("sizes that fit");
            if let Some(seconds) = machine.seconds(&[launch]) {
                let bytes = (rows * vocabulary * 4) as f64;
                let case = format!("{kind} {rows}x{vocabulary}");
                report.timings.push(Timing { op: "sampling", case, seconds, bytes, flop: 0.0 });
            }
        }
    }
}
