// Eight neighbouring values at a multiple of 16 bytes, as floats: the widest accesses there are.
#pragma once
#include "kernel.cuh"

namespace naru {

constexpr unsigned kVector = 8;

template <typename T>
__device__ __forceinline__ void load_vector(float* out, const T* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (unsigned i = 0; i < kVector; i++) {
    out[i] = to_float(T{static_cast<unsigned short>(words[i / 2] >> i % 2 * 16)});
  }
}

template <>
__device__ __forceinline__ void load_vector<float>(float* out, const float* from) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
  out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}

template <typename T>
__device__ __forceinline__ void store_vector(T* to, const float* x) {
  unsigned words[4];
#pragma unroll
  for (unsigned i = 0; i < 4; i++) {
    const T low = from_float<T>(x[2 * i]), high = from_float<T>(x[2 * i + 1]);
    words[i] = low.bits | static_cast<unsigned>(high.bits) << 16;
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

template <>
__device__ __forceinline__ void store_vector<float>(float* to, const float* x) {
  reinterpret_cast<float4*>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

}  // namespace naru
