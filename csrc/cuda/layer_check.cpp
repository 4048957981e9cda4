#include <cmath>
#include <utility>

#include "common/check.h"
#include "cuda/layer.h"
#include "cuda/residual.h"

namespace assay::cuda {
namespace {

void check_size(const WeightView& weight, const char* name, std::int64_t out, std::int64_t in) {
  ASSAY_CHECK(weight.out_features == out && weight.in_features == in, name, " must be [", out, ", ", in, "], got [",
              weight.out_features, ", ", weight.in_features, "]");
}

}  // namespace

void TransformerLayer::check() const {
  ASSAY_CHECK(num_heads >= 1, "num_heads must be >= 1, got ", num_heads);
  ASSAY_CHECK(num_kv_heads >= 1 && num_heads % num_kv_heads == 0, "num_heads ", num_heads,
              " must be a multiple of num_kv_heads, got ", num_kv_heads);
  ASSAY_CHECK(head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0,
              "head_dim must be a multiple of 8 from 8 to 256, got ", head_dim);
  const std::int64_t hidden = hidden_size();
  ASSAY_CHECK(hidden <= kMaxHiddenSize, "hidden_size must be <= ", kMaxHiddenSize, ", got ", hidden);
  check_size(qkv.weight, "qkv", qkv_size(), hidden);
  check_size(attn_out.weight, "attn_out", hidden, q_size());
  check_size(mlp_up.weight, "mlp_up", mlp_up.weight.out_features, hidden);
  check_size(mlp_down.weight, "mlp_down", hidden, mlp_up.weight.out_features);
  for (const Product* part : {&qkv, &attn_out, &mlp_up, &mlp_down}) {
    ASSAY_CHECK(part->weight.dtype == dtype(), "the weights of a layer must have one dtype");
    ASSAY_CHECK(part == &mlp_up || !part->weight.is_gated, "only mlp_up may be a gated weight");
  }
  ASSAY_CHECK(mlp_up.weight.is_gated == is_gated, "mlp_up must be ",
              is_gated ? "a gated weight, got a plain one" : "a plain weight, got a gated one");
  ASSAY_CHECK(std::isfinite(epsilon) && epsilon >= 0, "epsilon must be finite and >= 0, got ", epsilon);
  ASSAY_CHECK(rotary_dim >= 0 && rotary_dim <= head_dim && rotary_dim % 2 == 0,
              "rotary_dim must be an even number from 0 to head_dim ", head_dim, ", got ", rotary_dim);
  ASSAY_CHECK(std::isfinite(softmax_scale) && softmax_scale > 0, "softmax_scale must be finite and > 0, got ",
              softmax_scale);
  ASSAY_CHECK(std::isfinite(soft_cap) && soft_cap >= 0, "soft_cap must be finite and >= 0, got ", soft_cap);
  ASSAY_CHECK(window_left >= -1 && window_right >= -1, "window_size must be two numbers >= -1, got (", window_left,
              ", ", window_right, ")");
}

}  // namespace assay::cuda
