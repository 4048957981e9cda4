#include "cuda/device.cuh"
#include "cuda/launch_kernel.h"
#include "cuda/layer_rows.h"

namespace assay::cuda {
namespace {

constexpr int kThreads = 128;

// Thread per sequence, and one for the end of one_each.
__global__ void __launch_bounds__(kThreads) layer_rows_kernel(LayerRowsParams p) {
  const std::int64_t seq = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (seq > p.num_seqs) return;
  p.one_each[seq] = static_cast<std::int32_t>(seq);
  if (seq == p.num_seqs) return;
  const std::int32_t first = p.cu_seqlens[seq];
  const bool is_empty = p.cu_seqlens[seq + 1] <= first;
  const std::int32_t token = is_empty ? 0 : p.rows[seq];
  p.tokens[seq] = token;
  p.in_sequence[seq] = is_empty ? 0 : token - first;
  if (p.position_ids != nullptr) p.rows_position_ids[seq] = is_empty ? 0 : p.position_ids[token];
}

}  // namespace

void launch_layer_rows(const LayerRowsParams& params, cudaStream_t stream) {
  if (params.num_seqs == 0) return;
  const dim3 grid(static_cast<unsigned>(params.num_seqs / kThreads + 1));
  launch_kernel(layer_rows_kernel, grid, dim3(kThreads), 0, stream, params);
}

}  // namespace assay::cuda
