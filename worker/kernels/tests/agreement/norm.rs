//! Residual norm against the same in f64, which carries how far f32 may have strayed.

use naru_kernels::cuda::{
    DeviceNorm, DeviceNormKind, DevicePointer, Element, ResidualNormTask, residual_norm,
};

use crate::machine::Machine;
use crate::numbers::{
    Random, download, download_f32, encode, held, rounded, upload_f32, upload_u32,
};
use crate::report::{Report, Timing};

/// Rows and widths: one value, odd widths, ragged vectors, more than one warp, more than one
/// vector a thread in both forms.
const SIZES: [(usize, usize); 8] =
    [(1, 1), (3, 8), (2, 77), (2, 264), (1, 1025), (2, 2048), (1, 8205), (1, 16_384)];

/// Half a unit in the last place of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// What is exact, and how far a sum in f32 may be from it.
#[derive(Clone, Copy, Debug)]
pub struct Strayed {
    pub exact: f64,
    pub error: f64,
}

impl Strayed {
    pub fn exact(value: f32) -> Self {
        Self { exact: f64::from(value), error: 0.0 }
    }

    /// How far it may be once it is rounded to `element`; the least half has a unit of 2⁻²⁴.
    pub fn bound(&self, element: Element) -> f64 {
        self.error * (1.0 + element.epsilon()) + self.exact.abs() * element.epsilon() + 6e-8
    }
}

/// A norm whose parameters are here too.
#[derive(Clone, Debug)]
pub struct HostNorm {
    pub kind: DeviceNormKind,
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

pub const EPSILON: f32 = 1e-5;

impl HostNorm {
    pub fn random(kind: DeviceNormKind, width: usize, random: &mut Random) -> Self {
        let weight = random.normal(width, 1.0);
        let bias = (kind == DeviceNormKind::Layer).then(|| random.normal(width, 1.0));
        Self { kind, weight, bias }
    }

    pub fn upload(&self, machine: &mut dyn Machine) -> DeviceNorm {
        let weight = upload_f32(machine, &self.weight);
        let bias = self.bias.as_ref().map_or(DevicePointer::NULL, |bias| upload_f32(machine, bias));
        DeviceNorm { kind: self.kind, epsilon: EPSILON, weight, bias }
    }

    /// Sums of `n` values in f32 that are made of at most 16 + 10 additions in a row err by 26 U of
    /// the sum of sizes; the mean likewise. A difference from the mean errs by its own rounding
    /// and the mean's error; the root of the mean square by half the relative error of the sum
    /// (29 U with the square's and the division's), what the values' own errors do to it, and 2⁻²²
    /// of the device's root. Then four roundings.
    pub fn apply(&self, x: &[Strayed]) -> Vec<Strayed> {
        let n = x.len() as f64;
        let mean_of = |value: &dyn Fn(&Strayed) -> f64| x.iter().map(value).sum::<f64>() / n;
        let is_layer = self.kind == DeviceNormKind::Layer;
        let (mean, mean_error) = if is_layer {
            let size = mean_of(&|x| x.exact.abs());
            (mean_of(&|x| x.exact), mean_of(&|x| x.error) + 28.0 * U * size)
        } else {
            (0.0, 0.0)
        };
        let centred: Vec<Strayed> = x
            .iter()
            .map(|x| {
                let exact = x.exact - mean;
                Strayed { exact, error: x.error + mean_error + U * exact.abs() }
            })
            .collect();
        let squares = centred.iter().map(|x| x.exact * x.exact).sum::<f64>() / n;
        let strayed = centred.iter().map(|x| (2.0 * x.exact.abs() + x.error) * x.error);
        let strayed = strayed.sum::<f64>() / n;
        let base = squares + f64::from(EPSILON);
        let scale = 1.0 / base.sqrt();
        let relative = 15.0 * U + 0.5 * strayed / base + 4.0 * U;
        let offset = f64::from(u8::from(self.kind == DeviceNormKind::RmsPlusOne));
        let apply = |(i, x): (usize, &Strayed)| {
            let weight = offset + f64::from(self.weight[i]);
            let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
            let normal = x.exact * scale * weight;
            let error = x.error * scale * weight.abs() * (1.0 + relative)
                + normal.abs() * (relative + 3.0 * U)
                + offset * U * (x.exact * scale).abs()
                + U * (normal + bias).abs();
            Strayed { exact: normal + bias, error }
        };
        centred.iter().enumerate().map(apply).collect()
    }
}

/// The norms, the factor, and whether there are a block, picks and an output.
type Row = (Option<DeviceNormKind>, Option<DeviceNormKind>, f32, [bool; 3]);

const CASES: [Row; 7] = {
    use DeviceNormKind::{Layer, Rms, RmsPlusOne};
    [
        (None, Some(Rms), 1.0, [true, false, true]),
        (Some(RmsPlusOne), Some(RmsPlusOne), 0.22, [true, false, true]),
        (Some(Layer), Some(Layer), 1.0, [true, true, true]),
        (None, Some(Layer), 1.0, [false, false, true]),
        (None, Some(Rms), 1.0, [false, true, true]),
        (Some(Rms), None, 1.0, [true, false, false]),
        (None, None, -3.0, [true, true, true]),
    ]
};

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    for element in Element::ALL {
        for (rows, width) in SIZES {
            for case in CASES {
                one(machine, report, element, (rows, width), case);
            }
            machine.clear();
        }
    }
}

fn one(
    machine: &mut dyn Machine,
    report: &mut Report,
    element: Element,
    (rows, width): (usize, usize),
    (post, pre, factor, [has_block, picks, has_output]): Row,
) {
    let name = format!(
        "{} {rows}x{width} post={post:?} pre={pre:?} block={has_block} pick={picks}",
        element.name()
    );
    let tokens = if picks { rows + 2 } else { rows };
    let mut random = Random((rows * width) as u64);
    // A mean that layer norm must take away; rows of large and of vanishing values.
    let mut stream = random.normal(tokens * width, 3.0);
    stream.iter_mut().for_each(|value| *value += 20.0);
    let mut block = random.normal(tokens * width, 1.0);
    for (row, scale) in [1e3, 1e-6].into_iter().enumerate().take(tokens) {
        stream[row * width..][..width].iter_mut().for_each(|value| *value *= scale);
        block[row * width..][..width].iter_mut().for_each(|value| *value *= scale);
    }
    let block = rounded(element, &block);
    let pick: Vec<u32> = (0..rows as u32).map(|row| if picks { row + 1 } else { row }).collect();
    let mut norm = |kind: Option<_>| kind.map(|kind| HostNorm::random(kind, width, &mut random));
    let (post, pre) = (norm(post), norm(pre));
    let null = DevicePointer::NULL;
    let task = ResidualNormTask {
        element,
        rows,
        width,
        stream: upload_f32(machine, &stream),
        block: if has_block { machine.upload(&encode(element, &block)) } else { null },
        post: post.as_ref().map(|norm| norm.upload(machine)),
        factor,
        pick: if picks { upload_u32(machine, &pick) } else { null },
        pre: pre.as_ref().map(|norm| norm.upload(machine)),
        output: if has_output { machine.allocate(rows * width * Element::BYTES) } else { null },
    };
    let launch = residual_norm(&task).expect("sizes that fit");
    if let Err(error) = machine.launch(&launch) {
        return report.fail("norm", name, error);
    }
    let row_of = |row: u32| {
        let range = row as usize * width..(row as usize + 1) * width;
        let x: Vec<_> = stream[range.clone()].iter().copied().map(Strayed::exact).collect();
        let block: Vec<_> = block[range].iter().copied().map(Strayed::exact).collect();
        if !has_block {
            return x;
        }
        let block = post.as_ref().map_or(block.clone(), |norm| norm.apply(&block));
        x.iter().zip(&block).map(|(x, block)| sum(x, block, f64::from(factor))).collect()
    };
    let sums: Vec<Vec<Strayed>> = pick.iter().map(|&row| row_of(row)).collect();
    let found = download_f32(machine, task.stream, tokens * width);
    if picks {
        let expected: Vec<f64> = stream.iter().copied().map(f64::from).collect();
        report.compare("norm", format!("{name} stream"), &found, &expected, |_| 0.0);
    } else {
        let flat: Vec<_> = sums.concat();
        let expected: Vec<f64> = flat.iter().map(|x| x.exact).collect();
        report.compare("norm", format!("{name} stream"), &found, &expected, |i| flat[i].error);
    }
    if has_output {
        let normed = |x: Vec<Strayed>| pre.as_ref().map_or(x.clone(), |norm| norm.apply(&x));
        let flat: Vec<_> = sums.into_iter().flat_map(normed).collect();
        let expected: Vec<f64> = flat.iter().map(|x| held(element, x.exact)).collect();
        let found = download(machine, element, task.output, rows * width);
        report.compare("norm", name, &found, &expected, |i| flat[i].bound(element));
    }
}

/// The product and the sum are rounded, or the sum alone.
fn sum(x: &Strayed, block: &Strayed, factor: f64) -> Strayed {
    let added = factor * block.exact;
    let exact = x.exact + added;
    let error = factor.abs() * block.error + U * added.abs() + U * exact.abs();
    Strayed { exact, error: error * (1.0 + 2.0 * U) }
}

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    let (width, element) = (4096, Element::Bf16);
    for rows in [1, 64, 8192] {
        let norm = HostNorm::random(DeviceNormKind::Rms, width, &mut Random(1));
        let task = ResidualNormTask {
            element,
            rows,
            width,
            stream: upload_f32(machine, &Random(2).normal(rows * width, 1.0)),
            block: machine.upload(&encode(element, &Random(3).normal(rows * width, 1.0))),
            post: None,
            factor: 1.0,
            pick: DevicePointer::NULL,
            pre: Some(norm.upload(machine)),
            output: machine.allocate(rows * width * Element::BYTES),
        };
        let launch = residual_norm(&task).expect("sizes that fit");
        if let Some(seconds) = machine.seconds(&[launch]) {
            let bytes = (rows * width * (4 + 4 + 2 * Element::BYTES)) as f64;
            let case = format!("add and rms bf16 {rows}x{width}");
            report.timings.push(Timing { op: "norm", case, seconds, bytes, flop: 0.0 });
        }
    }
}
