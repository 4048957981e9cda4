// causal_conv1d and selective_scan: sizes checked, then launched.
#include "bind_cuda.h"
#include "cuda/launch_recurrence.h"

namespace assay::cuda {
namespace {

void check_sizes(std::int64_t num_tokens, std::int64_t num_seqs, std::int64_t num_channels) {
  check_size(num_tokens, "num_tokens", 0, kMaxBlocks);
  check_size(num_seqs, "num_seqs", num_tokens == 0 ? 0 : 1, kMaxBlocks);
  check_size(num_channels, "num_channels", 1, kMaxRecurrenceChannels);
}

void causal_conv1d(Pointer x, std::int64_t x_stride, Pointer weight, Pointer bias, const std::string& activation,
                   Pointer cu_seqlens, Pointer out, std::int64_t out_stride, std::int64_t num_tokens,
                   std::int64_t num_seqs, std::int64_t num_channels, std::int64_t width, Pointer stream) {
  check_sizes(num_tokens, num_seqs, num_channels);
  check_size(width, "width", 1, INT64_MAX);
  const Activation kind = by_name(kActivations, activation, "activation");
  if (num_tokens == 0) return;
  launch_causal_conv1d({.x = required<const float>(x, "x"),
                        .x_stride = x_stride,
                        .weight = required<const float>(weight, "weight"),
                        .bias = device_pointer<const float>(bias),
                        .activation = kind,
                        .cu_seqlens = required<const std::int32_t>(cu_seqlens, "cu_seqlens"),
                        .out = required<float>(out, "out"),
                        .out_stride = out_stride,
                        .num_tokens = num_tokens,
                        .num_seqs = num_seqs,
                        .num_channels = num_channels,
                        .width = width},
                       stream_of(stream));
}

void selective_scan(Pointer u, std::int64_t u_stride, Pointer delta, std::int64_t delta_stride, Pointer a, Pointer b,
                    std::int64_t b_stride, Pointer c, std::int64_t c_stride, Pointer d, Pointer z,
                    std::int64_t z_stride, Pointer cu_seqlens, Pointer out, std::int64_t out_stride,
                    std::int64_t num_tokens, std::int64_t num_seqs, std::int64_t num_channels, std::int64_t state_size,
                    Pointer stream) {
  check_sizes(num_tokens, num_seqs, num_channels);
  check_size(state_size, "state_size", 1, kMaxStateSize);
  if (num_tokens == 0) return;
  launch_selective_scan({.u = required<const float>(u, "u"),
                         .u_stride = u_stride,
                         .delta = required<const float>(delta, "delta"),
                         .delta_stride = delta_stride,
                         .a = required<const float>(a, "a"),
                         .b = required<const float>(b, "b"),
                         .b_stride = b_stride,
                         .c = required<const float>(c, "c"),
                         .c_stride = c_stride,
                         .d = required<const float>(d, "d"),
                         .z = device_pointer<const float>(z),
                         .z_stride = z_stride,
                         .cu_seqlens = required<const std::int32_t>(cu_seqlens, "cu_seqlens"),
                         .out = required<float>(out, "out"),
                         .out_stride = out_stride,
                         .num_tokens = num_tokens,
                         .num_seqs = num_seqs,
                         .num_channels = num_channels,
                         .state_size = state_size},
                        stream_of(stream));
}

}  // namespace

void bind_recurrence(py::module_& m) {
  m.def("causal_conv1d", &causal_conv1d, py::kw_only(), py::arg("x"), py::arg("x_stride"), py::arg("weight"),
        py::arg("bias"), py::arg("activation"), py::arg("cu_seqlens"), py::arg("out"), py::arg("out_stride"),
        py::arg("num_tokens"), py::arg("num_seqs"), py::arg("num_channels"), py::arg("width"), py::arg("stream"));
  m.def("selective_scan", &selective_scan, py::kw_only(), py::arg("u"), py::arg("u_stride"), py::arg("delta"),
        py::arg("delta_stride"), py::arg("a"), py::arg("b"), py::arg("b_stride"), py::arg("c"), py::arg("c_stride"),
        py::arg("d"), py::arg("z"), py::arg("z_stride"), py::arg("cu_seqlens"), py::arg("out"), py::arg("out_stride"),
        py::arg("num_tokens"), py::arg("num_seqs"), py::arg("num_channels"), py::arg("state_size"), py::arg("stream"));
}

}  // namespace assay::cuda
