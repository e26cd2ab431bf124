// Weights as a device holds them: per format, how a lane reads a unit of a row and what floats the
// unit stands for. src/cuda/matrix.rs says how a row is laid out and writes it.
//
// A unit is what a lane reads in one go: 16 bytes of the weights' own bits (32 of F32) and the
// scales that go with them. Reading and decoding are apart, so that the first can run ahead.
// `kAhead` units of a row are worth reading before the first is decoded.
// A unit decodes into octets, eight consecutive weights each: `value[i] * scale`.
//
// Small unsigned integers become floats without a conversion: put into the fraction of 2^n, where
// their lowest bit counts one, they are 2^n more than they should be, and the difference is exact.
#pragma once
#include "kernel.cuh"

namespace naru {

struct Octet {
  float value[8];
  float scale;
};

__host__ __device__ constexpr unsigned plane_bytes(unsigned bytes) { return (bytes + 15) & ~15u; }

template <typename T>
__device__ __forceinline__ T load(const unsigned char* place) {
  return __ldg(reinterpret_cast<const T*>(place));
}

// Word `i` of four; `i` is known when the loop around it is unrolled.
__device__ __forceinline__ unsigned word_of(const uint4& words, unsigned i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// The bits of `word` that `mask` has, or those of `more`: one instruction with both in registers,
// where the compiler makes two of it that have them as immediates.
__device__ __forceinline__ unsigned masked_or(unsigned word, unsigned mask, unsigned more) {
#ifdef NARU_SHIM
  return (word & mask) | more;
#else
  unsigned out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(word), "r"(mask), "r"(more));
  return out;
#endif
}

// The integer that `mask` cuts out of `word`, less `offset`. Its lowest bit is bit `at`, its
// highest below bit 23.
__device__ __forceinline__ float fraction_to_float(unsigned word, unsigned mask, unsigned at,
                                                   float offset) {
  const float magic = static_cast<float>(1u << (23 - at));
  return __uint_as_float(masked_or(word, mask, (150 - at) << 23)) - (magic + offset);
}

__device__ __forceinline__ float half_to_float(unsigned bits) {
  return to_float(f16{static_cast<unsigned short>(bits)});
}

// `word` with bit `from` at `to`.
__device__ __forceinline__ unsigned move(unsigned word, unsigned from, unsigned to) {
  return from > to ? word >> (from - to) : word << (to - from);
}

// F32, F16 and Bf16.
template <typename T>
struct Floats {
  static constexpr unsigned kValues = 8;
  static constexpr unsigned kWords = sizeof(T) / 2;
  static constexpr unsigned kAhead = 4 / kWords;
  struct Unit {
    uint4 bits[kWords];
  };

  static __device__ __forceinline__ Unit read(const unsigned char* row, unsigned, unsigned unit) {
    Unit out;
#pragma unroll
    for (unsigned i = 0; i < kWords; i++) {
      out.bits[i] = load<uint4>(row + (size_t(unit) * kWords + i) * 16);
    }
    return out;
  }

  static __device__ __forceinline__ Octet decode(const Unit& unit, unsigned) {
    Octet out;
#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
      if constexpr (sizeof(T) == 4) {
        out.value[i] = __uint_as_float(word_of(unit.bits[i / 4], i % 4));
      } else {
        const unsigned pair = word_of(unit.bits[0], i / 2);
        out.value[i] = to_float(T{static_cast<unsigned short>(pair >> i % 2 * 16)});
      }
    }
    out.scale = 1.0f;
    return out;
  }
};

struct Q8_0 {
  static constexpr unsigned kValues = 16;
  static constexpr unsigned kAhead = 4;
  struct Unit {
    uint4 bits;
    unsigned short d;
  };

  static __device__ __forceinline__ Unit read(const unsigned char* row, unsigned columns,
                                              unsigned unit) {
    return {load<uint4>(row + size_t(unit) * 16),
            load<unsigned short>(row + columns + unit / 2 * 2)};
  }

  static __device__ __forceinline__ Octet decode(const Unit& unit, unsigned octet) {
    Octet out;
#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
      // Signed bytes plus 128.
      const unsigned word = word_of(unit.bits, octet * 2 + i / 4) ^ 0x80808080u;
      const unsigned at = i % 2 * 8;
      out.value[i] = fraction_to_float(word >> i / 2 % 2 * 16, 0xffu << at, at, 128.0f);
    }
    out.scale = half_to_float(unit.d);
    return out;
  }
};

struct F8E4M3 {
  static constexpr unsigned kValues = 16;
  static constexpr unsigned kAhead = 4;
  struct Unit {
    uint4 bits;
    float scale;
  };

  static __device__ __forceinline__ Unit read(const unsigned char* row, unsigned columns,
                                              unsigned unit) {
    return {load<uint4>(row + size_t(unit) * 16), load<float>(row + (columns + 31) / 32 * 32)};
  }

  static __device__ __forceinline__ Octet decode(const Unit& unit, unsigned octet) {
    Octet out;
#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
      const unsigned top = word_of(unit.bits, octet * 2 + i / 4) << (3 - i % 4) * 8;
      // Sign, exponent and fraction where a 32-bit float has them; the exponents differ by 120, of
      // what is below the normal range too.
      const int bits = static_cast<int>(top) >> 4;
      out.value[i] = __uint_as_float(static_cast<unsigned>(bits) & 0x87f00000u) * 0x1p120f;
    }
    out.scale = unit.scale;
    return out;
  }
};

// The scales of a block of 32: a raw form, and scale and minimum of an octet of the block.
struct Affine {
  float scale, minimum;
};

// One scale: Q4_0 and Q5_0.
struct Scale {
  static constexpr bool kHasMinimum = false;
  using Raw = unsigned short;
  static __device__ __forceinline__ Raw read(const unsigned char* plane, unsigned,
                                             unsigned block) {
    return load<unsigned short>(plane + block * 2);
  }
  static __device__ __forceinline__ Affine of(Raw raw, unsigned) {
    return {half_to_float(raw), 0.0f};
  }
};

// A scale and a minimum: Q4_1 and Q5_1.
struct ScaleMinimum {
  static constexpr bool kHasMinimum = true;
  using Raw = unsigned;
  static __device__ __forceinline__ Raw read(const unsigned char* plane, unsigned,
                                             unsigned block) {
    return load<unsigned>(plane + block * 4);
  }
  static __device__ __forceinline__ Affine of(Raw raw, unsigned) {
    return {half_to_float(raw), half_to_float(raw >> 16)};
  }
};

// The header of a superblock of Q4_K and Q5_K: d and dmin, then 6 bits of scale and of minimum for
// each of 8 blocks in 12 bytes.
struct Header {
  static constexpr bool kHasMinimum = true;
  struct Raw {
    uint4 words;
    unsigned block;
  };
  static __device__ __forceinline__ Raw read(const unsigned char* plane, unsigned,
                                             unsigned block) {
    return {load<uint4>(plane + block / 8 * 16), block % 8};
  }
  static __device__ __forceinline__ Affine of(const Raw& raw, unsigned) {
    const unsigned shift = raw.block % 4 * 8;
    const unsigned a = raw.words.y >> shift, b = raw.words.z >> shift, c = raw.words.w >> shift;
    const bool is_low = raw.block < 4;
    const unsigned scale = is_low ? a & 63 : (c & 15) | (a >> 2 & 48);
    const unsigned minimum = is_low ? b & 63 : (c >> 4 & 15) | (b >> 2 & 48);
    return {half_to_float(raw.words.x) * fraction_to_float(scale, 63, 0, 0.0f),
            -half_to_float(raw.words.x >> 16) * fraction_to_float(minimum, 63, 0, 0.0f)};
  }
};

// Two signed bytes for a block, a scale of the superblock: Q6_K.
struct ScalePair {
  static constexpr bool kHasMinimum = false;
  struct Raw {
    unsigned short bytes, d;
  };
  static __device__ __forceinline__ Raw read(const unsigned char* plane, unsigned columns,
                                             unsigned block) {
    const unsigned char* d = plane + plane_bytes(columns / 16);
    return {load<unsigned short>(plane + block * 2), load<unsigned short>(d + block / 8 * 2)};
  }
  static __device__ __forceinline__ Affine of(const Raw& raw, unsigned octet) {
    const unsigned byte = raw.bytes >> octet / 2 * 8 ^ 0x80;
    return {half_to_float(raw.d) * fraction_to_float(byte, 0xff, 0, 128.0f), 0.0f};
  }
};

// Blocks of 32 values of 4 bits, and `kUpper` more of each in a plane of their own.
template <unsigned kUpper, typename Scales, unsigned kOffset>
struct Nibbles {
  static constexpr unsigned kValues = 32;
  static constexpr unsigned kAhead = 2;
  struct Unit {
    uint4 low;
    uint2 upper;
    typename Scales::Raw scales;
  };

  static __device__ __forceinline__ Unit read(const unsigned char* row, unsigned columns,
                                              unsigned unit) {
    Unit out;
    out.low = load<uint4>(row + size_t(unit) * 16);
    const unsigned char* upper = row + columns / 2;
    if (kUpper == 1) out.upper.x = load<unsigned>(upper + unit * 4);
    if (kUpper == 2) out.upper = load<uint2>(upper + unit * 8);
    const unsigned char* scales = upper + plane_bytes(columns / 8 * kUpper);
    out.scales = Scales::read(scales, columns, unit);
    return out;
  }

  static __device__ __forceinline__ Octet decode(const Unit& unit, unsigned octet) {
    Octet out;
    const unsigned low = word_of(unit.low, octet);
    const Affine affine = Scales::of(unit.scales, octet);
#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
      // Five nibbles fit in the fraction where they stand, the others further down.
      const unsigned down = i < 5 ? 0 : 12, at = 4 * i - down;
      const unsigned mask = kUpper == 0 ? 15u : kUpper == 1 ? 31u : 63u;
      unsigned word = low >> down;
      if (kUpper == 1) {
        word = masked_or(word, 15u << at, move(unit.upper.x, octet * 8 + i, at + 4) & 16u << at);
      }
      if (kUpper == 2) {
        const unsigned half = octet < 2 ? unit.upper.x : unit.upper.y;
        const unsigned pair = move(half, octet % 2 * 16 + i * 2, at + 4);
        word = masked_or(word, 15u << at, pair & 48u << at);
      }
      const float level = fraction_to_float(word, mask << at, at, static_cast<float>(kOffset));
      out.value[i] = Scales::kHasMinimum ? fmaf(level, affine.scale, affine.minimum) : level;
    }
    out.scale = Scales::kHasMinimum ? 1.0f : affine.scale;
    return out;
  }
};

using Q4_0 = Nibbles<0, Scale, 8>;
using Q4_1 = Nibbles<0, ScaleMinimum, 0>;
using Q5_0 = Nibbles<1, Scale, 16>;
using Q5_1 = Nibbles<1, ScaleMinimum, 0>;
using Q4_K = Nibbles<0, Header, 0>;
using Q5_K = Nibbles<1, Header, 0>;
using Q6_K = Nibbles<2, ScalePair, 32>;

}  // namespace naru

// `apply(name, format)` for every format, in the order of WeightFormat.
#define NARU_EVERY_FORMAT(apply)      \
  apply(f32, naru::Floats<float>)     \
  apply(f16, naru::Floats<naru::f16>) \
  apply(bf16, naru::Floats<naru::bf16>) \
  apply(q4_0, naru::Q4_0)             \
  apply(q4_1, naru::Q4_1)             \
  apply(q5_0, naru::Q5_0)             \
  apply(q5_1, naru::Q5_1)             \
  apply(q8_0, naru::Q8_0)             \
  apply(q4_k, naru::Q4_K)             \
  apply(q5_k, naru::Q5_K)             \
  apply(q6_k, naru::Q6_K)             \
  apply(f8e4m3, naru::F8E4M3)
