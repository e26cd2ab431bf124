// Residual norm: a block's result goes into the residual stream, and the next block's input is read
// from it: stream += factor * post(block); out = pre(stream).
//
// stream [tokens, width] f32; block [tokens, width] and out [rows, width] of T; row-major. With
// `pick` [rows], row i of out is made of row pick[i] of stream and block, and the stream stays.
// One block of threads per row, whose values stay in registers: 8 * kVectors a thread, in f32.
// Bytes: rows * width * (4 + 4 + 2 + 2) at most: bound by memory. FLOP: about 10 a value.
// The variance of layer norm is of differences from the mean, so nothing cancels.
// Sources: Root Mean Square Layer Normalization (2019); Layer Normalization (2016).
#include "norm.cuh"
#include "vector.cuh"

namespace naru {

// Where a thread's values stand in a row: vectors of eight, or single ones where those do not fit.
struct Columns {
  unsigned width, is_vector;

  __device__ __forceinline__ unsigned at(unsigned i) const {
    const unsigned vector = i / kVector * blockDim.x;
    return is_vector ? (vector + threadIdx.x) * kVector + i % kVector
                     : vector * kVector + i % kVector * blockDim.x + threadIdx.x;
  }

  // Calls `each` with every place in x that the row has.
  template <unsigned kCount, typename Each>
  __device__ __forceinline__ void for_each(Each each) const {
#pragma unroll
    for (unsigned i = 0; i < kCount; i++) {
      if (at(i) < width) each(i);
    }
  }

  // The eight values from x[i] on; those that the row does not have stay.
  template <typename T>
  __device__ __forceinline__ void load_eight(float* x, const T* from, unsigned i) const {
    if (is_vector) {
      if (at(i) < width) load_vector(x, from + at(i));
      return;
    }
#pragma unroll
    for (unsigned j = 0; j < kVector; j++) {
      if (at(i + j) < width) x[j] = to_float(from[at(i + j)]);
    }
  }

  template <typename T>
  __device__ __forceinline__ void store_eight(T* to, const float* x, unsigned i) const {
    if (is_vector) {
      if (at(i) < width) store_vector(to + at(i), x);
      return;
    }
#pragma unroll
    for (unsigned j = 0; j < kVector; j++) {
      if (at(i + j) < width) to[at(i + j)] = from_float<T>(x[j]);
    }
  }

  template <unsigned kCount, typename T>
  __device__ __forceinline__ void load(float (&x)[kCount], const T* from) const {
#pragma unroll
    for (unsigned i = 0; i < kCount; i += kVector) load_eight(x + i, from, i);
  }

  template <unsigned kCount>
  __device__ __forceinline__ void normalise(float (&x)[kCount], const Norm& norm,
                                            float* scratch) const {
    float mean = 0.0f, sum = 0.0f;
    if (norm.kind == Norm::kLayer) {
      for_each<kCount>([&](unsigned i) { sum += x[i]; });
      mean = block_sum(sum, scratch) / width;
    }
    sum = 0.0f;
    for_each<kCount>([&](unsigned i) { sum += (x[i] - mean) * (x[i] - mean); });
    const float scale = rsqrtf(block_sum(sum, scratch) / width + norm.epsilon);
#pragma unroll
    for (unsigned i = 0; i < kCount; i += kVector) {
      float own[kVector] = {};
      load_eight(own, norm.weight, i);
#pragma unroll
      for (unsigned j = 0; j < kVector; j++) {
        x[i + j] = (x[i + j] - mean) * scale * norm.factor(own[j]);
      }
      if (norm.bias == nullptr) continue;
      load_eight(own, norm.bias, i);
#pragma unroll
      for (unsigned j = 0; j < kVector; j++) x[i + j] += own[j];
    }
  }
};

template <typename T, unsigned kVectors>
__device__ __forceinline__ void residual_norm(float* stream, const T* block, const unsigned* pick,
                                              T* out, Columns columns, float factor,
                                              const Norm& post, const Norm& pre) {
  __shared__ float scratch[kWarp];
  constexpr unsigned kCount = kVectors * kVector;
  const size_t row = blockIdx.x, from = pick == nullptr ? row : pick[row];
  stream += from * columns.width;
  float x[kCount] = {};
  if (block == nullptr) {
    columns.load(x, stream);
  } else {
    columns.load(x, block + from * columns.width);
    if (post.is_there()) columns.normalise(x, post, scratch);
#pragma unroll
    for (unsigned i = 0; i < kCount; i += kVector) {
      float sum[kVector] = {};
      columns.load_eight(sum, stream, i);
#pragma unroll
      for (unsigned j = 0; j < kVector; j++) x[i + j] = sum[j] + factor * x[i + j];
      if (pick == nullptr) columns.store_eight(stream, x + i, i);
    }
  }
  if (out == nullptr) return;
  if (pre.is_there()) columns.normalise(x, pre, scratch);
#pragma unroll
  for (unsigned i = 0; i < kCount; i += kVector) {
    columns.store_eight(out + row * columns.width, x + i, i);
  }
}

}  // namespace naru

#define RESIDUAL_NORM(T, kVectors)                                                              \
  extern "C" __global__ void __launch_bounds__(1024) residual_norm_##T##_##kVectors(            \
      float* stream, const naru::T* block, const unsigned* pick, naru::T* out, unsigned width,  \
      unsigned is_vector, float factor, unsigned post_kind, float post_epsilon,                 \
      const float* post_weight, const float* post_bias, unsigned pre_kind, float pre_epsilon,   \
      const float* pre_weight, const float* pre_bias) {                                         \
    naru::residual_norm<naru::T, kVectors>(                                                     \
        stream, block, pick, out, {width, is_vector}, factor,                                   \
        {post_kind, post_epsilon, post_weight, post_bias},                                      \
        {pre_kind, pre_epsilon, pre_weight, pre_bias});                                         \
  }                                                                                             \
  NARU_KERNEL(residual_norm_##T##_##kVectors)

RESIDUAL_NORM(bf16, 1)
RESIDUAL_NORM(bf16, 2)
RESIDUAL_NORM(f16, 1)
RESIDUAL_NORM(f16, 2)
