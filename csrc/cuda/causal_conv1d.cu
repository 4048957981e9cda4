// causal_conv1d: each channel of a token summed with those of the few tokens before it.
#include "cuda/common.cuh"
#include "cuda/launch_kernel.h"
#include "cuda/launch_recurrence.h"

namespace assay::cuda {
namespace {

constexpr int kConvChannels = 64;  // threads beside each other
constexpr int kConvTokens = 16;    // a thread's, one after the other

// The last sequence that starts at or before `token`; empty ones before it do not count.
__device__ inline std::int64_t sequence_of(const std::int32_t* cu_seqlens, std::int64_t num_seqs, std::int64_t token) {
  std::int64_t low = 0, high = num_seqs;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (cu_seqlens[middle] <= token ? low : high) = middle;
  }
  return low;
}

// Block (kConvTokens tokens, kConvChannels channels). Terms are added oldest first; those before the sequence are left
// out.
__global__ void __launch_bounds__(kConvChannels) causal_conv1d_kernel(CausalConv1dParams p) {
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.y) * kConvChannels + threadIdx.x;
  if (channel >= p.num_channels) return;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kConvTokens;
  const std::int64_t end = begin + kConvTokens < p.num_tokens ? begin + kConvTokens : p.num_tokens;
  std::int64_t seq = sequence_of(p.cu_seqlens, p.num_seqs, begin);
  const float bias = p.bias == nullptr ? 0.0f : p.bias[channel];
  for (std::int64_t token = begin; token < end; ++token) {
    while (seq + 1 < p.num_seqs && p.cu_seqlens[seq + 1] <= token) ++seq;
    const std::int64_t depth = token - p.cu_seqlens[seq] + 1;
    const std::int64_t steps = depth < p.width ? depth : p.width;
    const float* x = p.x + (token - steps + 1) * p.x_stride + channel;
    const float* weight = p.weight + (p.width - steps) * p.num_channels + channel;
    float sum = bias;
    for (std::int64_t step = 0; step < steps; ++step) {
      sum = fmaf(x[step * p.x_stride], weight[step * p.num_channels], sum);
    }
    p.out[token * p.out_stride + channel] = activate(p.activation, sum);
  }
}

}  // namespace

void launch_causal_conv1d(const CausalConv1dParams& params, cudaStream_t stream) {
  const CausalConv1dParams& p = params;
  if (p.num_tokens == 0) return;
  const dim3 grid(static_cast<unsigned>((p.num_tokens + kConvTokens - 1) / kConvTokens),
                  static_cast<unsigned>((p.num_channels + kConvChannels - 1) / kConvChannels));
  launch_kernel(causal_conv1d_kernel, grid, dim3(kConvChannels), 0, stream, p);
}

}  // namespace assay::cuda
