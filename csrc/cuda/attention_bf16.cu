#include <iterator>

#include "cuda/attention_mma.cuh"
#include "cuda/launch_kernel.h"

namespace assay::cuda {
namespace {

template <int kTilingIdx>
void launch(const AttentionKernelParams& params, unsigned num_blocks, cudaStream_t stream) {
  using Tile = MmaTile<__nv_bfloat16, kTilingIdx>;
  launch_kernel(attention_kernel<Tile>, dim3(num_blocks), dim3(kAttentionThreads), Tile::kTiling.shared_bytes, stream,
                params);
}

constexpr decltype(&launch<0>) kLaunch[] = {launch<0>, launch<1>, launch<2>, launch<3>, launch<4>, launch<5>};
static_assert(std::size(kLaunch) == std::size(kHalfAttentionTilings), "one kernel per tiling");

}  // namespace

void launch_attention_bf16(const AttentionKernelParams& params, int tiling_idx, unsigned num_blocks,
                           cudaStream_t stream) {
  kLaunch[tiling_idx](params, num_blocks, stream);
}

}  // namespace assay::cuda
