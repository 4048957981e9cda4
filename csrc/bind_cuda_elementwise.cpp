// rotary and gated_activation: sizes checked, then launched.
#include "bind_cuda.h"
#include "cuda/launch_elementwise.h"

namespace assay::cuda {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr std::int64_t kMaxHeads = 4096;

void rotary(Pointer q, std::int64_t q_stride, std::int64_t num_heads, Pointer k, std::int64_t k_stride,
            std::int64_t num_kv_heads, std::int64_t head_dim, Pointer position_ids, Pointer cos, Pointer sin,
            std::int64_t rotary_dim, bool is_interleaved, Pointer q_norm, Pointer k_norm, float epsilon,
            const std::string& dtype, Pointer num_live_rows, std::int64_t num_tokens, Pointer stream) {
  const DType type = float_type_by_name(dtype, "dtype");
  check_size(num_heads, "num_heads", 1, kMaxHeads);
  check_size(num_kv_heads, "num_kv_heads", 0, kMaxHeads);
  check_size(head_dim, "head_dim", 1, kMaxHeadDim);
  check_size(rotary_dim, "rotary_dim", 0, head_dim);
  ASSAY_CHECK(rotary_dim % 2 == 0, "rotary_dim must be even, got ", rotary_dim);
  check_size(q_stride, "q_stride", num_heads * head_dim, INT64_MAX);
  check_size(k_stride, "k_stride", num_kv_heads * head_dim, INT64_MAX);
  check_size(num_tokens, "num_tokens", 0, kMaxBlocks / (num_heads + num_kv_heads));
  if (num_tokens == 0) return;
  const auto* positions = device_pointer<const std::int32_t>(position_ids);
  if (rotary_dim > 0) {
    required<const std::int32_t>(position_ids, "position_ids");
    required<const float>(cos, "cos");
    required<const float>(sin, "sin");
  }
  if (num_kv_heads > 0) required<void>(k, "k");
  launch_rotary({.q = {.data = required<void>(q, "q"),
                       .stride = q_stride,
                       .num_tokens = num_tokens,
                       .num_heads = static_cast<int>(num_heads),
                       .position_ids = positions,
                       .norm_weight = device_pointer<const float>(q_norm)},
                 .k = {.data = device_pointer<void>(k),
                       .stride = k_stride,
                       .num_tokens = num_tokens,
                       .num_heads = static_cast<int>(num_kv_heads),
                       .position_ids = positions,
                       .norm_weight = device_pointer<const float>(k_norm)},
                 .dtype = type,
                 .head_dim = static_cast<int>(head_dim),
                 .rotary_dim = static_cast<int>(rotary_dim),
                 .is_interleaved = is_interleaved,
                 .cos = device_pointer<const float>(cos),
                 .sin = device_pointer<const float>(sin),
                 .epsilon = epsilon},
                device_pointer<const std::int32_t>(num_live_rows), stream_of(stream));
}

void gated_activation(Pointer gate_up, Pointer out, const std::string& activation, const std::string& dtype,
                      Pointer num_live_rows, std::int64_t num_rows, std::int64_t inner_size, Pointer stream) {
  const DType type = float_type_by_name(dtype, "dtype");
  const Activation kind = by_name(kActivations, activation, "activation");
  check_size(num_rows, "num_rows", 0, kMaxBlocks);
  check_size(inner_size, "inner_size", 1, kMaxBlocks);
  if (num_rows == 0) return;
  launch_gated_activation({.gate_up = required<const void>(gate_up, "gate_up"),
                           .out = required<void>(out, "out"),
                           .dtype = type,
                           .activation = kind,
                           .num_live_rows = device_pointer<const std::int32_t>(num_live_rows),
                           .num_rows = num_rows,
                           .inner_size = inner_size},
                          stream_of(stream));
}

}  // namespace

void bind_elementwise(py::module_& m) {
  m.def("rotary", &rotary, py::kw_only(), py::arg("q"), py::arg("q_stride"), py::arg("num_heads"), py::arg("k"),
        py::arg("k_stride"), py::arg("num_kv_heads"), py::arg("head_dim"), py::arg("position_ids"), py::arg("cos"),
        py::arg("sin"), py::arg("rotary_dim"), py::arg("is_interleaved"), py::arg("q_norm"), py::arg("k_norm"),
        py::arg("epsilon"), py::arg("dtype"), py::arg("num_live_rows"), py::arg("num_tokens"), py::arg("stream"));
  m.def("gated_activation", &gated_activation, py::kw_only(), py::arg("gate_up"), py::arg("out"), py::arg("activation"),
        py::arg("dtype"), py::arg("num_live_rows"), py::arg("num_rows"), py::arg("inner_size"), py::arg("stream"));
}

}  // namespace assay::cuda
