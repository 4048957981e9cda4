#include "cuda/devices.h"

#include <cuda_runtime_api.h>

#include "cuda/cuda_check.h"

namespace assay::cuda {

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

int current_sm() {
  int device = 0;
  ASSAY_CUDA_CHECK(cudaGetDevice(&device));
  return sm(device);
}

int num_multiprocessors() {
  int device = 0, count = 0;
  ASSAY_CUDA_CHECK(cudaGetDevice(&device));
  ASSAY_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

}  // namespace assay::cuda
