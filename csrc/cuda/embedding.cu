// embed: a token's rows of the tables, added, then LayerNorm.
#include "cuda/dtype.h"
#include "cuda/launch_kernel.h"
#include "cuda/launch_rows.h"
#include "cuda/row_norm.cuh"

namespace assay::cuda {
namespace {

template <typename T>
__device__ void add_row(const void* table, std::int64_t row, std::int64_t hidden_size, std::int64_t col, int count,
                        bool is_vector, float (&x)[kChunk]) {
  float more[kChunk];
  load_chunk(static_cast<const T*>(table) + row * hidden_size + col, count, is_vector, more);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) x[i] += more[i];
}

// Block per token. word + token type + position + task type: the order in which transformers adds them.
template <typename T>
__global__ void embed_kernel(EmbedRowsParams p, bool is_vector) {
  ASSAY_DYNAMIC_SHARED(shared);
  const std::int64_t token = blockIdx.x;
  if (p.num_live_rows != nullptr && token >= *p.num_live_rows) return;
  const std::int64_t word = p.input_ids[token];
  const std::int64_t type = p.token_type_ids == nullptr ? 0 : p.token_type_ids[token];
  const std::int64_t position = p.position_embeddings == nullptr ? 0 : p.position_ids[token];
  const std::int64_t start = token * p.hidden_size;
  const auto write = [&](std::int64_t col, int count, const float (&x)[kChunk]) {
    store_chunk(p.hidden_states + start + col, count, is_vector, x);
    if (p.out != nullptr) store_chunk(static_cast<T*>(p.out) + start + col, count, is_vector, x);
  };
  const RowChunks chunks(shared, p.hidden_size);
  chunks.for_each([&](int idx, std::int64_t col, int count) {
    float x[kChunk];
    load_chunk(static_cast<const T*>(p.word_embeddings) + word * p.hidden_size + col, count, is_vector, x);
    if (p.token_type_embeddings != nullptr) {
      add_row<T>(p.token_type_embeddings, type, p.hidden_size, col, count, is_vector, x);
    }
    if (p.position_embeddings != nullptr) {
      add_row<T>(p.position_embeddings, position, p.hidden_size, col, count, is_vector, x);
    }
    if (p.task_type_embeddings != nullptr) {
      add_row<T>(p.task_type_embeddings, 0, p.hidden_size, col, count, is_vector, x);
    }
    if (p.norm.weight != nullptr) {
      chunks.put(idx, x);
    } else {
      write(col, count, x);
    }
  });
  if (p.norm.weight != nullptr) norm_row(p.norm, is_vector, chunks, write);
}

}  // namespace

void launch_embed(const EmbedRowsParams& params, cudaStream_t stream) {
  const EmbedRowsParams& p = params;
  if (p.num_tokens == 0) return;
  with_float_type(p.dtype, [&](auto element) {
    using T = decltype(element);
    bool is_vector = p.hidden_size % kChunk == 0;
    for (const void* pointer :
         {p.word_embeddings, p.position_embeddings, p.token_type_embeddings, p.task_type_embeddings,
          static_cast<const void*>(p.norm.weight), static_cast<const void*>(p.norm.bias),
          static_cast<const void*>(p.hidden_states), static_cast<const void*>(p.out)}) {
      is_vector = is_vector && has_vector_rows(pointer, p.hidden_size, sizeof(T));
    }
    launch_kernel(embed_kernel<T>, dim3(static_cast<unsigned>(p.num_tokens)), dim3(norm_threads(p.hidden_size)),
                  norm_shared_bytes(p.hidden_size), stream, p, is_vector);
  });
}

}  // namespace assay::cuda
