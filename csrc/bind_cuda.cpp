// The CUDA module: raw device pointers in, asynchronous launches out. Tensors are checked by assay.ops, which sees
// their shapes; what can be checked from sizes alone is checked here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "common/check.h"
#include "cuda/cuda_check.h"
#include "cuda/launch.h"

namespace assay::cuda {
namespace {

namespace py = pybind11;
using Pointer = std::uintptr_t;  // torch's Tensor.data_ptr(), or a stream's cuda_stream

constexpr std::int64_t kMaxBlocks = 0x7fffffff;  // CUDA's limit of blocks in the first dimension of a grid
constexpr std::int64_t kMaxCols = 65535 * 32;    // and in the second, at 32 columns a block

template <typename T>
T* device_pointer(Pointer address) {
  return reinterpret_cast<T*>(address);
}

template <typename T>
T* required(Pointer address, const char* name) {
  ASSAY_CHECK(address != 0, name, " must be a device pointer, got null");
  return device_pointer<T>(address);
}

void check_size(std::int64_t size, const char* name, std::int64_t low, std::int64_t high) {
  ASSAY_CHECK(size >= low && size <= high, name, " must be ", low, " to ", high, ", got ", size);
}

Pooling pooling_by_name(const std::string& name) {
  if (name == "cls") return Pooling::kCls;
  if (name == "last_token") return Pooling::kLastToken;
  ASSAY_CHECK(name == "mean", "pooling='", name, "': choose one of cls, last_token, mean");
  return Pooling::kMean;
}

Activation activation_by_name(const std::string& name) {
  if (name == "none") return Activation::kNone;
  if (name == "gelu") return Activation::kGeluErf;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  if (name == "silu") return Activation::kSilu;
  ASSAY_CHECK(name == "tanh", "dense_activation='", name, "': choose one of none, gelu, gelu_tanh, relu, silu, tanh");
  return Activation::kTanh;
}

void pool(Pointer hidden_states, std::int64_t hidden_stride, Pointer cu_seqlens, const std::string& pooling,
          Pointer out, std::int64_t num_seqs, std::int64_t hidden_size, Pointer stream) {
  check_size(num_seqs, "num_seqs", 0, kMaxBlocks);
  check_size(hidden_size, "hidden_size", 1, kMaxCols);
  check_size(hidden_stride, "hidden_stride", hidden_size, INT64_MAX);
  const Pooling kind = pooling_by_name(pooling);
  if (num_seqs == 0) return;
  launch_pool({.hidden_states = required<const float>(hidden_states, "hidden_states"),
               .hidden_stride = hidden_stride,
               .cu_seqlens = required<const std::int32_t>(cu_seqlens, "cu_seqlens"),
               .pooling = kind,
               .out = required<float>(out, "out"),
               .num_seqs = num_seqs,
               .hidden_size = hidden_size},
              device_pointer<CUstream_st>(stream));
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
  const Activation activation = activation_by_name(dense_activation);
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
                         device_pointer<CUstream_st>(stream));
}

int device_count() {
  int count = 0;
  // No driver and no device are answers here, not errors.
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;
}

int sm(int device) {
  int major = 0, minor = 0;
  ASSAY_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  ASSAY_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return major * 10 + minor;
}

}  // namespace
}  // namespace assay::cuda

PYBIND11_MODULE(_cuda, m) {
  namespace py = pybind11;
  namespace cuda = assay::cuda;
  m.doc() = "assay's CUDA kernels. Pointers are device addresses; every launch is asynchronous on `stream`.";
  m.def("pool", &cuda::pool, py::kw_only(), py::arg("hidden_states"), py::arg("hidden_stride"), py::arg("cu_seqlens"),
        py::arg("pooling"), py::arg("out"), py::arg("num_seqs"), py::arg("hidden_size"), py::arg("stream"));
  m.def("classifier_head", &cuda::classifier_head, py::kw_only(), py::arg("pooled"), py::arg("dense_weight"),
        py::arg("dense_bias"), py::arg("dense_activation"), py::arg("classifier_weight"), py::arg("classifier_bias"),
        py::arg("logit_mean"), py::arg("logit_sigma"), py::arg("row_activations"), py::arg("dense_buffer"),
        py::arg("out"), py::arg("num_rows"), py::arg("hidden_size"), py::arg("dense_size"), py::arg("num_labels"),
        py::arg("stream"));
  m.def("device_count", &cuda::device_count, "CUDA devices this process can use; 0 without a driver.");
  m.def("sm", &cuda::sm, py::arg("device") = 0, "Compute capability as an int: 80, 90.");
  m.def("built_for", [] { return std::string(ASSAY_CUDA_BUILT_FOR); }, "Architectures compiled in, for messages.");
}
