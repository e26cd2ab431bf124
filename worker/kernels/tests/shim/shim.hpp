// A host shim for CUDA C++: blocks in a loop, threads as cooperative fibers, so that a kernel's
// indexing, masking and numerics run on a machine without a GPU. A fiber runs until it waits for
// others: at a barrier of the block, or in an exchange of its warp. What it reports instead of
// hanging: a lane that is asked for but has ended or waits elsewhere, and threads of one block at
// barriers of different lines. Memory that is shared is poisoned before each block.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// One block runs at a time.
#define __shared__ static
#define __constant__ static const

struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace shim {

// The thread that runs now.
extern uint3 thread_index, block_index, block_size, grid_size;

unsigned char* dynamic_shared();

// Waits for every thread of the block that has not ended; they must wait at the same `line`.
void block_barrier(int line);
// Puts `bits` down for the lanes of `mask`, waits until they all have, and returns what all lanes
// put down: an array of 32.
const uint64_t* exchange(unsigned mask, uint64_t bits, int line);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float x);
uint16_t float_to_bf16(float x);

using Body = void (*)(const void* kernel, void** arguments);
// Runs every block of a grid. Returns null, or what went wrong.
const char* run(Body body, const void* kernel, const unsigned* grid, const unsigned* block,
                unsigned shared_bytes, void** arguments);

template <typename... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <typename... A>
const char* launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block,
                   unsigned shared_bytes, void** arguments) {
  const Body body = [](const void* kernel, void** arguments) {
    auto typed = reinterpret_cast<void (*)(A...)>(const_cast<void*>(kernel));
    call(typed, arguments, std::index_sequence_for<A...>{});
  };
  return run(body, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, arguments);
}

template <typename T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned lane() {
  const unsigned row = thread_index.z * block_size.y + thread_index.y;
  return (row * block_size.x + thread_index.x) % 32;
}

// The value of lane `from`; the caller's own where the mask leaves it out.
template <typename T>
T take(unsigned mask, T value, unsigned from, int line) {
  const uint64_t* all = exchange(mask, to_bits(value), line);
  return from < 32 && (mask >> from & 1) ? from_bits<T>(all[from]) : value;
}

inline unsigned ballot(unsigned mask, bool value, int line) {
  const uint64_t* all = exchange(mask, value, line);
  unsigned votes = 0;
  for (unsigned i = 0; i < 32; i++) votes |= (mask >> i & 1) && all[i] ? 1u << i : 0;
  return votes;
}

template <typename T>
T add_at(T* place, T value) {
  const T before = *place;
  *place = before + value;
  return before;
}

}  // namespace shim

#define threadIdx (shim::thread_index)
#define blockIdx (shim::block_index)
#define blockDim (shim::block_size)
#define gridDim (shim::grid_size)

#define __syncthreads() shim::block_barrier(__LINE__)
#define __syncwarp(...) ((void)shim::exchange(0xffffffffu, 0, __LINE__))
#define __shfl_sync(mask, value, from) shim::take(mask, value, from, __LINE__)
#define __shfl_xor_sync(mask, value, bits) shim::take(mask, value, shim::lane() ^ (bits), __LINE__)
#define __shfl_up_sync(mask, value, by) shim::take(mask, value, shim::lane() - (by), __LINE__)
#define __shfl_down_sync(mask, value, by) shim::take(mask, value, shim::lane() + (by), __LINE__)
#define __ballot_sync(mask, value) shim::ballot(mask, value, __LINE__)
#define __any_sync(mask, value) (shim::ballot(mask, value, __LINE__) != 0)
#define __all_sync(mask, value) (shim::ballot(mask, !(value), __LINE__) == 0)

inline void __threadfence() {}
inline float __uint_as_float(unsigned bits) { return shim::from_bits<float>(bits); }
inline unsigned __float_as_uint(float x) { return static_cast<unsigned>(shim::to_bits(x)); }
inline float __int_as_float(int bits) { return shim::from_bits<float>(unsigned(bits)); }
inline int __float_as_int(float x) { return static_cast<int>(shim::to_bits(x)); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <typename T>
T __ldg(const T* place) {
  return *place;
}
template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 4; i++) sum += int8_t(a >> 8 * i) * int8_t(b >> 8 * i);
  return sum;
}
// Threads take turns only where they wait, so plain arithmetic is atomic.
template <typename T, typename U>
T atomicAdd(T* place, U value) {
  return shim::add_at(place, static_cast<T>(value));
}
template <typename T, typename U>
T atomicMax(T* place, U value) {
  const T before = *place;
  *place = max(before, static_cast<T>(value));
  return before;
}
template <typename T, typename U>
T atomicExch(T* place, U value) {
  const T before = *place;
  *place = static_cast<T>(value);
  return before;
}
