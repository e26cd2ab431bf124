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

// Over the four lanes that hold a row of a fragment of C, in each of them.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

// From products of queries and keys to exponents of 2. Without a cap that is `scale` times the
// product. With one it is cap * tanh x, where `scale` times the product is 2 x / ln 2; tanh x = 1 -
// 2 / (e^2x + 1), whose error is absolute, in units of the cap; that is what counts in an exponent.
struct Scorer {
  // The cap is in the unit of exponents of 2; 0 is none.
  float scale, cap;

  __device__ __forceinline__ bool is_capped() const { return cap > 0.0f; }
  // What is left to multiply with, once products are capped where there is a cap; above 0.
  __device__ __forceinline__ float factor() const { return is_capped() ? 1.0f : scale; }
  __device__ __forceinline__ float capped(float product) const {
    return cap - __fdividef(2.0f * cap, exp2_approximate(product * scale) + 1.0f);
  }
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
