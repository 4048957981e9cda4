// Four numbers at a time between memory, in any activation dtype, and float32 registers. Addresses are aligned to the
// four.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/device.cuh"

namespace assay::cuda {

inline __device__ __half2 rounded_pair(__half, float low, float high) { return __floats2half2_rn(low, high); }
inline __device__ __nv_bfloat162 rounded_pair(__nv_bfloat16, float low, float high) {
  return __floats2bfloat162_rn(low, high);
}

// Two numbers of T to and from a word: of memory, or a register of a tensor-core fragment.
template <typename T>
inline __device__ std::uint32_t pack_pair(float low, float high) {
  const auto pair = rounded_pair(T{}, low, high);
  std::uint32_t word;
  memcpy(&word, &pair, sizeof(word));
  return word;
}
template <typename T>
inline __device__ float2 unpack_pair(std::uint32_t word) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    // By hand: nvcc takes a pair of this type apart and puts it together again on the way.
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xFFFF0000u));
  } else {
    __half2 pair;
    memcpy(static_cast<void*>(&pair), &word, sizeof(word));
    return __half22float2(pair);
  }
}

template <typename T>
inline __device__ void load_unit(const T* from, float (&values)[4]) {
  const uint2 pairs = *reinterpret_cast<const uint2*>(from);
  const float2 low = unpack_pair<T>(pairs.x), high = unpack_pair<T>(pairs.y);
  values[0] = low.x;
  values[1] = low.y;
  values[2] = high.x;
  values[3] = high.y;
}
inline __device__ void load_unit(const float* from, float (&values)[4]) {
  const float4 unit = *reinterpret_cast<const float4*>(from);
  values[0] = unit.x;
  values[1] = unit.y;
  values[2] = unit.z;
  values[3] = unit.w;
}

template <typename T>
inline __device__ void store_unit(T* to, const float (&values)[4]) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_pair<T>(values[0], values[1]), pack_pair<T>(values[2], values[3]));
}
inline __device__ void store_unit(float* to, const float (&values)[4]) {
  *reinterpret_cast<float4*>(to) = make_float4(values[0], values[1], values[2], values[3]);
}

}  // namespace assay::cuda
