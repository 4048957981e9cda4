// selective_scan: Mamba's recurrence, token after token.
#include "cuda/common.cuh"
#include "cuda/launch_kernel.h"
#include "cuda/launch_recurrence.h"

namespace assay::cuda {
namespace {

constexpr int kScanLanes = 16;     // threads that share a channel's states: half a warp
constexpr int kScanChannels = 16;  // of a block
constexpr int kMaxStatesPerLane = static_cast<int>(kMaxStateSize) / kScanLanes;

// log(1 + exp(x)) without overflow. NaN comes through the second term.
__device__ inline float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// Every lane of the half warp gets the sum, in a fixed tree.
__device__ inline float lanes_sum(float value) {
  for (int step = kScanLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
}

// Block (sequence, kScanChannels channels); lane l has the states l, l + kScanLanes, ... of its channel. All lanes of a
// warp walk the same tokens, also those without a channel: they meet in lanes_sum. out may be u, delta or z, since what
// a lane reads of a token it has read before that sum, and the writing one reads z itself.
template <int kStatesPerLane>
__global__ void __launch_bounds__(kScanLanes* kScanChannels) selective_scan_kernel(SelectiveScanParams p) {
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.y) * kScanChannels + threadIdx.y;
  const bool has_channel = channel < p.num_channels;
  const std::int64_t first = p.cu_seqlens[blockIdx.x], last = p.cu_seqlens[blockIdx.x + 1];
  float a[kStatesPerLane], state[kStatesPerLane];
#pragma unroll
  for (int i = 0; i < kStatesPerLane; ++i) {
    const int s = i * kScanLanes + static_cast<int>(threadIdx.x);
    a[i] = has_channel && s < p.state_size ? p.a[s * p.num_channels + channel] : 0.0f;
    state[i] = 0.0f;
  }
  const float d = has_channel ? p.d[channel] : 0.0f;
  for (std::int64_t token = first; token < last; ++token) {
    const float u = has_channel ? p.u[token * p.u_stride + channel] : 0.0f;
    const float step = softplus(has_channel ? p.delta[token * p.delta_stride + channel] : 0.0f);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kStatesPerLane; ++i) {
      const int s = i * kScanLanes + static_cast<int>(threadIdx.x);
      const bool has_state = s < p.state_size;
      const float b = has_state ? p.b[token * p.b_stride + s] : 0.0f;
      const float c = has_state ? p.c[token * p.c_stride + s] : 0.0f;
      state[i] = fmaf(expf(step * a[i]), state[i], step * u * b);
      sum = fmaf(state[i], c, sum);
    }
    sum = lanes_sum(sum);
    if (threadIdx.x != 0 || !has_channel) continue;
    float out = fmaf(d, u, sum);
    if (p.z != nullptr) out *= activate(Activation::kSilu, p.z[token * p.z_stride + channel]);
    p.out[token * p.out_stride + channel] = out;
  }
}

template <int kStatesPerLane>
void launch_states(const SelectiveScanParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.num_seqs),
                  static_cast<unsigned>((p.num_channels + kScanChannels - 1) / kScanChannels));
  launch_kernel(selective_scan_kernel<kStatesPerLane>, grid, dim3(kScanLanes, kScanChannels), 0, stream, p);
}

}  // namespace

void launch_selective_scan(const SelectiveScanParams& params, cudaStream_t stream) {
  static_assert(kMaxStatesPerLane == 4);
  if (params.num_seqs == 0) return;
  if (params.state_size <= kScanLanes) return launch_states<1>(params, stream);
  if (params.state_size <= 2 * kScanLanes) return launch_states<2>(params, stream);
  launch_states<kMaxStatesPerLane>(params, stream);
}

}  // namespace assay::cuda
