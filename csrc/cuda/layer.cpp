#include "cuda/layer.h"

#include <algorithm>

#include "cuda/attention_schedule.h"
#include "cuda/launch_attention.h"
#include "cuda/launch_elementwise.h"
#include "cuda/launch_rows.h"
#include "cuda/layer_rows.h"
#include "cuda/residual.h"

namespace assay::cuda {
namespace {

constexpr std::int64_t kAlignment = 256;  // of every part of the workspace, in bytes

std::int64_t aligned(std::int64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// Hands out the workspace from front to back; with a null start it only counts.
class Arena {
 public:
  explicit Arena(void* start) : start_(static_cast<char*>(start)) {}

  void* take(std::int64_t size) {
    void* const at = start_ == nullptr ? nullptr : start_ + used_;
    used_ += aligned(size);
    most_ = std::max(most_, used_);
    return at;
  }
  std::int64_t used() const { return used_; }
  // What was taken since `used` is free again.
  void rewind(std::int64_t used) { used_ = used; }
  std::int64_t most() const { return most_; }

 private:
  char* start_;
  std::int64_t used_ = 0, most_ = 0;
};

// Where everything lies. Attention's buffers and the MLP's are never needed at once and share their bytes.
struct Workspace {
  void* input = nullptr;                      // [max_tokens or num_rows, hidden_size], what a product reads
  void* delta = nullptr;                      // [num_rows, hidden_size], what comes back into the stream
  std::int32_t* rows_tokens = nullptr;        // [num_seqs]; these four only with rows
  std::int32_t* rows_cu_seqlens = nullptr;    // [num_seqs + 1]
  std::int32_t* rows_in_sequence = nullptr;   // [num_seqs]
  std::int32_t* rows_position_ids = nullptr;  // [num_seqs]
  void* schedule = nullptr;
  char* qkv = nullptr;           // [max_tokens, qkv_size]
  char* rows_q = nullptr;        // [num_seqs, q_size], only with rows
  void* context = nullptr;       // [num_rows, q_size]
  void* intermediate = nullptr;  // [num_rows, intermediate_size]
  void* product_scratch = nullptr;
  std::int64_t size = 0;

  Workspace(const TransformerLayer& layer, std::int64_t max_tokens, std::int64_t num_seqs, bool has_rows, void* start) {
    const std::int64_t element = layer.dtype() == DType::kFloat32 ? 4 : 2;
    const std::int64_t num_rows = has_rows ? num_seqs : max_tokens;
    const auto ints = [](void* at) { return static_cast<std::int32_t*>(at); };
    Arena arena(start);
    // Sequences without a token have a row all the same, so there may be more rows than tokens.
    input = arena.take(std::max(max_tokens, num_rows) * layer.hidden_size() * element);
    delta = arena.take(num_rows * layer.hidden_size() * element);
    if (has_rows) {
      rows_tokens = ints(arena.take(num_seqs * 4));
      rows_cu_seqlens = ints(arena.take((num_seqs + 1) * 4));
      rows_in_sequence = ints(arena.take(num_seqs * 4));
      rows_position_ids = ints(arena.take(num_seqs * 4));
    }
    const std::int64_t shared = arena.used();
    schedule = arena.take(attention_schedule_size(num_rows, num_seqs));
    qkv = static_cast<char*>(arena.take(max_tokens * layer.qkv_size() * element));
    if (has_rows) rows_q = static_cast<char*>(arena.take(num_seqs * layer.q_size() * element));
    context = arena.take(num_rows * layer.q_size() * element);
    arena.rewind(shared);
    intermediate = arena.take(num_rows * layer.mlp_down.weight.in_features * element);
    product_scratch = arena.take(layer.mlp_up.scratch_size(num_rows));
    size = arena.most();
  }
};

class Run {
 public:
  Run(const TransformerLayer& layer, const LayerBatch& batch, cudaStream_t stream)
      : layer_(layer),
        batch_(batch),
        stream_(stream),
        space_(layer, batch.max_tokens, batch.num_seqs, batch.rows != nullptr, batch.workspace),
        has_rows_(batch.rows != nullptr),
        element_(layer.dtype() == DType::kFloat32 ? 4 : 2),
        num_tokens_(batch.cu_seqlens + batch.num_seqs),
        residual_(has_rows_ ? batch.rows_out : batch.hidden_states),
        max_rows_(has_rows_ ? batch.num_seqs : batch.max_tokens),
        num_rows_(has_rows_ ? nullptr : num_tokens_) {}

  void run() const {
    if (has_rows_) gather_rows();
    project();
    rotate();
    attend();
    multiply(layer_.attn_out, space_.context, layer_.q_size(), space_.delta, layer_.hidden_size());
    come_back(layer_.attn_out_norm, layer_.attn_residual_norm, layer_.mlp_in_norm, space_.input);
    const std::int64_t wide = layer_.mlp_down.weight.in_features;
    multiply(layer_.mlp_up, space_.input, layer_.hidden_size(), space_.intermediate, wide);
    multiply(layer_.mlp_down, space_.intermediate, wide, space_.delta, layer_.hidden_size());
    come_back(layer_.mlp_out_norm, layer_.mlp_residual_norm, NormView{}, nullptr);
  }

 private:
  void gather_rows() const {
    launch_layer_rows({.rows = batch_.rows,
                       .cu_seqlens = batch_.cu_seqlens,
                       .position_ids = layer_.rotary_dim > 0 ? batch_.position_ids : nullptr,
                       .tokens = space_.rows_tokens,
                       .one_each = space_.rows_cu_seqlens,
                       .in_sequence = space_.rows_in_sequence,
                       .rows_position_ids = space_.rows_position_ids,
                       .num_seqs = batch_.num_seqs},
                      stream_);
    copy_rows(batch_.hidden_states, layer_.hidden_size() * 4, batch_.rows_out, layer_.hidden_size() * 4);
  }

  // The wanted rows of a matrix on `stride` bytes, one after the other.
  void copy_rows(const void* from, std::int64_t stride, void* out, std::int64_t row_bytes) const {
    launch_gather_rows({.x = from,
                        .x_stride_bytes = stride,
                        .rows = space_.rows_tokens,
                        .out = out,
                        .num_rows = batch_.num_seqs,
                        .row_bytes = row_bytes},
                       stream_);
  }

  // The input of the projection, of all tokens or of the wanted rows.
  void make_input(float* from, std::int64_t max_rows, const std::int32_t* num_rows) const {
    launch_residual({.stream = from,
                     .in_norm = layer_.attn_in_norm,
                     .out = space_.input,
                     .dtype = layer_.dtype(),
                     .max_rows = max_rows,
                     .num_rows = num_rows,
                     .hidden_size = layer_.hidden_size()},
                    stream_);
  }

  // Queries, keys and values of all tokens; with rows, queries of those only. Our own kernel then computes two parts of
  // the weight apart, with the bits of the whole. The library's algorithm is proved for the whole weight.
  void project() const {
    const std::int64_t hidden = layer_.hidden_size(), q_size = layer_.q_size(), kv_size = layer_.kv_size();
    make_input(batch_.hidden_states, batch_.max_tokens, num_tokens_);
    ProductOperands all = {.x = space_.input,
                           .x_stride = hidden,
                           .out = space_.qkv,
                           .out_stride = layer_.qkv_size(),
                           .max_rows = batch_.max_tokens,
                           .num_rows = num_tokens_,
                           .scratch = nullptr};
    if (!has_rows_) return launch_product(layer_.qkv, all, stream_);
    if (!layer_.qkv.is_own()) {
      launch_product(layer_.qkv, all, stream_);
      return copy_rows(space_.qkv, layer_.qkv_size() * element_, space_.rows_q, q_size * element_);
    }
    Product part = layer_.qkv;
    part.weight = layer_.qkv.weight.slice(q_size, 2 * kv_size);
    all.out = space_.qkv + q_size * element_;
    launch_product(part, all, stream_);
    make_input(batch_.rows_out, batch_.num_seqs, nullptr);
    part.weight = layer_.qkv.weight.slice(0, q_size);
    launch_product(part,
                   {.x = space_.input,
                    .x_stride = hidden,
                    .out = space_.rows_q,
                    .out_stride = q_size,
                    .max_rows = batch_.num_seqs,
                    .num_rows = nullptr,
                    .scratch = nullptr},
                   stream_);
  }

  char* q() const { return has_rows_ ? space_.rows_q : space_.qkv; }
  std::int64_t q_stride() const { return has_rows_ ? layer_.q_size() : layer_.qkv_size(); }

  void attend() const {
    AttentionParams params{};
    params.q = q();
    params.k = space_.qkv + layer_.q_size() * element_;
    params.v = space_.qkv + (layer_.q_size() + layer_.kv_size()) * element_;
    params.dtype = layer_.dtype();
    params.q_stride = q_stride();
    params.k_stride = layer_.qkv_size();
    params.v_stride = layer_.qkv_size();
    params.cu_seqlens_q = has_rows_ ? space_.rows_cu_seqlens : batch_.cu_seqlens;
    params.cu_seqlens_k = batch_.cu_seqlens;
    params.num_seqs = batch_.num_seqs;
    params.max_seqlen_q = has_rows_ ? 1 : batch_.max_seqlen;
    params.max_seqlen_k = batch_.max_seqlen;
    params.num_heads = layer_.num_heads;
    params.num_kv_heads = layer_.num_kv_heads;
    params.head_dim = layer_.head_dim;
    params.softmax_scale = layer_.softmax_scale;
    params.is_causal = layer_.is_causal;
    params.window_left = layer_.window_left;
    params.window_right = layer_.window_right;
    params.soft_cap = layer_.soft_cap;
    params.query_positions = has_rows_ ? space_.rows_in_sequence : nullptr;
    params.out = space_.context;
    params.out_stride = layer_.q_size();
    const bool is_scheduled = !has_rows_ && batch_.schedule != nullptr;
    void* const schedule = is_scheduled ? batch_.schedule : space_.schedule;
    if (!is_scheduled) {
      launch_attention_schedule({.cu_seqlens_q = params.cu_seqlens_q,
                                 .cu_seqlens_k = params.cu_seqlens_k,
                                 .num_seqs = batch_.num_seqs,
                                 .num_tokens = max_rows_,
                                 .is_causal = layer_.is_causal,
                                 .schedule = schedule},
                                stream_);
    }
    launch_attention({.attention = params,
                      .num_tokens = max_rows_,
                      .num_key_tokens = batch_.max_tokens,
                      .alibi_slopes = nullptr,
                      .schedule = schedule},
                     stream_);
  }

  bool has_rotary() const {
    return layer_.rotary_dim > 0 || layer_.q_norm_weight != nullptr || layer_.k_norm_weight != nullptr;
  }

  // Norms of heads and the rotation; with rows, queries and keys are of different tokens.
  void rotate() const {
    if (!has_rotary()) return;
    const RotaryHeads queries = {.data = q(),
                                 .stride = q_stride(),
                                 .num_tokens = max_rows_,
                                 .num_heads = layer_.num_heads,
                                 .position_ids = has_rows_ ? space_.rows_position_ids : batch_.position_ids,
                                 .norm_weight = layer_.q_norm_weight};
    const RotaryHeads keys = {.data = space_.qkv + layer_.q_size() * element_,
                              .stride = layer_.qkv_size(),
                              .num_tokens = batch_.max_tokens,
                              .num_heads = layer_.num_kv_heads,
                              .position_ids = batch_.position_ids,
                              .norm_weight = layer_.k_norm_weight};
    if (!has_rows_) return rotate(queries, keys, num_tokens_);
    // Without heads, but with its norm: the launch sees the same kinds of heads as the one for all tokens.
    RotaryHeads no_keys = queries, no_queries = keys;
    no_keys.num_heads = no_queries.num_heads = 0;
    no_keys.norm_weight = layer_.k_norm_weight;
    no_queries.norm_weight = layer_.q_norm_weight;
    rotate(queries, no_keys, nullptr);
    rotate(keys, no_queries, num_tokens_);
  }

  void rotate(const RotaryHeads& first, const RotaryHeads& second, const std::int32_t* num_tokens) const {
    launch_rotary({.q = first,
                   .k = second,
                   .dtype = layer_.dtype(),
                   .head_dim = layer_.head_dim,
                   .rotary_dim = layer_.rotary_dim,
                   .is_interleaved = layer_.is_rotary_interleaved,
                   .cos = batch_.cos,
                   .sin = batch_.sin,
                   .epsilon = layer_.epsilon},
                  num_tokens, stream_);
  }

  void multiply(const Product& product, const void* x, std::int64_t x_stride, void* out,
                std::int64_t out_stride) const {
    launch_product(product,
                   {.x = x,
                    .x_stride = x_stride,
                    .out = out,
                    .out_stride = out_stride,
                    .max_rows = max_rows_,
                    .num_rows = num_rows_,
                    .scratch = space_.product_scratch},
                   stream_);
  }

  void come_back(const NormView& out_norm, const NormView& residual_norm, const NormView& in_norm, void* out) const {
    launch_residual({.stream = residual_,
                     .delta = space_.delta,
                     .out_norm = out_norm,
                     .residual_norm = residual_norm,
                     .in_norm = in_norm,
                     .out = out,
                     .dtype = layer_.dtype(),
                     .max_rows = max_rows_,
                     .num_rows = num_rows_,
                     .hidden_size = layer_.hidden_size()},
                    stream_);
  }

  const TransformerLayer& layer_;
  const LayerBatch& batch_;
  const cudaStream_t stream_;
  const Workspace space_;
  const bool has_rows_;
  const std::int64_t element_;
  const std::int32_t* const num_tokens_;  // on the device
  // The stream that the block ends in: all tokens, or the wanted row of each sequence.
  float* const residual_;
  const std::int64_t max_rows_;
  const std::int32_t* const num_rows_;
};

}  // namespace

std::int64_t transformer_layer_workspace_size(const TransformerLayer& layer, std::int64_t max_tokens,
                                              std::int64_t num_seqs) {
  return std::max(Workspace(layer, max_tokens, num_seqs, /*has_rows=*/false, nullptr).size,
                  Workspace(layer, max_tokens, num_seqs, /*has_rows=*/true, nullptr).size);
}

void launch_transformer_layer(const TransformerLayer& layer, const LayerBatch& batch, cudaStream_t stream) {
  if (batch.max_tokens == 0 || batch.num_seqs == 0) return;
  Run(layer, batch, stream).run();
}

}  // namespace assay::cuda
