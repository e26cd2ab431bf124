// Linear for many tokens, on tensor cores: out[t, r] = sum over k of x[t, k] * weight[r, k], plus
// bias[r].
//
// x [tokens, columns] of T, columns a multiple of 8; weight [rows] rows of `stride` bytes as
// blocks.cuh has them; bias [rows] in f32 or null; out [tokens, rows] of T or, with `is_f32`, f32,
// its rows `out_stride` apart.
// A grid of (ceil(tokens / side), ceil(rows / side)): a side of 64 has blocks of 128 threads, one of
// 128 has 256. Blocks beside each other share weights, which the second cache then holds. A block
// walks along the columns 64 at a time through a ring of stages in shared memory. x comes by
// asynchronous copies, and so do weights that are of T; all others are read one step ahead into
// registers, 32 weights a thread, and decoded into the ring as T. Products in m16n8k16 with sums in
// f32.
// Bytes: at best the weights', x's and out's once. FLOP: 2 * tokens * rows * columns.
//
// A token's bits do not depend on other tokens, nor on the tile: each value is one sequence of
// m16n8k16 along the columns.
#include "tensor.cuh"

#include "blocks.cuh"

namespace naru {

// A stage is 64 columns: rows of 128 bytes, all banks once.
constexpr unsigned kGemmColumns = 64;
constexpr unsigned kGemmRowBytes = kGemmColumns * 2;

// What a block computes: kWarpsM * kWarpsN warps, each with kTilesM * 16 tokens and kTilesN * 8
// rows of the weight.
template <unsigned kWarpsM_, unsigned kWarpsN_, unsigned kTilesM_, unsigned kTilesN_,
          unsigned kStages_>
struct GemmTile {
  static constexpr unsigned kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr unsigned kTilesM = kTilesM_, kTilesN = kTilesN_, kStages = kStages_;
  static constexpr unsigned kThreads = kWarpsM * kWarpsN * kWarp;
  static constexpr unsigned kTokens = kWarpsM * kTilesM * 16, kRows = kWarpsN * kTilesN * 8;
  static constexpr unsigned kStageBytes = (kTokens + kRows) * kGemmRowBytes;
  // Few tokens leave whole tiles of 16 empty; where there are many, the branch costs more.
  static constexpr bool kSkipsTiles = kWarpsM == 1;
  static_assert(kRows * kGemmColumns == kThreads * 32, "a thread decodes 32 weights of a stage");
  static_assert(kTilesN % 2 == 0, "rows of the weight are loaded sixteen at a time");
};

using SmallTile = GemmTile<1, 4, 4, 2, 4>;
using LargeTile = GemmTile<2, 4, 4, 4, 3>;

template <typename A, typename B>
constexpr bool kIsSame = false;
template <typename A>
constexpr bool kIsSame<A, A> = true;

// Where chunk `chunk` (16 bytes) of a row of a tile is. Eight rows at the same chunk, as ldmatrix
// reads them, are in eight different groups of banks.
__device__ __forceinline__ unsigned gemm_place(unsigned row, unsigned chunk) {
  return row * kGemmRowBytes + (chunk ^ row % 8) * 16;
}

// Begins to copy `kRows` rows of 64 values from column `column` on; zeros where there are none.
template <unsigned kRows, unsigned kThreads>
__device__ __forceinline__ void copy_tile(unsigned char* tile, const unsigned char* from,
                                          size_t stride, unsigned rows, unsigned column,
                                          unsigned columns) {
  const unsigned chunk = threadIdx.x % 8, at = column + chunk * 8;
#pragma unroll
  for (unsigned i = 0; i < kRows * 8 / kThreads; i++) {
    const unsigned row = threadIdx.x / 8 + i * (kThreads / 8);
    const bool is_there = row < rows && at < columns;
    copy_async(tile + gemm_place(row, chunk), from + (is_there ? row * stride + at * 2 : 0),
               is_there);
  }
}

// Two floats as T in one register, the first in the lower half: one conversion, not two.
template <typename T>
__device__ __forceinline__ unsigned round_pair(float low, float high) {
#ifdef NARU_SHIM
  return pack(from_float<T>(low), from_float<T>(high));
#else
  unsigned out;
  if constexpr (kIsSame<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  }
  return out;
#endif
}

// The 32 weights that a thread decodes of a stage, as they were read.
template <typename Format>
struct Weights32 {
  static constexpr unsigned kUnits = 32 / Format::kValues;
  // Two blocks on a multiprocessor, but for those whose registers would not do.
  static constexpr unsigned kBlocks = sizeof(typename Format::Unit) * kUnits > 64 ? 1 : 2;
  typename Format::Unit units[kUnits];

  __device__ __forceinline__ void read(const unsigned char* row, unsigned column,
                                       unsigned columns) {
    // Behind the last block x is zero, so that any weights will do.
    const unsigned first = min(column, (columns - 1) / 32 * 32) / Format::kValues;
#pragma unroll
    for (unsigned i = 0; i < kUnits; i++) units[i] = Format::read(row, columns, first + i);
  }

  template <typename T>
  __device__ __forceinline__ void write(unsigned char* tile, unsigned row, unsigned chunk) const {
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
      const Octet octet = Format::decode(units[i / (4 / kUnits)], i % (4 / kUnits));
      unsigned pairs[4];
#pragma unroll
      for (unsigned j = 0; j < 4; j++) {
        pairs[j] = round_pair<T>(octet.value[2 * j] * octet.scale,
                                 octet.value[2 * j + 1] * octet.scale);
      }
      *reinterpret_cast<uint4*>(tile + gemm_place(row, chunk + i)) =
          make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
};

// Adds the products of one stage; `tiles` of the warp's tiles along the tokens are not empty.
template <typename T, typename Tile>
__device__ __forceinline__ void multiply_stage(const unsigned char* x, const unsigned char* weight,
                                               unsigned tiles,
                                               float (&sums)[Tile::kTilesM][Tile::kTilesN][4]) {
  const unsigned lane = threadIdx.x % kWarp;
#pragma unroll
  for (unsigned k = 0; k < kGemmColumns / 16; k++) {
    unsigned b[Tile::kTilesN][2];
#pragma unroll
    for (unsigned n = 0; n < Tile::kTilesN; n += 2) {
      unsigned both[4];
      const unsigned row = n * 8 + lane / 16 * 8 + lane % 8;
      load_matrices(both, weight + gemm_place(row, k * 2 + lane / 8 % 2));
      b[n][0] = both[0], b[n][1] = both[1];
      b[n + 1][0] = both[2], b[n + 1][1] = both[3];
    }
#pragma unroll
    for (unsigned m = 0; m < Tile::kTilesM; m++) {
      if (Tile::kSkipsTiles && m >= tiles) break;
      unsigned a[4];
      load_matrices(a, x + gemm_place(m * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
      for (unsigned n = 0; n < Tile::kTilesN; n++) mma<T>(sums[m][n], a, b[n]);
    }
  }
}

__device__ __forceinline__ void write_pair(float* place, float low, float high) {
  *reinterpret_cast<float2*>(place) = make_float2(low, high);
}
template <typename T>
__device__ __forceinline__ void write_pair(T* place, float low, float high) {
  *reinterpret_cast<unsigned*>(place) = round_pair<T>(low, high);
}

// Writes two values that stand side by side: `are_pairs` where both are always there and aligned.
template <typename T>
__device__ __forceinline__ void write_both(T* place, float low, float high, bool are_pairs,
                                           bool has_high) {
  if (are_pairs) return write_pair(place, low, high);
  place[0] = from_float<T>(low);
  if (has_high) place[1] = from_float<T>(high);
}

template <typename T, typename Tile>
__device__ __forceinline__ void write_sums(const float (&sums)[Tile::kTilesM][Tile::kTilesN][4],
                                           unsigned first_token, unsigned first_row,
                                           const float* bias, void* out, unsigned tokens,
                                           unsigned rows, unsigned is_f32,
                                           unsigned out_stride) {
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned pair_bytes = is_f32 ? 8 : 4;
  const bool are_pairs = rows % 2 == 0 && out_stride % 2 == 0 &&
                         reinterpret_cast<size_t>(out) % pair_bytes == 0;
#pragma unroll
  for (unsigned n = 0; n < Tile::kTilesN; n++) {
    const unsigned row = first_row + n * 8 + fragment_c_column(lane, 0);
    if (row >= rows) break;
    const bool has_high = row + 1 < rows;
    const float low = bias == nullptr ? 0.0f : bias[row];
    const float high = bias == nullptr || !has_high ? 0.0f : bias[row + 1];
#pragma unroll
    for (unsigned m = 0; m < Tile::kTilesM; m++) {
#pragma unroll
      for (unsigned v = 0; v < 4; v += 2) {
        const unsigned token = first_token + m * 16 + fragment_c_row(lane, v);
        if (token >= tokens) break;
        const size_t at = size_t(token) * out_stride + row;
        const float a = sums[m][n][v] + low, b = sums[m][n][v + 1] + high;
        if (is_f32) {
          write_both(static_cast<float*>(out) + at, a, b, are_pairs, has_high);
        } else {
          write_both(static_cast<T*>(out) + at, a, b, are_pairs, has_high);
        }
      }
    }
  }
}

template <typename T, typename Format, typename Tile>
__device__ __forceinline__ void gemm(const unsigned char* __restrict__ weight,
                                     const T* __restrict__ x, const float* bias, void* out,
                                     unsigned rows, unsigned columns, unsigned stride,
                                     unsigned tokens, unsigned is_f32, unsigned out_stride) {
  NARU_DYNAMIC_SHARED(shared);
  constexpr bool kIsCopied = kIsSame<Format, Floats<T>>;
  constexpr unsigned kStages = Tile::kStages;
  const unsigned first_token = blockIdx.x * Tile::kTokens, first_row = blockIdx.y * Tile::kRows;
  const unsigned steps = (columns + kGemmColumns - 1) / kGemmColumns;
  const auto* x_rows = reinterpret_cast<const unsigned char*>(x + size_t(first_token) * columns);
  const unsigned char* weight_rows = weight + size_t(first_row) * stride;
  auto x_tile = [&](unsigned step) { return shared + step % kStages * Tile::kStageBytes; };
  auto weight_tile = [&](unsigned step) { return x_tile(step) + Tile::kTokens * kGemmRowBytes; };
  auto copy = [&](unsigned step) {
    if (step < steps) {
      const unsigned column = step * kGemmColumns;
      copy_tile<Tile::kTokens, Tile::kThreads>(x_tile(step), x_rows, size_t(columns) * 2,
                                               tokens - first_token, column, columns);
      if (kIsCopied) {
        copy_tile<Tile::kRows, Tile::kThreads>(weight_tile(step), weight_rows, stride,
                                               rows - first_row, column, columns);
      }
    }
    commit_copies();
  };
  // The half of a stage's row that this thread decodes; rows behind the last are never written out.
  const unsigned row = threadIdx.x / 2, half = threadIdx.x % 2;
  const unsigned char* decoded_row =
      weight_rows + size_t(min(row, rows - 1 - first_row)) * stride;
  Weights32<Format> ahead;
  auto read = [&](unsigned step) {
    ahead.read(decoded_row, step * kGemmColumns + half * 32, columns);
  };
  auto write = [&](unsigned step) {
    ahead.template write<T>(weight_tile(step), row, half * 4);
  };

  for (unsigned step = 0; step + 1 < kStages; step++) copy(step);
  if (!kIsCopied) {
    read(0);
    write(0);
  }
  const unsigned warp = threadIdx.x / kWarp;
  const unsigned warp_token = warp / Tile::kWarpsN * Tile::kTilesM * 16;
  const unsigned warp_row = warp % Tile::kWarpsN * Tile::kTilesN * 8;
  const unsigned tiles = (tokens - first_token + 15) / 16;
  float sums[Tile::kTilesM][Tile::kTilesN][4] = {};
  for (unsigned step = 0; step < steps; step++) {
    wait_for_copies<kStages - 2>();
    // This stage is there for all, and all are done with the one before, which is the next to fill.
    __syncthreads();
    copy(step + kStages - 1);
    const bool has_next = !kIsCopied && step + 1 < steps;
    if (has_next) read(step + 1);
    multiply_stage<T, Tile>(x_tile(step) + warp_token * kGemmRowBytes,
                            weight_tile(step) + warp_row * kGemmRowBytes, tiles, sums);
    if (has_next) write(step + 1);
  }
  write_sums<T, Tile>(sums, first_token + warp_token, first_row + warp_row, bias, out, tokens, rows,
                      is_f32, out_stride);
}

}  // namespace naru

#define GEMM(tile, Tile, element, name, ...)                                                      \
  extern "C" __global__ void                                                                      \
  __launch_bounds__(naru::Tile::kThreads, naru::Weights32<__VA_ARGS__>::kBlocks)                  \
      tile##_##element##_##name(                                                                  \
      const unsigned char* weight, const naru::element* x, const float* bias, void* out,          \
      unsigned rows, unsigned columns, unsigned stride, unsigned tokens, unsigned is_f32,         \
      unsigned out_stride) {                                                                      \
    naru::gemm<naru::element, __VA_ARGS__, naru::Tile>(weight, x, bias, out, rows, columns,       \
                                                       stride, tokens, is_f32, out_stride);       \
  }                                                                                               \
  NARU_KERNEL(tile##_##element##_##name)

#define GEMM_OF(name, ...)                             \
  GEMM(gemm64, SmallTile, bf16, name, __VA_ARGS__)     \
  GEMM(gemm64, SmallTile, f16, name, __VA_ARGS__)      \
  GEMM(gemm128, LargeTile, bf16, name, __VA_ARGS__)    \
  GEMM(gemm128, LargeTile, f16, name, __VA_ARGS__)

NARU_EVERY_FORMAT(GEMM_OF)
