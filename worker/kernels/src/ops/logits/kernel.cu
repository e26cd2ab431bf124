// Logits [rows, vocabulary] in f32, row-major.
//
// cap_logits: x = cap * tanh(multiplier * x / cap), or multiplier * x without a cap; in place. A
// grid of (ceil(vocabulary / 1024), rows) blocks of 256 threads, four values each. Bytes: 8 each.
#include "kernel.cuh"

extern "C" __global__ void cap_logits(float* logits, unsigned vocabulary, float multiplier,
                                      float cap) {
  float* row = logits + static_cast<size_t>(blockIdx.y) * vocabulary;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned token = (blockIdx.x * 4 + i) * blockDim.x + threadIdx.x;
    if (token >= vocabulary) return;
    const float x = row[token] * multiplier;
    row[token] = cap > 0.0f ? cap * tanhf(x / cap) : x;
  }
}
NARU_KERNEL(cap_logits)
