#include "cuda/attention_schedule.h"

#include <algorithm>

#include "common/check.h"

namespace assay::cuda {

int attention_tiling_idx(DType dtype, int head_dim) {
  ASSAY_CHECK(dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16,
              "dtype must be float32, float16 or bfloat16");
  ASSAY_CHECK(head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0, "head_dim must be a multiple of 8 up to 256, got ",
              head_dim);
  const AttentionTiling* tilings = dtype == DType::kFloat32 ? kFloatAttentionTilings : kHalfAttentionTilings;
  int idx = 0;
  while (head_dim > tilings[idx].head_dim) ++idx;
  return idx;
}

AttentionTiling attention_tiling(DType dtype, int head_dim) {
  const int idx = attention_tiling_idx(dtype, head_dim);
  return dtype == DType::kFloat32 ? kFloatAttentionTilings[idx] : kHalfAttentionTilings[idx];
}

std::int64_t max_attention_entries(std::int64_t num_tokens, std::int64_t num_seqs) {
  // A sequence of n queries has ceil(n / 16) entries or fewer.
  return std::min(num_tokens / kAttentionWarpRows + num_seqs, num_tokens);
}

std::int64_t attention_schedule_size(std::int64_t num_tokens, std::int64_t num_seqs) {
  return static_cast<std::int64_t>(sizeof(AttentionSchedule)) +
         max_attention_entries(num_tokens, num_seqs) * static_cast<std::int64_t>(sizeof(AttentionEntry));
}

std::int64_t attention_grid(const AttentionTiling& tiling, std::int64_t num_tokens, std::int64_t num_seqs,
                            int num_heads, int num_sms) {
  const std::int64_t most = max_attention_entries(num_tokens, num_seqs) * num_heads;
  return std::min<std::int64_t>(most, static_cast<std::int64_t>(num_sms) * tiling.blocks_per_sm);
}

}  // namespace assay::cuda
