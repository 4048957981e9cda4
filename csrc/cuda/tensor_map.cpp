#include "cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "cuda/cuda_check.h"

namespace assay::cuda {
namespace {

// Asked of the runtime, so that this module does not link the driver and imports without one.
decltype(&cuTensorMapEncodeTiled) find_encoder() {
  constexpr unsigned kSinceVersion = 12000;
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  ASSAY_CUDA_CHECK(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, kSinceVersion, cudaEnableDefault, &result));
  if (result != cudaDriverEntryPointSuccess || found == nullptr) {
    throw std::runtime_error("the CUDA driver has no cuTensorMapEncodeTiled: attention_path=\"hopper\" needs CUDA 12");
  }
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
}

}  // namespace

CUtensorMap make_tensor_map(const void* data, DType dtype, std::int64_t num_tokens, std::int64_t num_heads,
                            std::int64_t head_dim, std::int64_t token_stride, int num_box_tokens) {
  static const auto encode = find_encoder();
  constexpr cuuint64_t kElementBytes = 2;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(num_heads),
                              static_cast<cuuint64_t>(num_tokens)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(head_dim) * kElementBytes,
                                static_cast<cuuint64_t>(token_stride) * kElementBytes};
  const cuuint32_t box[] = {kBoxColumns, 1, static_cast<cuuint32_t>(num_box_tokens)};
  const cuuint32_t steps[] = {1, 1, 1};
  const CUtensorMapDataType type =
      dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  CUtensorMap map;
  const CUresult result =
      encode(&map, type, 3, const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error("cuTensorMapEncodeTiled refuses [" + std::to_string(num_tokens) + ", " +
                             std::to_string(num_heads) + ", " + std::to_string(head_dim) + "] with a token stride of " +
                             std::to_string(token_stride) + " elements: CUresult " + std::to_string(result));
  }
  return map;
}

}  // namespace assay::cuda
