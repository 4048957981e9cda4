// attention_schedule and attention_varlen: sizes checked, then launched.
#include <pybind11/stl.h>

#include <cmath>
#include <optional>

#include "bind_cuda.h"
#include "cuda/attention_schedule.h"
#include "cuda/launch_attention.h"

namespace assay::cuda {
namespace {

void check_counts(std::int64_t num_tokens, std::int64_t num_seqs, const char* tokens_name = "num_tokens") {
  // Positions and a window's edges are added up in 32 bits.
  check_size(num_tokens, tokens_name, 0, (1 << 29) - 1);
  check_size(num_seqs, "num_seqs", 0, 1 << 24);
}

std::int64_t schedule_size(std::int64_t num_tokens, std::int64_t num_seqs) {
  check_counts(num_tokens, num_seqs);
  return attention_schedule_size(num_tokens, num_seqs);
}

void attention_schedule(Pointer cu_seqlens, Pointer cu_seqlens_k, std::int64_t num_seqs, std::int64_t num_tokens,
                        bool is_causal, Pointer schedule, Pointer stream) {
  check_counts(num_tokens, num_seqs);
  launch_attention_schedule({.cu_seqlens_q = required<const std::int32_t>(cu_seqlens, "cu_seqlens"),
                             .cu_seqlens_k = required<const std::int32_t>(cu_seqlens_k, "cu_seqlens_k"),
                             .num_seqs = num_seqs,
                             .num_tokens = num_tokens,
                             .is_causal = is_causal,
                             .schedule = required<void>(schedule, "schedule")},
                            stream_of(stream));
}

constexpr Named<AttentionPath> kPaths[] = {{"portable", AttentionPath::kPortable}, {"hopper", AttentionPath::kHopper}};

void attention_varlen(Pointer q, Pointer k, Pointer v, const std::string& dtype, std::int64_t q_stride,
                      std::int64_t k_stride, std::int64_t v_stride, std::int64_t num_seqs, std::int64_t num_tokens,
                      int num_heads, int num_kv_heads, int head_dim, float softmax_scale, bool is_causal,
                      std::int64_t window_left, std::int64_t window_right, float soft_cap, Pointer alibi_slopes,
                      Pointer query_positions, Pointer out, std::int64_t out_stride, Pointer schedule, Pointer stream,
                      std::int64_t num_key_tokens, const std::optional<std::string>& attention_path) {
  check_counts(num_tokens, num_seqs);
  check_counts(num_key_tokens, num_seqs, "num_key_tokens");
  check_size(num_heads, "num_heads", 1, 1 << 12);
  check_size(num_kv_heads, "num_kv_heads", 1, num_heads);
  ASSAY_CHECK(num_heads % num_kv_heads == 0, "num_heads must be a multiple of num_kv_heads, got ", num_heads, " and ",
              num_kv_heads);
  ASSAY_CHECK(std::isfinite(softmax_scale) && softmax_scale > 0, "softmax_scale must be finite and > 0, got ",
              softmax_scale);
  ASSAY_CHECK(std::isfinite(soft_cap) && soft_cap >= 0, "soft_cap must be finite and >= 0, got ", soft_cap);
  ASSAY_CHECK(window_left >= -1 && window_right >= -1, "window_size must be two numbers >= -1, got (", window_left,
              ", ", window_right, ")");
  CudaAttentionParams params{};
  params.attention.dtype = float_type_by_name(dtype, "dtype");
  params.attention.q_stride = q_stride;
  params.attention.k_stride = k_stride;
  params.attention.v_stride = v_stride;
  params.attention.num_seqs = num_seqs;
  params.attention.num_heads = num_heads;
  params.attention.num_kv_heads = num_kv_heads;
  params.attention.head_dim = head_dim;
  params.attention.softmax_scale = softmax_scale;
  params.attention.is_causal = is_causal;
  params.attention.window_left = window_left;
  params.attention.window_right = window_right;
  params.attention.soft_cap = soft_cap;
  params.attention.query_positions = device_pointer<const std::int32_t>(query_positions);
  params.attention.out_stride = out_stride;
  params.num_tokens = num_tokens;
  params.num_key_tokens = num_key_tokens;
  if (attention_path) params.path = by_name(kPaths, *attention_path, "attention_path");
  params.alibi_slopes = device_pointer<const float>(alibi_slopes);
  if (num_tokens > 0) {
    params.attention.q = required<const void>(q, "q");
    params.attention.k = device_pointer<const void>(k);  // null where no sequence has a key
    params.attention.v = device_pointer<const void>(v);
    params.attention.out = required<void>(out, "out");
    params.schedule = required<void>(schedule, "schedule");
  }
  launch_attention(params, stream_of(stream));
}

py::dict tiling(const std::string& dtype, int head_dim) {
  const AttentionTiling tiling = attention_tiling(float_type_by_name(dtype, "dtype"), head_dim);
  py::dict numbers;
  numbers["head_dim"] = tiling.head_dim;
  numbers["key_tile"] = tiling.key_tile;
  numbers["num_stages"] = tiling.num_stages;
  numbers["blocks_per_sm"] = tiling.blocks_per_sm;
  numbers["row_bytes"] = tiling.row_bytes;
  numbers["shared_bytes"] = tiling.shared_bytes;
  return numbers;
}

std::int64_t grid(const std::string& dtype, int head_dim, std::int64_t num_tokens, std::int64_t num_seqs, int num_heads,
                  int num_sms) {
  return attention_grid(attention_tiling(float_type_by_name(dtype, "dtype"), head_dim), num_tokens, num_seqs, num_heads,
                        num_sms);
}

}  // namespace

void bind_attention(py::module_& m) {
  m.def("attention_schedule_size", &schedule_size, py::kw_only(), py::arg("num_tokens"), py::arg("num_seqs"),
        "Bytes of a schedule, 16-byte aligned.");
  m.def("attention_schedule", &attention_schedule, py::kw_only(), py::arg("cu_seqlens"), py::arg("cu_seqlens_k"),
        py::arg("num_seqs"), py::arg("num_tokens"), py::arg("is_causal"), py::arg("schedule"), py::arg("stream"),
        "Orders the work of attention over these sequences, once for all layers on one stream.");
  m.def("attention_varlen", &attention_varlen, py::kw_only(), py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("dtype"), py::arg("q_stride"), py::arg("k_stride"), py::arg("v_stride"), py::arg("num_seqs"),
        py::arg("num_tokens"), py::arg("num_heads"), py::arg("num_kv_heads"), py::arg("head_dim"),
        py::arg("softmax_scale"), py::arg("is_causal"), py::arg("window_left"), py::arg("window_right"),
        py::arg("soft_cap"), py::arg("alibi_slopes"), py::arg("query_positions"), py::arg("out"), py::arg("out_stride"),
        py::arg("schedule"), py::arg("stream"), py::arg("num_key_tokens"), py::arg("attention_path") = py::none(),
        "attention_path: \"portable\" or \"hopper\" (launch_attention.h); None: kDefaultAttentionPath.");
  m.def("attention_tiling", &tiling, py::arg("dtype"), py::arg("head_dim"), "The numbers of the kernel for a head.");
  m.def("attention_grid", &grid, py::kw_only(), py::arg("dtype"), py::arg("head_dim"), py::arg("num_tokens"),
        py::arg("num_seqs"), py::arg("num_heads"), py::arg("num_sms"), "Blocks that attention_varlen launches.");
}

}  // namespace assay::cuda
