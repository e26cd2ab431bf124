// Linear for few tokens: out[t, r] = sum over k of x[t, k] * weight[r, k], plus bias[r].
//
// x [tokens, columns] of T; weight [rows] rows of `stride` bytes as blocks.cuh has them; bias
// [rows] in f32 or null; out [tokens, rows] of T or, with `is_f32`, of f32, its rows `out_stride`
// apart.
// A grid of (ceil(rows / 16), ceil(tokens / kTokens)) blocks of 8 warps; a warp has two rows. x
// goes through shared memory in chunks; weights go from memory to registers in 16-byte reads, each
// once for each kTokens tokens. Sums in f32: eight products one after the other, the octets of a
// lane one after the other, the lanes as a tree.
// Bytes: the weights', and little else. FLOP: 2 * tokens * rows * columns.
//
// A token's bits do not depend on other tokens nor on kTokens: chunks are whole rounds of a warp,
// so that a lane sums the same octets in the same order. They are not those of the GEMM, which
// rounds weights to T and sums in another order.
#include "kernel.cuh"

#include "blocks.cuh"

namespace naru {

constexpr unsigned kGemvWarps = 8;
constexpr unsigned kGemvRows = 2;
// Values of x, of all tokens together, that shared memory has room for.
constexpr unsigned kGemvChunk = 16384;

// Blocks that a multiprocessor holds at least: what registers leave room for with all reads of a
// step in flight.
template <typename Format, unsigned kTokens>
constexpr unsigned kGemvBlocks =
    kTokens > 2 || sizeof(typename Format::Unit) >= 4 * Format::kValues ? 2 : 3;

// Where octet `octet` of x is, in units of 16 bytes: lanes that are four octets apart read from
// different banks.
__device__ __forceinline__ unsigned gemv_place(unsigned octet) { return octet + octet / 4; }

// Values `first`.. of a row of x, zeros behind its end.
template <typename T>
__device__ __forceinline__ uint4 gemv_octet(const T* x, unsigned first, unsigned columns) {
  if (columns % 8 == 0) {
    if (first < columns) return __ldg(reinterpret_cast<const uint4*>(x + first));
    return make_uint4(0, 0, 0, 0);
  }
  unsigned pairs[4];
#pragma unroll
  for (unsigned i = 0; i < 4; i++) {
    const unsigned at = first + 2 * i;
    const unsigned low = at < columns ? x[at].bits : 0;
    const unsigned high = at + 1 < columns ? x[at + 1].bits : 0;
    pairs[i] = low | high << 16;
  }
  return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// Adds the products of a unit of each row with the tokens' values that stand at `x`.
template <typename T, typename Format, unsigned kTokens>
__device__ __forceinline__ void gemv_unit(const typename Format::Unit (&units)[kGemvRows],
                                          const uint4* x, unsigned first_octet,
                                          unsigned token_stride,
                                          float (&sums)[kGemvRows][kTokens]) {
#pragma unroll
  for (unsigned o = 0; o < Format::kValues / 8; o++) {
    Octet weights[kGemvRows];
#pragma unroll
    for (unsigned r = 0; r < kGemvRows; r++) weights[r] = Format::decode(units[r], o);
#pragma unroll
    for (unsigned t = 0; t < kTokens; t++) {
      const uint4 bits = x[t * token_stride + gemv_place(first_octet + o)];
      float partial[kGemvRows] = {};
#pragma unroll
      for (unsigned i = 0; i < 8; i++) {
        const unsigned half = word_of(bits, i / 2) >> i % 2 * 16;
        const float value = to_float(T{static_cast<unsigned short>(half)});
#pragma unroll
        for (unsigned r = 0; r < kGemvRows; r++) {
          partial[r] = fmaf(weights[r].value[i], value, partial[r]);
        }
      }
#pragma unroll
      for (unsigned r = 0; r < kGemvRows; r++) {
        sums[r][t] = fmaf(weights[r].scale, partial[r], sums[r][t]);
      }
    }
  }
}

// Reads `kAhead` units of each row, one round of a warp from the next, then multiplies them.
template <typename T, typename Format, unsigned kTokens, unsigned kAhead>
__device__ __forceinline__ void gemv_units(const unsigned char* const (&row)[kGemvRows],
                                           unsigned columns, unsigned first_unit, unsigned unit,
                                           const uint4* x, unsigned token_stride,
                                           float (&sums)[kGemvRows][kTokens]) {
  typename Format::Unit units[kAhead][kGemvRows];
#pragma unroll
  for (unsigned a = 0; a < kAhead; a++) {
#pragma unroll
    for (unsigned r = 0; r < kGemvRows; r++) {
      units[a][r] = Format::read(row[r], columns, first_unit + unit + a * kWarp);
    }
  }
#pragma unroll
  for (unsigned a = 0; a < kAhead; a++) {
    const unsigned octet = (unit + a * kWarp) * (Format::kValues / 8);
    gemv_unit<T, Format, kTokens>(units[a], x, octet, token_stride, sums);
  }
}

template <typename T, typename Format, unsigned kTokens>
__device__ __forceinline__ void gemv(const unsigned char* __restrict__ weight,
                                     const T* __restrict__ x, const float* bias, void* out,
                                     unsigned rows, unsigned columns, unsigned stride,
                                     unsigned tokens, unsigned is_f32, unsigned out_stride) {
  NARU_DYNAMIC_SHARED(shared);
  uint4* octets = reinterpret_cast<uint4*>(shared);
  constexpr unsigned kChunk = kGemvChunk / kTokens;
  // Of eight tokens the products of a block of 32 take longer than the memory.
  constexpr unsigned kAhead = Format::kValues == 32 && kTokens == 8 ? 1 : Format::kAhead;
  static_assert(kChunk % (kWarp * Format::kValues) == 0, "chunks are whole rounds of a warp");
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned first_row = (blockIdx.x * kGemvWarps + warp) * kGemvRows;
  const unsigned first_token = blockIdx.y * kTokens;
  const unsigned char* row[kGemvRows];
#pragma unroll
  for (unsigned r = 0; r < kGemvRows; r++) {
    row[r] = weight + size_t(min(first_row + r, rows - 1)) * stride;
  }
  float sums[kGemvRows][kTokens] = {};
  for (unsigned first = 0; first < columns; first += kChunk) {
    const unsigned units = (min(kChunk, columns - first) + Format::kValues - 1) / Format::kValues;
    const unsigned count = units * (Format::kValues / 8);
    const unsigned token_stride = gemv_place(count);
    if (first > 0) __syncthreads();
    for (unsigned t = 0; t < kTokens; t++) {
      for (unsigned octet = threadIdx.x; octet < count; octet += kGemvWarps * kWarp) {
        const bool is_there = first_token + t < tokens;
        const T* values = x + size_t(first_token + t) * columns;
        octets[t * token_stride + gemv_place(octet)] =
            is_there ? gemv_octet(values, first + octet * 8, columns) : make_uint4(0, 0, 0, 0);
      }
    }
    __syncthreads();
    const unsigned first_unit = first / Format::kValues;
    unsigned unit = lane;
    for (; unit + (kAhead - 1) * kWarp < units; unit += kAhead * kWarp) {
      gemv_units<T, Format, kTokens, kAhead>(row, columns, first_unit, unit, octets, token_stride,
                                             sums);
    }
    for (; unit < units; unit += kWarp) {
      gemv_units<T, Format, kTokens, 1>(row, columns, first_unit, unit, octets, token_stride, sums);
    }
  }
#pragma unroll
  for (unsigned r = 0; r < kGemvRows; r++) {
#pragma unroll
    for (unsigned t = 0; t < kTokens; t++) {
      const float sum = warp_sum(sums[r][t]);
      if (lane != 0 || first_row + r >= rows || first_token + t >= tokens) continue;
      const float value = bias == nullptr ? sum : sum + bias[first_row + r];
      const size_t at = size_t(first_token + t) * out_stride + first_row + r;
      if (is_f32) {
        static_cast<float*>(out)[at] = value;
      } else {
        static_cast<T*>(out)[at] = from_float<T>(value);
      }
    }
  }
}

}  // namespace naru

#define GEMV(tokens, element, name, ...)                                                        \
  extern "C" __global__ void                                                                    \
  __launch_bounds__(256, (naru::kGemvBlocks<__VA_ARGS__, tokens>))                              \
      gemv##tokens##_##element##_##name(                                                        \
      const unsigned char* weight, const naru::element* x, const float* bias, void* out,        \
      unsigned rows, unsigned columns, unsigned stride, unsigned count, unsigned is_f32,        \
      unsigned out_stride) {                                                                    \
    naru::gemv<naru::element, __VA_ARGS__, tokens>(weight, x, bias, out, rows, columns, stride, \
                                                   count, is_f32, out_stride);                  \
  }                                                                                             \
  NARU_KERNEL(gemv##tokens##_##element##_##name)

#define GEMV_OF(name, ...)           \
  GEMV(1, bf16, name, __VA_ARGS__)   \
  GEMV(2, bf16, name, __VA_ARGS__)   \
  GEMV(4, bf16, name, __VA_ARGS__)   \
  GEMV(8, bf16, name, __VA_ARGS__)   \
  GEMV(1, f16, name, __VA_ARGS__)    \
  GEMV(2, f16, name, __VA_ARGS__)    \
  GEMV(4, f16, name, __VA_ARGS__)    \
  GEMV(8, f16, name, __VA_ARGS__)

NARU_EVERY_FORMAT(GEMV_OF)
