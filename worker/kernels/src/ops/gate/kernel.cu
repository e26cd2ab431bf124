// Gate: the activation between the projections of a feed-forward block.
//
// in [rows, 2 * width] or, without a gate, [rows, width]; out [rows, width]; both of T, row-major.
// out = act(in[.., i]) * in[.., width + i], or act(in[.., i]); computed in f32.
// A grid of (ceil(width / 256), rows) blocks of 256 threads; one value each.
// Bytes: rows * width * (3 or 2) * sizeof(T). FLOP: about 10 a value.
#include "kernel.cuh"

namespace naru {

// In the order of GateKind.
enum Act : unsigned { kSilu, kGelu, kGeluTanh, kRelu, kReluSquared };

__device__ __forceinline__ float act(unsigned kind, float x) {
  switch (kind) {
    case kSilu:
      return x / (1.0f + expf(-x));
    case kGelu:
      return 0.5f * x * erfcf(-0.70710678118654752f * x);
    case kGeluTanh: {
      const float inner = 0.79788456080286536f * (x + 0.044715f * x * x * x);
      return 0.5f * x * (1.0f + tanhf(inner));
    }
    case kRelu:
      return fmaxf(x, 0.0f);
    default:
      return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
  }
}

template <typename T>
__device__ void gate(const T* in, T* out, unsigned width, unsigned kind, unsigned is_gated) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= width) return;
  const size_t row = blockIdx.y;
  const T* values = in + row * (is_gated ? 2 : 1) * width;
  float x = act(kind, to_float(values[i]));
  if (is_gated) x *= to_float(values[width + i]);
  out[row * width + i] = from_float<T>(x);
}

}  // namespace naru

extern "C" __global__ void gate_bf16(const naru::bf16* in, naru::bf16* out, unsigned width,
                                     unsigned kind, unsigned is_gated) {
  naru::gate(in, out, width, kind, is_gated);
}
NARU_KERNEL(gate_bf16)

extern "C" __global__ void gate_f16(const naru::f16* in, naru::f16* out, unsigned width,
                                    unsigned kind, unsigned is_gated) {
  naru::gate(in, out, width, kind, is_gated);
}
NARU_KERNEL(gate_f16)
