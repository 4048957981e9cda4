// One post-LayerNorm transformer block as one parallel region:
//
//   qkv = x Wqkv^T | attention | x = norm(x + ctx Wo^T) | x = norm(x + act(x Wup^T) Wdown^T)
//
// The bars are barriers. From the output projection on, a block of tokens runs through to the end while its
// activations are in L2 (the 4x wide intermediate never reaches memory); where there are too few blocks to keep all
// threads busy, each product is spread over output features instead. Both give the same bits, because the order of
// sums in an element never depends on the cut. Included inside an ISA's namespace after gemm.h, attention.h, norm.h.
#pragma once

// Above this many tokens there are always enough row blocks; bounds the workspace of the spread variant.
constexpr std::int64_t kSpreadMaxTokens = 4096;
// Spread over output features unless every thread gets at least this many panels of tokens.
constexpr std::int64_t kMinPanelsPerThread = 1;

enum WorkList : int { kListQkv, kListAttention, kListOut, kListNorm, kListUp, kListDown, kListLastNorm, kListRowsQ };

template <typename Policy>
struct EncoderLayer {
  static constexpr DType kDType = kActivationDtype<Policy>;
  static constexpr std::int64_t kElement = kDType == DType::kFloat32 ? 4 : 2;

  const EncoderLayerParams& p;
  const std::int64_t hidden_size = p.attn_out.out_features;
  const std::int64_t intermediate_size = p.mlp_up.out_features;
  // The residual stream that the block ends in: all tokens, or the wanted row of each sequence.
  float* const stream = p.rows == nullptr ? p.hidden_states : p.rows_out;
  const std::int64_t num_rows = p.rows == nullptr ? p.num_tokens : p.num_seqs;
  // Workspace, in order.
  char* const qkv = static_cast<char*>(p.workspace);
  char* const rows_q = qkv + round_up(p.num_tokens * 3 * hidden_size * kElement, kCacheLine);
  char* const context_out =
      rows_q + (p.rows == nullptr ? 0 : round_up(p.num_seqs * 3 * hidden_size * kElement, kCacheLine));
  char* const intermediate = context_out + round_up(num_rows * hidden_size * kElement, kCacheLine);
  std::int32_t* const rows_cu_seqlens =
      reinterpret_cast<std::int32_t*>(intermediate + round_up(spread_bytes(), kCacheLine));

  std::int64_t spread_bytes() const { return min_of(num_rows, kSpreadMaxTokens) * intermediate_size * kElement; }
  std::size_t workspace_size() const {
    const char* end = reinterpret_cast<const char*>(rows_cu_seqlens) + (p.num_seqs + 1) * 4;
    return static_cast<std::size_t>(end - static_cast<const char*>(p.workspace));
  }

  // Tokens that run from the output projection to the end together.
  std::int64_t fused_rows(int num_threads) const {
    const std::int64_t panel_bytes =
        input_panel_bytes<Policy>(hidden_size) + input_panel_bytes<Policy>(intermediate_size);
    const std::int64_t cap = max_of(1, kInputBlockBytes / panel_bytes);
    // As few blocks as fit, because each streams all the weights, but the same number for every thread. With one block
    // each, an even share of the rows, even if it leaves panels part empty; with many, whole panels.
    const std::int64_t panels = ceil_div(num_rows, Policy::kRows);
    const std::int64_t num_blocks = num_threads * ceil_div(panels, num_threads * cap);
    return num_blocks == num_threads ? ceil_div(num_rows, num_blocks) : ceil_div(panels, num_blocks) * Policy::kRows;
  }
  bool is_spread(int num_threads) const {
    return num_threads > 1 && num_rows <= kSpreadMaxTokens &&
           ceil_div(num_rows, Policy::kRows) < kMinPanelsPerThread * num_threads;
  }
  std::int64_t fused_input_bytes() const {
    return max_block_rows<Policy>(hidden_size) / Policy::kRows * input_panel_bytes<Policy>(hidden_size);
  }
  std::size_t scratch_size(const AttentionParams& attention_params) const {
    const std::int64_t panels = max_of(2, kInputBlockBytes / input_panel_bytes<Policy>(intermediate_size));
    const std::int64_t fused = fused_input_bytes() + panels * input_panel_bytes<Policy>(intermediate_size) +
                               2 * input_panel_bytes<Policy>(hidden_size);
    std::size_t size = static_cast<std::size_t>(fused);
    const std::size_t others[] = {linear_scratch<Policy>(p.qkv), linear_scratch<Policy>(p.mlp_down),
                                  attention_scratch_size(attention_params)};
    for (const std::size_t other : others) size = other > size ? other : size;
    return size;
  }

  LinearParams linear_params(const void* x, DType x_dtype, std::int64_t x_stride, const PackedWeightView& weight,
                             void* out, DType out_dtype, std::int64_t out_stride, std::int64_t num_tokens) const {
    return {.x = x,
            .x_dtype = x_dtype,
            .x_stride = x_stride,
            .weight = weight,
            .activation = Activation::kNone,
            .residual = nullptr,
            .residual_stride = 0,
            .out = out,
            .out_dtype = out_dtype,
            .out_stride = out_stride,
            .num_tokens = num_tokens};
  }

  // Columns [first, first + count) of a packed weight's output; both must be multiples of a panel's width.
  static PackedWeightView slice(const PackedWeightView& weight, std::int64_t first, std::int64_t count) {
    PackedWeightView part = weight;
    part.data =
        static_cast<const char*>(weight.data) + first / Policy::kCols * weight_panel_bytes<Policy>(weight.in_features);
    part.bias = weight.bias == nullptr ? nullptr : weight.bias + first;
    part.out_features = count;
    return part;
  }

  // Queries of the wanted rows only, keys and values of every token. Where hidden_size is not a whole number of
  // panels the fused weight cannot be cut, and the parts that nobody reads are computed as well.
  void project_rows(ThreadContext& context, char* scratch) const {
    const bool can_cut = hidden_size % Policy::kCols == 0;
    const std::int64_t stride = 3 * hidden_size;
    PackedWeightView kv = p.qkv;
    PackedWeightView q = p.qkv;
    char* kv_out = qkv;
    if (can_cut) {
      q = slice(p.qkv, 0, hidden_size);
      kv = slice(p.qkv, hidden_size, 2 * hidden_size);
      kv_out += hidden_size * kElement;
    }
    linear_phase<Policy>(
        linear_params(p.hidden_states, DType::kFloat32, hidden_size, kv, kv_out, kDType, stride, p.num_tokens), context,
        kListQkv, scratch);
    linear_phase<Policy>(linear_params(stream, DType::kFloat32, hidden_size, q, rows_q, kDType, stride, p.num_seqs),
                         context, kListRowsQ, scratch);
  }

  void gather_rows(ThreadContext& context) const {
    for (std::int64_t i = context.thread_idx(); i < p.num_seqs; i += context.num_threads()) {
      memcpy(stream + i * hidden_size, p.hidden_states + p.rows[i] * hidden_size,
             static_cast<std::size_t>(hidden_size) * sizeof(float));
    }
    if (context.thread_idx() == 0) {
      for (std::int64_t i = 0; i <= p.num_seqs; ++i) rows_cu_seqlens[i] = static_cast<std::int32_t>(i);
    }
  }

  AttentionParams attention_params() const {
    const bool has_rows = p.rows != nullptr;
    return {.q = has_rows ? rows_q : qkv,
            .k = qkv + hidden_size * kElement,
            .v = qkv + 2 * hidden_size * kElement,
            .dtype = kDType,
            .q_stride = 3 * hidden_size,
            .k_stride = 3 * hidden_size,
            .v_stride = 3 * hidden_size,
            .cu_seqlens_q = has_rows ? rows_cu_seqlens : p.cu_seqlens,
            .cu_seqlens_k = p.cu_seqlens,
            .num_seqs = p.num_seqs,
            .max_seqlen_q = has_rows ? 1 : p.max_seqlen,
            .max_seqlen_k = p.max_seqlen,
            .num_heads = p.num_heads,
            .num_kv_heads = p.num_heads,
            .head_dim = p.head_dim,
            .softmax_scale = p.softmax_scale,
            .is_causal = false,
            .out = context_out,
            .out_stride = hidden_size};
  }

  void norm_row(std::int64_t row, const float* weight, const float* bias) const {
    float* at = stream + row * hidden_size;
    layer_norm_row(at, nullptr, weight, bias, p.epsilon, hidden_size, at);
  }

  void norm_phase(ThreadContext& context, int list, const float* weight, const float* bias) const {
    constexpr std::int64_t kRowsPerItem = 8;
    for (std::int64_t row0; (row0 = context.next(list) * kRowsPerItem) < num_rows;) {
      for (std::int64_t row = row0; row < min_of(row0 + kRowsPerItem, num_rows); ++row) norm_row(row, weight, bias);
    }
  }

  void finish_spread(ThreadContext& context, char* scratch) const {
    LinearParams out =
        linear_params(context_out, kDType, hidden_size, p.attn_out, stream, DType::kFloat32, hidden_size, num_rows);
    out.residual = stream;
    out.residual_stride = hidden_size;
    linear_phase<Policy>(out, context, kListOut, scratch);
    context.barrier();
    norm_phase(context, kListNorm, p.attn_norm_weight, p.attn_norm_bias);
    context.barrier();
    LinearParams up = linear_params(stream, DType::kFloat32, hidden_size, p.mlp_up, intermediate, kDType,
                                    intermediate_size, num_rows);
    up.activation = p.activation;
    linear_phase<Policy>(up, context, kListUp, scratch);
    context.barrier();
    LinearParams down = linear_params(intermediate, kDType, intermediate_size, p.mlp_down, stream, DType::kFloat32,
                                      hidden_size, num_rows);
    down.residual = stream;
    down.residual_stride = hidden_size;
    linear_phase<Policy>(down, context, kListDown, scratch);
    context.barrier();
    norm_phase(context, kListLastNorm, p.mlp_norm_weight, p.mlp_norm_bias);
  }

  void pack_rows(const void* x, DType dtype, std::int64_t rows, char* panels) const {
    const std::int64_t element = dtype == DType::kFloat32 ? 4 : 2;
    for (std::int64_t r = 0; r < rows; r += Policy::kRows) {
      pack_input_panel<Policy>(static_cast<const char*>(x) + r * hidden_size * element, dtype, hidden_size, hidden_size,
                               static_cast<int>(min_of(Policy::kRows, rows - r)),
                               panels + r / Policy::kRows * input_panel_bytes<Policy>(hidden_size));
    }
  }

  // stream[row0 + r] += panels . weight^T + bias
  void add_product(const char* panels, const PackedWeightView& weight, std::int64_t row0, std::int64_t rows) const {
    const Epilogue epilogue{stream, hidden_size, stream, DType::kFloat32, hidden_size};
    multiply_panels<Policy>(panels, rows, weight, 0, ceil_div(hidden_size, Policy::kCols), Activation::kNone,
                            [&](std::int64_t r, std::int64_t col, std::int64_t left, Vec v) {
                              store_row_major(epilogue, row0 + r, col, left, v);
                            });
  }

  void finish_fused(ThreadContext& context, char* scratch) const {
    const std::int64_t rows_per_block = fused_rows(context.num_threads());
    const std::int64_t hidden_panel = input_panel_bytes<Policy>(hidden_size);
    const std::int64_t wide_panel = input_panel_bytes<Policy>(intermediate_size);
    char* const panels = scratch;
    char* const wide_panels = scratch + ceil_div(rows_per_block, Policy::kRows) * hidden_panel;
    for (std::int64_t row0; (row0 = context.next(kListOut) * rows_per_block) < num_rows;) {
      const std::int64_t rows = min_of(rows_per_block, num_rows - row0);
      pack_rows(context_out + row0 * hidden_size * kElement, kDType, rows, panels);
      add_product(panels, p.attn_out, row0, rows);
      for (std::int64_t r = 0; r < rows; ++r) norm_row(row0 + r, p.attn_norm_weight, p.attn_norm_bias);
      pack_rows(stream + row0 * hidden_size, DType::kFloat32, rows, panels);
      if (intermediate_size % Policy::kDepth != 0) {
        // The next product reads whole depth blocks: what lies beyond intermediate_size must be zero, not stale.
        memset(wide_panels, 0, static_cast<std::size_t>(ceil_div(rows, Policy::kRows) * wide_panel));
      }
      multiply_panels<Policy>(panels, rows, p.mlp_up, 0, ceil_div(intermediate_size, Policy::kCols), p.activation,
                              [&](std::int64_t r, std::int64_t col, std::int64_t, Vec v) {
                                Policy::put_input(wide_panels + r / Policy::kRows * wide_panel,
                                                  static_cast<int>(r % Policy::kRows), col, v);
                              });
      for (std::int64_t r = 0; r < rows; r += Policy::kRows) {
        seal_panel<Policy>(wide_panels + r / Policy::kRows * wide_panel,
                           static_cast<int>(min_of(Policy::kRows, rows - r)), wide_panel / Policy::kPanelBlockBytes);
      }
      add_product(wide_panels, p.mlp_down, row0, rows);
      for (std::int64_t r = 0; r < rows; ++r) norm_row(row0 + r, p.mlp_norm_weight, p.mlp_norm_bias);
    }
  }

  void run(ThreadContext& context) const {
    char* const scratch = static_cast<char*>(context.scratch());
    TileSession<Policy> session;
    if (p.rows == nullptr) {
      linear_phase<Policy>(linear_params(p.hidden_states, DType::kFloat32, hidden_size, p.qkv, qkv, kDType,
                                         3 * hidden_size, p.num_tokens),
                           context, kListQkv, scratch);
    } else {
      gather_rows(context);
      context.barrier();
      project_rows(context, scratch);
    }
    context.barrier();
    attention_region(attention_params(), context, kListAttention, scratch);
    context.barrier();
    if (is_spread(context.num_threads())) {
      finish_spread(context, scratch);
    } else {
      finish_fused(context, scratch);
    }
  }
};

template <typename Policy>
void run_encoder_layer(const EncoderLayerParams& params, ThreadPool& pool) {
  const EncoderLayer<Policy> layer{params};
  pool.run([](void* state, ThreadContext& context) { static_cast<const EncoderLayer<Policy>*>(state)->run(context); },
           const_cast<EncoderLayer<Policy>*>(&layer), layer.scratch_size(layer.attention_params()));
}

void encoder_layer(const EncoderLayerParams& params, ThreadPool& pool) {
  if (params.num_tokens == 0) return;
  params.qkv.arithmetic == Arithmetic::kBFloat16 ? run_encoder_layer<Bfloat16Policy>(params, pool)
                                                 : run_encoder_layer<Float32Policy>(params, pool);
}

std::size_t encoder_layer_workspace_size(const EncoderLayerParams& params) {
  return params.qkv.arithmetic == Arithmetic::kBFloat16 ? EncoderLayer<Bfloat16Policy>{params}.workspace_size()
                                                        : EncoderLayer<Float32Policy>{params}.workspace_size();
}
