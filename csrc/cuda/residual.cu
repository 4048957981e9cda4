// A block per row. A thread holds every kThreads-th group of four columns, so nothing of a row leaves the block between
// its norms; statistics are float32, in two passes, summed by a fixed tree.
#include "cuda/common.cuh"
#include "cuda/convert.cuh"
#include "cuda/device.cuh"
#include "cuda/launch_kernel.h"
#include "cuda/residual.h"

namespace assay::cuda {
namespace {

constexpr int kUnit = 4;

// Sum over the block, in every thread. `shared` has a float per warp and is free again at the next barrier.
template <int kThreads>
__device__ float block_sum(float value, float* shared) {
  constexpr int kWarps = kThreads / kWarpSize;
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float sum = shared[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) sum += shared[warp];
  return sum;
}

// One row, spread over a block.
template <int kThreads, int kUnits>
struct Row {
  float values[kUnits][kUnit];
  int hidden_size;

  __device__ explicit Row(std::int64_t size) : values{}, hidden_size(static_cast<int>(size)) {}

  static __device__ int column(int unit) { return (static_cast<int>(threadIdx.x) + unit * kThreads) * kUnit; }

  // f(values of four columns, their first column) for the columns of this thread.
  template <typename Function>
  __device__ void for_each(Function f) {
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) {
      if (column(unit) < hidden_size) f(values[unit], column(unit));
    }
  }

  template <typename T>
  __device__ void load(const T* row) {
    for_each([&](float (&x)[kUnit], int col) { load_unit(row + col, x); });
  }
  template <typename T>
  __device__ void store(T* row) {
    for_each([&](float (&x)[kUnit], int col) { store_unit(row + col, x); });
  }

  __device__ void normalise(const NormView& norm, float* shared) {
    if (norm.weight == nullptr) return;
    const float size = static_cast<float>(hidden_size);
    float mean = 0.0f;
    if (norm.kind == NormKind::kLayer) {
      float sum = 0.0f;
      for_each([&](float (&x)[kUnit], int) { sum += (x[0] + x[1]) + (x[2] + x[3]); });
      mean = block_sum<kThreads>(sum, shared) / size;
    }
    float squares = 0.0f;
    for_each([&](float (&x)[kUnit], int) {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) squares = fmaf(x[i] - mean, x[i] - mean, squares);
    });
    const float scale = 1.0f / sqrtf(block_sum<kThreads>(squares, shared) / size + norm.epsilon);
    for_each([&](float (&x)[kUnit], int col) {
      float weight[kUnit], bias[kUnit] = {};
      load_unit(norm.weight + col, weight);
      if (norm.bias != nullptr) load_unit(norm.bias + col, bias);
#pragma unroll
      for (int i = 0; i < kUnit; ++i) x[i] = (x[i] - mean) * scale * weight[i] + bias[i];
    });
  }
};

template <typename T, int kThreads, int kUnits>
__global__ void __launch_bounds__(kThreads) residual_kernel(ResidualParams p) {
  __shared__ float shared[kThreads / kWarpSize];
  const std::int64_t row = blockIdx.x;
  if (p.num_rows != nullptr && row >= *p.num_rows) return;
  float* const stream = p.stream + row * p.hidden_size;
  Row<kThreads, kUnits> sum(p.hidden_size);
  sum.load(stream);
  if (p.delta != nullptr) {
    Row<kThreads, kUnits> delta(p.hidden_size);
    delta.load(static_cast<const T*>(p.delta) + row * p.hidden_size);
    delta.normalise(p.out_norm, shared);
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) sum.values[unit][i] += delta.values[unit][i];
    }
  }
  sum.normalise(p.residual_norm, shared);
  if (p.delta != nullptr || p.residual_norm.weight != nullptr) sum.store(stream);
  if (p.out == nullptr) return;
  sum.normalise(p.in_norm, shared);
  sum.store(static_cast<T*>(p.out) + row * p.hidden_size);
}

// The shape of a block depends on hidden_size alone.
template <typename T>
void launch_type(const ResidualParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.max_rows));
  const auto run = [&](auto kernel, int threads) { launch_kernel(kernel, grid, dim3(threads), 0, stream, p); };
  if (p.hidden_size <= 128 * kUnit) return run(residual_kernel<T, 128, 1>, 128);
  if (p.hidden_size <= 256 * kUnit) return run(residual_kernel<T, 128, 2>, 128);
  if (p.hidden_size <= 1024 * kUnit) return run(residual_kernel<T, 256, 4>, 256);
  run(residual_kernel<T, 512, 4>, 512);
}

}  // namespace

void launch_residual(const ResidualParams& params, cudaStream_t stream) {
  if (params.max_rows == 0) return;
  switch (params.dtype) {
    case DType::kFloat16:
      return launch_type<__half>(params, stream);
    case DType::kBFloat16:
      return launch_type<__nv_bfloat16>(params, stream);
    default:
      return launch_type<float>(params, stream);
  }
}

}  // namespace assay::cuda
