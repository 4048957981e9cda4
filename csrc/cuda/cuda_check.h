// CUDA calls that throw. Host code only; needs no nvcc.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace assay::cuda {

// RuntimeError in Python. An asynchronous fault of an earlier kernel shows at a later check.
[[noreturn]] inline void throw_cuda_error(cudaError_t code, const char* expression, const char* file, int line) {
  (void)cudaGetLastError();  // else the next launch, which may be well, would be told of this failure
  std::string message = std::string(file) + ":" + std::to_string(line) + ": " + expression + ": " +
                        cudaGetErrorName(code) + ": " + cudaGetErrorString(code);
  if (code == cudaErrorNoKernelImageForDevice) message += " (this build has code for sm " ASSAY_CUDA_BUILT_FOR ")";
  throw std::runtime_error(message);
}

}  // namespace assay::cuda

#define ASSAY_CUDA_CHECK(expression)                                                                       \
  do {                                                                                                     \
    const cudaError_t status_ = (expression);                                                              \
    if (status_ != cudaSuccess) ::assay::cuda::throw_cuda_error(status_, #expression, __FILE__, __LINE__); \
  } while (0)
