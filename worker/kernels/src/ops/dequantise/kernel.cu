// Embed: rows of a table of weights, times a factor.
//
// table [held] rows of `stride` bytes as matmul/blocks.cuh has them; tokens [rows] of u32; out
// [rows, columns] in f32, zeros where a token has no row: another device holds it. A grid of (ceil(units / 128), rows) blocks of 128 threads; a thread
// decodes one unit of a row, 8 to 32 values.
// Bytes: rows * (a row of the table + 4 * columns). FLOP: a product a value.
#include "kernel.cuh"

#include "../matmul/blocks.cuh"

namespace naru {

template <typename Format>
__device__ __forceinline__ void embed(const unsigned char* table, const unsigned* tokens,
                                      float* out, unsigned held, unsigned columns,
                                      unsigned stride, float multiplier) {
  const unsigned first = (blockIdx.x * blockDim.x + threadIdx.x) * Format::kValues;
  if (first >= columns) return;
  const unsigned token = tokens[blockIdx.y];
  const bool is_here = token < held;
  const unsigned char* row = table + size_t(is_here ? token : 0) * stride;
  float* values = out + size_t(blockIdx.y) * columns;
  const auto unit = Format::read(row, columns, first / Format::kValues);
#pragma unroll
  for (unsigned o = 0; o < Format::kValues / 8; o++) {
    const Octet octet = Format::decode(unit, o);
    float scaled[8];
#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
      scaled[i] = is_here ? octet.value[i] * octet.scale * multiplier : 0.0f;
    }
#pragma unroll
    for (unsigned i = 0; i < 8; i += 4) {
      const unsigned at = first + o * 8 + i;
      if (columns % 4 == 0) {
        if (at < columns) {
          *reinterpret_cast<float4*>(values + at) =
              make_float4(scaled[i], scaled[i + 1], scaled[i + 2], scaled[i + 3]);
        }
        continue;
      }
#pragma unroll
      for (unsigned j = 0; j < 4; j++) {
        if (at + j < columns) values[at + j] = scaled[i + j];
      }
    }
  }
}

}  // namespace naru

#define EMBED(name, ...)                                                                         \
  extern "C" __global__ void embed_##name(const unsigned char* table, const unsigned* tokens,    \
                                          float* out, unsigned held, unsigned columns,           \
                                          unsigned stride, float multiplier) {                   \
    naru::embed<__VA_ARGS__>(table, tokens, out, held, columns, stride, multiplier);             \
  }                                                                                              \
  NARU_KERNEL(embed_##name)

NARU_EVERY_FORMAT(EMBED)
