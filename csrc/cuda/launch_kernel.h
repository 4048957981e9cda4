// The only place that starts kernels.
#pragma once

#include <cstddef>
#include <string>

#include "cuda/cuda_check.h"
#include "cuda/device.cuh"

namespace assay::cuda {

#ifdef ASSAY_CUDA_EMULATION

// The grid, and where in the code the launch is: errors name it.
struct LaunchGrid {
  dim3 size;
  emulation::Location where;
  LaunchGrid(dim3 grid, emulation::Location here = emulation::Location::current()) : size(grid), where(here) {}
};

// As below, but done when it returns.
template <typename... Params, typename... Args>
void launch_kernel(void (*kernel)(Params...), LaunchGrid grid, dim3 block, std::size_t shared_bytes, cudaStream_t,
                   const Args&... args) {
  auto call = [&] { kernel(args...); };
  emulation::run_kernel(
      grid.size, block, shared_bytes, grid.where, [](void* context) { (*static_cast<decltype(call)*>(context))(); },
      &call);
}

#else

// Asynchronous on `stream`. `shared_bytes` is dynamic shared memory, up to what the device has. Throws
// std::runtime_error with the kernel's name where the launch is refused.
template <typename... Params, typename... Args>
void launch_kernel(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                   const Args&... args) {
  // A block gets 48 KiB unasked, static shared memory included, of which no kernel here has more than 32 KiB.
  constexpr std::size_t kNeverTooMuch = 16 * 1024;
  cudaError_t status = cudaSuccess;
  if (shared_bytes > kNeverTooMuch) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  }
  if (status == cudaSuccess) {
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Params>(args)...);
    status = cudaGetLastError();
  }
  if (status == cudaSuccess) return;
  const char* name = nullptr;
  if (cudaFuncGetName(&name, reinterpret_cast<const void*>(kernel)) != cudaSuccess) name = "a kernel";
  throw_cuda_error(status, (std::string("launch of ") + name).c_str(), __FILE__, __LINE__);
}

#endif

}  // namespace assay::cuda
