// The host side of attention_varlen: checks, the choice of the kernel and the size of its grid.
#include <algorithm>

#include "common/check.h"
#include "cuda/attention_hopper.h"
#include "cuda/attention_kernel.h"
#include "cuda/devices.h"
#include "cuda/launch_attention.h"

namespace assay::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;

constexpr std::int64_t kMaxStride = 0x7fffffff / kAttentionBlockRows;  // offsets inside a tile fit an int

// Rows are copied 16 bytes at a time.
void check_rows(const void* data, std::int64_t stride, std::int64_t element_size, const char* name) {
  ASSAY_CHECK(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, name, " must begin on 16 bytes");
  ASSAY_CHECK(stride >= 0 && stride <= kMaxStride && stride * element_size % 16 == 0, name,
              "'s token stride must be a multiple of 16 bytes up to ", kMaxStride, " elements, got ", stride,
              " elements");
}

int window(std::int64_t size) {
  return size < 0 ? kUnlimitedWindow : static_cast<int>(std::min<std::int64_t>(size, kUnlimitedWindow));
}

}  // namespace

void launch_attention(const CudaAttentionParams& params, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const int tiling_idx = attention_tiling_idx(p.dtype, p.head_dim);
  const std::int64_t element_size = p.dtype == DType::kFloat32 ? 4 : 2;
  check_rows(p.q, p.q_stride, element_size, "q");
  check_rows(p.k, p.k_stride, element_size, "k");
  check_rows(p.v, p.v_stride, element_size, "v");
  check_rows(p.out, p.out_stride, element_size, "out");
  const std::int64_t num_blocks = attention_grid(attention_tiling(p.dtype, p.head_dim), params.num_tokens, p.num_seqs,
                                                 p.num_heads, num_multiprocessors());
  if (num_blocks == 0) return;
  const bool changes_scores = p.soft_cap > 0.0f || params.alibi_slopes != nullptr;
  const bool takes_hopper = takes_hopper_path(params);
  const AttentionKernelParams kernel_params = {
      .q = p.q,
      .k = p.k,
      .v = p.v,
      .out = p.out,
      .q_stride = static_cast<int>(p.q_stride),
      .k_stride = static_cast<int>(p.k_stride),
      .v_stride = static_cast<int>(p.v_stride),
      .out_stride = static_cast<int>(p.out_stride),
      .query_positions = p.query_positions,
      .alibi_slopes = params.alibi_slopes,
      .schedule = static_cast<AttentionSchedule*>(params.schedule),
      .takes_wide = !takes_hopper,
      .num_heads = p.num_heads,
      .heads_per_kv_head = p.num_heads / p.num_kv_heads,
      .head_dim = p.head_dim,
      .window_left = window(p.window_left),
      .window_right = p.is_causal ? 0 : window(p.window_right),
      .softmax_scale = p.softmax_scale,
      .soft_cap = p.soft_cap,
      .soft_cap_inverse = p.soft_cap > 0.0f ? 1.0f / p.soft_cap : 0.0f,
      .changes_scores = changes_scores,
      .log2_scale = changes_scores ? 1.0f : p.softmax_scale * kLog2E,
  };
  if (takes_hopper) launch_attention_hopper(params, kernel_params, stream);
  const unsigned grid = static_cast<unsigned>(num_blocks);
  switch (p.dtype) {
    case DType::kFloat32:
      return launch_attention_f32(kernel_params, tiling_idx, grid, stream);
    case DType::kFloat16:
      return launch_attention_f16(kernel_params, tiling_idx, grid, stream);
    default:
      return launch_attention_bf16(kernel_params, tiling_idx, grid, stream);
  }
}

}  // namespace assay::cuda
