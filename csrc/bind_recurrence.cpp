// causal_conv1d and selective_scan: what Mamba's layers carry from token to token.
#include "bind_cpu.h"

namespace assay::cpu {
namespace {

// [num_tokens, num_cols] float32, rows any stride apart.
void check_rows(const TensorView& view, const char* name, std::int64_t num_tokens, std::int64_t num_cols) {
  check_dtype(view, name, {DType::kFloat32});
  check_shape(view, name, {num_tokens, num_cols});
}

void check_matrix(const TensorView& view, const char* name, std::int64_t num_rows, std::int64_t num_cols) {
  check_rows(view, name, num_rows, num_cols);
  check_contiguous(view, name);
}

// Past the last number of [num_tokens, num_channels].
const float* end_of(const TensorView& view) {
  return view.shape[0] == 0 ? view.ptr<float>()
                            : view.ptr<float>() + (view.shape[0] - 1) * view.strides[0] + view.shape[1];
}

// The kernel raises 2 to exponents of at most 0. NaN passes: it stays visible in the result.
void check_decay(const TensorView& a) {
  const float* at = a.ptr<float>();
  bool is_positive = false;
  for (std::int64_t i = 0; i < a.numel(); ++i) is_positive |= at[i] > 0.0f;
  for (std::int64_t i = 0; is_positive && i < a.numel(); ++i) {
    ASSAY_CHECK(!(at[i] > 0.0f), "a must not be above 0, got ", at[i], " at [", i / a.shape[1], ", ", i % a.shape[1],
                "]");
  }
}

void bind_causal_conv1d(py::handle x, py::handle weight, py::handle bias, py::handle cu_seqlens,
                        const std::string& activation, py::handle out) {
  const TensorView input = required_view(x, "x");
  const TensorView matrix = required_view(weight, "weight");
  const TensorView lengths = required_view(cu_seqlens, "cu_seqlens");
  const TensorView target = required_view(out, "out");
  check_rows(input, "x", kAnySize, kAnySize);
  const std::int64_t num_tokens = input.shape[0], num_channels = input.shape[1];
  check_matrix(matrix, "weight", kAnySize, num_channels);
  ASSAY_CHECK(matrix.shape[0] >= 1, "weight must have at least one row");
  check_cu_seqlens(lengths, "cu_seqlens", num_tokens, true);
  check_rows(target, "out", num_tokens, num_channels);
  ASSAY_CHECK(target.ptr<float>() >= end_of(input) || input.ptr<float>() >= end_of(target),
              "out must not share memory with x");
  launch(active_table().causal_conv1d,
         CausalConv1dParams{.x = input.ptr<float>(),
                            .x_stride = input.strides[0],
                            .weight = matrix.ptr<float>(),
                            .bias = optional_floats(view_of(bias, "bias"), "bias", num_channels),
                            .activation = by_name(kActivations, activation, "activation"),
                            .cu_seqlens = lengths.ptr<std::int32_t>(),
                            .out = target.ptr<float>(),
                            .out_stride = target.strides[0],
                            .num_tokens = num_tokens,
                            .num_seqs = lengths.shape[0] - 1,
                            .num_channels = num_channels,
                            .width = matrix.shape[0]});
}

void bind_selective_scan(py::handle u, py::handle delta, py::handle a, py::handle b, py::handle c, py::handle d,
                         py::handle z, py::handle cu_seqlens, py::handle out) {
  const TensorView input = required_view(u, "u");
  const TensorView steps = required_view(delta, "delta");
  const TensorView decay = required_view(a, "a");
  const TensorView in_states = required_view(b, "b");
  const TensorView out_states = required_view(c, "c");
  const TensorView skip = required_view(d, "d");
  const TensorView gate = view_of(z, "z");
  const TensorView lengths = required_view(cu_seqlens, "cu_seqlens");
  const TensorView target = required_view(out, "out");
  check_rows(input, "u", kAnySize, kAnySize);
  const std::int64_t num_tokens = input.shape[0], num_channels = input.shape[1];
  check_rows(steps, "delta", num_tokens, num_channels);
  check_matrix(decay, "a", kAnySize, num_channels);
  const std::int64_t state_size = decay.shape[0];
  ASSAY_CHECK(state_size >= 1 && state_size <= kMaxStateSize, "state_size must be 1 to ", kMaxStateSize, ", got ",
              state_size);
  check_decay(decay);
  check_rows(in_states, "b", num_tokens, state_size);
  check_rows(out_states, "c", num_tokens, state_size);
  check_vector(skip, "d", DType::kFloat32, num_channels);
  if (gate.is_present()) check_rows(gate, "z", num_tokens, num_channels);
  check_cu_seqlens(lengths, "cu_seqlens", num_tokens, true);
  check_rows(target, "out", num_tokens, num_channels);
  launch(active_table().selective_scan, SelectiveScanParams{.u = input.ptr<float>(),
                                                            .u_stride = input.strides[0],
                                                            .delta = steps.ptr<float>(),
                                                            .delta_stride = steps.strides[0],
                                                            .a = decay.ptr<float>(),
                                                            .b = in_states.ptr<float>(),
                                                            .b_stride = in_states.strides[0],
                                                            .c = out_states.ptr<float>(),
                                                            .c_stride = out_states.strides[0],
                                                            .d = skip.ptr<float>(),
                                                            .z = gate.ptr<float>(),
                                                            .z_stride = gate.strides[0],
                                                            .cu_seqlens = lengths.ptr<std::int32_t>(),
                                                            .out = target.ptr<float>(),
                                                            .out_stride = target.strides[0],
                                                            .num_tokens = num_tokens,
                                                            .num_seqs = lengths.shape[0] - 1,
                                                            .num_channels = num_channels,
                                                            .state_size = state_size});
}

}  // namespace

void bind_recurrence(py::module_& m) {
  m.def("causal_conv1d", &bind_causal_conv1d);
  m.def("selective_scan", &bind_selective_scan);
}

}  // namespace assay::cpu
