//! Numbers for the tests: seeded, and to and from the bytes of a device.

use half::{bf16, f16};
use naru_kernels::cuda::{DevicePointer, Element};

use crate::machine::Machine;

/// A stream of numbers that is the same on every machine. Source: SplitMix64 (2014).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// So many of a normal distribution of this width.
    pub fn normal(&mut self, count: usize, width: f64) -> Vec<f32> {
        let mut one = || {
            let (u, v) = (1.0 - self.unit(), self.unit());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() * width
        };
        (0..count).map(|_| one() as f32).collect()
    }
}

/// The values as the device holds them.
pub fn encode(element: Element, values: &[f32]) -> Vec<u8> {
    let bits = |value: f32| match element {
        Element::Bf16 => bf16::from_f32(value).to_bits(),
        Element::F16 => f16::from_f32(value).to_bits(),
    };
    values.iter().flat_map(|&value| bits(value).to_le_bytes()).collect()
}

/// What [`encode`] made.
pub fn decode(element: Element, bytes: &[u8]) -> Vec<f64> {
    let value = |bits: u16| match element {
        Element::Bf16 => bf16::from_bits(bits).to_f64(),
        Element::F16 => f16::from_bits(bits).to_f64(),
    };
    let pairs = bytes.as_chunks::<2>().0.iter();
    pairs.map(|pair| value(u16::from_le_bytes(*pair))).collect()
}

/// The values rounded to `element`: what a device sees of them.
pub fn rounded(element: Element, values: &[f32]) -> Vec<f32> {
    decode(element, &encode(element, values)).into_iter().map(|value| value as f32).collect()
}

/// What a device makes of a result: beyond the range of halves, infinity.
pub fn held(element: Element, value: f64) -> f64 {
    let is_beyond = element == Element::F16 && value.abs() >= 65_520.0;
    if is_beyond { f64::INFINITY.copysign(value) } else { value }
}

/// Bytes of 32-bit words.
pub fn words<T: Copy, const N: usize>(values: &[T], bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}

/// 32-bit floats in the device's memory.
pub fn upload_f32(machine: &mut dyn Machine, values: &[f32]) -> DevicePointer {
    machine.upload(&words(values, f32::to_le_bytes))
}

/// 32-bit integers in the device's memory.
pub fn upload_u32(machine: &mut dyn Machine, values: &[u32]) -> DevicePointer {
    machine.upload(&words(values, u32::to_le_bytes))
}

/// So many values of `element` from the device's memory.
pub fn download(
    machine: &mut dyn Machine,
    element: Element,
    from: DevicePointer,
    count: usize,
) -> Vec<f64> {
    decode(element, &machine.download(from, count * Element::BYTES))
}

/// So many 32-bit floats from the device's memory.
pub fn download_f32(machine: &mut dyn Machine, from: DevicePointer, count: usize) -> Vec<f64> {
    let bytes = machine.download(from, count * 4);
    bytes.as_chunks::<4>().0.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect()
}

/// So many 32-bit integers from the device's memory.
pub fn download_u32(machine: &mut dyn Machine, from: DevicePointer, count: usize) -> Vec<u32> {
    let bytes = machine.download(from, count * 4);
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}
