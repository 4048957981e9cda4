// pool: one row per sequence.
#include "cuda/chunk.cuh"
#include "cuda/common.cuh"
#include "cuda/dtype.h"
#include "cuda/launch.h"
#include "cuda/launch_kernel.h"

namespace assay::cuda {
namespace {

constexpr int kPoolLanes = 16;  // threads beside each other: a chunk of columns each
constexpr int kPoolCols = kPoolLanes * kChunk;
constexpr int kPoolStrands = 16;  // tokens read at a time

// This thread's columns.
struct PoolCols {
  std::int64_t first;
  int count;  // none at the right edge
  __device__ explicit PoolCols(std::int64_t hidden_size)
      : first(static_cast<std::int64_t>(blockIdx.y) * kPoolCols + threadIdx.x * kChunk) {
    const std::int64_t left = hidden_size - first;
    count = static_cast<int>(left < 0 ? 0 : left < kChunk ? left : kChunk);
  }
};

// Block (sequence, kPoolCols columns). Strand s adds tokens s, s + 16, ... in order; then the strands are added in
// order. A sequence without tokens gives NaN.
template <typename T>
__global__ void __launch_bounds__(kPoolLanes* kPoolStrands) pool_mean_kernel(DevicePoolParams p, bool is_vector) {
  __shared__ float strands[kPoolStrands][kPoolLanes][kChunk + 1];  // one word of padding: lanes fall on other banks
  const std::int64_t seq = blockIdx.x;
  const PoolCols cols(p.hidden_size);
  const std::int64_t first = p.cu_seqlens[seq], last = p.cu_seqlens[seq + 1];
  float sum[kChunk] = {};
  if (cols.count > 0) {
    for (std::int64_t token = first + threadIdx.y; token < last; token += kPoolStrands) {
      float x[kChunk];
      load_chunk(static_cast<const T*>(p.hidden_states) + token * p.hidden_stride + cols.first, cols.count, is_vector,
                 x);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) sum[i] += x[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) strands[threadIdx.y][threadIdx.x][i] = sum[i];
  __syncthreads();
  if (threadIdx.y != 0 || cols.count == 0) return;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    float total = 0.0f;
    for (int strand = 0; strand < kPoolStrands; ++strand) total += strands[strand][threadIdx.x][i];
    sum[i] = total / static_cast<float>(last - first);
  }
  store_chunk(p.out + seq * p.hidden_size + cols.first, cols.count, is_vector, sum);
}

// Thread per chunk of a sequence's row.
template <typename T>
__global__ void __launch_bounds__(kPoolLanes) pool_one_token_kernel(DevicePoolParams p, bool is_vector) {
  const std::int64_t seq = blockIdx.x;
  const PoolCols cols(p.hidden_size);
  if (cols.count == 0) return;
  const std::int64_t first = p.cu_seqlens[seq], last = p.cu_seqlens[seq + 1];
  const std::int64_t token = p.pooling == Pooling::kCls ? first : last - 1;
  float x[kChunk];
  if (first < last) {
    load_chunk(static_cast<const T*>(p.hidden_states) + token * p.hidden_stride + cols.first, cols.count, is_vector, x);
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[i] = nanf("");
  }
  store_chunk(p.out + seq * p.hidden_size + cols.first, cols.count, is_vector, x);
}

}  // namespace

void launch_pool(const DevicePoolParams& params, cudaStream_t stream) {
  const DevicePoolParams& p = params;
  if (p.num_seqs == 0) return;
  with_float_type(p.dtype, [&](auto element) {
    using T = decltype(element);
    const bool is_vector = p.hidden_size % kChunk == 0 &&
                           has_vector_rows(p.hidden_states, p.hidden_stride, sizeof(T)) &&
                           has_vector_rows(p.out, p.hidden_size, sizeof(float));
    const dim3 grid(static_cast<unsigned>(p.num_seqs),
                    static_cast<unsigned>((p.hidden_size + kPoolCols - 1) / kPoolCols));
    if (p.pooling == Pooling::kMean) {
      launch_kernel(pool_mean_kernel<T>, grid, dim3(kPoolLanes, kPoolStrands), 0, stream, p, is_vector);
    } else {
      launch_kernel(pool_one_token_kernel<T>, grid, dim3(kPoolLanes), 0, stream, p, is_vector);
    }
  });
}

}  // namespace assay::cuda
