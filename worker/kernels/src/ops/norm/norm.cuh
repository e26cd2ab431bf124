// A norm as kernels take it.
#pragma once
#include "kernel.cuh"

namespace naru {

struct Norm {
  // In the order of DeviceNormKind; the host says 3 for none.
  enum Kind : unsigned { kRms, kRmsPlusOne, kLayer, kNone };

  unsigned kind;
  float epsilon;
  const float* weight;
  // Null: none.
  const float* bias;

  __device__ __forceinline__ bool is_there() const { return kind != kNone; }

  // What x becomes, the value of weight and bias `i`; `scale` is one over the root of the mean.
  __device__ __forceinline__ float apply(float x, float mean, float scale, unsigned i) const {
    const float factor = kind == kRmsPlusOne ? 1.0f + weight[i] : weight[i];
    const float normal = (x - mean) * scale * factor;
    return bias == nullptr ? normal : normal + bias[i];
  }
};

}  // namespace naru
