//! Linear layers against the sum of products in f64, of the floats that the weights stand for.

use naru_kernels::cuda::{
    DeviceMatrix, DevicePointer, Element, Launch, LinearOutput, LinearPath, LinearTask,
    WeightFormat, linear, linear_by,
};

use crate::machine::Machine;
use crate::numbers::{Random, download, download_f32, encode, held, rounded, upload_f32};
use crate::report::{Report, Timing};
use crate::weights::Weights;

/// Half a unit in the last place of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Sizes of one comparison: columns are blocks where the format has any.
struct Case {
    element: Element,
    format: WeightFormat,
    tokens: usize,
    rows: usize,
    columns: usize,
    /// About the size of the weights.
    size: f64,
    has_bias: bool,
    output_kind: LinearOutput,
}

/// Who computes a case.
#[derive(Clone, Copy)]
enum Way {
    Own(LinearPath),
    /// Where the machine has a library.
    Library,
    /// Whoever is asked for so many tokens.
    Chosen,
}

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    for element in Element::ALL {
        for format in WeightFormat::ALL {
            few_tokens(machine, report, element, format);
            many_tokens(machine, report, element, format);
            machine.clear();
        }
    }
    more_than_a_block(machine, report);
    same_bits(machine, report);
    by_library(machine, report);
}

fn few_tokens(
    machine: &mut dyn Machine,
    report: &mut Report,
    element: Element,
    format: WeightFormat,
) {
    let block = format.block_elements();
    // Blocks of a row, or values: less than a round of a warp, and more.
    let widths = match block {
        1 => [8, 40, 1000, 7, 264],
        32 => [1, 3, 33, 2, 5],
        _ => [1, 3, 5, 2, 4],
    };
    let extremes = [1.0, 1e-5, 1.0, 100.0, 1.0];
    let tokens_and_rows = [(1, 7), (2, 1), (3, 9), (5, 16), (8, 3)];
    for (i, (tokens, rows)) in tokens_and_rows.into_iter().enumerate() {
        let has_bias = i % 2 == 0;
        let output_kind = if i % 3 == 0 { LinearOutput::F32 } else { LinearOutput::Element };
        let (columns, size) = (widths[i] * block, extremes[i]);
        let case = Case { element, format, tokens, rows, columns, size, has_bias, output_kind };
        one(machine, report, &case, Way::Own(LinearPath::Gemv));
    }
}

/// On tensor cores: a ragged tile, more than one tile, and more steps than there are stages.
fn many_tokens(
    machine: &mut dyn Machine,
    report: &mut Report,
    element: Element,
    format: WeightFormat,
) {
    let block = format.block_elements();
    let wide = if block == 1 { 328 } else { 256 };
    for (i, (path, tokens, rows, columns)) in [
        (LinearPath::Tiles64, 9, 7, wide),
        (LinearPath::Tiles64, 17, 64, block.next_multiple_of(8)),
        (LinearPath::Tiles128, 17, 130, if block == 1 { 40 } else { block }),
    ]
    .into_iter()
    .enumerate()
    {
        let has_bias = i != 1;
        let output_kind = if i == 0 { LinearOutput::F32 } else { LinearOutput::Element };
        let size = [1.0, 1e-5, 1.0][i];
        let case = Case { element, format, tokens, rows, columns, size, has_bias, output_kind };
        one(machine, report, &case, Way::Own(path));
    }
}

/// More rows and tokens than a block has, and more columns than shared memory holds of so many
/// tokens.
fn more_than_a_block(machine: &mut dyn Machine, report: &mut Report) {
    use LinearPath::{Gemv, Tiles64, Tiles128};
    let (element, output_kind) = (Element::Bf16, LinearOutput::F32);
    for (path, format, tokens, rows, columns) in [
        (Gemv, WeightFormat::Bf16, 1, 130, 72),
        (Gemv, WeightFormat::Q4_0, 1, 64, 17_408),
        (Gemv, WeightFormat::Q8_0, 8, 2, 4128),
        (Gemv, WeightFormat::Bf16, 9, 3, 2049),
        (Tiles64, WeightFormat::Bf16, 64, 130, 1000),
        (Tiles64, WeightFormat::Q5_1, 130, 7, 96),
        (Tiles128, WeightFormat::Bf16, 130, 130, 72),
        (Tiles128, WeightFormat::Q6_K, 64, 1, 512),
    ] {
        let has_bias = true;
        let case =
            Case { element, format, tokens, rows, columns, size: 1.0, has_bias, output_kind };
        one(machine, report, &case, Way::Own(path));
        machine.clear();
    }
}

/// A token's bits depend neither on how many others there are nor on the tile.
fn same_bits(machine: &mut dyn Machine, report: &mut Report) {
    use LinearPath::{Gemv, Tiles64, Tiles128};
    let (element, rows, output_kind) = (Element::Bf16, 2, LinearOutput::F32);
    for (format, columns, runs) in [
        (WeightFormat::Bf16, 2056, [(Gemv, 8), (Gemv, 1), (Gemv, 2), (Gemv, 3)]),
        (WeightFormat::Q5_0, 4128, [(Gemv, 8), (Gemv, 1), (Gemv, 2), (Gemv, 4)]),
        (WeightFormat::Q4_K, 512, [(Tiles64, 17), (Tiles64, 9), (Tiles128, 17), (Tiles128, 1)]),
    ] {
        let weights = Weights::new(format, rows, columns, 1.0);
        let weight = weights.upload(machine);
        let x = machine.upload(&encode(element, &Random(3).normal(17 * columns, 1.0)));
        let mut run = |path, tokens| {
            let output = machine.allocate(tokens * rows * 4);
            let bias = DevicePointer::NULL;
            let task = LinearTask {
                element,
                weight,
                input: x,
                tokens,
                bias,
                output,
                output_kind,
                output_stride: rows,
            };
            machine.launch(&linear_by(path, &task).expect("sizes that fit"))?;
            Ok::<_, String>(download_f32(machine, output, tokens * rows))
        };
        let [first, rest @ ..] = runs;
        let expected = run(first.0, first.1);
        for (path, tokens) in rest {
            let case = format!("same bits {path:?} {format:?} {tokens}");
            match (&expected, run(path, tokens)) {
                (Ok(expected), Ok(found)) => {
                    report.compare("linear", case, &found, &expected[..tokens * rows], |_| 0.0);
                }
                (Err(error), _) => report.fail("linear", case, error.clone()),
                (_, Err(error)) => report.fail("linear", case, error),
            }
        }
        machine.clear();
    }
}

/// Ragged ends, rows with room behind them, one row, sums so long that they may be split, values
/// that halves hold with few bits, and sums that they do not hold.
fn by_library(machine: &mut dyn Machine, report: &mut Report) {
    for (element, format) in
        [(Element::Bf16, WeightFormat::Bf16), (Element::F16, WeightFormat::F16)]
    {
        for (tokens, rows, columns, size) in [
            (65, 130, 72, 1.0),
            (9, 7, 328, 1.0),
            (300, 1, 1000, 1e-5),
            (130, 264, 1000, 100.0),
            (128, 64, 8192, 1.0),
        ] {
            for output_kind in [LinearOutput::Element, LinearOutput::F32] {
                let has_bias = false;
                let case =
                    Case { element, format, tokens, rows, columns, size, has_bias, output_kind };
                one(machine, report, &case, Way::Library);
                machine.clear();
            }
        }
        let (tokens, rows, columns, size, has_bias) = (130, 130, 136, 1.0, false);
        let output_kind = LinearOutput::Element;
        let case = Case { element, format, tokens, rows, columns, size, has_bias, output_kind };
        one(machine, report, &case, Way::Chosen);
        machine.clear();
    }
}

/// Runs a task. None: by a library, of which the machine has none.
fn run(machine: &mut dyn Machine, way: Way, task: &LinearTask) -> Option<Result<(), String>> {
    match way {
        Way::Own(path) => Some(machine.launch(&linear_by(path, task).expect("sizes that fit"))),
        Way::Library => machine.multiply(&task.product().expect("plain weights")),
        Way::Chosen => Some(machine.launch(&linear(task).expect("sizes that fit"))),
    }
}

fn one(machine: &mut dyn Machine, report: &mut Report, case: &Case, way: Way) {
    let Case { element, format, tokens, rows, columns, has_bias, output_kind, .. } = *case;
    let by = match way {
        Way::Own(path) => format!("{path:?}"),
        Way::Library => "library".to_owned(),
        Way::Chosen => "chosen".to_owned(),
    };
    let name = format!(
        "{by} {} {format:?} {tokens}x{columns}->{rows} bias={has_bias} {output_kind:?}",
        element.name()
    );
    let weights = Weights::new(format, rows, columns, case.size);
    let mut random = Random(tokens as u64);
    let x = rounded(element, &random.normal(tokens * columns, 1.0));
    let bias = if has_bias { random.normal(rows, case.size) } else { vec![0.0; rows] };
    let output_bytes = if output_kind == LinearOutput::F32 { 4 } else { Element::BYTES };
    // Every other row count leaves room behind its rows, which must stay as it was: NaN.
    let output_stride = rows + if rows % 2 == 0 { 3 } else { 0 };
    let task = LinearTask {
        element,
        weight: weights.upload(machine),
        input: machine.upload(&encode(element, &x)),
        tokens,
        bias: if has_bias { upload_f32(machine, &bias) } else { DevicePointer::NULL },
        output: machine.allocate(tokens * output_stride * output_bytes),
        output_kind,
        output_stride,
    };
    match run(machine, way, &task) {
        Some(Ok(())) => {}
        Some(Err(error)) => return report.fail("linear", name, error),
        None => return,
    }
    let count = tokens * output_stride;
    let written = match output_kind {
        LinearOutput::F32 => download_f32(machine, task.output, count),
        LinearOutput::Element => download(machine, element, task.output, count),
    };
    if written.chunks(output_stride).any(|row| row[rows..].iter().any(|value| !value.is_nan())) {
        return report.fail("linear", name, "values were written behind a row".to_owned());
    }
    let rows_written = written.chunks(output_stride).map(|row| &row[..rows]);
    let found: Vec<f64> = rows_written.flatten().copied().collect();
    let sums = reference(&weights, &x, &bias);
    let expected: Vec<f64> = match output_kind {
        LinearOutput::F32 => sums.iter().map(|sum| sum.value).collect(),
        LinearOutput::Element => sums.iter().map(|sum| held(element, sum.value)).collect(),
    };
    report.compare("linear", name, &found, &expected, |i| {
        let before = match way {
            Way::Own(LinearPath::Gemv) => gemv_bound(case, &sums[i]),
            _ => gemm_bound(case, &sums[i]),
        };
        match output_kind {
            LinearOutput::F32 => before,
            // Below the normal range of halves the unit is 2⁻²⁴.
            LinearOutput::Element => {
                before + element.epsilon() * (expected[i].abs() + before) + 2f64.powi(-25)
            }
        }
    });
}

/// A value of the output, and what its error is in proportion to.
struct Sum {
    value: f64,
    /// Σ |x| |w| + |bias|.
    size: f64,
    /// Σ |x|.
    input_size: f64,
}

fn reference(weights: &Weights, x: &[f32], bias: &[f32]) -> Vec<Sum> {
    let columns = weights.columns;
    let of = |x: &[f32], row: usize| {
        let bias = f64::from(bias[row]);
        let mut sum = Sum { value: bias, size: bias.abs(), input_size: 0.0 };
        for (&x, w) in x.iter().zip(&weights.values[row * columns..][..columns]) {
            let product = f64::from(x) * w;
            sum.value += product;
            sum.size += product.abs();
            sum.input_size += f64::from(x).abs();
        }
        sum
    };
    x.chunks_exact(columns).flat_map(|x| (0..weights.rows).map(move |row| of(x, row))).collect()
}

/// Roundings that a product passes through, each at most U of Σ |x| |w|: two in the weight (the
/// reference's own and, where it has a minimum, the kernel's), eight in its octet's sum, one where
/// the scale comes in, one in each sum over the octets of a lane (a 32nd of a row, up to four more
/// in a ragged round), five in the tree over lanes, one with the bias. Two more cover the terms in
/// U².
fn gemv_bound(case: &Case, sum: &Sum) -> f64 {
    let octets = case.columns as f64 / 256.0 + 4.0;
    (2.0 + 8.0 + 1.0 + octets + 5.0 + 1.0 + 2.0) * U * sum.size
}

/// Sixteen products and the sum so far are added in any order and cut off, not rounded: 17 errors
/// of 2 U in each of the steps, at worst. One U with the bias, three in the weight before it is
/// rounded to the element; that is ε of it, or half of the least halves of 2⁻²⁴. Where a library
/// splits a sum, a part has one error fewer at its beginning, and one more where it is added.
fn gemm_bound(case: &Case, sum: &Sum) -> f64 {
    let steps = case.columns.div_ceil(16) as f64;
    let is_exact = match case.element {
        Element::Bf16 => case.format == WeightFormat::Bf16,
        Element::F16 => case.format == WeightFormat::F16,
    };
    let of_weights = match (is_exact, case.element) {
        (true, _) => 0.0,
        (false, Element::Bf16) => case.element.epsilon() * sum.size,
        (false, Element::F16) => {
            case.element.epsilon() * sum.size + 2f64.powi(-25) * sum.input_size
        }
    };
    (17.0 * 2.0 * steps + 4.0) * U * sum.size + of_weights
}

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    use WeightFormat::{Bf16, F8E4M3, Q4_0, Q4_K, Q8_0};
    // Gate and up of a model of eight billion weights; twice the rows where they would fit in a
    // cache.
    for (format, rows) in
        [(Bf16, 28_672), (Q8_0, 28_672), (F8E4M3, 28_672), (Q4_0, 57_344), (Q4_K, 57_344)]
    {
        for tokens in [1, 8] {
            time_one(machine, report, format, (tokens, 4096, rows));
        }
    }
    time_one(machine, report, Q4_K, (64, 4096, 28_672));
    // Our own kernels, and the library where there is one.
    for sizes in [
        (64, 4096, 4096),
        (64, 4096, 28_672),
        (128, 4096, 28_672),
        (512, 4096, 14_336),
        (4096, 4096, 14_336),
    ] {
        time_one(machine, report, Bf16, sizes);
    }
}

fn time_one(
    machine: &mut dyn Machine,
    report: &mut Report,
    format: WeightFormat,
    (tokens, columns, rows): (usize, usize, usize),
) {
    let element = Element::Bf16;
    // Plain weights are random, since a device draws less power, and so runs faster, on equal ones;
    // of the others, bits that no format reads as NaN, infinity or zero.
    let weight_bytes = DeviceMatrix::bytes(format, rows, columns).expect("whole blocks");
    let some = match format {
        WeightFormat::Bf16 => encode(element, &Random(2).normal(1 << 20, 1.0)),
        _ => vec![0x2c],
    };
    let bytes: Vec<u8> = some.into_iter().cycle().take(weight_bytes).collect();
    let pointer = machine.upload(&bytes);
    let task = LinearTask {
        element,
        weight: DeviceMatrix { format, rows, columns, pointer },
        input: machine.upload(&encode(element, &Random(1).normal(tokens * columns, 1.0))),
        tokens,
        bias: DevicePointer::NULL,
        output: machine.allocate(tokens * rows * Element::BYTES),
        output_kind: LinearOutput::Element,
        output_stride: rows,
    };
    let own = linear_by(LinearPath::of(tokens, &task.weight), &task).expect("sizes that fit");
    let sizes = format!("{format:?} bf16 {tokens}x{columns}->{rows}");
    let mut launches = vec![(sizes.clone(), own.clone())];
    // Few tokens are never the library's.
    let product = task.product().filter(|_| tokens > 8);
    let name = format!("library {sizes}");
    match product.and_then(|product| machine.multiply(&product)) {
        Some(Ok(())) => launches.push((name, Launch { product, ..own })),
        Some(Err(error)) => report.fail("linear", name, error),
        None => {}
    }
    for (case, launch) in launches {
        if let Some(seconds) = machine.seconds(&[launch]) {
            let bytes = (weight_bytes + tokens * (rows + columns) * Element::BYTES) as f64;
            let flop = 2.0 * (tokens * rows * columns) as f64;
            report.timings.push(Timing { op: "linear", case, seconds, bytes, flop });
        }
    }
    machine.clear();
}
