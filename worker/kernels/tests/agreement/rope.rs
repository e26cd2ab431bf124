//! Rope and the writing of keys and values against the same in f64.

use naru_kernels::cuda::{DeviceNormKind, DeviceRope, Element, RopeKvTask, rope_kv};
use naru_kernels::{KV_BLOCK_TOKENS, RopePairs};

use crate::machine::Machine;
use crate::norm::{HostNorm, Strayed};
use crate::numbers::{Random, download, encode, held, rounded, upload_f32, upload_u32};
use crate::report::{Report, Timing};

const POSITIONS: usize = 50;
const BLOCKS: usize = 5;
const NO_SLOT: u32 = 0xffff_ffff;
/// Half a unit in the last place of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// What of a head is rotated, and how heads are normed.
type Kind = (usize, RopePairs, Option<DeviceNormKind>, Option<DeviceNormKind>);

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    use DeviceNormKind::{Layer, Rms, RmsPlusOne};
    use RopePairs::{Halves, Neighbours};
    for element in Element::ALL {
        // Rows, heads, KV heads, values of a head: one value; odd; vectors with idle lanes; whole
        // warps; more heads than a block of threads has.
        let mut check = |sizes, kind| one(machine, report, element, sizes, kind);
        check([1, 1, 1, 1], (0, Halves, None, None));
        check([3, 3, 1, 7], (6, Halves, Some(Rms), None));
        check([2, 2, 2, 33], (32, Neighbours, None, Some(Layer)));
        check([3, 4, 2, 64], (64, Halves, None, None));
        check([3, 4, 2, 64], (64, Neighbours, Some(RmsPlusOne), Some(RmsPlusOne)));
        check([2, 3, 1, 80], (32, Halves, Some(Layer), Some(Layer)));
        check([2, 3, 1, 80], (32, Neighbours, Some(Rms), Some(Rms)));
        check([2, 2, 1, 96], (24, Halves, None, None));
        check([3, 32, 8, 128], (128, Halves, Some(Rms), Some(Rms)));
        check([1, 2, 1, 256], (64, Neighbours, Some(Layer), Some(Rms)));
        check([2, 1, 1, 511], (510, Halves, Some(Rms), Some(Rms)));
        check([2, 1, 1, 512], (512, Halves, Some(Rms), Some(Rms)));
        machine.clear();
    }
}

fn one(
    machine: &mut dyn Machine,
    report: &mut Report,
    element: Element,
    [rows, heads, kv_heads, head_dim]: [usize; 4],
    (rotary_dim, pairs, query_norm, key_norm): Kind,
) {
    let case = format!(
        "{} {rows}x({heads}+2x{kv_heads})x{head_dim} {rotary_dim} {pairs:?} {query_norm:?}",
        element.name()
    );
    let mut random = Random((head_dim + rotary_dim) as u64);
    let all_heads = heads + 2 * kv_heads;
    let input = rounded(element, &random.normal(rows * all_heads * head_dim, 2.0));
    let positions: Vec<u32> = (0..rows).map(|_| random.below(POSITIONS) as u32).collect();
    // Blocks out of order; the last row of several is padding.
    let slots: Vec<u32> = (0..rows)
        .map(|row| if row == 2 { NO_SLOT } else { ((BLOCKS - 1 - row) * 16 + row * 7 % 16) as u32 })
        .collect();
    let table = random.normal(POSITIONS * rotary_dim, 1.0);
    let mut norm = |kind: Option<_>| kind.map(|kind| HostNorm::random(kind, head_dim, &mut random));
    let (query_norm, key_norm) = (norm(query_norm), norm(key_norm));
    let cached = BLOCKS * kv_heads * KV_BLOCK_TOKENS * head_dim;
    let rope = (rotary_dim > 0).then(|| DeviceRope {
        table: upload_f32(machine, &table),
        rotary_dim,
        pairs,
    });
    let task = RopeKvTask {
        element,
        rows,
        heads,
        kv_heads,
        head_dim,
        input: machine.upload(&encode(element, &input)),
        positions: upload_u32(machine, &positions),
        slots: upload_u32(machine, &slots),
        query_norm: query_norm.as_ref().map(|norm| norm.upload(machine)),
        key_norm: key_norm.as_ref().map(|norm| norm.upload(machine)),
        rope,
        queries: machine.allocate(rows * heads * head_dim * Element::BYTES),
        keys: machine.allocate(cached * Element::BYTES),
        values: machine.allocate(cached * Element::BYTES),
    };
    let launch = rope_kv(&task).expect("sizes that fit");
    if let Err(error) = machine.launch(&launch) {
        return report.fail("rope", case, error);
    }
    let host = Host { input, positions, slots, table, query_norm, key_norm };
    let [queries, keys, values] = host.reference(&task);
    let mut compare = |what, from, expected: &[Strayed]| {
        let found = download(machine, element, from, expected.len());
        let exact: Vec<f64> = expected.iter().map(|x| held(element, x.exact)).collect();
        let bound = |i: usize| expected[i].bound(element);
        report.compare("rope", format!("{case} {what}"), &found, &exact, bound);
    };
    compare("queries", task.queries, &queries);
    compare("keys", task.keys, &keys);
    compare("values", task.values, &values);
}

/// The numbers of a task, here.
struct Host {
    input: Vec<f32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    table: Vec<f32>,
    query_norm: Option<HostNorm>,
    key_norm: Option<HostNorm>,
}

impl Host {
    /// Queries, keys and values.
    fn reference(&self, task: &RopeKvTask) -> [Vec<Strayed>; 3] {
        let RopeKvTask { rows, heads, kv_heads, head_dim, .. } = *task;
        let (rotary_dim, pairs) =
            task.rope.map_or((0, RopePairs::Halves), |rope| (rope.rotary_dim, rope.pairs));
        let all_heads = heads + 2 * kv_heads;
        let cached = BLOCKS * kv_heads * KV_BLOCK_TOKENS * head_dim;
        // What was not written is NaN.
        let unwritten = Strayed { exact: f64::NAN, error: 0.0 };
        let mut keys = vec![unwritten; cached];
        let (mut queries, mut values) = (Vec::new(), keys.clone());
        for row in 0..rows {
            let turns = &self.table[self.positions[row] as usize * rotary_dim..][..rotary_dim];
            for head in 0..all_heads {
                let x = &self.input[(row * all_heads + head) * head_dim..][..head_dim];
                let x: Vec<_> = x.iter().copied().map(Strayed::exact).collect();
                let norm = if head < heads { &self.query_norm } else { &self.key_norm };
                let turned = || {
                    let x = norm.as_ref().map_or(x.clone(), |norm| norm.apply(&x));
                    rotate(x, turns, pairs)
                };
                if head < heads {
                    queries.extend(turned());
                } else if self.slots[row] != NO_SLOT {
                    let (block, place) =
                        (self.slots[row] as usize / 16, self.slots[row] as usize % 16);
                    let first =
                        ((block * kv_heads + (head - heads) % kv_heads) * 16 + place) * head_dim;
                    if head < heads + kv_heads {
                        keys[first..][..head_dim].copy_from_slice(&turned());
                    } else {
                        values[first..][..head_dim].copy_from_slice(&x);
                    }
                }
            }
        }
        [queries, keys, values]
    }
}

/// Two products and a sum, each rounded.
fn rotate(mut x: Vec<Strayed>, turns: &[f32], pairs: RopePairs) -> Vec<Strayed> {
    let half = turns.len() / 2;
    let mix = |a: Strayed, cos: f32, b: Strayed, sin: f32| {
        let (cos, sin) = (f64::from(cos), f64::from(sin));
        let size = (a.exact * cos).abs() + (b.exact * sin).abs();
        let error = a.error * cos.abs() + b.error * sin.abs() + 2.0 * U * size;
        Strayed { exact: a.exact * cos + b.exact * sin, error: error * (1.0 + 2.0 * U) }
    };
    for pair in 0..half {
        let (i, j) = match pairs {
            RopePairs::Halves => (pair, pair + half),
            RopePairs::Neighbours => (2 * pair, 2 * pair + 1),
        };
        let (a, b, cos, sin) = (x[i], x[j], turns[2 * pair], turns[2 * pair + 1]);
        x[i] = mix(a, cos, b, -sin);
        x[j] = mix(b, cos, a, sin);
    }
    x
}

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    let (heads, kv_heads, head_dim, element) = (32, 8, 128, Element::Bf16);
    for rows in [1usize, 64, 8192] {
        let all = rows * (heads + 2 * kv_heads) * head_dim;
        let cached = rows.next_multiple_of(16) * kv_heads * head_dim * Element::BYTES;
        let places: Vec<u32> = (0..rows as u32).collect();
        let table = upload_f32(machine, &Random(1).normal(rows * head_dim, 1.0));
        let task = RopeKvTask {
            element,
            rows,
            heads,
            kv_heads,
            head_dim,
            input: machine.upload(&encode(element, &Random(2).normal(all, 1.0))),
            positions: upload_u32(machine, &places),
            slots: upload_u32(machine, &places),
            query_norm: None,
            key_norm: None,
            rope: Some(DeviceRope { table, rotary_dim: head_dim, pairs: RopePairs::Halves }),
            queries: machine.allocate(rows * heads * head_dim * Element::BYTES),
            keys: machine.allocate(cached),
            values: machine.allocate(cached),
        };
        let launch = rope_kv(&task).expect("sizes that fit");
        if let Some(seconds) = machine.seconds(&[launch]) {
            let bytes = (2 * all * Element::BYTES + rows * head_dim * 4) as f64;
            let case = format!("halves bf16 {rows}x({heads}+2x{kv_heads})x{head_dim}");
            report.timings.push(Timing { op: "rope", case, seconds, bytes, flop: 0.0 });
        }
    }
}
