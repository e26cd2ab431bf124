//! Attention on the processor: tiles of queries, and chunks of long sequences, as tasks.

use super::tile::{self, CHUNK_TOKENS, Chunk, Query, Running, TILE_QUERIES_MAX};
use super::{AttentionShape, AttentionSpan, KvLayer};
use crate::pool::{ComputePool, SharedSlice};
use crate::simd::{self, Lanes};

/// Tiles per thread below which chunks are tasks of their own.
const TILES_PER_THREAD: usize = 4;

/// Everything a task reads.
struct Job<'a> {
    shape: &'a AttentionShape,
    q: &'a [f32],
    kv: KvLayer<'a>,
    out: SharedSlice<f32>,
    /// Queries of a tile at most.
    width: usize,
}

/// Queries `queries` (numbered row by row, the heads of the group next to each other) of a span
/// and key-value head.
#[derive(Clone, Copy)]
struct Tile<'a> {
    span: &'a AttentionSpan<'a>,
    kv_head: usize,
    first: usize,
    count: usize,
}

/// See the op; everything is checked and heads are multiples of 16 long.
pub(super) fn attention(
    pool: &ComputePool,
    shape: &AttentionShape,
    q: &[f32],
    kv: KvLayer<'_>,
    spans: &[AttentionSpan<'_>],
    out: &mut [f32],
) {
    let width = if pool.cpu().level() == crate::CpuLevel::Avx2 { 4 } else { TILE_QUERIES_MAX };
    let job = Job { shape, q, kv, out: SharedSlice::new(out), width };
    let tiles_of = |span: &AttentionSpan<'_>| job.tiles(span) * shape.kv_heads;
    let tiles: usize = spans.iter().map(tiles_of).sum();
    let longest = spans.iter().map(|span| span.position + span.rows.len()).max().unwrap_or(0);
    if tiles < pool.threads() * TILES_PER_THREAD && pool.threads() > 1 && longest > CHUNK_TOKENS {
        return by_chunks(pool, &job, spans);
    }
    pool.run(tiles, &|task| {
        let tile = &find(&job, spans, task);
        let job = &job;
        simd::dispatch!(pool.cpu(), whole_tile(job: &Job<'_>, tile: &Tile<'_>));
    });
}

/// The tile of that number over all spans.
fn find<'a>(job: &Job<'_>, spans: &'a [AttentionSpan<'a>], mut task: usize) -> Tile<'a> {
    let mut found = &spans[0];
    for span in spans {
        found = span;
        let tiles = job.tiles(span) * job.shape.kv_heads;
        if task < tiles {
            break;
        }
        task -= tiles;
    }
    // Later rows see more: they come first, so that the last tasks are short.
    let from_last = task / job.shape.kv_heads;
    let first = (job.tiles(found) - 1 - from_last) * job.width;
    let queries = found.rows.len() * job.group();
    Tile {
        span: found,
        kv_head: task % job.shape.kv_heads,
        first,
        count: job.width.min(queries - first),
    }
}

/// Few tiles and long sequences: each chunk of a tile is a task, merged in order afterwards.
fn by_chunks(pool: &ComputePool, job: &Job<'_>, spans: &[AttentionSpan<'_>]) {
    let head_dim = job.shape.head_dim;
    let tiles_of = |span: &AttentionSpan<'_>| job.tiles(span) * job.shape.kv_heads;
    let count: usize = spans.iter().map(tiles_of).sum();
    let tiles: Vec<Tile<'_>> = (0..count).map(|task| find(job, spans, task)).collect();
    let mut tasks: Vec<(usize, usize)> = Vec::new();
    for (index, tile) in tiles.iter().enumerate() {
        tasks.extend((0..job.chunks(tile)).map(|chunk| (index, chunk)));
    }
    let sums_length = TILE_QUERIES_MAX * head_dim;
    let mut sums = vec![0.0f32; tasks.len() * sums_length];
    let mut running = vec![[Running::EMPTY; TILE_QUERIES_MAX]; tasks.len()];
    {
        let (sums, running) = (SharedSlice::new(&mut sums), SharedSlice::new(&mut running));
        pool.run(tasks.len(), &|task| {
            let (tile, index) = (&tiles[tasks[task].0], tasks[task].1);
            // SAFETY: these are the task's own.
            let (sums, running) = unsafe {
                (sums.range(task * sums_length, sums_length), &mut running.range(task, 1)[0])
            };
            simd::dispatch!(pool.cpu(), one_chunk(
                job: &Job<'_>, tile: &Tile<'_>, index: usize,
                running: &mut [Running; TILE_QUERIES_MAX], sums: &mut [f32],
            ));
        });
    }
    let mut at = 0;
    for tile in &tiles {
        let chunks = job.chunks(tile);
        let running = &running[at..at + chunks];
        let sums = &sums[at * sums_length..(at + chunks) * sums_length];
        at += chunks;
        simd::dispatch!(pool.cpu(), merge_chunks(
            job: &Job<'_>, tile: &Tile<'_>, running: &[[Running; TILE_QUERIES_MAX]], sums: &[f32],
        ));
    }
}

impl Job<'_> {
    /// Query heads of a key-value head.
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Tiles of a span and key-value head.
    fn tiles(&self, span: &AttentionSpan<'_>) -> usize {
        (span.rows.len() * self.group()).div_ceil(self.width)
    }

    /// Chunks up to the last position a tile sees.
    fn chunks(&self, tile: &Tile<'_>) -> usize {
        let last_row = (tile.first + tile.count - 1) / self.group();
        (tile.span.position + last_row + 1).div_ceil(CHUNK_TOKENS)
    }

    /// Where query `index` of a span and key-value head starts in `q` and the output.
    fn place(&self, tile: &Tile<'_>, index: usize) -> usize {
        let (row, head) = (index / self.group(), index % self.group());
        let head = tile.kv_head * self.group() + head;
        ((tile.span.rows.start + row) * self.shape.heads + head) * self.shape.head_dim
    }

    fn queries(&self, tile: &Tile<'_>) -> [Query; TILE_QUERIES_MAX] {
        std::array::from_fn(|i| {
            // Places of a short tile that are not used stand for its last query.
            let index = tile.first + i.min(tile.count - 1);
            let position = tile.span.position + index / self.group();
            let place = self.place(tile, index);
            Query {
                values: self.q[place..place + self.shape.head_dim].as_ptr(),
                first: self.shape.window.map_or(0, |w| (position + 1).saturating_sub(w)),
                end: position + 1,
            }
        })
    }
}

/// # Safety
/// The instruction set of `L` is present.
#[inline(always)]
unsafe fn whole_tile<L: Lanes>(job: &Job<'_>, tile: &Tile<'_>) {
    let head_dim = job.shape.head_dim;
    let length = tile.count * head_dim;
    let mut sums = vec![0.0f32; 2 * length];
    let (sums, more_sums) = sums.split_at_mut(length);
    let mut running = [Running::EMPTY; TILE_QUERIES_MAX];
    let mut more = running;
    for index in 0..job.chunks(tile) {
        // SAFETY: the caller's instruction set; a head is whole vectors.
        unsafe {
            one_chunk::<L>(job, tile, index, &mut more, more_sums);
            for i in 0..tile.count {
                let sums = &mut sums[i * head_dim..][..head_dim];
                let more_sums = &more_sums[i * head_dim..][..head_dim];
                tile::merge::<L>((&mut running[i], sums), (more[i], more_sums));
            }
        }
    }
    write(job, tile, &running, sums);
}

/// # Safety
/// The instruction set of `L` is present.
#[inline(always)]
unsafe fn one_chunk<L: Lanes>(
    job: &Job<'_>,
    tile: &Tile<'_>,
    index: usize,
    running: &mut [Running; TILE_QUERIES_MAX],
    sums: &mut [f32],
) {
    let queries = &job.queries(tile);
    let chunk = &Chunk {
        kv: job.kv,
        blocks: tile.span.blocks,
        kv_head: tile.kv_head,
        scale: job.shape.scale,
        softcap: job.shape.softcap,
        index,
    };
    // SAFETY: the caller's instruction set; the shapes are checked.
    unsafe {
        match tile.count {
            1 => tile::chunk::<L, 1>(chunk, queries, running, sums),
            2 => tile::chunk::<L, 2>(chunk, queries, running, sums),
            3 => tile::chunk::<L, 3>(chunk, queries, running, sums),
            4 => tile::chunk::<L, 4>(chunk, queries, running, sums),
            // AVX2 has registers for four.
            _ if L::COUNT == 8 => {}
            5 => tile::chunk::<L, 5>(chunk, queries, running, sums),
            6 => tile::chunk::<L, 6>(chunk, queries, running, sums),
            7 => tile::chunk::<L, 7>(chunk, queries, running, sums),
            _ => tile::chunk::<L, 8>(chunk, queries, running, sums),
        }
    }
}

/// # Safety
/// The instruction set of `L` is present.
#[inline(always)]
unsafe fn merge_chunks<L: Lanes>(
    job: &Job<'_>,
    tile: &Tile<'_>,
    chunks: &[[Running; TILE_QUERIES_MAX]],
    chunk_sums: &[f32],
) {
    let head_dim = job.shape.head_dim;
    let mut sums = vec![0.0f32; tile.count * head_dim];
    let mut running = [Running::EMPTY; TILE_QUERIES_MAX];
    let each = chunk_sums.chunks_exact(TILE_QUERIES_MAX * head_dim);
    for (more, more_sums) in chunks.iter().zip(each) {
        for i in 0..tile.count {
            let sums = &mut sums[i * head_dim..][..head_dim];
            let more_sums = &more_sums[i * head_dim..][..head_dim];
            // SAFETY: the caller's instruction set; a head is whole vectors.
            unsafe { tile::merge::<L>((&mut running[i], sums), (more[i], more_sums)) };
        }
    }
    write(job, tile, &running, &sums);
}

/// Divides the sums by their weights and puts them where they belong.
fn write(job: &Job<'_>, tile: &Tile<'_>, running: &[Running; TILE_QUERIES_MAX], sums: &[f32]) {
    let head_dim = job.shape.head_dim;
    for (i, sums) in sums.chunks_exact(head_dim).enumerate() {
        let place = job.place(tile, tile.first + i);
        // SAFETY: spans do not overlap, so this query is this task's alone.
        let out = unsafe { job.out.range(place, head_dim) };
        let share = 1.0 / running[i].total;
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum * share;
        }
    }
}
