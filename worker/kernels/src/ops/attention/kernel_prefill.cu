// Attention of many query tokens of each sequence, over paged keys and values.
//
// queries and out [rows, heads, head_dim], keys and values [blocks, kv_heads, 16, head_dim], all of
// T; spans u32 [count, 4] of {first row, tokens, position, first table}; tables u32.
// A grid of (ceil(tokens of the longest span / rows), heads, count) blocks of 4 warps, with (rows +
// 4 * keys) * dim * sizeof(T) bytes of shared memory. `Tile` has rows and keys; dim is head_dim
// rounded up to 64, 128 or 256, its rest zeros.
//
// A block takes a tile of queries of one head through the keys that any of them sees, a tile of
// keys at a time: keys and values of the next are copied while tensor cores work on one. A warp has
// its own rows, so that scores and weights stay in its registers.
// Bytes: queries and output once, keys and values once for each tile of queries (from L2 if they
// fit); FLOP: 4 * (keys seen by all queries) * heads * head_dim. Source: FlashAttention-2 (2023).
#include "attention.cuh"

namespace naru {

constexpr unsigned kPrefillWarps = 4;
constexpr unsigned kPrefillThreads = kPrefillWarps * kWarp;

template <unsigned kDim>
struct Tile {
  // Tiles of 16 rows that a warp has: with two, each load from shared memory feeds two products.
  static constexpr unsigned kOfWarp = kDim <= 128 ? 2 : 1;
  static constexpr unsigned kRows = kPrefillWarps * 16 * kOfWarp;
  // As many as registers leave room for beside the output.
  static constexpr unsigned kKeys = kDim <= 64 ? 64 : kDim <= 128 ? 48 : 32;
  // Chunks of 16 bytes in a row.
  static constexpr unsigned kChunks = kDim / 8;

  // Where a chunk lies in shared memory: the same chunk of eight rows is in eight different banks.
  static __host__ __device__ constexpr unsigned place(unsigned row, unsigned chunk) {
    return row * kChunks + (chunk ^ row % 8);
  }

  // The place `steps` times two chunks after one of the first two of a row.
  static __host__ __device__ constexpr unsigned after(unsigned place, unsigned steps) {
    return place ^ 2 * steps;
  }

  // Whether each place of eight rows, whose pattern repeats, is one chunk's.
  static __host__ __device__ constexpr bool is_bijection() {
    bool is_taken[8 * kChunks] = {};
    for (unsigned i = 0; i < 8 * kChunks; i++) {
      const unsigned at = place(i / kChunks, i % kChunks);
      if (at >= 8 * kChunks || is_taken[at]) return false;
      if (after(place(i / kChunks, i % 2), i % kChunks / 2) != at) return false;
      is_taken[at] = true;
    }
    return true;
  }
};
static_assert(Tile<64>::is_bijection() && Tile<128>::is_bijection() && Tile<256>::is_bijection(),
              "every chunk has a place of its own");

// A tile of queries: `rows` of it from `position` on, and the keys [begin, end) that they see.
struct Extent {
  unsigned rows, position, begin, end, window;

  // Whether the row sees the key. Rows behind the last see what they may: they are not stored.
  __device__ __forceinline__ bool sees(unsigned row, unsigned key) const {
    const unsigned at = position + row;
    return key <= at && (window == 0 || at - key < window);
  }
  // Whether rows [row, row + count) see any of, or all of, keys [key, key + keys).
  __device__ __forceinline__ bool any(unsigned row, unsigned count, unsigned key,
                                      unsigned keys) const {
    const bool is_late = window != 0 && key + keys + window <= position + row + 1;
    return row < rows && key <= position + row + count - 1 && !is_late;
  }
  __device__ __forceinline__ bool all(unsigned row, unsigned count, unsigned key,
                                      unsigned keys) const {
    return sees(row, key + keys - 1) && sees(row + count - 1, key);
  }
};

// What a warp has of its rows so far, as fragments of C.
template <unsigned kDim>
struct Rows {
  float values[Tile<kDim>::kOfWarp][kDim / 8][4];
  float most[Tile<kDim>::kOfWarp][2], total[Tile<kDim>::kOfWarp][2];
};

template <unsigned kDim>
using Scores = float[Tile<kDim>::kOfWarp][Tile<kDim>::kKeys / 8][4];
// As fragments of A, of which one is two of C.
template <unsigned kDim>
using Weights = unsigned[Tile<kDim>::kOfWarp][Tile<kDim>::kKeys / 16][4];

template <typename T, unsigned kDim>
__device__ __forceinline__ void copy_queries(uint4* shared, const T* queries, unsigned rows,
                                             unsigned row_values, unsigned head_dim) {
  constexpr unsigned kChunks = Tile<kDim>::kChunks;
  for (unsigned i = threadIdx.x; i < Tile<kDim>::kRows * kChunks; i += kPrefillThreads) {
    const unsigned row = i / kChunks, chunk = i % kChunks;
    const bool is_there = row < rows && 8 * chunk < head_dim;
    const T* from = queries + static_cast<size_t>(row) * row_values + 8 * chunk;
    copy_async(shared + Tile<kDim>::place(row, chunk), from, is_there);
  }
}

// Keys from `first` on and, behind them, their values; zeros where there are none or nobody looks,
// for a weight of 0 does not take away a NaN.
template <typename T, unsigned kDim>
__device__ __forceinline__ void copy_tile(uint4* shared, const Paged<T>& keys,
                                          const Paged<T>& values, const unsigned* table,
                                          const Extent& extent, unsigned first) {
  constexpr unsigned kChunks = Tile<kDim>::kChunks;
#pragma unroll 4
  for (unsigned i = threadIdx.x; i < Tile<kDim>::kKeys * kChunks; i += kPrefillThreads) {
    const unsigned row = i / kChunks, chunk = i % kChunks, key = first + row;
    const bool is_seen = key >= extent.begin && key < extent.end;
    const bool is_there = is_seen && 8 * chunk < keys.head_dim;
    const unsigned block = is_seen ? table[key / kPageTokens] : 0;
    const unsigned slot = key % kPageTokens;
    uint4* to = shared + Tile<kDim>::place(row, chunk);
    copy_async(to, keys.row(block, slot) + 8 * chunk, is_there);
    copy_async(to + Tile<kDim>::kKeys * kChunks, values.row(block, slot) + 8 * chunk, is_there);
  }
}

// scores = queries · keys; `row` is the warp's first, `keys` the place of the tile.
template <typename T, unsigned kDim>
__device__ __forceinline__ void multiply_keys(Scores<kDim>& scores, const uint4* shared,
                                              unsigned keys, unsigned row) {
  using Of = Tile<kDim>;
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned query = Of::place(row + lane % 16, lane / 16);
  const unsigned key = keys + Of::place(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (unsigned s = 0; s < kDim / 16; s++) {
    unsigned a[Of::kOfWarp][4];
#pragma unroll
    for (unsigned m = 0; m < Of::kOfWarp; m++) {
      load_matrices(a[m], shared + Of::after(query, s) + 16 * m * Of::kChunks);
    }
#pragma unroll
    for (unsigned n = 0; n < Of::kKeys / 16; n++) {
      unsigned b[4];
      load_matrices(b, shared + Of::after(key, s) + 16 * n * Of::kChunks);
      const unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
      for (unsigned m = 0; m < Of::kOfWarp; m++) {
        mma<T>(scores[m][2 * n], a[m], first);
        mma<T>(scores[m][2 * n + 1], a[m], second);
      }
    }
  }
}

template <unsigned kDim>
__device__ __forceinline__ void cap_scores(Scores<kDim>& scores, const Scorer& scorer) {
#pragma unroll
  for (unsigned m = 0; m < Tile<kDim>::kOfWarp; m++) {
#pragma unroll
    for (unsigned i = 0; i < Tile<kDim>::kKeys / 2; i++) {
      scores[m][i / 4][i % 4] = scorer.capped(scores[m][i / 4][i % 4]);
    }
  }
}

// Takes out what a row does not see of the keys from `key` on.
template <unsigned kDim>
__device__ __forceinline__ void mask(Scores<kDim>& scores, const Extent& extent, unsigned row,
                                     unsigned key) {
  const unsigned lane = threadIdx.x % kWarp;
#pragma unroll
  for (unsigned m = 0; m < Tile<kDim>::kOfWarp; m++) {
#pragma unroll
    for (unsigned r = 0; r < 2; r++) {
      const unsigned at = extent.position + row + 16 * m + fragment_c_row(lane, 2 * r);
      // Of the lane's first column: keys up to the row's own, and of these a window's.
      const int last = static_cast<int>(at - key - fragment_c_column(lane, 0));
      const int before = extent.window == 0 ? -1 : last - static_cast<int>(extent.window);
#pragma unroll
      for (int i = 0; i < static_cast<int>(Tile<kDim>::kKeys / 4); i++) {
        const int column = i / 2 * 8 + i % 2;
        const bool is_seen = column <= last && column > before;
        if (!is_seen) scores[m][i / 2][2 * r + i % 2] = minus_infinity();
      }
    }
  }
}

// Turns scores into weights, and brings what was summed before to the new scale.
template <typename T, unsigned kDim>
__device__ __forceinline__ void weigh(Weights<kDim>& weights, const Scores<kDim>& scores,
                                      Rows<kDim>& rows, float factor) {
  constexpr unsigned kTiles = Tile<kDim>::kKeys / 8;
#pragma unroll
  for (unsigned m = 0; m < Tile<kDim>::kOfWarp; m++) {
#pragma unroll
    for (unsigned r = 0; r < 2; r++) {
      float most = minus_infinity();
#pragma unroll
      for (unsigned n = 0; n < kTiles; n++) {
        most = fmaxf(most, fmaxf(scores[m][n][2 * r], scores[m][n][2 * r + 1]));
      }
      most = fmaxf(rows.most[m][r], quad_max(most) * factor);
      const float shrink = exp2_approximate(rows.most[m][r] - most);
      rows.most[m][r] = most;
      float total = 0.0f;
#pragma unroll
      for (unsigned n = 0; n < kTiles; n++) {
        const float first = exp2_approximate(fmaf(scores[m][n][2 * r], factor, -most));
        const float second = exp2_approximate(fmaf(scores[m][n][2 * r + 1], factor, -most));
        total += first + second;
        weights[m][n / 2][n % 2 * 2 + r] = pack(from_float<T>(first), from_float<T>(second));
      }
      rows.total[m][r] = rows.total[m][r] * shrink + total;
#pragma unroll
      for (unsigned i = 0; i < kDim / 4; i++) rows.values[m][i / 2][2 * r + i % 2] *= shrink;
    }
  }
}

// rows += weights · values; `values` is the place of the tile.
template <typename T, unsigned kDim>
__device__ __forceinline__ void multiply_values(Rows<kDim>& rows, const Weights<kDim>& weights,
                                                const uint4* shared, unsigned values) {
  using Of = Tile<kDim>;
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned value = values + Of::place(lane % 16, lane / 16);
#pragma unroll
  for (unsigned s = 0; s < Of::kKeys / 16; s++) {
#pragma unroll
    for (unsigned n = 0; n < kDim / 16; n++) {
      unsigned b[4];
      load_matrices_transposed(b, shared + Of::after(value, n) + 16 * s * Of::kChunks);
      const unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
      for (unsigned m = 0; m < Of::kOfWarp; m++) {
        mma<T>(rows.values[m][2 * n], weights[m][s], first);
        mma<T>(rows.values[m][2 * n + 1], weights[m][s], second);
      }
    }
  }
}

// Through the warp's own rows of shared memory, whose queries it needs no more, to whole chunks.
template <typename T, unsigned kDim>
__device__ __forceinline__ void store_rows(T* out, uint4* shared, Rows<kDim>& rows, unsigned first,
                                           unsigned end, unsigned row_values, unsigned head_dim) {
  using Of = Tile<kDim>;
  const unsigned lane = threadIdx.x % kWarp;
  __syncwarp();
#pragma unroll
  for (unsigned m = 0; m < Of::kOfWarp; m++) {
#pragma unroll
    for (unsigned r = 0; r < 2; r++) {
      const unsigned row = first + 16 * m + 8 * r + lane / 4;
      const float factor = 1.0f / quad_sum(rows.total[m][r]);
#pragma unroll
      for (unsigned n = 0; n < kDim / 8; n++) {
        const T low = from_float<T>(rows.values[m][n][2 * r] * factor);
        const T high = from_float<T>(rows.values[m][n][2 * r + 1] * factor);
        reinterpret_cast<unsigned*>(shared + Of::place(row, n))[lane % 4] = pack(low, high);
      }
    }
  }
  __syncwarp();
  for (unsigned i = lane; i < 16 * Of::kOfWarp * Of::kChunks; i += kWarp) {
    const unsigned row = first + i / Of::kChunks, chunk = i % Of::kChunks;
    if (row >= end || 8 * chunk >= head_dim) continue;
    T* to = out + static_cast<size_t>(row) * row_values + 8 * chunk;
    *reinterpret_cast<uint4*>(to) = shared[Of::place(row, chunk)];
  }
}

template <typename T, unsigned kDim>
__device__ __forceinline__ void prefill(const T* queries, const T* keys, const T* values, T* out,
                                        const unsigned* spans, const unsigned* tables,
                                        unsigned heads, unsigned kv_heads, unsigned head_dim,
                                        unsigned window, float scale, float cap) {
  using Of = Tile<kDim>;
  NARU_DYNAMIC_SHARED(shared);
  // The queries, then keys and values of one tile, then of another.
  uint4* chunks = reinterpret_cast<uint4*>(shared);
  constexpr unsigned kHalf = Of::kKeys * Of::kChunks;
  constexpr unsigned kFirst = Of::kRows * Of::kChunks, kBoth = 2 * kFirst + 2 * kHalf;
  const Span span = load_span(spans, blockIdx.z);
  // The last tiles see the most keys: they begin first.
  const unsigned first = (gridDim.x - 1 - blockIdx.x) * Of::kRows, head = blockIdx.y;
  if (first >= span.tokens) return;
  const unsigned rows_there = min(span.tokens - first, Of::kRows), at = span.position + first;
  const Extent extent = {rows_there, at, first_key(at, window), at + rows_there, window};
  const unsigned kv_head = head / (heads / kv_heads), row = threadIdx.x / kWarp * 16 * Of::kOfWarp;
  const Paged<T> all_keys(keys, kv_heads, kv_head, head_dim);
  const Paged<T> all_values(values, kv_heads, kv_head, head_dim);
  const unsigned* table = tables + span.first_table;
  const unsigned row_values = heads * head_dim;
  const size_t from =
      static_cast<size_t>(span.first_row + first) * row_values + head * head_dim;
  const Scorer scorer = {scale, cap};

  Rows<kDim> rows = {};
#pragma unroll
  for (unsigned i = 0; i < 2 * Of::kOfWarp; i++) rows.most[i / 2][i % 2] = kLowest;
  unsigned key = extent.begin / Of::kKeys * Of::kKeys;
  copy_queries<T, kDim>(chunks, queries + from, rows_there, row_values, head_dim);
  copy_tile<T, kDim>(chunks + kFirst, all_keys, all_values, table, extent, key);
  commit_copies();
  for (unsigned tile = kFirst; key < extent.end; key += Of::kKeys, tile = kBoth - tile) {
    wait_for_copies<0>();
    // All have this tile, and are done with the one before, whose place the next one takes.
    __syncthreads();
    if (key + Of::kKeys < extent.end) {
      copy_tile<T, kDim>(chunks + kBoth - tile, all_keys, all_values, table, extent,
                         key + Of::kKeys);
      commit_copies();
    }
    if (!extent.any(row, 16 * Of::kOfWarp, key, Of::kKeys)) continue;
    Scores<kDim> scores = {};
    multiply_keys<T, kDim>(scores, chunks, tile, row);
    if (scorer.is_capped()) cap_scores<kDim>(scores, scorer);
    if (!extent.all(row, 16 * Of::kOfWarp, key, Of::kKeys)) mask<kDim>(scores, extent, row, key);
    Weights<kDim> weights;
    weigh<T, kDim>(weights, scores, rows, scorer.factor());
    multiply_values<T, kDim>(rows, weights, chunks, tile + kHalf);
  }
  store_rows<T, kDim>(out + from, chunks, rows, row, rows_there, row_values, head_dim);
}

}  // namespace naru

#define NARU_PREFILL(name, T, dim)                                                             \
  extern "C" __global__ void __launch_bounds__(naru::kPrefillThreads)                          \
      name(const naru::T* queries, const naru::T* keys, const naru::T* values, naru::T* out,   \
           const unsigned* spans, const unsigned* tables, unsigned heads, unsigned kv_heads,   \
           unsigned head_dim, unsigned window, float scale, float cap) {                       \
    naru::prefill<naru::T, dim>(queries, keys, values, out, spans, tables, heads, kv_heads,    \
                                head_dim, window, scale, cap);                                 \
  }                                                                                            \
  NARU_KERNEL(name)

NARU_PREFILL(attention_prefill_64_bf16, bf16, 64)
NARU_PREFILL(attention_prefill_128_bf16, bf16, 128)
NARU_PREFILL(attention_prefill_256_bf16, bf16, 256)
NARU_PREFILL(attention_prefill_64_f16, f16, 64)
NARU_PREFILL(attention_prefill_128_f16, f16, 128)
NARU_PREFILL(attention_prefill_256_f16, f16, 256)
