// gather_rows: rows by index, for the tokens that pooling reads.
#include "cuda/chunk.cuh"
#include "cuda/launch_kernel.h"
#include "cuda/launch_rows.h"

namespace assay::cuda {
namespace {

constexpr int kGatherThreads = 128;

// Block per row; Word is the largest that all rows are made of.
template <typename Word>
__global__ void gather_rows_kernel(GatherRowsParams p) {
  const std::int64_t row = blockIdx.x;
  const auto* from = reinterpret_cast<const Word*>(static_cast<const unsigned char*>(p.x) +
                                                   static_cast<std::int64_t>(p.rows[row]) * p.x_stride_bytes);
  auto* to = reinterpret_cast<Word*>(static_cast<unsigned char*>(p.out) + row * p.row_bytes);
  const std::int64_t num_words = p.row_bytes / static_cast<std::int64_t>(sizeof(Word));
  for (std::int64_t i = threadIdx.x; i < num_words; i += kGatherThreads) to[i] = from[i];
}

}  // namespace

void launch_gather_rows(const GatherRowsParams& params, cudaStream_t stream) {
  const GatherRowsParams& p = params;
  if (p.num_rows == 0) return;
  const bool is_vector = has_vector_rows(p.x, p.x_stride_bytes, 1) && has_vector_rows(p.out, p.row_bytes, 1);
  launch_kernel(is_vector ? gather_rows_kernel<uint4> : gather_rows_kernel<std::uint16_t>,
                dim3(static_cast<unsigned>(p.num_rows)), dim3(kGatherThreads), 0, stream, p);
}

}  // namespace assay::cuda
