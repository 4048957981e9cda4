// embed: the sum of a token's embedding rows, then LayerNorm. Included inside an ISA's namespace after its vec_*.h;
// includes only its kin.
#pragma once

#include "cpu/norm.h"

// word + token type + position + task type: the order in which transformers adds them.
template <typename Element>
inline void embed_token(const EmbedParams& p, std::int64_t token, float* out) {
  constexpr int kMaxTables = 4;
  const Element* rows[kMaxTables];
  int num_rows = 0;
  const auto take = [&](const void* table, std::int64_t id) {
    if (table != nullptr) rows[num_rows++] = static_cast<const Element*>(table) + id * p.hidden_size;
  };
  take(p.word_embeddings, p.input_ids[token]);
  take(p.token_type_embeddings, p.token_type_ids == nullptr ? 0 : p.token_type_ids[token]);
  take(p.position_embeddings, p.position_ids == nullptr ? 0 : p.position_ids[token]);
  take(p.task_type_embeddings, 0);
  for_each_vec(p.hidden_size, [&](std::int64_t col, std::int64_t n) {
    Vec sum = load_lanes(rows[0] + col, n);
    for (int i = 1; i < num_rows; ++i) sum = vec_add(sum, load_lanes(rows[i] + col, n));
    store_lanes(out + col, sum, n);
  });
  if (p.norm_weight != nullptr) {
    layer_norm_row(out, nullptr, p.norm_weight, p.norm_bias, p.epsilon, p.hidden_size, out);
  }
}

template <typename Element>
inline void embed_tokens(const EmbedParams& p, ThreadPool& pool) {
  constexpr std::int64_t kTokensPerPiece = 16;
  parallel_rows(pool, p.num_tokens, kTokensPerPiece, p.num_tokens * p.hidden_size,
                [&](std::int64_t first, std::int64_t last) {
                  for (std::int64_t token = first; token < last; ++token) {
                    embed_token<Element>(p, token, p.out + token * p.hidden_size);
                  }
                });
}

void embed(const EmbedParams& params, ThreadPool& pool) {
  params.table_dtype == DType::kFloat32 ? embed_tokens<float>(params, pool) : embed_tokens<bfloat16>(params, pool);
}
