// What decode and prefill have in common: spans, pages of keys and values, and scores.
#pragma once
#include "tensor.cuh"

namespace naru {

// Tokens of a block of the key-value cache.
constexpr unsigned kPageTokens = 16;
// Below every score, and finite, so that differences of two are never NaN.
constexpr float kLowest = -3.0e38f;

// Rows of a batch that follow each other in one sequence; `tokens` may be 0.
struct Span {
  unsigned first_row, tokens, position, first_table;
};

__device__ __forceinline__ Span load_span(const unsigned* spans, unsigned which) {
  const uint4 words = reinterpret_cast<const uint4*>(spans)[which];
  return {words.x, words.y, words.z, words.w};
}

// The first key that a query at `position` sees.
__device__ __forceinline__ unsigned first_key(unsigned position, unsigned window) {
  return window != 0 && position + 1 > window ? position + 1 - window : 0;
}

// 2^x to about 2 units of the last place; 2^-inf is 0.
__device__ __forceinline__ float exp2_approximate(float x) {
#ifdef NARU_SHIM
  return exp2f(x);
#else
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
#endif
}

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }

// From products of queries and keys to exponents of 2.
class Scorer {
 public:
  // No cap if `softcap` is 0. tanh x = 1 - 2 / (e^2x + 1), whose error is absolute, in units of the
  // cap; that is what counts in an exponent.
  __device__ Scorer(float scale, float softcap)
      : factor_(softcap > 0.0f ? 2.0f * kLog2E * scale / softcap : kLog2E * scale),
        cap_(softcap * kLog2E) {}

  __device__ __forceinline__ float operator()(float dot) const {
    const float scaled = dot * factor_;
    if (cap_ == 0.0f) return scaled;
    return cap_ - __fdividef(2.0f * cap_, exp2_approximate(scaled) + 1.0f);
  }

 private:
  static constexpr float kLog2E = 1.44269504088896341f;
  float factor_, cap_;
};

// The keys or the values of one head in a layer's blocks, [blocks, kv_heads, 16, head_dim].
template <typename T>
struct Paged {
  const T* head;
  unsigned block_values, head_dim;

  __device__ Paged(const T* layer, unsigned kv_heads, unsigned kv_head, unsigned dim)
      : head(layer + kv_head * kPageTokens * dim),
        block_values(kv_heads * kPageTokens * dim),
        head_dim(dim) {}

  // The token `slot` of a block.
  __device__ __forceinline__ const T* row(unsigned block, unsigned slot) const {
    return head + static_cast<size_t>(block) * block_values + slot * head_dim;
  }
};

}  // namespace naru
