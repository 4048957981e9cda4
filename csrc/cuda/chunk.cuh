// Eight numbers at a time, as float32 in registers: 16-byte accesses where addresses allow, single elements elsewhere.
#pragma once

#include <cstdint>

#include "cuda/convert.cuh"
#include "cuda/device.cuh"

namespace assay::cuda {

constexpr int kChunk = 8;
constexpr std::uintptr_t kVectorBytes = 16;

// Chunks at `pointer` and at every multiple of `stride` elements of `element_size` bytes from it can be vectors. A
// null pointer is never accessed.
inline bool has_vector_rows(const void* pointer, std::int64_t stride, std::size_t element_size) {
  const auto row_bytes = static_cast<std::uintptr_t>(stride) * element_size;
  return reinterpret_cast<std::uintptr_t>(pointer) % kVectorBytes == 0 && row_bytes % kVectorBytes == 0;
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Through the intrinsic: a plain assignment the compiler may break up into words or halves.
__device__ inline void store_vectors(float* to, const float (&x)[kChunk]) {
  __stwb(reinterpret_cast<float4*>(to), make_float4(x[0], x[1], x[2], x[3]));
  __stwb(reinterpret_cast<float4*>(to + 4), make_float4(x[4], x[5], x[6], x[7]));
}
template <typename T>
__device__ inline void store_vectors(T* to, const float (&x)[kChunk]) {
  __stwb(reinterpret_cast<uint4*>(to), make_uint4(pack_pair<T>(x[0], x[1]), pack_pair<T>(x[2], x[3]),
                                                  pack_pair<T>(x[4], x[5]), pack_pair<T>(x[6], x[7])));
}

// What 16 bytes hold.
template <typename T>
struct alignas(16) Vector {
  T values[kVectorBytes / sizeof(T)];
};

// x[i] = from[i] for i < count, which is kChunk where is_vector; the rest of x is 0.
template <typename T>
__device__ inline void load_chunk(const T* from, int count, bool is_vector, float (&x)[kChunk]) {
  if (is_vector) {
    constexpr int kPerVector = static_cast<int>(kVectorBytes / sizeof(T));
#pragma unroll
    for (int first = 0; first < kChunk; first += kPerVector) {
      const Vector<T> vector = *reinterpret_cast<const Vector<T>*>(from + first);
#pragma unroll
      for (int i = 0; i < kPerVector; ++i) x[first + i] = to_float(vector.values[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) x[i] = i < count ? to_float(from[i]) : 0.0f;
}

template <typename T>
__device__ inline void store_chunk(T* to, int count, bool is_vector, const float (&x)[kChunk]) {
  if (is_vector) return store_vectors(to, x);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < count) to[i] = from_float<T>(x[i]);
  }
}

}  // namespace assay::cuda
