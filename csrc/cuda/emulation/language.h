// What nvcc's language has and g++ lacks: __shared__, barriers, warp functions, atomics and intrinsics, with CUDA's
// names.
#pragma once

#include <math.h>  // not <cmath>: kernels call isfinite and its kin without std::

#include <cstring>

#include "cuda/emulation/block.h"

// thread_local stands for "the block's": see static_shared in block.cpp.
#undef __shared__
#define __shared__ static thread_local
#undef __launch_bounds__
#define __launch_bounds__(...)

inline void __syncthreads(assay::cuda::emulation::Location where = assay::cuda::emulation::Location::current()) {
  assay::cuda::emulation::wait_at_barrier(where);
}

namespace assay::cuda::emulation {

// What one lane brings to an exchange, and what it gets.
template <typename T>
struct Exchange {
  T value;
  int source_lane;  // -1: its own value
  T result;
};

template <typename T>
void exchange(void* const (&arguments)[kLanes]) {
  for (void* const argument : arguments) {
    if (argument == nullptr) continue;
    auto* mine = static_cast<Exchange<T>*>(argument);
    const auto* source = mine->source_lane < 0 ? mine : static_cast<Exchange<T>*>(arguments[mine->source_lane]);
    // A lane outside the mask has no value to give: poison, as on a GPU nothing is promised.
    if (source == nullptr) {
      std::memset(static_cast<void*>(&mine->result), 0xff, sizeof(T));
    } else {
      mine->result = source->value;
    }
  }
}

template <typename T>
T shuffle(unsigned mask, T value, int source_lane, Location where) {
  Exchange<T> mine{value, source_lane, value};
  run_with_warp(mask, &mine, &exchange<T>, where);
  return mine.result;
}

struct Vote {
  bool is_true;
  unsigned ballot;
};

inline void count_votes(void* const (&arguments)[kLanes]) {
  unsigned ballot = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (arguments[lane] != nullptr && static_cast<Vote*>(arguments[lane])->is_true) ballot |= 1u << lane;
  }
  for (void* const argument : arguments) {
    if (argument != nullptr) static_cast<Vote*>(argument)->ballot = ballot;
  }
}

inline void meet(void* const (&)[kLanes]) {}

}  // namespace assay::cuda::emulation

inline unsigned __ballot_sync(unsigned mask, int is_true,
                              assay::cuda::emulation::Location where = assay::cuda::emulation::Location::current()) {
  assay::cuda::emulation::Vote vote{is_true != 0, 0};
  assay::cuda::emulation::run_with_warp(mask, &vote, &assay::cuda::emulation::count_votes, where);
  return vote.ballot;
}

inline int __any_sync(unsigned mask, int is_true,
                      assay::cuda::emulation::Location where = assay::cuda::emulation::Location::current()) {
  return __ballot_sync(mask, is_true, where) != 0;
}

inline int __all_sync(unsigned mask, int is_true,
                      assay::cuda::emulation::Location where = assay::cuda::emulation::Location::current()) {
  return __ballot_sync(mask, is_true, where) == mask;
}

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       assay::cuda::emulation::Location where = assay::cuda::emulation::Location::current()) {
  int nothing = 0;
  assay::cuda::emulation::run_with_warp(mask, &nothing, &assay::cuda::emulation::meet, where);
}

// Lanes are numbered within groups of `width`; a source outside the group is the lane itself.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              assay::cuda::emulation::Location where = assay::cuda::emulation::Location::current()) {
  const int lane = assay::cuda::emulation::lane_idx();
  return assay::cuda::emulation::shuffle(mask, value, lane / width * width + (source & (width - 1)), where);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  assay::cuda::emulation::Location where = assay::cuda::emulation::Location::current()) {
  const int lane = assay::cuda::emulation::lane_idx(), source = lane ^ lane_mask;
  // CUDA lets a lane read from earlier groups, not from later ones.
  return assay::cuda::emulation::shuffle(mask, value, source / width > lane / width ? -1 : source, where);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 assay::cuda::emulation::Location where = assay::cuda::emulation::Location::current()) {
  const int lane = assay::cuda::emulation::lane_idx(), source = lane - static_cast<int>(delta);
  return assay::cuda::emulation::shuffle(mask, value, source < lane / width * width ? -1 : source, where);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   assay::cuda::emulation::Location where = assay::cuda::emulation::Location::current()) {
  const int lane = assay::cuda::emulation::lane_idx(), source = lane + static_cast<int>(delta);
  return assay::cuda::emulation::shuffle(mask, value, source / width > lane / width ? -1 : source, where);
}

// One thread runs at a time, so plain code is atomic.
template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}

template <typename T>
T atomicMax(T* address, T value) {
  const T before = *address;
  if (value > before) *address = value;
  return before;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

template <typename T>
void __stwb(T* address, T value) {
  *address = value;
}

// glibc declares functions of these names and does not define them.
#define __expf(x) std::exp(static_cast<float>(x))
#define __logf(x) std::log(static_cast<float>(x))
#define __log2f(x) std::log2(static_cast<float>(x))

inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) {
  float sum = x + y;
  asm("" : "+x"(sum));  // never part of a fused multiply-add
  return sum;
}
inline float __fmul_rn(float x, float y) {
  float product = x * y;
  asm("" : "+x"(product));
  return product;
}
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long min(long a, long b) { return a < b ? a : b; }
inline long max(long a, long b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
