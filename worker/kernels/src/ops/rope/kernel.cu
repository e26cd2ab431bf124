// Rope and the KV cache: parts a token's stacked queries, keys and values; norms the heads of
// queries and keys; rotates them; and writes keys and values to their slots.
//
// in [rows, heads + 2 * kv_heads, head_dim]; queries [rows, heads, head_dim]; keys and values
// [blocks, kv_heads, 16, head_dim]; all of T. table [positions, half] pairs (cos, sin) in f32,
// where half pairs of a head are rotated. slots [rows]: block * 16 + place, or kNoSlot.
// Blocks of 256 threads; `lanes` threads, a power of two, have a head: 8 pairs of values each.
// Bytes: rows * (heads + 2 * kv_heads) * head_dim * 4: bound by memory. FLOP: about 8 a value.
// Source: RoFormer (2021) s. 3.4.
#include "../norm/norm.cuh"
#include "vector.cuh"

namespace naru {

constexpr unsigned kSlotsPerBlock = 16;
constexpr unsigned kNoSlot = 0xffffffffu;
constexpr unsigned kPairs = kVector;

struct RopeKv {
  unsigned rows, heads, kv_heads, head_dim;
  // Pairs that are rotated; whether a pair is (i, i + half) or (2 i, 2 i + 1).
  unsigned half, is_halves;
  // Threads of a head; whether these read eight values at once.
  unsigned lanes, is_vector;
};

// A thread's pairs of one head: pair `i` is x[2 * i] and x[2 * i + 1].
struct Pairs {
  const RopeKv& shape;
  unsigned lane;

  __device__ __forceinline__ unsigned pair(unsigned i) const {
    return shape.is_vector ? lane * kPairs + i : i * shape.lanes + lane;
  }

  // Where the value x[i] stands in the head; what is not rotated is paired with its neighbour.
  __device__ __forceinline__ unsigned at(unsigned i) const {
    const unsigned p = pair(i / 2);
    return shape.is_halves && p < shape.half ? p + i % 2 * shape.half : 2 * p + i % 2;
  }

  __device__ __forceinline__ bool is_there(unsigned i) const { return at(i) < shape.head_dim; }

  template <typename T>
  __device__ __forceinline__ void load(float (&x)[2 * kPairs], const T* head) const {
    if (shape.is_vector && is_there(0)) {
      float low[kVector], high[kVector];
      const bool is_split = at(1) != at(0) + 1;
      load_vector(low, head + at(0));
      load_vector(high, head + (is_split ? at(1) : at(0) + kVector));
#pragma unroll
      for (unsigned i = 0; i < kVector; i++) {
        x[2 * i] = is_split ? low[i] : i < 4 ? low[2 * i % 8] : high[2 * i % 8];
        x[2 * i + 1] = is_split ? high[i] : i < 4 ? low[2 * i % 8 + 1] : high[2 * i % 8 + 1];
      }
    } else {
#pragma unroll
      for (unsigned i = 0; i < 2 * kPairs; i++) {
        x[i] = is_there(i) ? to_float(head[at(i)]) : 0.0f;
      }
    }
  }

  template <typename T>
  __device__ __forceinline__ void store(T* head, const float (&x)[2 * kPairs]) const {
    if (shape.is_vector) {
      float low[kVector], high[kVector];
      const bool is_split = at(1) != at(0) + 1;
#pragma unroll
      for (unsigned i = 0; i < kVector; i++) {
        low[i] = is_split ? x[2 * i] : x[i];
        high[i] = is_split ? x[2 * i + 1] : x[kVector + i];
      }
      store_vector(head + at(0), low);
      store_vector(head + (is_split ? at(1) : at(0) + kVector), high);
    } else {
#pragma unroll
      for (unsigned i = 0; i < 2 * kPairs; i++) {
        if (is_there(i)) head[at(i)] = from_float<T>(x[i]);
      }
    }
  }

  __device__ __forceinline__ float sum(float x) const {
    for (unsigned step = shape.lanes / 2; step > 0; step /= 2) {
      x += __shfl_xor_sync(kAllLanes, x, step);
    }
    return x;
  }

  // All lanes of a warp come here, those too whose own head has no norm.
  __device__ __forceinline__ void normalise(float (&x)[2 * kPairs], const Norm& norm) const {
    float total = 0.0f, squares = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < 2 * kPairs; i++) total += x[i];
    total = sum(total);
    const float mean = norm.kind == Norm::kLayer ? total / shape.head_dim : 0.0f;
#pragma unroll
    for (unsigned i = 0; i < 2 * kPairs; i++) {
      if (is_there(i)) squares += (x[i] - mean) * (x[i] - mean);
    }
    const float scale = rsqrtf(sum(squares) / shape.head_dim + norm.epsilon);
    if (!norm.is_there()) return;
    float own[2 * kPairs];
    load(own, norm.weight);
#pragma unroll
    for (unsigned i = 0; i < 2 * kPairs; i++) x[i] = (x[i] - mean) * scale * norm.factor(own[i]);
    if (norm.bias == nullptr) return;
    load(own, norm.bias);
#pragma unroll
    for (unsigned i = 0; i < 2 * kPairs; i++) x[i] += own[i];
  }

  // `row` of the table: that of the token's position.
  __device__ __forceinline__ void rotate(float (&x)[2 * kPairs], const float* row) const {
#pragma unroll
    for (unsigned i = 0; i < kPairs; i++) {
      if (pair(i) >= shape.half) continue;
      const float2 turn = reinterpret_cast<const float2*>(row)[pair(i)];
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * turn.x - b * turn.y;
      x[2 * i + 1] = b * turn.x + a * turn.y;
    }
  }
};

template <typename T>
__device__ __forceinline__ void rope_kv(const T* in, const unsigned* positions,
                                        const unsigned* slots, const float* table, T* queries,
                                        T* keys, T* values, const RopeKv& shape,
                                        const Norm& query_norm, const Norm& key_norm) {
  const unsigned all_heads = shape.heads + 2 * shape.kv_heads;
  const unsigned index = blockIdx.x * (blockDim.x / shape.lanes) + threadIdx.x / shape.lanes;
  const bool is_there = index < shape.rows * all_heads;
  const unsigned row = is_there ? index / all_heads : 0, head = is_there ? index % all_heads : 0;
  const bool is_query = head < shape.heads, is_value = head >= shape.heads + shape.kv_heads;
  const Pairs pairs = {shape, threadIdx.x % shape.lanes};
  float x[2 * kPairs];
  pairs.load(x, in + (static_cast<size_t>(row) * all_heads + head) * shape.head_dim);
  if (query_norm.is_there() || key_norm.is_there()) {
    Norm norm = is_query ? query_norm : key_norm;
    if (is_value) norm.kind = Norm::kNone;
    pairs.normalise(x, norm);
  }
  if (!is_there || !pairs.is_there(0)) return;
  if (table != nullptr && !is_value) {
    pairs.rotate(x, table + static_cast<size_t>(positions[row]) * shape.half * 2);
  }
  if (is_query) {
    pairs.store(queries + (static_cast<size_t>(row) * shape.heads + head) * shape.head_dim, x);
  } else if (slots[row] != kNoSlot) {
    const unsigned kv_head = (head - shape.heads) % shape.kv_heads;
    const size_t block = slots[row] / kSlotsPerBlock, place = slots[row] % kSlotsPerBlock;
    const size_t slot = (block * shape.kv_heads + kv_head) * kSlotsPerBlock + place;
    pairs.store((is_value ? values : keys) + slot * shape.head_dim, x);
  }
}

}  // namespace naru

#define ROPE_KV(T)                                                                              \
  extern "C" __global__ void rope_kv_##T(                                                       \
      const naru::T* in, const unsigned* positions, const unsigned* slots, const float* table,  \
      naru::T* queries, naru::T* keys, naru::T* values, unsigned rows, unsigned heads,          \
      unsigned kv_heads, unsigned head_dim, unsigned half, unsigned is_halves, unsigned lanes,  \
      unsigned is_vector, unsigned query_kind, float query_epsilon, const float* query_weight,  \
      const float* query_bias, unsigned key_kind, float key_epsilon, const float* key_weight,   \
      const float* key_bias) {                                                                  \
    naru::rope_kv(in, positions, slots, table, queries, keys, values,                           \
                  {rows, heads, kv_heads, head_dim, half, is_halves, lanes, is_vector},         \
                  {query_kind, query_epsilon, query_weight, query_bias},                        \
                  {key_kind, key_epsilon, key_weight, key_bias});                               \
  }                                                                                             \
  NARU_KERNEL(rope_kv_##T)

ROPE_KV(bf16)
ROPE_KV(f16)
