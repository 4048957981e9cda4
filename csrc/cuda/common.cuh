// What the CUDA kernels share. Every reduction here is a fixed tree over a fixed number of threads: the bits of a
// result depend on neither the batch nor the launch.
#pragma once

#include "common/params.h"
#include "cuda/device.cuh"

namespace assay::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// Every lane gets the result.
__device__ inline float warp_sum(float value) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
}

__device__ inline float warp_max(float value) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, step));
  return value;
}

// NaN goes through every one of them, as on the CPU.
__device__ inline float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kGeluErf:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case Activation::kGeluTanh: {
      const float u = 0.79788456f * (x + 0.044715f * x * x * x);
      return x / (1.0f + expf(-2.0f * u));
    }
    case Activation::kGeluQuick:
      return x / (1.0f + expf(-1.702f * x));
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;
    case Activation::kSilu:
      return x / (1.0f + expf(-x));
    case Activation::kTanh:
      return tanhf(x);
    case Activation::kNone:
      break;
  }
  return x;
}

}  // namespace assay::cuda
