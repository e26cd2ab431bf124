// Tensor cores and the copies that feed them, as the PTX ISA defines them for sm_80 and later.
//
// A fragment is the part of a matrix that one lane of a warp holds. Which part is a plain function
// of the lane and the register, below, so that it is tested on the host, where the shim computes the
// same instructions.
#pragma once
#include "kernel.cuh"

namespace naru {

// mma.m16n8k16, PTX ISA s. "Matrix Fragments for mma.m16n8k16": where a lane's values stand.
// A [16, 16]: register 0..3 holds columns `fragment_a_column` and the next of `fragment_a_row`.
__host__ __device__ constexpr unsigned fragment_a_row(unsigned lane, unsigned reg) {
  return lane / 4 + reg % 2 * 8;
}
__host__ __device__ constexpr unsigned fragment_a_column(unsigned lane, unsigned reg) {
  return lane % 4 * 2 + reg / 2 * 8;
}
// B [16, 8]: register 0..1 holds rows `fragment_b_row` and the next of `fragment_b_column`.
__host__ __device__ constexpr unsigned fragment_b_row(unsigned lane, unsigned reg) {
  return lane % 4 * 2 + reg * 8;
}
__host__ __device__ constexpr unsigned fragment_b_column(unsigned lane, unsigned) {
  return lane / 4;
}
// C and D [16, 8] in f32: value 0..3.
__host__ __device__ constexpr unsigned fragment_c_row(unsigned lane, unsigned value) {
  return lane / 4 + value / 2 * 8;
}
__host__ __device__ constexpr unsigned fragment_c_column(unsigned lane, unsigned value) {
  return lane % 4 * 2 + value % 2;
}

// Two values in one register, the first in the lower half.
__device__ __forceinline__ unsigned pack(bf16 low, bf16 high) {
  return low.bits | static_cast<unsigned>(high.bits) << 16;
}
__device__ __forceinline__ unsigned pack(f16 low, f16 high) {
  return low.bits | static_cast<unsigned>(high.bits) << 16;
}

#ifdef NARU_SHIM

namespace emulated {

struct Fragments {
  unsigned a[4], b[2];
};

template <typename T>
float half_of(unsigned pair, unsigned which) {
  return to_float(T{static_cast<unsigned short>(pair >> 16 * which)});
}

// What a lane reads of the matrices whose rows the lanes' addresses name, eight lanes a matrix.
inline void load_matrices(unsigned* out, unsigned count, const void* row, bool transposed) {
  const unsigned lane = shim::lane();
  const uint64_t* rows = shim::exchange(kAllLanes, shim::to_bits(row), -1);
  for (unsigned matrix = 0; matrix < count; matrix++) {
    unsigned short pair[2];
    for (unsigned i = 0; i < 2; i++) {
      const unsigned along = lane % 4 * 2 + i, across = lane / 4;
      const unsigned r = transposed ? along : across, c = transposed ? across : along;
      pair[i] = shim::from_bits<const unsigned short*>(rows[matrix * 8 + r])[c];
    }
    out[matrix] = pair[0] | static_cast<unsigned>(pair[1]) << 16;
  }
  // Nobody overwrites shared memory that another lane still reads.
  shim::exchange(kAllLanes, 0, -2);
}

}  // namespace emulated

// d [16, 8] += a [16, 16] · b [16, 8], all lanes of a warp together.
template <typename T>
void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  const unsigned lane = shim::lane();
  emulated::Fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const auto* mine_at = &mine;
  const uint64_t* all = shim::exchange(kAllLanes, shim::to_bits(mine_at), -3);
  float whole_a[16][16], whole_b[16][8];
  for (unsigned from = 0; from < 32; from++) {
    const auto* theirs = shim::from_bits<const emulated::Fragments*>(all[from]);
    for (unsigned i = 0; i < 2; i++) {
      // Only what this lane multiplies, which is an eighth.
      for (unsigned r = 0; r < 4; r++) {
        if (fragment_a_row(from, r) % 8 != fragment_c_row(lane, 0)) continue;
        whole_a[fragment_a_row(from, r)][fragment_a_column(from, r) + i] =
            emulated::half_of<T>(theirs->a[r], i);
      }
      for (unsigned r = 0; r < 2; r++) {
        if (fragment_b_column(from, r) / 2 != fragment_c_column(lane, 0) / 2) continue;
        whole_b[fragment_b_row(from, r) + i][fragment_b_column(from, r)] =
            emulated::half_of<T>(theirs->b[r], i);
      }
    }
  }
  for (unsigned v = 0; v < 4; v++) {
    const unsigned row = fragment_c_row(lane, v), column = fragment_c_column(lane, v);
    for (unsigned k = 0; k < 16; k++) d[v] += whole_a[row][k] * whole_b[k][column];
  }
  shim::exchange(kAllLanes, 0, -4);
}

// Four matrices of 8 x 8 halves from shared memory; lane `i` names row `i % 8` of matrix `i / 8`.
inline void load_matrices(unsigned (&out)[4], const void* row) {
  emulated::load_matrices(out, 4, row, false);
}
inline void load_matrices_transposed(unsigned (&out)[4], const void* row) {
  emulated::load_matrices(out, 4, row, true);
}

// 16 bytes from global to shared memory, or zeros where `is_there` is false.
inline void copy_async(void* shared, const void* global, bool is_there = true) {
  if (is_there) {
    std::memcpy(shared, global, 16);
  } else {
    std::memset(shared, 0, 16);
  }
}
inline void commit_copies() {}
template <int kPending>
void wait_for_copies() {}

#else

template <typename T>
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

template <>
__device__ __forceinline__ void mma<bf16>(float (&d)[4], const unsigned (&a)[4],
                                          const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma<f16>(float (&d)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ void load_matrices(unsigned (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(unsigned (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void copy_async(void* shared, const void* global, bool is_there = true) {
  // Fewer source bytes than 16: the rest is zeros.
  const unsigned bytes = is_there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#endif

}  // namespace naru
