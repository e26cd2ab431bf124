//! Embedding against the floats that the table's blocks stand for.

use naru_kernels::cuda::{DeviceMatrix, EmbedTask, WeightFormat, embed};

use crate::machine::Machine;
use crate::numbers::{Random, download_f32, upload_u32};
use crate::report::{Report, Timing};
use crate::weights::Weights;

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    for format in WeightFormat::ALL {
        let block = format.block_elements();
        let widths: &[usize] = if block == 1 { &[1, 7, 40, 1000, 2052] } else { &[1, 3, 17] };
        for &width in widths {
            for (multiplier, size) in [(1.0, 1.0), (64.0, 1e-4), (-0.1, 100.0)] {
                one(machine, report, &Weights::new(format, 5, width * block, size), multiplier);
            }
        }
        machine.clear();
    }
}

fn one(machine: &mut dyn Machine, report: &mut Report, table: &Weights, multiplier: f32) {
    let Weights { format, columns, .. } = *table;
    let case = format!("{format:?} x{multiplier} {columns}");
    // The last two have no row: their tokens are other ranks', behind this table and before it.
    let tokens = [4u32, 0, 2, 4, 5, u32::MAX];
    let output = machine.allocate(tokens.len() * columns * 4);
    let task = EmbedTask {
        table: table.upload(machine),
        tokens: upload_u32(machine, &tokens),
        rows: tokens.len(),
        multiplier,
        output,
    };
    let launch = embed(&task).expect("sizes that fit");
    if let Err(error) = machine.launch(&launch) {
        return report.fail("embed", case, error);
    }
    let found = download_f32(machine, output, tokens.len() * columns);
    let expected: Vec<f64> = tokens
        .iter()
        .flat_map(|&token| {
            let row = table.values.chunks_exact(columns).nth(token as usize);
            row.map_or(vec![0.0; columns], <[f64]>::to_vec)
        })
        .map(|value| value * f64::from(multiplier))
        .collect();
    // The level times its scale or, with a minimum, their sum; the factor; and the reference's own
    // rounding of the weight: three roundings, and half a unit below the normal range of each.
    report.compare("embed", case, &found, &expected, |i| {
        expected[i].abs() * 3.0 * 2f64.powi(-24) + 2f64.powi(-149)
    });
}

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    let (vocabulary, columns, rows) = (128_256, 4096, 8192);
    for format in [WeightFormat::Bf16, WeightFormat::Q4_K] {
        let row_bytes = DeviceMatrix::row_bytes(format, columns).expect("whole blocks");
        let mut random = Random(1);
        let tokens: Vec<u32> = (0..rows).map(|_| random.below(vocabulary) as u32).collect();
        let pointer = machine.upload(&vec![0x2c; vocabulary * row_bytes]);
        let task = EmbedTask {
            table: DeviceMatrix { format, rows: vocabulary, columns, pointer },
            tokens: upload_u32(machine, &tokens),
            rows,
            multiplier: 1.0,
            output: machine.allocate(rows * columns * 4),
        };
        let launch = embed(&task).expect("sizes that fit");
        if let Some(seconds) = machine.seconds(&[launch]) {
            let bytes = (rows * (row_bytes + columns * 4)) as f64;
            let case = format!("{format:?} {rows}x{columns}");
            report.timings.push(Timing { op: "embed", case, seconds, bytes, flop: 0.0 });
        }
        machine.clear();
    }
}
