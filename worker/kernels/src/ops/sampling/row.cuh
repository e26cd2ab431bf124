// A row of logits that a block of threads looks at, and the order of its tokens.
#pragma once
#include "kernel.cuh"

namespace naru {

using u64 = unsigned long long;

constexpr unsigned kNoToken = 0xffffffffu;

__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }

// Ascends with the logit; zero for minus infinity and NaN, which are never chosen. Both zeros are
// one.
__device__ __forceinline__ unsigned key_of(float logit) {
  if (!(logit > -infinity())) return 0;
  const unsigned bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The logit of a key; NaN for zero.
__device__ __forceinline__ float logit_of(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct Row {
  float* logits;
  unsigned count;

  // Calls `each(token, logit)` with each token, the threads of the block between them.
  template <typename Each>
  __device__ __forceinline__ void for_each(Each each) const {
    const bool is_aligned = reinterpret_cast<size_t>(logits) % 16 == 0;
    const unsigned whole = is_aligned ? count / 4 * 4 : 0;
#pragma unroll 4
    for (unsigned i = threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
      const float4 four = *reinterpret_cast<const float4*>(logits + i);
      each(i, four.x);
      each(i + 1, four.y);
      each(i + 2, four.z);
      each(i + 3, four.w);
    }
    for (unsigned i = whole + threadIdx.x; i < count; i += blockDim.x) each(i, logits[i]);
  }
};

// The likeliest token, of equals the first: its key in the upper half, the inverse of its id in the
// lower. The same in every thread of a block of whole warps; `scratch` has room for 32 values.
__device__ __forceinline__ u64 likeliest(const Row& row, u64* scratch) {
  float most = -infinity();
  unsigned first = 0;
  row.for_each([&](unsigned token, float logit) {
    // A thread's tokens ascend, so the first of equals stays.
    if (logit > most) most = logit, first = token;
  });
  u64 best = static_cast<u64>(key_of(most)) << 32 | ~first;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (unsigned round = 0; round < 2; round++) {
    for (unsigned step = kWarp / 2; step > 0; step /= 2) {
      const u64 other = __shfl_xor_sync(kAllLanes, best, step);
      best = other > best ? other : best;
    }
    if (round == 1) break;
    if (lane == 0) scratch[warp] = best;
    __syncthreads();
    best = lane < blockDim.x / kWarp ? scratch[lane] : 0;
  }
  __syncthreads();
  return best;
}

__device__ __forceinline__ unsigned key_in(u64 likeliest) {
  return static_cast<unsigned>(likeliest >> 32);
}

__device__ __forceinline__ unsigned token_in(u64 likeliest) {
  return key_in(likeliest) == 0 ? kNoToken : ~static_cast<unsigned>(likeliest);
}

}  // namespace naru
