#include "cuda/attention_hopper.h"

#include <algorithm>

#include "cuda/attention_hopper_launch.h"
#include "cuda/devices.h"
#include "cuda/tensor_map.h"

namespace assay::cuda {

bool takes_hopper_path(const CudaAttentionParams& params) {
  if (params.path != AttentionPath::kHopper || !kHasHopperKernels) return false;
  const AttentionParams& p = params.attention;
  if (p.dtype == DType::kFloat32 || (p.head_dim != 64 && p.head_dim != 128)) return false;
  if (std::min(params.num_tokens, params.num_key_tokens) < kAttentionWideLength) return false;
  return current_sm() == 90;
}

void launch_attention_hopper(const CudaAttentionParams& params, const AttentionKernelParams& kernel_params,
                             cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const auto map = [&](const void* data, std::int64_t num_tokens, int num_heads, std::int64_t stride, int rows) {
    return make_tensor_map(data, p.dtype, num_tokens, num_heads, p.head_dim, stride, rows);
  };
  const HopperAttentionParams hopper = {
      .attention = kernel_params,
      .q = map(p.q, params.num_tokens, p.num_heads, p.q_stride, kAttentionWideRows),
      .k = map(p.k, params.num_key_tokens, p.num_kv_heads, p.k_stride, kHopperKeyTile),
      .v = map(p.v, params.num_key_tokens, p.num_kv_heads, p.v_stride, kHopperKeyTile),
  };
  // A wide sequence of n queries has ceil(n / 128) entries.
  const std::int64_t most =
      (params.num_tokens / kAttentionWideRows + params.num_tokens / kAttentionWideLength) * p.num_heads;
  const unsigned num_blocks = static_cast<unsigned>(std::min<std::int64_t>(most, num_multiprocessors()));
  start_attention_hopper(hopper, p.dtype, num_blocks, stream);
}

}  // namespace assay::cuda
