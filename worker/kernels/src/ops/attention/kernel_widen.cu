// Widened heads: rows of heads among columns that another device has the heads of, which are zero.
//
// in [rows, width] and out [rows, columns] of 16-bit values, row-major, sizes and places in vectors
// of eight: out[row, lead + i] = in[row, i]. A grid of (ceil(columns / 128), rows) blocks of 128
// threads, a vector each. Bytes: 16 * rows * (width + columns). FLOP: none.
#include "kernel.cuh"

extern "C" __global__ void attention_widen(const uint4* in, uint4* out, unsigned width,
                                           unsigned columns, unsigned lead) {
  const unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  // In front of the heads this wraps round, far beyond them.
  const unsigned from = column - lead;
  const size_t row = blockIdx.y;
  uint4 values = {};
  if (from < width) values = in[row * width + from];
  out[row * columns + column] = values;
}
NARU_KERNEL(attention_widen)
