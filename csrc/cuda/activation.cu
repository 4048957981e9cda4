// gated_activation: act(gate) * up over the two halves of a row.
#include "cuda/chunk.cuh"
#include "cuda/common.cuh"
#include "cuda/dtype.h"
#include "cuda/launch_elementwise.h"
#include "cuda/launch_kernel.h"

namespace assay::cuda {
namespace {

constexpr int kGatedThreads = 256;
constexpr std::int64_t kMaxGridRows = 65535;  // CUDA's limit of blocks in the second dimension

// Thread per chunk of columns; blocks in y walk the rows.
template <typename T>
__global__ void __launch_bounds__(kGatedThreads) gated_activation_kernel(GatedActivationParams p, bool is_vector) {
  const std::int64_t col = (std::int64_t{blockIdx.x} * kGatedThreads + threadIdx.x) * kChunk;
  if (col >= p.inner_size) return;
  const std::int64_t left = p.inner_size - col;
  const int count = static_cast<int>(left < kChunk ? left : kChunk);
  std::int64_t num_rows = p.num_rows;
  if (p.num_live_rows != nullptr && *p.num_live_rows < num_rows) num_rows = *p.num_live_rows;
  for (std::int64_t row = blockIdx.y; row < num_rows; row += gridDim.y) {
    const T* gate_row = static_cast<const T*>(p.gate_up) + row * 2 * p.inner_size;
    float gate[kChunk], up[kChunk];
    load_chunk(gate_row + col, count, is_vector, gate);
    load_chunk(gate_row + p.inner_size + col, count, is_vector, up);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) gate[i] = activate(p.activation, gate[i]) * up[i];
    store_chunk(static_cast<T*>(p.out) + row * p.inner_size + col, count, is_vector, gate);
  }
}

}  // namespace

void launch_gated_activation(const GatedActivationParams& params, cudaStream_t stream) {
  const GatedActivationParams& p = params;
  if (p.num_rows == 0) return;
  with_float_type(p.dtype, [&](auto element) {
    using T = decltype(element);
    const bool is_vector = p.inner_size % kChunk == 0 && has_vector_rows(p.gate_up, p.inner_size, sizeof(T)) &&
                           has_vector_rows(p.out, p.inner_size, sizeof(T));
    constexpr std::int64_t kPerBlock = kGatedThreads * kChunk;
    const dim3 grid(static_cast<unsigned>((p.inner_size + kPerBlock - 1) / kPerBlock),
                    static_cast<unsigned>(p.num_rows < kMaxGridRows ? p.num_rows : kMaxGridRows));
    launch_kernel(gated_activation_kernel<T>, grid, dim3(kGatedThreads), 0, stream, p, is_vector);
  });
}

}  // namespace assay::cuda
