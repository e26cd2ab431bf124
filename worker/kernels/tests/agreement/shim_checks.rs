//! The shim itself: what is wrong in a kernel is reported, and its arithmetic is the device's.

use half::{bf16, f16};
use naru_kernels::cuda::{Argument, DevicePointer, Element, Launch};

use crate::machine::Machine;
use crate::numbers::{Random, download_f32, download_u32, encode, upload_f32, words};
use crate::report::Report;

const OP: &str = "shim";

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    if machine.name() != crate::shim::NAME {
        return;
    }
    reports(machine, report);
    poisons(machine, report);
    faults(machine, report);
    for element in Element::ALL {
        converts(machine, report, element);
        multiplies(machine, report, element);
        machine.clear();
    }
}

fn launch(
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    arguments: impl Into<Vec<Argument>>,
) -> Launch {
    Launch {
        op: OP,
        kernel,
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 4 * threads,
        arguments: arguments.into(),
        product: None,
    }
}

/// Holds what a check finds against what it should.
fn check(report: &mut Report, case: impl Into<String>, found: &[f64], expected: &[f64]) {
    report.compare(OP, case.into(), found, expected, |_| 0.0);
}

fn reports(machine: &mut dyn Machine, report: &mut Report) {
    let out: Argument = machine.allocate(64 * 4).into();
    let wrong = [
        (launch("check_divergent_barriers", 1, 64, []), "barrier"),
        (launch("check_ended_lane", 1, 32, [out]), "exchange"),
        (launch("check_divergent_exchanges", 1, 32, [out]), "exchange"),
        (launch("check_divergent_barriers", 1, 2048, []), "1024 threads"),
    ];
    for (launch, word) in wrong {
        let said = machine.launch(&launch).err().unwrap_or_default();
        check(report, launch.kernel, &[f64::from(u8::from(said.contains(word)))], &[1.0]);
    }
    let right = launch("check_halves_of_a_warp", 1, 32, [out]);
    if let Err(error) = machine.launch(&right) {
        return report.fail(OP, right.kernel.to_owned(), error);
    }
    let Argument::Pointer(out) = out else { unreachable!("it is a pointer") };
    let found: Vec<f64> = download_u32(machine, out, 32).into_iter().map(f64::from).collect();
    let expected = |lane: usize| f64::from([0x5555_u32, 0x5555_0000][lane / 16]);
    check(report, right.kernel, &found, &(0..32).map(expected).collect::<Vec<_>>());
}

/// Shared memory of unknown contents is NaN, in every block.
fn poisons(machine: &mut dyn Machine, report: &mut Report) {
    let out = machine.allocate(2 * 32 * 4);
    if let Err(error) = machine.launch(&launch("check_dynamic_shared", 2, 32, [out.into()])) {
        return report.fail(OP, "shared memory".to_owned(), error);
    }
    check(report, "shared memory", &download_f32(machine, out, 64), &[f64::NAN; 64]);
}

/// A write behind an allocation is the end of the process, so another one makes it.
fn faults(machine: &mut dyn Machine, report: &mut Report) {
    let out = machine.allocate(64);
    for (at, ends) in [(15, 0.0), (16, 1.0)] {
        let write = launch("check_write", 1, 1, [out.into(), at.into()]);
        // SAFETY: this process has one thread, and the child leaves without running destructors.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let failed = machine.launch(&write).is_err();
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(failed)) };
        }
        let mut status = 0;
        // SAFETY: the child is ours, and the status is a place of our own.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(waited, child, "the child can be waited for");
        let is_killed = f64::from(u8::from(libc::WIFSIGNALED(status)));
        check(report, format!("a write at {at} of 16"), &[is_killed], &[ends]);
    }
}

/// Every pattern to a float; and from floats: each pattern's own, what lies halfway to the next
/// one, and the floats on both sides of that.
fn converts(machine: &mut dyn Machine, report: &mut Report, element: Element) {
    let value = |bits: u16| match element {
        Element::Bf16 => bf16::from_bits(bits).to_f32(),
        Element::F16 => f16::from_bits(bits).to_f32(),
    };
    let rounded = |value: f32| match element {
        Element::Bf16 => bf16::from_f32(value).to_f64(),
        Element::F16 => f16::from_f32(value).to_f64(),
    };
    let patterns: Vec<u16> = (0..=u16::MAX).collect();
    let floats: Vec<f32> = patterns.iter().map(|&bits| value(bits)).collect();
    let bytes = words(&patterns, u16::to_le_bytes);
    let name = element.name();
    let (from, to) = match element {
        Element::Bf16 => ("check_from_float_bf16", "check_to_float_bf16"),
        Element::F16 => ("check_from_float_f16", "check_to_float_f16"),
    };
    let arguments = |from: DevicePointer, to: DevicePointer| [from.into(), to.into()];
    let (input, output) = (machine.upload(&bytes), machine.allocate(floats.len() * 4));
    machine.launch(&launch(to, 256, 256, arguments(input, output))).expect("a right kernel");
    let found = download_f32(machine, output, floats.len());
    let expected: Vec<f64> = floats.iter().copied().map(f64::from).collect();
    check(report, format!("{name} to floats"), &found, &expected);
    let between = floats.iter().zip(&floats[1..]).flat_map(|(&a, &b)| {
        let middle = ((f64::from(a) + f64::from(b)) / 2.0) as f32;
        [a, middle.next_down(), middle, middle.next_up()]
    });
    let mut between: Vec<f32> = between.collect();
    between.extend([65_519.0, 65_520.0, f32::MAX, f32::MIN, f32::from_bits(1), -0.0, f32::NAN]);
    between.resize(between.len().next_multiple_of(256), 0.0);
    let input = upload_f32(machine, &between);
    let output = machine.allocate(between.len() * Element::BYTES);
    let blocks = (between.len() / 256) as u32;
    machine.launch(&launch(from, blocks, 256, arguments(input, output))).expect("a right kernel");
    let found = crate::numbers::download(machine, element, output, between.len());
    let expected: Vec<f64> = between.iter().map(|&value| rounded(value)).collect();
    // Signs of zeros too.
    let signed = |values: &[f64]| -> Vec<f64> {
        let sign = |&x: &f64| if x == 0.0 { 1f64.copysign(x) * 1e-300 } else { x };
        values.iter().map(sign).collect()
    };
    check(report, format!("floats to {name}"), &signed(&found), &signed(&expected));
}

/// Small whole numbers, whose products and sums are exact.
fn multiplies(machine: &mut dyn Machine, report: &mut Report, element: Element) {
    let mut random = Random(9);
    let mut whole =
        |count: usize| -> Vec<f32> { (0..count).map(|_| random.below(17) as f32 - 8.0).collect() };
    let (a, b) = (whole(16 * 16), whole(16 * 8));
    let product = |i: usize| -> f64 {
        let (row, column) = (i / 8, i % 8);
        (0..16).map(|k| f64::from(a[row * 16 + k]) * f64::from(b[k * 8 + column])).sum()
    };
    let expected: Vec<f64> = (0..16 * 8).map(product).collect();
    let of_a: Argument = machine.upload(&encode(element, &a)).into();
    let of_b: Argument = machine.upload(&encode(element, &b)).into();
    let kernel = match element {
        Element::Bf16 => "check_mma_bf16",
        Element::F16 => "check_mma_f16",
    };
    for by_ldmatrix in [0u32, 1] {
        let c = machine.allocate(16 * 8 * 4);
        let launch = launch(kernel, 1, 32, [of_a, of_b, c.into(), by_ldmatrix.into()]);
        machine.launch(&launch).expect("a right kernel");
        let case = format!("{kernel} by_ldmatrix={by_ldmatrix}");
        check(report, case, &download_f32(machine, c, 16 * 8), &expected);
    }
}
