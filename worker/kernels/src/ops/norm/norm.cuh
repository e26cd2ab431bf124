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

  // What values are multiplied by for their weight as it is stored.
  __device__ __forceinline__ float factor(float stored) const {
    return kind == kRmsPlusOne ? 1.0f + stored : stored;
  }
};

}  // namespace naru
