// layer_norm and rms_norm over rows, with the residual addition before them. One read and one write of every row;
// statistics in float32 and in two passes.
#include "cuda/dtype.h"
#include "cuda/launch_kernel.h"
#include "cuda/launch_rows.h"
#include "cuda/row_norm.cuh"

namespace assay::cuda {
namespace {

// Block per row.
template <typename T>
__global__ void norm_kernel(NormParams p, bool is_vector) {
  ASSAY_DYNAMIC_SHARED(shared);
  const std::int64_t row = blockIdx.x;
  if (p.num_live_rows != nullptr && row >= *p.num_live_rows) return;
  const std::int64_t start = row * p.hidden_size;
  const RowChunks chunks(shared, p.hidden_size);
  chunks.for_each([&](int idx, std::int64_t col, int count) {
    float x[kChunk];
    if (p.x_dtype == DType::kFloat32) {
      load_chunk(static_cast<const float*>(p.x) + start + col, count, is_vector, x);
    } else {
      load_chunk(static_cast<const T*>(p.x) + start + col, count, is_vector, x);
    }
    if (p.delta != nullptr) {
      float delta[kChunk];
      load_chunk(static_cast<const T*>(p.delta) + start + col, count, is_vector, delta);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) x[i] += delta[i];
    }
    if (p.sum != nullptr) store_chunk(p.sum + start + col, count, is_vector, x);
    chunks.put(idx, x);
  });
  norm_row(p.norm, is_vector, chunks, [&](std::int64_t col, int count, const float (&x)[kChunk]) {
    if (p.normed != nullptr) store_chunk(p.normed + start + col, count, is_vector, x);
    if (p.out != nullptr) store_chunk(static_cast<T*>(p.out) + start + col, count, is_vector, x);
  });
}

}  // namespace

void launch_norm(const NormParams& params, cudaStream_t stream) {
  const NormParams& p = params;
  if (p.num_rows == 0) return;
  with_float_type(p.dtype, [&](auto element) {
    using T = decltype(element);
    bool is_vector = p.hidden_size % kChunk == 0;
    for (const void* pointer : {p.x, p.delta, static_cast<const void*>(p.sum), static_cast<const void*>(p.normed),
                                static_cast<const void*>(p.out), static_cast<const void*>(p.norm.weight),
                                static_cast<const void*>(p.norm.bias)}) {
      is_vector = is_vector && has_vector_rows(pointer, p.hidden_size, sizeof(T));
    }
    launch_kernel(norm_kernel<T>, dim3(static_cast<unsigned>(p.num_rows)), dim3(norm_threads(p.hidden_size)),
                  norm_shared_bytes(p.hidden_size), stream, p, is_vector);
  });
}

}  // namespace assay::cuda
