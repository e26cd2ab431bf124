// What every kernel begins with: number formats, reductions over a warp, and the word that ends a
// kernel. No header of CUDA's is needed, so that NVRTC compiles the same text with nothing beside
// it; on a machine without a GPU the same text is C++ against the shim of the tests.
#pragma once

#ifdef NARU_SHIM
#include "shim.hpp"
// Defines what the shim calls: `kernel`, an `extern "C" __global__` function.
#define NARU_KERNEL(kernel)                                                                   \
  extern "C" const char* shim_##kernel(const unsigned* grid, const unsigned* block,           \
                                       unsigned shared_bytes, void** arguments) {             \
    return shim::launch(kernel, grid, block, shared_bytes, arguments);                        \
  }
// Bytes of shared memory whose number the launch gives; the first is at a multiple of 16.
#define NARU_DYNAMIC_SHARED(name) unsigned char* name = shim::dynamic_shared()
#else
#define NARU_KERNEL(kernel)
#define NARU_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace naru {

constexpr unsigned kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The upper half of a 32-bit float.
struct bf16 {
  unsigned short bits;
};

// An IEEE half float.
struct f16 {
  unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(bf16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

__device__ __forceinline__ float to_float(f16 x) {
#ifdef NARU_SHIM
  return shim::half_to_float(x.bits);
#else
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
  return out;
#endif
}

template <typename T>
__device__ __forceinline__ T from_float(float x);

template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}

// To the nearest, ties to even.
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
#ifdef NARU_SHIM
  return bf16{shim::float_to_bf16(x)};
#else
  bf16 out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
#endif
}

template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
#ifdef NARU_SHIM
  return f16{shim::float_to_half(x)};
#else
  f16 out;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
#endif
}

// The sum over a warp, the same bits in every lane.
__device__ __forceinline__ float warp_sum(float x) {
  for (unsigned lane = kWarp / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(kAllLanes, x, lane);
  return x;
}

// The largest of a warp, in every lane.
__device__ __forceinline__ float warp_max(float x) {
  for (unsigned lane = kWarp / 2; lane > 0; lane /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lane));
  }
  return x;
}

// The sum over a block of whole warps, at most 1024 threads, the same bits in every thread.
// `scratch` has room for 32 values; two calls in a row may share it.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  x = warp_sum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = warp_sum(lane < blockDim.x / kWarp ? scratch[lane] : 0.0f);
  __syncthreads();
  return x;
}

}  // namespace naru
