// Attention of one query token for each of many sequences, over paged keys and values.
//
// queries and out [rows, heads, head_dim], keys and values [blocks, kv_heads, 16, head_dim], all of
// T; spans u32 [count, 4] of {first row, tokens (0 or 1), position, first table}; tables u32.
// A grid of (splits, kv_heads * ceil(group / 16), count) blocks of 4 warps, where `group` is heads
// / kv_heads; then, if there is more than one split, (heads, count) blocks of 256 threads that
// combine. Scratch: sums, f32 [count, heads, splits, head_dim], then the greatest score and the
// total weight, f32 [count, heads, splits, 2].
//
// A block takes up to 16 heads that share a key-value head over a part of the keys, so that these
// are read once. Each of its warps takes every fourth page of 16 keys, [16 heads, 16 keys] a time
// on tensor cores. The order in which a product sums over a head's values, and which columns a tile
// of the output has, are free: they are chosen such that keys and values come from memory into
// fragments by loads of 16 bytes, without shared memory and without shuffles. How a span's keys are
// split depends on its own length alone; the launch says only how many splits there may be.
// Bytes: 2 * keys * kv_heads * head_dim * sizeof(T); FLOP: 4 * keys * heads * head_dim, and tensor
// cores do 16 / group times as many. Sources: FlashAttention-2 (2023), Flash-Decoding (2023).
#include "attention.cuh"

namespace naru {

constexpr unsigned kDecodeWarps = 4;
constexpr unsigned kHeadsOfTile = 16;
// A split has at least so many pages, unless it has all of them.
constexpr unsigned kSplitPagesMin = 16;
constexpr unsigned kCombineThreads = 256;

// The pages that a split of a span has to read, and the keys in them.
struct Part {
  unsigned first_page, end_page, first_key, keys, used_splits;

  __device__ __forceinline__ bool has(unsigned key) const { return key - first_key < keys; }
};

__device__ __forceinline__ Part part_of(Span span, unsigned window, unsigned splits,
                                        unsigned split) {
  const unsigned begin = first_key(span.position, window), end = span.position + 1;
  const unsigned first = begin / kPageTokens;
  const unsigned pages = (end + kPageTokens - 1) / kPageTokens - first;
  const unsigned each = max((pages + splits - 1) / splits, kSplitPagesMin);
  const unsigned from = min(split * each, pages), to = min(from + each, pages);
  const unsigned keys = min(end, (first + to) * kPageTokens) - begin;
  return {first + from, first + to, begin, keys, (pages + each - 1) / each};
}

// A lane's part of a tile's products over keys so far. Heads `lane / 4` and `lane / 4 + 8` are its
// rows; `values[8 c + j][2 r + i]` is of row r and dimension 64 c + 16 (lane % 4) + 8 i + j.
template <unsigned kDim>
struct Running {
  float values[kDim / 8][4];
  float most[2], total[2];
};

// Fragments straight from memory, for dimensions in strips as long as registers last.
template <unsigned kDim>
struct Strip {
  static constexpr unsigned kSize = kDim <= 128 ? kDim : 64;
  static constexpr unsigned kCount = kDim / kSize;
  // Lane's dimensions 32 c + 8 (lane % 4) .. + 8 of keys `lane / 4` and `lane / 4 + 8`.
  uint4 keys[kSize / 32][2];
  // Lane's dimensions 64 c + 8 (lane / 4) .. + 8 of keys 2 (lane % 4) + {0, 1, 8, 9}.
  uint4 values[kSize / 64][4];
};

template <typename T>
__device__ __forceinline__ uint4 load_or_zero(const T* from, bool is_there) {
  return is_there ? __ldg(reinterpret_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0);
}

template <unsigned kDim, typename T>
__device__ __forceinline__ void load_keys(Strip<kDim>& to, const Paged<T>& keys, const Part& part,
                                          unsigned page, unsigned block, unsigned strip) {
  const unsigned lane = threadIdx.x % kWarp, dim = strip * Strip<kDim>::kSize + 8 * (lane % 4);
  const T* from = keys.row(block, lane / 4) + dim;
#pragma unroll
  for (unsigned r = 0; r < 2; r++) {
    const bool is_seen = part.has(page * kPageTokens + lane / 4 + 8 * r);
#pragma unroll
    for (unsigned c = 0; c < Strip<kDim>::kSize / 32; c++) {
      to.keys[c][r] = load_or_zero(from + 32 * c, is_seen && dim + 32 * c < keys.head_dim);
    }
    from += 8 * keys.head_dim;
  }
}

template <unsigned kDim, typename T>
__device__ __forceinline__ void load_values(Strip<kDim>& to, const Paged<T>& values,
                                            const Part& part, unsigned page, unsigned block,
                                            unsigned strip) {
  const unsigned lane = threadIdx.x % kWarp, dim = strip * Strip<kDim>::kSize + 8 * (lane / 4);
  const T* from = values.row(block, 2 * (lane % 4)) + dim;
#pragma unroll
  for (unsigned r = 0; r < 4; r++) {
    // What lies before or behind the keys may be NaN, which a weight of 0 would not take away.
    const unsigned slot = 2 * (lane % 4) + r % 2 + 8 * (r / 2);
    const bool is_seen = part.has(page * kPageTokens + slot);
#pragma unroll
    for (unsigned c = 0; c < Strip<kDim>::kSize / 64; c++) {
      to.values[c][r] = load_or_zero(from + 64 * c, is_seen && dim + 64 * c < values.head_dim);
    }
    from += (r == 1 ? 7 : 1) * values.head_dim;
  }
}

__device__ __forceinline__ unsigned word_of(const uint4& words, unsigned which) {
  return which == 0 ? words.x : which == 1 ? words.y : which == 2 ? words.z : words.w;
}

// Values `which` of 8 each of two keys, side by side.
__device__ __forceinline__ unsigned pair_of(const uint4& first, const uint4& second,
                                            unsigned which) {
  const unsigned low = word_of(first, which / 2), high = word_of(second, which / 2);
  return which % 2 == 0 ? (low & 0xffff) | high << 16 : low >> 16 | (high & 0xffff0000u);
}

// The queries of a tile as fragments of A in the order of `Strip::keys`: step `s` of 16 dimensions
// has words 2 (s % 2) and the next of the eight values at 32 (s / 2) + 8 (lane % 4).
template <unsigned kDim, typename T>
__device__ void load_queries(uint4* shared, const T* queries, unsigned heads, unsigned head_dim) {
  for (unsigned i = threadIdx.x; i < kDim / 16 * kWarp; i += kDecodeWarps * kWarp) {
    const unsigned step = i / kWarp, lane = i % kWarp, head = lane / 4;
    const unsigned dim = 32 * (step / 2) + 8 * (lane % 4) + 4 * (step % 2);
    uint2 rows[2];
    for (unsigned r = 0; r < 2; r++) {
      const bool is_there = head + 8 * r < heads && dim < head_dim;
      const T* from = queries + (head + 8 * r) * head_dim + dim;
      rows[r] = is_there ? *reinterpret_cast<const uint2*>(from) : make_uint2(0, 0);
    }
    shared[i] = make_uint4(rows[0].x, rows[1].x, rows[0].y, rows[1].y);
  }
}

// scores [16 heads, 16 keys] += queries · keys over a strip.
template <typename T, unsigned kDim>
__device__ __forceinline__ void multiply_keys(float (&scores)[2][4], const uint4* queries,
                                              const Strip<kDim>& strip, unsigned which) {
  constexpr unsigned kSteps = Strip<kDim>::kSize / 16;
#pragma unroll
  for (unsigned s = 0; s < kSteps; s++) {
    const uint4 q = queries[(which * kSteps + s) * kWarp + threadIdx.x % kWarp];
    const unsigned a[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (unsigned r = 0; r < 2; r++) {
      const uint4& key = strip.keys[s / 2][r];
      const unsigned b[2] = {word_of(key, s % 2 * 2), word_of(key, s % 2 * 2 + 1)};
      mma<T>(scores[r], a, b);
    }
  }
}

// Turns scores into weights in the layout of A, and brings what was summed before to the new scale.
template <typename T, unsigned kDim>
__device__ __forceinline__ void weigh(unsigned (&weights)[4], Running<kDim>& running,
                                      float (&scores)[2][4], const Scorer& scorer,
                                      const Part& part, unsigned page) {
  const unsigned lane = threadIdx.x % kWarp;
  const float factor = scorer.factor();
  float most[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
  for (unsigned i = 0; i < 8; i++) {
    const unsigned key = page * kPageTokens + i / 4 * 8 + fragment_c_column(lane, i % 4);
    float& score = scores[i / 4][i % 4];
    if (scorer.is_capped()) score = scorer.capped(score);
    if (!part.has(key)) score = minus_infinity();
    most[i % 4 / 2] = fmaxf(most[i % 4 / 2], score);
  }
#pragma unroll
  for (unsigned r = 0; r < 2; r++) {
    most[r] = fmaxf(running.most[r], quad_max(most[r]) * factor);
    const float shrink = exp2_approximate(running.most[r] - most[r]);
    running.most[r] = most[r];
    running.total[r] *= shrink;
#pragma unroll
    for (unsigned n = 0; n < kDim / 8; n++) {
      running.values[n][2 * r] *= shrink;
      running.values[n][2 * r + 1] *= shrink;
    }
  }
#pragma unroll
  for (unsigned i = 0; i < 4; i++) {
    const unsigned half = i / 2, r = i % 2;
    const float first = exp2_approximate(fmaf(scores[half][2 * r], factor, -most[r]));
    const float second = exp2_approximate(fmaf(scores[half][2 * r + 1], factor, -most[r]));
    running.total[r] += first + second;
    weights[i] = pack(from_float<T>(first), from_float<T>(second));
  }
}

template <typename T, unsigned kDim>
__device__ __forceinline__ void multiply_values(Running<kDim>& running,
                                                const unsigned (&weights)[4],
                                                const Strip<kDim>& strip, unsigned which) {
#pragma unroll
  for (unsigned n = 0; n < Strip<kDim>::kSize / 8; n++) {
    const uint4(&keys)[4] = strip.values[n / 8];
    const unsigned b[2] = {pair_of(keys[0], keys[1], n % 8), pair_of(keys[2], keys[3], n % 8)};
    mma<T>(running.values[which * (Strip<kDim>::kSize / 8) + n], weights, b);
  }
}

// A warp's pages of a part. Keys and values of the next strip are on their way while one is used.
template <typename T, unsigned kDim>
__device__ void attend(Running<kDim>& running, const uint4* queries, const Paged<T>& keys,
                       const Paged<T>& values, const unsigned* table, const Part& part,
                       const Scorer& scorer) {
  constexpr unsigned kStrips = Strip<kDim>::kCount;
  const auto block_of = [&](unsigned page) { return page < part.end_page ? table[page] : 0; };
  unsigned page = part.first_page + threadIdx.x / kWarp;
  unsigned block = block_of(page), next_block = block_of(page + kDecodeWarps);
  Strip<kDim> strip;
  load_keys<kDim>(strip, keys, part, page, block, 0);
  load_values<kDim>(strip, values, part, page, block, 0);
  while (page < part.end_page) {
    const unsigned next = page + kDecodeWarps;
    float scores[2][4] = {};
#pragma unroll
    for (unsigned s = 0; s < kStrips; s++) {
      const bool is_last = s + 1 == kStrips;
      multiply_keys<T, kDim>(scores, queries, strip, s);
      load_keys<kDim>(strip, keys, part, is_last ? next : page, is_last ? next_block : block,
                      is_last ? 0 : s + 1);
    }
    unsigned weights[4];
    weigh<T, kDim>(weights, running, scores, scorer, part, page);
#pragma unroll
    for (unsigned s = 0; s < kStrips; s++) {
      const bool is_last = s + 1 == kStrips;
      multiply_values<T, kDim>(running, weights, strip, s);
      load_values<kDim>(strip, values, part, is_last ? next : page, is_last ? next_block : block,
                        is_last ? 0 : s + 1);
    }
    page = next;
    block = next_block;
    next_block = block_of(page + kDecodeWarps);
  }
}

// Adds the upper half of the block's warps to the lower half until all is in the first.
template <unsigned kDim>
__device__ __forceinline__ void merge_warps(Running<kDim>& running,
                                            float (*shared)[kDim / 2 + 4][kWarp]) {
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (unsigned half = kDecodeWarps / 2; half > 0; half /= 2) {
    if (warp >= half && warp < 2 * half) {
      float(*to)[kWarp] = shared[warp - half];
#pragma unroll
      for (unsigned i = 0; i < kDim / 2; i++) to[i][lane] = running.values[i / 4][i % 4];
#pragma unroll
      for (unsigned r = 0; r < 2; r++) {
        to[kDim / 2 + r][lane] = running.most[r];
        to[kDim / 2 + 2 + r][lane] = running.total[r];
      }
    }
    __syncthreads();
    if (warp < half) {
      float(*from)[kWarp] = shared[warp];
#pragma unroll
      for (unsigned r = 0; r < 2; r++) {
        const float other = from[kDim / 2 + r][lane], most = fmaxf(running.most[r], other);
        const float mine = exp2_approximate(running.most[r] - most);
        const float theirs = exp2_approximate(other - most);
        running.most[r] = most;
        running.total[r] = running.total[r] * mine + from[kDim / 2 + 2 + r][lane] * theirs;
#pragma unroll
        for (unsigned i = 0; i < kDim / 4; i++) {
          float& value = running.values[i / 2][2 * r + i % 2];
          value = value * mine + from[i / 2 * 4 + 2 * r + i % 2][lane] * theirs;
        }
      }
    }
    __syncthreads();
  }
}

// The eight values of a lane and row from dimension 64 c + 16 (lane % 4) + 8 i on.
template <typename T>
__device__ __forceinline__ void store_eight(T* to, const float (&values)[8]) {
  unsigned words[4];
#pragma unroll
  for (unsigned w = 0; w < 4; w++) {
    words[w] = pack(from_float<T>(values[2 * w]), from_float<T>(values[2 * w + 1]));
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}
__device__ __forceinline__ void store_eight(float* to, const float (&values)[8]) {
  float4* places = reinterpret_cast<float4*>(to);
  places[0] = make_float4(values[0], values[1], values[2], values[3]);
  places[1] = make_float4(values[4], values[5], values[6], values[7]);
}

template <unsigned kDim, typename Out>
__device__ __forceinline__ void store_row(Out* to, const Running<kDim>& running, unsigned r,
                                          float factor, unsigned head_dim) {
#pragma unroll
  for (unsigned n = 0; n < kDim / 32; n++) {
    const unsigned dim = 64 * (n / 2) + 16 * (threadIdx.x % 4) + 8 * (n % 2);
    if (dim >= head_dim) continue;
    float values[8];
#pragma unroll
    for (unsigned j = 0; j < 8; j++) {
      values[j] = running.values[n / 2 * 8 + j][2 * r + n % 2] * factor;
    }
    store_eight(to + dim, values);
  }
}

template <typename T, unsigned kDim>
__device__ __forceinline__ void decode(const T* queries, const T* keys, const T* values, T* out,
                                       const unsigned* spans, const unsigned* tables,
                                       float* scratch, unsigned heads, unsigned kv_heads,
                                       unsigned head_dim, unsigned window, float scale,
                                       float cap) {
  __shared__ uint4 tile[kDim / 16 * kWarp];
  __shared__ float merged[kDecodeWarps / 2][kDim / 2 + 4][kWarp];
  const unsigned splits = gridDim.x, split = blockIdx.x, count = gridDim.z, which = blockIdx.z;
  const Span span = load_span(spans, which);
  if (span.tokens == 0) return;
  const Part part = part_of(span, window, splits, split);
  if (split >= part.used_splits) return;
  const unsigned group = heads / kv_heads, kv_head = blockIdx.y % kv_heads;
  const unsigned first_of_group = blockIdx.y / kv_heads * kHeadsOfTile;
  const unsigned first_head = kv_head * group + first_of_group;
  const unsigned tile_heads = min(group - first_of_group, kHeadsOfTile);
  const size_t row = static_cast<size_t>(span.first_row) * heads + first_head;
  load_queries<kDim>(tile, queries + row * head_dim, tile_heads, head_dim);
  __syncthreads();

  Running<kDim> running = {};
  running.most[0] = running.most[1] = kLowest;
  const Paged<T> all_keys(keys, kv_heads, kv_head, head_dim);
  const Paged<T> all_values(values, kv_heads, kv_head, head_dim);
  attend<T, kDim>(running, tile, all_keys, all_values, tables + span.first_table, part,
                  Scorer{scale, cap});
#pragma unroll
  for (unsigned r = 0; r < 2; r++) running.total[r] = quad_sum(running.total[r]);
  merge_warps<kDim>(running, merged);
  if (threadIdx.x >= kWarp) return;
#pragma unroll
  for (unsigned r = 0; r < 2; r++) {
    const unsigned head = threadIdx.x / 4 + 8 * r;
    if (head >= tile_heads) continue;
    if (part.used_splits == 1) {
      store_row<kDim>(out + (row + head) * head_dim, running, r, 1.0f / running.total[r], head_dim);
      continue;
    }
    const size_t place = (static_cast<size_t>(which) * heads + first_head + head) * splits + split;
    store_row<kDim>(scratch + place * head_dim, running, r, 1.0f, head_dim);
    float* ends = scratch + static_cast<size_t>(count) * heads * splits * head_dim;
    if (threadIdx.x % 4 == 0) {
      reinterpret_cast<float2*>(ends)[place] = make_float2(running.most[r], running.total[r]);
    }
  }
}

// One head of one span from its splits. Threads take four values each of several splits at once.
template <typename T>
__device__ __forceinline__ void combine(const float* scratch, T* out, const unsigned* spans,
                                        unsigned splits, unsigned head_dim, unsigned window) {
  __shared__ float4 sums[kCombineThreads];
  const unsigned heads = gridDim.x, head = blockIdx.x, count = gridDim.y, which = blockIdx.y;
  const Span span = load_span(spans, which);
  if (span.tokens == 0) return;
  const unsigned used = part_of(span, window, splits, 0).used_splits;
  if (used == 1) return;
  const size_t place = (static_cast<size_t>(which) * heads + head) * splits;
  const float2* ends = reinterpret_cast<const float2*>(
      scratch + static_cast<size_t>(count) * heads * splits * head_dim) + place;
  float most = kLowest, total = 0.0f;
  for (unsigned i = threadIdx.x % kWarp; i < used; i += kWarp) most = fmaxf(most, ends[i].x);
  most = warp_max(most);
  for (unsigned i = threadIdx.x % kWarp; i < used; i += kWarp) {
    total += ends[i].y * exp2_approximate(ends[i].x - most);
  }
  total = warp_sum(total);

  const unsigned quads = head_dim / 4, at_once = kCombineThreads / quads;
  const unsigned quad = threadIdx.x % quads, first = threadIdx.x / quads;
  const float4* values = reinterpret_cast<const float4*>(scratch + place * head_dim) + quad;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (first < at_once) {
#pragma unroll 4
    for (unsigned i = first; i < used; i += at_once) {
      const float weight = exp2_approximate(ends[i].x - most);
      const float4 value = values[static_cast<size_t>(i) * quads];
      sum.x += weight * value.x;
      sum.y += weight * value.y;
      sum.z += weight * value.z;
      sum.w += weight * value.w;
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= quads) return;
  for (unsigned i = 1; i < at_once; i++) {
    const float4 other = sums[i * quads + quad];
    sum.x += other.x;
    sum.y += other.y;
    sum.z += other.z;
    sum.w += other.w;
  }
  const float factor = 1.0f / total;
  const size_t row = static_cast<size_t>(span.first_row) * heads + head;
  const uint2 words = make_uint2(
      pack(from_float<T>(sum.x * factor), from_float<T>(sum.y * factor)),
      pack(from_float<T>(sum.z * factor), from_float<T>(sum.w * factor)));
  reinterpret_cast<uint2*>(out + row * head_dim)[quad] = words;
}

}  // namespace naru

#define NARU_DECODE(name, T, dim)                                                              \
  extern "C" __global__ void __launch_bounds__(naru::kDecodeWarps * naru::kWarp)               \
      name(const naru::T* queries, const naru::T* keys, const naru::T* values, naru::T* out,   \
           const unsigned* spans, const unsigned* tables, float* scratch, unsigned heads,      \
           unsigned kv_heads, unsigned head_dim, unsigned window, float scale, float cap) {     \
    naru::decode<naru::T, dim>(queries, keys, values, out, spans, tables, scratch, heads,      \
                               kv_heads, head_dim, window, scale, cap);                    \
  }                                                                                            \
  NARU_KERNEL(name)

NARU_DECODE(attention_decode_64_bf16, bf16, 64)
NARU_DECODE(attention_decode_128_bf16, bf16, 128)
NARU_DECODE(attention_decode_256_bf16, bf16, 256)
NARU_DECODE(attention_decode_64_f16, f16, 64)
NARU_DECODE(attention_decode_128_f16, f16, 128)
NARU_DECODE(attention_decode_256_f16, f16, 256)

#define NARU_COMBINE(name, T)                                                                   \
  extern "C" __global__ void __launch_bounds__(naru::kCombineThreads)                           \
      name(const float* scratch, naru::T* out, const unsigned* spans, unsigned splits,          \
           unsigned head_dim, unsigned window) {                                                \
    naru::combine(scratch, out, spans, splits, head_dim, window);                               \
  }                                                                                             \
  NARU_KERNEL(name)

NARU_COMBINE(attention_combine_bf16, bf16)
NARU_COMBINE(attention_combine_f16, f16)
