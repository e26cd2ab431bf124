//! What the ops reach on this machine, against the read bandwidth measured in the same run.
//!
//! `cargo run --release -p naru-kernels --example speed -- [threads] [portable|avx2|avx512-vnni]`
//!
//! Every op is run once and compared with itself on one thread before it is timed; a figure is the
//! best of several rounds, which on a shared machine is the one least disturbed.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Instant;

use naru_kernels::{
    Activations, AttentionShape, AttentionSpan, ComputePool, Cpu, CpuLevel, DType, KV_BLOCK_TOKENS,
    KvLayout, KvPool, KvSlot, MatmulOutput, MatrixView, PackedMatrix, Stretches, attention, matmul,
};

/// Rows, columns, format, and how many columns are added in f32 where not all are, of the matrices
/// of SmolLM2-135M Q4_1 and Qwen2.5-0.5B Q4_K_M; and shorter stretches than these have.
const MATRICES: [(usize, usize, DType, Option<usize>); 15] = [
    (576, 576, DType::Q4_1, None),
    (576, 576, DType::Q4_1, Some(192)),
    (1536, 576, DType::Q4_1, None),
    (576, 1536, DType::Q4_1, None),
    (576, 1536, DType::Q4_1, Some(512)),
    (576, 1536, DType::Q4_1, Some(32)),
    (49152, 576, DType::Q8_0, None),
    (4864, 896, DType::Q5_0, None),
    (896, 4864, DType::Q4_K, None),
    (896, 4864, DType::Q4_K, Some(2560)),
    (896, 4864, DType::Q6_K, None),
    (896, 4864, DType::Q6_K, Some(256)),
    (151_936, 896, DType::Q8_0, None),
    (1536, 576, DType::BF16, None),
    (1536, 576, DType::BF16, Some(192)),
];
/// Copies of small matrices, so that they come from memory as a model's do.
const WEIGHT_BYTES_MIN: usize = 96 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(NonZeroUsize::MIN);
    let level = arguments.next().and_then(|name| CpuLevel::from_name(&name));
    let cpu = level.map_or(Cpu::detect(), Cpu::at_most);
    let pool = ComputePool::start_on(threads, cpu).unwrap();
    let bandwidth = read_bandwidth(&pool);
    println!("{} threads, {}, reads {bandwidth:.1} GB/s", pool.threads(), cpu.level().name());
    for matrix in MATRICES {
        time_matrix(&pool, matrix, bandwidth);
    }
    for (context, queries) in [(512, 1), (2048, 1), (512, 16), (512, 128)] {
        time_attention(&pool, context, queries);
    }
}

/// The least of `rounds` times of `work`, in seconds.
fn best(rounds: usize, mut work: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        work();
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

fn read_bandwidth(pool: &ComputePool) -> f64 {
    let words = vec![1u64; 32 << 20];
    let chunk = words.len() / 64;
    let seconds = best(9, || {
        pool.run(64, &|task| {
            let mut sums = [0u64; 16];
            for words in words[task * chunk..][..chunk].as_chunks::<16>().0 {
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum ^= word;
                }
            }
            black_box(sums);
        });
    });
    words.len() as f64 * 8.0 / seconds / 1e9
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Scales that are neither huge nor NaN: exponents of f16 stay in the middle.
        state & 0x2fff_2fff_2fff_2fff
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(bytes).collect()
}

fn time_matrix(
    pool: &ComputePool,
    (rows, columns, dtype, stretch): (usize, usize, DType, Option<usize>),
    bandwidth: f64,
) {
    let bytes = noise(dtype.row_bytes(columns).unwrap() * rows);
    let view = MatrixView::new(dtype, rows, columns, &bytes).unwrap();
    let copies = (WEIGHT_BYTES_MIN / bytes.len()).max(1);
    let mut weights: Vec<PackedMatrix> = Vec::new();
    let packed = || {
        let whole = PackedMatrix::pack(&view, pool)?;
        match stretch {
            Some(columns) => whole.in_stretches(Stretches { columns, skipped: 0 }),
            None => Ok(whole),
        }
    };
    let pack_seconds = best(copies, || weights.push(packed().unwrap()));
    let pack = bytes.len() as f64 / pack_seconds / 1e9;
    print!(
        "{rows:>6} x {columns:<5} {:5} by {:4} pack {pack:5.1} GB/s",
        dtype.name(),
        stretch.unwrap_or(columns)
    );
    let one = ComputePool::start_on(NonZeroUsize::MIN, pool.cpu()).unwrap();
    for tokens in [1, 8, 64] {
        let values: Vec<f32> = (0..tokens * columns)
            .map(|i| ((i * 37 + i / columns) % 255) as f32 / 127.0 - 1.0)
            .collect();
        let mut x = Activations::new();
        x.copy_from(pool, columns, &values).unwrap();
        let (mut out, mut alone) = (vec![0.0; tokens * rows], vec![0.0; tokens * rows]);
        matmul(&one, &weights[0], &x, MatmulOutput::Set(&mut alone)).unwrap();
        matmul(pool, &weights[0], &x, MatmulOutput::Set(&mut out)).unwrap();
        assert!(out.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()));
        let mut next = weights.iter().cycle();
        let seconds = best(4 * copies + 8, || {
            let weight = next.next().unwrap();
            matmul(pool, weight, &x, MatmulOutput::Set(&mut out)).unwrap();
        });
        let rate = (rows * columns * tokens) as f64 / seconds / 1e9;
        let read = weights[0].bytes() as f64 / seconds / 1e9;
        print!(" | T={tokens} {:.1} us {rate:.0} GMAC/s", seconds * 1e6);
        if tokens < 64 {
            print!(" {read:.1} GB/s ({:.0} %)", read / bandwidth * 100.0);
        }
    }
    println!();
}

/// Attention of SmolLM2-135M: 9 heads of 64 on 3 key-value heads.
fn time_attention(pool: &ComputePool, context: usize, queries: usize) {
    let shape = AttentionShape {
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        scale: 0.125,
        window: None,
        softcap: None,
    };
    let blocks = context.div_ceil(KV_BLOCK_TOKENS);
    let layers = 30;
    let mut kv = KvPool::new(KvLayout { layers, kv_heads: 3, head_dim: 64, blocks }).unwrap();
    let slots: Vec<KvSlot> = (0..context)
        .map(|t| KvSlot { block: (t / KV_BLOCK_TOKENS) as u32, slot: t % KV_BLOCK_TOKENS })
        .collect();
    let keys: Vec<f32> = (0..context * 192).map(|i| (i % 113) as f32 / 113.0 - 0.5).collect();
    let mut layer = 0..layers;
    let write = best(layers, || {
        kv.write(layer.next().unwrap(), &slots, &keys, &keys).unwrap();
    });
    let table: Vec<u32> = (0..blocks as u32).collect();
    let q: Vec<f32> = (0..queries * 576).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
    let mut out = vec![0.0; q.len()];
    let span = AttentionSpan { rows: 0..queries, position: context - queries, blocks: &table };
    let seconds = best(9, || {
        for layer in 0..layers {
            let spans = std::slice::from_ref(&span);
            attention(pool, &shape, &q, kv.layer(layer).unwrap(), spans, &mut out).unwrap();
        }
    }) / layers as f64;
    let seen: usize = (context - queries + 1..=context).sum();
    let rate = (seen * 9 * 64 * 2) as f64 / seconds / 1e9;
    let read = (context * 3 * 64 * 2 * 2) as f64 / seconds / 1e9;
    println!(
        "attention {queries} of {context}: {:.1} us {rate:.1} GMAC/s, {read:.1} GB/s once; \
         write {:.1} us",
        seconds * 1e6,
        write * 1e6
    );
}
