// pool and classifier_head: sizes checked, then launched.
#include "bind_cuda.h"
#include "cuda/launch.h"

namespace assay::cuda {
namespace {

constexpr std::int64_t kMaxCols = 65535 * 32;  // CUDA's limit of blocks in the second dimension, at 32 columns a block

void pool(Pointer hidden_states, std::int64_t hidden_stride, Pointer cu_seqlens, const std::string& pooling,
          Pointer out, std::int64_t num_seqs, std::int64_t hidden_size, const std::string& dtype, Pointer stream) {
  check_size(num_seqs, "num_seqs", 0, kMaxBlocks);
  check_size(hidden_size, "hidden_size", 1, kMaxCols);
  check_size(hidden_stride, "hidden_stride", hidden_size, INT64_MAX);
  const Pooling kind = by_name(kPoolings, pooling, "pooling");
  const DType type = float_type_by_name(dtype, "dtype");
  if (num_seqs == 0) return;
  launch_pool({.hidden_states = required<const void>(hidden_states, "hidden_states"),
               .dtype = type,
               .hidden_stride = hidden_stride,
               .cu_seqlens = required<const std::int32_t>(cu_seqlens, "cu_seqlens"),
               .pooling = kind,
               .out = required<float>(out, "out"),
               .num_seqs = num_seqs,
               .hidden_size = hidden_size},
              stream_of(stream));
}

void classifier_head(Pointer pooled, Pointer dense_weight, Pointer dense_bias, const std::string& dense_activation,
                     Pointer classifier_weight, Pointer classifier_bias, float logit_mean, float logit_sigma,
                     Pointer row_activations, Pointer dense_buffer, Pointer out, std::int64_t num_rows,
                     std::int64_t hidden_size, std::int64_t dense_size, std::int64_t num_labels, Pointer stream) {
  check_size(num_rows, "num_rows", 0, kMaxBlocks);
  check_size(hidden_size, "hidden_size", 1, INT64_MAX);
  check_size(dense_size, "dense_size", dense_weight == 0 ? 0 : 1, kMaxCols);
  check_size(num_labels, "num_labels", 1, INT64_MAX);
  ASSAY_CHECK(logit_sigma != 0.0f, "logit_sigma cannot be 0 (division by zero)");
  const Activation activation = by_name(kActivations, dense_activation, "dense_activation");
  if (num_rows == 0) return;
  if (dense_weight != 0) required<float>(dense_buffer, "dense_buffer");
  launch_classifier_head({.pooled = required<const float>(pooled, "pooled"),
                          .dense_weight = device_pointer<const float>(dense_weight),
                          .dense_bias = device_pointer<const float>(dense_bias),
                          .dense_activation = activation,
                          .classifier_weight = required<const float>(classifier_weight, "classifier_weight"),
                          .classifier_bias = device_pointer<const float>(classifier_bias),
                          .logit_mean = logit_mean,
                          .logit_sigma = logit_sigma,
                          .row_activations = required<const HeadActivation>(row_activations, "row_activations"),
                          .dense_buffer = device_pointer<float>(dense_buffer),
                          .out = required<float>(out, "out"),
                          .num_rows = num_rows,
                          .hidden_size = hidden_size,
                          .dense_size = dense_size,
                          .num_labels = num_labels},
                         stream_of(stream));
}

}  // namespace

void bind_head(py::module_& m) {
  m.def("pool", &pool, py::kw_only(), py::arg("hidden_states"), py::arg("hidden_stride"), py::arg("cu_seqlens"),
        py::arg("pooling"), py::arg("out"), py::arg("num_seqs"), py::arg("hidden_size"), py::arg("dtype") = "float32",
        py::arg("stream"));
  m.def("classifier_head", &classifier_head, py::kw_only(), py::arg("pooled"), py::arg("dense_weight"),
        py::arg("dense_bias"), py::arg("dense_activation"), py::arg("classifier_weight"), py::arg("classifier_bias"),
        py::arg("logit_mean"), py::arg("logit_sigma"), py::arg("row_activations"), py::arg("dense_buffer"),
        py::arg("out"), py::arg("num_rows"), py::arg("hidden_size"), py::arg("dense_size"), py::arg("num_labels"),
        py::arg("stream"));
}

}  // namespace assay::cuda
