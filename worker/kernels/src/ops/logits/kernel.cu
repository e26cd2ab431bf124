// Logits [rows, vocabulary] in f32, row-major.
//
// cap_logits: x = cap * tanh(multiplier * x / cap), or multiplier * x without a cap; in place. A
// grid of (ceil(vocabulary / 1024), rows) blocks of 256 threads, four values each. Bytes: 8 each.
// argmax: tokens[row] = the first of the greatest; no NaN and no minus infinity; kNoToken if there
// is nothing else. A block of at most 1024 threads per row. Bytes: 4 a value, from L2 where the
// head left them there.
#include "row.cuh"

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

extern "C" __global__ void __launch_bounds__(1024) argmax(float* logits, unsigned vocabulary,
                                                          unsigned* tokens) {
  __shared__ naru::u64 scratch[naru::kWarp];
  const naru::Row row = {logits + static_cast<size_t>(blockIdx.x) * vocabulary, vocabulary};
  const naru::u64 best = naru::likeliest(row, scratch);
  if (threadIdx.x == 0) tokens[blockIdx.x] = naru::token_in(best);
}
NARU_KERNEL(argmax)
