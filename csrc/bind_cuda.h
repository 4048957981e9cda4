// What the files of the CUDA bindings share. Pointers are torch's Tensor.data_ptr() as integers, 0 for None.
#pragma once

#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "bind_names.h"
#include "common/check.h"
#include "common/types.h"

namespace assay::cuda {

namespace py = pybind11;
using Pointer = std::uintptr_t;  // torch's Tensor.data_ptr(), or a stream's cuda_stream

constexpr std::int64_t kMaxBlocks = 0x7fffffff;  // CUDA's limit of blocks in the first dimension of a grid

template <typename T>
T* device_pointer(Pointer address) {
  return reinterpret_cast<T*>(address);
}

template <typename T>
T* required(Pointer address, const char* name) {
  ASSAY_CHECK(address != 0, name, " must be a device pointer, got null");
  return device_pointer<T>(address);
}

inline cudaStream_t stream_of(Pointer stream) { return device_pointer<CUstream_st>(stream); }

inline void check_size(std::int64_t size, const char* name, std::int64_t low, std::int64_t high) {
  ASSAY_CHECK(size >= low && size <= high, name, " must be ", low, " to ", high, ", got ", size);
}

inline constexpr Named<DType> kFloatTypes[] = {
    {"float32", DType::kFloat32}, {"float16", DType::kFloat16}, {"bfloat16", DType::kBFloat16}};

inline DType float_type_by_name(const std::string& dtype, const char* name) {
  return by_name(kFloatTypes, dtype, name);
}

// One per file: what it adds to the module.
void bind_attention(py::module_& m);    // bind_cuda_attention.cpp: attention_varlen and its schedule
void bind_elementwise(py::module_& m);  // bind_cuda_elementwise.cpp: rotary, gated_activation
void bind_head(py::module_& m);         // bind_cuda_head.cpp: pool, classifier_head
void bind_layer(py::module_& m);        // bind_cuda_layer.cpp: TransformerLayer, transformer_layer
void bind_linear(py::module_& m);       // bind_cuda_linear.cpp: Weight, Product, CublasLt, linear
void bind_recurrence(py::module_& m);   // bind_cuda_recurrence.cpp: causal_conv1d, selective_scan
void bind_rows(py::module_& m);         // bind_cuda_rows.cpp: embed, layer_norm, rms_norm, gather_rows
void bind_emulation(py::module_& m);    // bind_cuda_emulation.cpp: the emulation's own tests

}  // namespace assay::cuda
