// classifier_head: [dense + activation] -> classifier -> affine -> activation per row. The products are tiny beside the
// encoder; what counts is that an element's order of sums never depends on the number of rows, which no BLAS promises.
#include "cuda/common.cuh"
#include "cuda/launch.h"
#include "cuda/launch_kernel.h"

namespace assay::cuda {
namespace {

constexpr int kTile = 32;                            // rows, columns and depth of a block's tile
constexpr int kPerThread = 2;                        // outputs of a thread in each direction
constexpr int kThreadsPerSide = kTile / kPerThread;  // 16 x 16 threads
constexpr int kHeadThreads = 128;                    // one block per row of logits
constexpr int kHeadWarps = kHeadThreads / kWarpSize;

// tile[r][c] = matrix[row0 + r][col0 + c], zero outside.
__device__ void load_tile(const float* matrix, std::int64_t row0, std::int64_t num_rows, std::int64_t col0,
                          std::int64_t num_cols, float (*tile)[kTile + 1]) {
  const int thread = static_cast<int>(threadIdx.y) * kThreadsPerSide + static_cast<int>(threadIdx.x);
  for (int i = thread; i < kTile * kTile; i += kThreadsPerSide * kThreadsPerSide) {
    const std::int64_t row = row0 + i / kTile, col = col0 + i % kTile;
    tile[i / kTile][i % kTile] = row < num_rows && col < num_cols ? matrix[row * num_cols + col] : 0.0f;
  }
}

// dense_buffer = activation(pooled @ dense_weight^T + dense_bias). Depth is summed in tiles and the tiles in order.
__global__ void dense_kernel(HeadParams p) {
  __shared__ float x[kTile][kTile + 1];  // one word of padding: rows fall on different banks
  __shared__ float w[kTile][kTile + 1];
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t col0 = static_cast<std::int64_t>(blockIdx.y) * kTile;
  float total[kPerThread][kPerThread] = {};
  for (std::int64_t depth = 0; depth < p.hidden_size; depth += kTile) {
    load_tile(p.pooled, row0, p.num_rows, depth, p.hidden_size, x);
    load_tile(p.dense_weight, col0, p.dense_size, depth, p.hidden_size, w);
    __syncthreads();
    float sum[kPerThread][kPerThread] = {};
    for (int k = 0; k < kTile; ++k) {
      for (int i = 0; i < kPerThread; ++i) {
        for (int j = 0; j < kPerThread; ++j) {
          sum[i][j] = fmaf(x[threadIdx.y + i * kThreadsPerSide][k], w[threadIdx.x + j * kThreadsPerSide][k], sum[i][j]);
        }
      }
    }
    for (int i = 0; i < kPerThread; ++i) {
      for (int j = 0; j < kPerThread; ++j) total[i][j] += sum[i][j];
    }
    __syncthreads();
  }
  for (int i = 0; i < kPerThread; ++i) {
    for (int j = 0; j < kPerThread; ++j) {
      const std::int64_t row = row0 + threadIdx.y + i * kThreadsPerSide;
      const std::int64_t col = col0 + threadIdx.x + j * kThreadsPerSide;
      if (row >= p.num_rows || col >= p.dense_size) continue;
      const float bias = p.dense_bias == nullptr ? 0.0f : p.dense_bias[col];
      p.dense_buffer[row * p.dense_size + col] = activate(p.dense_activation, total[i][j] + bias);
    }
  }
}

// Every thread gets the result. `shared` holds kHeadWarps values and is free again at the next barrier.
__device__ float block_reduce(float value, float* shared, bool is_max) {
  value = is_max ? warp_max(value) : warp_sum(value);
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float result = shared[0];
  for (int warp = 1; warp < kHeadWarps; ++warp) {
    result = is_max ? fmaxf(result, shared[warp]) : result + shared[warp];
  }
  return result;
}

// A logit that overflowed must not pass for a confident score: sigmoid(+inf) is NaN here, not 1.
__device__ float nan_unless_finite(float logit, float score) { return isfinite(logit) ? score : nanf(""); }

__device__ void softmax_row(float* row, std::int64_t num_labels, float* shared) {
  float local_max = -INFINITY;
  for (std::int64_t i = threadIdx.x; i < num_labels; i += kHeadThreads) local_max = fmaxf(local_max, row[i]);
  // Subtract the row max first: exp overflows float32 above 88.
  const float max = block_reduce(local_max, shared, /*is_max=*/true);
  float local_sum = 0.0f;
  for (std::int64_t i = threadIdx.x; i < num_labels; i += kHeadThreads) {
    const float power = nan_unless_finite(row[i], expf(row[i] - max));
    row[i] = power;
    local_sum += power;
  }
  const float sum = block_reduce(local_sum, shared, /*is_max=*/false);
  for (std::int64_t i = threadIdx.x; i < num_labels; i += kHeadThreads) row[i] = row[i] / sum;
}

// Block per row, warp per label: lane l adds terms l, l + 32, ... in order; then a fixed tree over the lanes.
__global__ void classify_kernel(HeadParams p, const float* features, std::int64_t in_features) {
  __shared__ float shared[kHeadWarps];
  const std::int64_t row = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const float* x = features + row * in_features;
  float* out = p.out + row * p.num_labels;
  for (std::int64_t label = threadIdx.x / kWarpSize; label < p.num_labels; label += kHeadWarps) {
    const float* w = p.classifier_weight + label * in_features;
    float sum = 0.0f;
    for (std::int64_t k = lane; k < in_features; k += kWarpSize) sum = fmaf(x[k], w[k], sum);
    sum = warp_sum(sum);
    if (lane == 0) {
      const float bias = p.classifier_bias == nullptr ? 0.0f : p.classifier_bias[label];
      out[label] = (sum + bias - p.logit_mean) / p.logit_sigma;
    }
  }
  __syncthreads();
  const HeadActivation activation = p.row_activations[row];
  if (activation == HeadActivation::kSoftmax) {
    softmax_row(out, p.num_labels, shared);
  } else if (activation == HeadActivation::kSigmoid) {
    for (std::int64_t i = threadIdx.x; i < p.num_labels; i += kHeadThreads) {
      out[i] = nan_unless_finite(out[i], 1.0f / (1.0f + expf(-out[i])));
    }
  }
}

}  // namespace

void launch_classifier_head(const HeadParams& params, cudaStream_t stream) {
  if (params.num_rows == 0) return;
  const bool has_dense = params.dense_weight != nullptr;
  if (has_dense) {
    const unsigned row_tiles = static_cast<unsigned>((params.num_rows + kTile - 1) / kTile);
    const unsigned col_tiles = static_cast<unsigned>((params.dense_size + kTile - 1) / kTile);
    const dim3 block(kThreadsPerSide, kThreadsPerSide);
    launch_kernel(dense_kernel, dim3(row_tiles, col_tiles), block, 0, stream, params);
  }
  const float* features = has_dense ? params.dense_buffer : params.pooled;
  const std::int64_t in_features = has_dense ? params.dense_size : params.hidden_size;
  const unsigned num_rows = static_cast<unsigned>(params.num_rows);
  launch_kernel(classify_kernel, dim3(num_rows), dim3(kHeadThreads), 0, stream, params, features, in_features);
}

}  // namespace assay::cuda
