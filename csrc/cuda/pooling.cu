// pool: one row per sequence.
#include "cuda/common.cuh"
#include "cuda/launch.h"

namespace assay::cuda {
namespace {

constexpr int kPoolCols = kWarpSize;  // columns per block: one 128-byte line per token
constexpr int kPoolStrands = 16;      // tokens read at a time
constexpr int kCopyThreads = 256;

// Block (sequence, 32 columns). Strand s adds tokens s, s + 16, ... in order; then the strands are added in order.
__global__ void pool_mean_kernel(PoolParams p) {
  __shared__ float strands[kPoolStrands][kPoolCols];
  const std::int64_t seq = blockIdx.x;
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.y) * kPoolCols + threadIdx.x;
  const std::int64_t first = p.cu_seqlens[seq], last = p.cu_seqlens[seq + 1];
  float sum = 0.0f;
  if (col < p.hidden_size) {
    for (std::int64_t token = first + threadIdx.y; token < last; token += kPoolStrands) {
      sum += p.hidden_states[token * p.hidden_stride + col];
    }
  }
  strands[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || col >= p.hidden_size) return;
  float total = 0.0f;
  for (int strand = 0; strand < kPoolStrands; ++strand) total += strands[strand][threadIdx.x];
  p.out[seq * p.hidden_size + col] = total / static_cast<float>(last - first);
}

// Block per sequence.
__global__ void pool_one_token_kernel(PoolParams p) {
  const std::int64_t seq = blockIdx.x;
  const std::int64_t token = p.pooling == Pooling::kCls ? p.cu_seqlens[seq] : p.cu_seqlens[seq + 1] - 1;
  for (std::int64_t col = threadIdx.x; col < p.hidden_size; col += kCopyThreads) {
    p.out[seq * p.hidden_size + col] = p.hidden_states[token * p.hidden_stride + col];
  }
}

}  // namespace

void launch_pool(const PoolParams& params, cudaStream_t stream) {
  if (params.num_seqs == 0) return;
  const unsigned num_seqs = static_cast<unsigned>(params.num_seqs);
  if (params.pooling == Pooling::kMean) {
    const unsigned col_blocks = static_cast<unsigned>((params.hidden_size + kPoolCols - 1) / kPoolCols);
    pool_mean_kernel<<<dim3(num_seqs, col_blocks), dim3(kPoolCols, kPoolStrands), 0, stream>>>(params);
  } else {
    pool_one_token_kernel<<<dim3(num_seqs), dim3(kCopyThreads), 0, stream>>>(params);
  }
  ASSAY_CUDA_CHECK(cudaGetLastError());
}

}  // namespace assay::cuda
