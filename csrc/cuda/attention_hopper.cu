#include "cuda/attention_hopper.cuh"
#include "cuda/attention_hopper_launch.h"
#include "cuda/launch_kernel.h"

namespace assay::cuda {
namespace {

template <typename T>
void start(const HopperAttentionParams& params, unsigned num_blocks, cudaStream_t stream) {
  const auto launch = [&](auto kernel, int shared_bytes) {
    launch_kernel(kernel, dim3(num_blocks), dim3(kHopperThreads), static_cast<std::size_t>(shared_bytes), stream,
                  params);
  };
  params.attention.head_dim == 64 ? launch(attention_hopper_kernel<T, 64>, HopperShared<64>::kBytes)
                                  : launch(attention_hopper_kernel<T, 128>, HopperShared<128>::kBytes);
}

}  // namespace

void start_attention_hopper(const HopperAttentionParams& params, DType dtype, unsigned num_blocks,
                            cudaStream_t stream) {
  dtype == DType::kFloat16 ? start<__half>(params, num_blocks, stream)
                           : start<__nv_bfloat16>(params, num_blocks, stream);
}

}  // namespace assay::cuda
