// Kernels for the shim's own tests: some are wrong and must be reported, some show its arithmetic.
#include "tensor.cuh"

extern "C" __global__ void check_divergent_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
NARU_KERNEL(check_divergent_barriers)

extern "C" __global__ void check_ended_lane(unsigned* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __shfl_sync(naru::kAllLanes, threadIdx.x, 0);
}
NARU_KERNEL(check_ended_lane)

extern "C" __global__ void check_divergent_exchanges(unsigned* out) {
  if (threadIdx.x % 2) {
    out[threadIdx.x] = __shfl_sync(naru::kAllLanes, 1u, 0);
  } else {
    out[threadIdx.x] = __shfl_sync(naru::kAllLanes, 2u, 0);
  }
}
NARU_KERNEL(check_divergent_exchanges)

// Each half of the warp with a mask of its own, which is right.
extern "C" __global__ void check_halves_of_a_warp(unsigned* out) {
  const unsigned mask = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
  out[threadIdx.x] = __ballot_sync(mask, threadIdx.x % 2 == 0);
}
NARU_KERNEL(check_halves_of_a_warp)

extern "C" __global__ void check_dynamic_shared(unsigned* out) {
  NARU_DYNAMIC_SHARED(bytes);
  unsigned* words = reinterpret_cast<unsigned*>(bytes);
  // What an earlier block wrote is not there either.
  out[blockIdx.x * blockDim.x + threadIdx.x] = words[threadIdx.x];
  words[threadIdx.x] = 0;
}
NARU_KERNEL(check_dynamic_shared)

extern "C" __global__ void check_write(unsigned* out, unsigned at) { out[at] = 1; }
NARU_KERNEL(check_write)

#define CHECK_FORMAT(T)                                                            \
  extern "C" __global__ void check_to_float_##T(const naru::T* in, float* out) {   \
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;                      \
    out[i] = naru::to_float(in[i]);                                                \
  }                                                                                \
  NARU_KERNEL(check_to_float_##T)                                                  \
  extern "C" __global__ void check_from_float_##T(const float* in, naru::T* out) { \
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;                      \
    out[i] = naru::from_float<naru::T>(in[i]);                                     \
  }                                                                                \
  NARU_KERNEL(check_from_float_##T)

CHECK_FORMAT(bf16)
CHECK_FORMAT(f16)

namespace naru {

// c [16, 8] = a [16, 16] · b [16, 8], all row-major, by one warp; fragments as the maps say, or as
// ldmatrix gives them.
template <typename T>
__device__ void check_mma(const T* a, const T* b, float* c, unsigned by_ldmatrix) {
  const unsigned lane = threadIdx.x;
  unsigned of_a[4], of_b[2];
  if (by_ldmatrix) {
    const unsigned matrix = lane / 8, row = lane % 8 + matrix % 2 * 8;
    load_matrices(of_a, a + row * 16 + matrix / 2 * 8);
    unsigned twice[4];
    load_matrices_transposed(twice, b + row * 8);
    of_b[0] = twice[0], of_b[1] = twice[1];
  } else {
    for (unsigned r = 0; r < 4; r++) {
      const T* pair = a + fragment_a_row(lane, r) * 16 + fragment_a_column(lane, r);
      of_a[r] = pack(pair[0], pair[1]);
    }
    for (unsigned r = 0; r < 2; r++) {
      const T* pair = b + fragment_b_row(lane, r) * 8 + fragment_b_column(lane, r);
      of_b[r] = pack(pair[0], pair[8]);
    }
  }
  float of_c[4] = {};
  mma<T>(of_c, of_a, of_b);
  for (unsigned v = 0; v < 4; v++) {
    c[fragment_c_row(lane, v) * 8 + fragment_c_column(lane, v)] = of_c[v];
  }
}

}  // namespace naru

#define CHECK_MMA(T)                                                                           \
  extern "C" __global__ void check_mma_##T(const naru::T* a, const naru::T* b, float* c,       \
                                           unsigned by_ldmatrix) {                             \
    naru::check_mma(a, b, c, by_ldmatrix);                                                     \
  }                                                                                            \
  NARU_KERNEL(check_mma_##T)

CHECK_MMA(bf16)
CHECK_MMA(f16)
