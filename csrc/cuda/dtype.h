// From a DType to the type a kernel is compiled for. Host code.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <stdexcept>

#include "common/types.h"

namespace assay::cuda {

// Calls body(T{}) with T = float, __half or __nv_bfloat16.
template <typename Body>
void with_float_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kFloat16:
      return body(__half{});
    case DType::kBFloat16:
      return body(__nv_bfloat16{});
    default:
      throw std::invalid_argument("dtype must be float32, float16 or bfloat16");
  }
}

}  // namespace assay::cuda
