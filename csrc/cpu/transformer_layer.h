// One transformer block as one parallel region (the formulas stand at TransformerLayerParams):
//
//   qkv = norm(x) Wqkv^T | rotary(q, k) | attention | x = norm(x + norm(ctx Wo^T)) | x = norm(x + norm(mlp(norm(x))))
//
// The bars are barriers, and each norm and the rotary phase are there or not. From the output projection on, a block of
// tokens runs through to the end while its activations are in L2 (the wide MLP intermediate never reaches memory, and
// is made and used in parts where a micro-kernel can resume its sums); where there are too few blocks to keep all
// threads busy, each product is spread over output features instead. Both give the same bits, because the order of sums
// in an element never depends on the cut. Included inside an ISA's namespace after gemm.h, head_products.h,
// attention.h, row_attention.h, norm.h, rotary.h.
//
// With rows and row_keys the projections of keys and values are folded into the one query a sequence has. For head h,
// tokens x_t and probabilities p_t that add up to 1:
//
//   q_h . (Wk_h x_t + bk_h) = (Wk_h^T q_h) . x_t + (the same for every t: softmax does not see it)
//   sum_t p_t (Wv_h x_t + bv_h) = Wv_h (sum_t p_t x_t) + bv_h
//
// That is 2 num_heads hidden_size multiply-adds a token, and 2 num_heads head_dim hidden_size a sequence, in place of 2
// num_kv_heads head_dim hidden_size a token: with a key head for every head less from 2 tokens a sequence on. Grouped
// queries need longer sequences for that. Whether a layer folds never depends on the batch, or scores would. A row
// always sees itself, so there are probabilities to add up.
#pragma once

// Above this many tokens there are always enough row blocks; bounds the workspace of the spread variant.
constexpr std::int64_t kSpreadMaxTokens = 4096;
// Spread over output features unless every thread gets at least this many panels of tokens.
constexpr std::int64_t kMinPanelsPerThread = 1;
#if defined(ASSAY_AMX)
// The same where the weights, which otherwise every thread reads whole, are this large: they come from beyond L2, and
// tiles are through with a few panels of tokens before they have.
constexpr std::int64_t kMinPanelsOfLargeWeights = 4;
constexpr std::size_t kLargeWeightBytes = 8 * 1024 * 1024;
#endif

// Features of the MLP intermediate that a block of tokens holds at a time: it adds what they give to the down
// projection's sums before it computes the next. A part's weight panels stay in a 32 KiB L1 while the tokens pass.
constexpr std::int64_t kPartFeatures = 384;
// Of input, intermediate and sums of a block of tokens that works in parts: leaves room for weights in a 512 KiB L2.
constexpr std::int64_t kPartsBlockBytes = 384 * 1024;

enum WorkList : int {
  kListQkv,
  kListRowsQ,
  kListRotary,
  kListAttention,
  kListOut,
  kListNorm,
  kListUp,
  kListDown,
  kListLastNorm,
  kNumWorkLists,
  // A folded call has neither of these two phases.
  kListHeadQueries = kListQkv,
  kListHeadContexts = kListRotary
};
static_assert(kNumWorkLists <= kMaxWorkLists);

// What follows a product on its way back into the residual stream.
struct ReturnNorms {
  const NormView& out;
  const NormView& residual;

  bool has_out() const { return out.weight != nullptr; }
  bool is_any() const { return has_out() || residual.weight != nullptr; }
};

template <typename Policy>
struct TransformerLayer {
  static constexpr DType kDType = kActivationDtype<Policy>;
  static constexpr std::int64_t kElement = kDType == DType::kFloat32 ? 4 : 2;
  static constexpr std::int64_t kFloat = sizeof(float);
  // Threads' shares of the tokens are cut between panels, unless those are long: their micro-kernels take a part too.
  static constexpr std::int64_t kShareRows = Policy::kRows <= 6 ? Policy::kRows : 2;

  const TransformerLayerParams& p;
  const std::int64_t hidden_size = p.attn_out.out_features;
  const std::int64_t intermediate_size = p.mlp_up.out_features;
  const std::int64_t q_size = p.attn_out.in_features;
  const std::int64_t kv_size = static_cast<std::int64_t>(p.num_kv_heads) * p.head_dim;
  const std::int64_t qkv_size = q_size + 2 * kv_size;
  const bool is_folded = p.rows != nullptr && p.row_keys.out_features > 0;
  const ReturnNorms attn_norms{p.attn_out_norm, p.attn_residual_norm};
  const ReturnNorms mlp_norms{p.mlp_out_norm, p.mlp_residual_norm};
  // The residual stream that the block ends in: all tokens, or the wanted row of each sequence.
  float* const stream = p.rows == nullptr ? p.hidden_states : p.rows_out;
  const std::int64_t num_rows = p.rows == nullptr ? p.num_tokens : p.num_seqs;
  const std::int64_t spread_rows = min_of(num_rows, kSpreadMaxTokens);
  // Workspace, in order. row_heads, of a folded call: every head's query against the inputs, then what it made of them.
  // `products` is what an out norm reads; the last three describe the wanted rows.
  char* const qkv = static_cast<char*>(p.workspace);
  char* const rows_q = qkv + (is_folded ? 0 : round_up(p.num_tokens * qkv_size * kElement, kCacheLine));
  float* const row_heads = reinterpret_cast<float*>(
      rows_q + (p.rows == nullptr ? 0 : round_up(p.num_seqs * qkv_size * kElement, kCacheLine)));
  char* const context_out = reinterpret_cast<char*>(row_heads) +
                            (is_folded ? round_up(p.num_seqs * p.num_heads * hidden_size * kFloat, kCacheLine) : 0);
  char* const intermediate = context_out + round_up(num_rows * q_size * kElement, kCacheLine);
  char* const products = intermediate + round_up(spread_rows * intermediate_size * kElement, kCacheLine);
  std::int32_t* const rows_cu_seqlens = reinterpret_cast<std::int32_t*>(
      products + (has_out_norm() ? round_up(spread_rows * hidden_size * kFloat, kCacheLine) : 0));
  std::int32_t* const rows_in_sequence = rows_cu_seqlens + p.num_seqs + 1;
  std::int32_t* const rows_position_ids = rows_in_sequence + p.num_seqs;

  bool has_out_norm() const { return attn_norms.has_out() || mlp_norms.has_out(); }
  bool has_rotary() const { return p.rotary_dim > 0 || p.q_norm_weight != nullptr || p.k_norm_weight != nullptr; }
  std::size_t workspace_size() const {
    const char* end = reinterpret_cast<const char*>(rows_position_ids + p.num_seqs);
    return static_cast<std::size_t>(end - static_cast<const char*>(p.workspace));
  }

  // A thread's scratch while a block of tokens runs from the output projection to the end.
  struct FusedScratch {
    std::int64_t narrow_panel;   // bytes of a panel of the attention's output, or of the stream
    std::int64_t wide_features;  // of the MLP intermediate that are in memory at a time
    std::int64_t wide_panel;     // bytes of a panel of them
    std::int64_t sums_panel;     // bytes of a panel's sums of the down projection, where it comes in parts
    std::int64_t max_panels;     // that fit in L2
    // Starts in bytes; the narrow panels are at 0.
    std::int64_t wide;
    std::int64_t sums;
    std::int64_t normed;
    std::int64_t products;
    std::int64_t size;
  };
  FusedScratch fused_scratch() const {
    static_assert(kPartFeatures % Policy::kDepth == 0 && kPartFeatures % Policy::kCols == 0);
    FusedScratch sizes;
    sizes.narrow_panel = input_panel_bytes<Policy>(max_of(hidden_size, q_size));
    sizes.wide_features = Policy::kResumes ? min_of(intermediate_size, kPartFeatures) : intermediate_size;
    sizes.wide_panel = input_panel_bytes<Policy>(sizes.wide_features);
    sizes.sums_panel =
        sizes.wide_features == intermediate_size ? 0 : Policy::kRows * round_up(hidden_size, Policy::kCols) * kFloat;
    const std::int64_t block_bytes = sizes.sums_panel == 0 ? kInputBlockBytes : kPartsBlockBytes;
    sizes.max_panels = max_of(1, block_bytes / (sizes.narrow_panel + sizes.wide_panel + sizes.sums_panel));
    const std::int64_t panel_of_rows = round_up(Policy::kRows * hidden_size * kFloat, kCacheLine);
    sizes.wide = sizes.max_panels * sizes.narrow_panel;
    sizes.sums = sizes.wide + sizes.max_panels * sizes.wide_panel;
    sizes.normed = sizes.sums + sizes.max_panels * sizes.sums_panel;
    sizes.products = sizes.normed + panel_of_rows;
    sizes.size = sizes.products + (has_out_norm() ? sizes.max_panels * panel_of_rows : 0);
    return sizes;
  }

  // Tokens that run from the output projection to the end together.
  std::int64_t fused_rows(int num_threads) const {
    const std::int64_t cap = fused_scratch().max_panels;
    // As few blocks as fit, because each streams all the weights, but the same number for every thread. With one block
    // each, an even share of the rows, even if it leaves panels part empty; with many, whole panels.
    const std::int64_t panels = ceil_div(num_rows, Policy::kRows);
    const std::int64_t num_blocks = num_threads * ceil_div(panels, num_threads * cap);
    return num_blocks == num_threads ? ceil_div(num_rows, num_blocks) : ceil_div(panels, num_blocks) * Policy::kRows;
  }
  bool is_spread(int num_threads) const {
    return num_threads > 1 && num_rows <= kSpreadMaxTokens &&
           ceil_div(num_rows, Policy::kRows) < min_panels_per_thread() * num_threads;
  }
  std::int64_t min_panels_per_thread() const {
#if defined(ASSAY_AMX)
    std::size_t bytes = 0;
    for (const PackedWeightView* weight : {&p.attn_out, &p.mlp_up, &p.mlp_down}) {
      bytes += packed_bytes<Policy>(weight->out_features, weight->in_features, weight->is_gated);
    }
    if (bytes > kLargeWeightBytes) return kMinPanelsOfLargeWeights;
#endif
    return kMinPanelsPerThread;
  }
  std::size_t scratch_size(const AttentionParams& attention_params) const {
    std::size_t size = static_cast<std::size_t>(fused_scratch().size);
    const std::size_t others[] = {linear_scratch<Policy>(p.qkv), linear_scratch<Policy>(p.attn_out),
                                  linear_scratch<Policy>(p.mlp_up), linear_scratch<Policy>(p.mlp_down),
                                  is_folded ? folded_scratch_size() : attention_scratch_size(attention_params)};
    for (const std::size_t other : others) size = other > size ? other : size;
    return size;
  }
  std::size_t folded_scratch_size() const {
    std::size_t size = row_attention_scratch_size(hidden_size);
    for (const std::int64_t in_features : {hidden_size, static_cast<std::int64_t>(p.head_dim)}) {
      const std::size_t products = head_products_scratch<Policy>(in_features);
      size = products > size ? products : size;
    }
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

  void project_tokens(const PackedWeightView& weight, char* out, ThreadContext& context, char* scratch) const {
    LinearParams params =
        linear_params(p.hidden_states, DType::kFloat32, hidden_size, weight, out, kDType, qkv_size, p.num_tokens);
    params.input_norm = p.attn_in_norm;
    linear_phase<Policy>(params, context, kListQkv, scratch);
  }

  // Queries of the wanted rows only, and where nothing is folded keys and values of every token. Where the queries are
  // not a whole number of panels the fused weight cannot be cut, and the parts that nobody reads are computed as well.
  void project_rows(ThreadContext& context, char* scratch) const {
    PackedWeightView q = p.qkv;
    if (q_size % Policy::kCols == 0) {
      q = slice(p.qkv, 0, q_size);
      if (!is_folded) project_tokens(slice(p.qkv, q_size, 2 * kv_size), qkv + q_size * kElement, context, scratch);
    } else {
      project_tokens(p.qkv, qkv, context, scratch);
    }
    LinearParams params = linear_params(stream, DType::kFloat32, hidden_size, q, rows_q, kDType, qkv_size, p.num_seqs);
    params.input_norm = p.attn_in_norm;
    linear_phase<Policy>(params, context, kListRowsQ, scratch);
  }

  void gather_rows(ThreadContext& context) const {
    for (std::int64_t i = context.thread_idx(); i < p.num_seqs; i += context.num_threads()) {
      memcpy(stream + i * hidden_size, p.hidden_states + p.rows[i] * hidden_size,
             static_cast<std::size_t>(hidden_size) * sizeof(float));
    }
    if (context.thread_idx() != 0) return;
    rows_cu_seqlens[0] = 0;
    for (std::int64_t i = 0; i < p.num_seqs; ++i) {
      rows_cu_seqlens[i + 1] = static_cast<std::int32_t>(i + 1);
      rows_in_sequence[i] = p.rows[i] - p.cu_seqlens[i];
      if (p.rotary_dim > 0) rows_position_ids[i] = p.position_ids[p.rows[i]];
    }
  }

  RotaryParams rotary_params() const {
    const bool has_rows = p.rows != nullptr;
    return {.q = {.data = has_rows ? rows_q : qkv,
                  .stride = qkv_size,
                  .num_tokens = num_rows,
                  .num_heads = p.num_heads,
                  .position_ids = has_rows ? rows_position_ids : p.position_ids,
                  .norm_weight = p.q_norm_weight},
            .k = {.data = qkv + q_size * kElement,
                  .stride = qkv_size,
                  .num_tokens = p.num_tokens,
                  .num_heads = p.num_kv_heads,
                  .position_ids = p.position_ids,
                  .norm_weight = p.k_norm_weight},
            .dtype = kDType,
            .head_dim = p.head_dim,
            .rotary_dim = p.rotary_dim,
            .is_interleaved = p.is_rotary_interleaved,
            .cos = p.cos,
            .sin = p.sin,
            .epsilon = p.epsilon};
  }

  AttentionParams attention_params() const {
    const bool has_rows = p.rows != nullptr;
    return {.q = has_rows ? rows_q : qkv,
            .k = qkv + q_size * kElement,
            .v = qkv + (q_size + kv_size) * kElement,
            .dtype = kDType,
            .q_stride = qkv_size,
            .k_stride = qkv_size,
            .v_stride = qkv_size,
            .cu_seqlens_q = has_rows ? rows_cu_seqlens : p.cu_seqlens,
            .cu_seqlens_k = p.cu_seqlens,
            .num_seqs = p.num_seqs,
            .max_seqlen_q = has_rows ? 1 : p.max_seqlen,
            .max_seqlen_k = p.max_seqlen,
            .num_heads = p.num_heads,
            .num_kv_heads = p.num_kv_heads,
            .head_dim = p.head_dim,
            .softmax_scale = p.softmax_scale,
            .is_causal = p.is_causal,
            .window_left = p.window_left,
            .window_right = p.window_right,
            .soft_cap = p.soft_cap,
            .query_positions = has_rows ? rows_in_sequence : nullptr,
            .out = context_out,
            .out_stride = q_size};
  }

  // The projected queries of the rows -> context_out, without keys and values.
  void attend_folded(ThreadContext& context, char* scratch) const {
    static_assert(kRowKeysMultiple % Policy::kCols == 0);
    const std::int64_t heads_stride = p.num_heads * hidden_size;
    const int heads_per_kv_head = p.num_heads / p.num_kv_heads;
    head_products_phase<Policy>(
        {.x = rows_q,
         .x_dtype = kDType,
         .x_stride = qkv_size,
         .out = row_heads,
         .out_dtype = DType::kFloat32,
         .out_stride = heads_stride,
         .num_rows = p.num_seqs,
         .num_heads = p.num_heads,
         .in_features = p.head_dim,
         .out_features = hidden_size},
        [&](int head) { return slice(p.row_keys, head / heads_per_kv_head * hidden_size, hidden_size); }, context,
        kListHeadQueries, scratch);
    context.barrier();
    AttentionParams params = attention_params();
    params.q = row_heads;
    params.k = params.v = p.hidden_states;
    params.dtype = DType::kFloat32;
    params.q_stride = heads_stride;
    params.k_stride = params.v_stride = hidden_size;
    params.num_kv_heads = 1;
    params.head_dim = static_cast<int>(hidden_size);
    params.out = row_heads;
    params.out_stride = heads_stride;
    row_attention_region(params, context, kListAttention, reinterpret_cast<float*>(scratch));
    context.barrier();
    const std::int64_t first_value = q_size + kv_size;
    head_products_phase<Policy>(
        {.x = row_heads,
         .x_dtype = DType::kFloat32,
         .x_stride = heads_stride,
         .out = context_out,
         .out_dtype = kDType,
         .out_stride = q_size,
         .num_rows = p.num_seqs,
         .num_heads = p.num_heads,
         .in_features = hidden_size,
         .out_features = p.head_dim},
        [&](int head) { return slice(p.qkv, first_value + head / heads_per_kv_head * p.head_dim, p.head_dim); },
        context, kListHeadContexts, scratch);
  }

  // A row of the stream after its product came back: `product` is that row's product, or unread without an out norm,
  // where the product has been added already.
  void finish_row(std::int64_t row, float* product, const ReturnNorms& norms) const {
    float* at = stream + row * hidden_size;
    if (norms.has_out()) {
      norm_row(norms.out, product, hidden_size, product);
      for_each_vec(hidden_size, [&](std::int64_t col, std::int64_t n) {
        store_lanes(at + col, vec_add(load_lanes(at + col, n), load_lanes(product + col, n)), n);
      });
    }
    if (norms.residual.weight != nullptr) norm_row(norms.residual, at, hidden_size, at);
  }

  // stream = residual_norm(stream + out_norm(x . weight^T + bias)), every product spread over all threads.
  void return_spread(const char* x, const PackedWeightView& weight, const ReturnNorms& norms, ThreadContext& context,
                     int list, int norm_list, char* scratch) const {
    float* const target = norms.has_out() ? reinterpret_cast<float*>(products) : stream;
    LinearParams params =
        linear_params(x, kDType, weight.in_features, weight, target, DType::kFloat32, hidden_size, num_rows);
    params.residual = norms.has_out() ? nullptr : stream;
    params.residual_stride = hidden_size;
    linear_phase<Policy>(params, context, list, scratch);
    if (!norms.is_any()) return;
    context.barrier();
    constexpr std::int64_t kRowsPerItem = 8;
    for (std::int64_t row0; (row0 = context.next(norm_list) * kRowsPerItem) < num_rows;) {
      for (std::int64_t row = row0; row < min_of(row0 + kRowsPerItem, num_rows); ++row) {
        finish_row(row, target + row * hidden_size, norms);
      }
    }
  }

  void finish_spread(ThreadContext& context, char* scratch) const {
    return_spread(context_out, p.attn_out, attn_norms, context, kListOut, kListNorm, scratch);
    context.barrier();
    LinearParams up = linear_params(stream, DType::kFloat32, hidden_size, p.mlp_up, intermediate, kDType,
                                    intermediate_size, num_rows);
    up.activation = p.activation;
    up.input_norm = p.mlp_in_norm;
    linear_phase<Policy>(up, context, kListUp, scratch);
    context.barrier();
    return_spread(intermediate, p.mlp_down, mlp_norms, context, kListDown, kListLastNorm, scratch);
  }

  // The same for the `rows` tokens from row0 on, held in input panels, by one thread.
  void return_fused(const char* panels, const PackedWeightView& weight, const DepthPart& part, const char* then,
                    const ReturnNorms& norms, std::int64_t row0, std::int64_t rows, float* block_products) const {
    float* const target = norms.has_out() ? block_products : stream + row0 * hidden_size;
    const Epilogue epilogue{norms.has_out() ? nullptr : target, hidden_size, target, DType::kFloat32, hidden_size};
    multiply_part<Policy>(panels, rows, weight, part, 0, num_weight_panels<Policy>(weight), Activation::kNone, then,
                          StoreTiles<Policy>{epilogue, weight.is_gated});
    if (!part.is_last || !norms.is_any()) return;
    for (std::int64_t r = 0; r < rows; ++r) finish_row(row0 + r, block_products + r * hidden_size, norms);
  }

  // The weight panel of the up projection with a feature of the intermediate that begins one.
  const char* up_panel(std::int64_t feature) const {
    return static_cast<const char*>(p.mlp_up.data) +
           feature / panel_features<Policy>(p.mlp_up.is_gated) * weight_panel_bytes<Policy>(hidden_size);
  }

  // `features` of the MLP intermediate from `first` on, into input panels of wide_panel bytes.
  void compute_wide(const char* panels, std::int64_t rows, std::int64_t first, std::int64_t features, char* wide_panels,
                    std::int64_t wide_panel, const char* then) const {
    if (features % Policy::kDepth != 0) {
      // The next product reads whole depth blocks: what lies beyond `features` must be zero, not stale.
      memset(wide_panels, 0, static_cast<std::size_t>(ceil_div(rows, Policy::kRows) * wide_panel));
    }
    const std::int64_t per_panel = panel_features<Policy>(p.mlp_up.is_gated);
    multiply_part<Policy>(panels, rows, p.mlp_up, whole_depth<Policy>(p.mlp_up), first / per_panel,
                          ceil_div(first + features, per_panel), p.activation, then,
                          PutTiles<Policy>{wide_panels, wide_panel, first, p.mlp_up.is_gated});
    for (std::int64_t r = 0; r < rows; r += Policy::kRows) {
      seal_panel<Policy>(wide_panels + r / Policy::kRows * wide_panel,
                         static_cast<int>(min_of(Policy::kRows, rows - r)), wide_panel / Policy::kPanelBlockBytes);
    }
  }

  // The `rows` tokens from row0 on, from the attention's output to the end.
  void finish_block(std::int64_t row0, std::int64_t rows, const FusedScratch& sizes, char* scratch) const {
    char* const wide_panels = scratch + sizes.wide;
    float* const normed = reinterpret_cast<float*>(scratch + sizes.normed);
    float* const block_products = reinterpret_cast<float*>(scratch + sizes.products);
    pack_input_panels<Policy>(context_out + row0 * q_size * kElement, kDType, q_size, q_size, rows, NormView{}, nullptr,
                              scratch);
    return_fused(scratch, p.attn_out, whole_depth<Policy>(p.attn_out), up_panel(0), attn_norms, row0, rows,
                 block_products);
    pack_input_panels<Policy>(stream + row0 * hidden_size, DType::kFloat32, hidden_size, hidden_size, rows,
                              p.mlp_in_norm, normed, scratch);
    for (std::int64_t first = 0; first < intermediate_size; first += sizes.wide_features) {
      const std::int64_t features = min_of(sizes.wide_features, intermediate_size - first);
      const std::int64_t num_blocks = ceil_div(features, Policy::kDepth);
      const std::int64_t wide_panel = num_blocks * Policy::kPanelBlockBytes;
      const char* down_part =
          static_cast<const char*>(p.mlp_down.data) + first / Policy::kDepth * Policy::kWeightBlockBytes;
      compute_wide(scratch, rows, first, features, wide_panels, wide_panel, down_part);
      const DepthPart part{first / Policy::kDepth, num_blocks, first + features == intermediate_size,
                           sizes.sums_panel == 0 ? nullptr : reinterpret_cast<float*>(scratch + sizes.sums)};
      const char* then = part.is_last ? static_cast<const char*>(p.attn_out.data) : up_panel(first + features);
      return_fused(wide_panels, p.mlp_down, part, then, mlp_norms, row0, rows, block_products);
    }
  }

  void finish_fused(ThreadContext& context, char* scratch) const {
    const FusedScratch sizes = fused_scratch();
    const std::int64_t rows_per_block = fused_rows(context.num_threads());
    if (rows_per_block * context.num_threads() >= num_rows) {
      // One block for every thread: nobody can take over what another is late with, so the cut has to be right.
      const Share share = context.share(num_rows, kShareRows);
      const std::int64_t most = sizes.max_panels * Policy::kRows;
      for (std::int64_t row0 = share.begin; row0 < share.end; row0 += most) {
        finish_block(row0, min_of(most, share.end - row0), sizes, scratch);
      }
      return context.finished(share);
    }
    for (std::int64_t row0; (row0 = context.next(kListOut) * rows_per_block) < num_rows;) {
      finish_block(row0, min_of(rows_per_block, num_rows - row0), sizes, scratch);
    }
  }

  void run(ThreadContext& context) const {
    char* const scratch = static_cast<char*>(context.scratch());
    TileSession<Policy> session;
    if (p.rows == nullptr) {
      project_tokens(p.qkv, qkv, context, scratch);
    } else {
      gather_rows(context);
      context.barrier();
      project_rows(context, scratch);
    }
    context.barrier();
    if (has_rotary()) {
      rotary_region(rotary_params(), context, kListRotary);
      context.barrier();
    }
    if (is_folded) {
      attend_folded(context, scratch);
    } else {
      attention_region(attention_params(), context, kListAttention, scratch);
    }
    context.barrier();
    if (is_spread(context.num_threads())) {
      finish_spread(context, scratch);
    } else {
      finish_fused(context, scratch);
    }
  }
};

template <typename Policy>
void run_transformer_layer(const TransformerLayerParams& params, ThreadPool& pool) {
  const TransformerLayer<Policy> layer{params};
  pool.run(
      [](void* state, ThreadContext& context) { static_cast<const TransformerLayer<Policy>*>(state)->run(context); },
      const_cast<TransformerLayer<Policy>*>(&layer), layer.scratch_size(layer.attention_params()));
}

void transformer_layer(const TransformerLayerParams& params, ThreadPool& pool) {
  if (params.num_tokens == 0) return;
  switch (params.qkv.arithmetic) {
    case Arithmetic::kInt8:
      return run_transformer_layer<Int8Policy>(params, pool);
    case Arithmetic::kBFloat16:
      return run_transformer_layer<Bfloat16Policy>(params, pool);
    case Arithmetic::kFloat32Fma:
      return run_transformer_layer<FmaFloat32>(params, pool);
    case Arithmetic::kFloat32:
      return run_transformer_layer<Float32Policy>(params, pool);
  }
}

std::size_t transformer_layer_workspace_size(const TransformerLayerParams& params) {
  switch (params.qkv.arithmetic) {
    case Arithmetic::kInt8:
      return TransformerLayer<Int8Policy>{params}.workspace_size();
    case Arithmetic::kBFloat16:
      return TransformerLayer<Bfloat16Policy>{params}.workspace_size();
    case Arithmetic::kFloat32Fma:
      return TransformerLayer<FmaFloat32>{params}.workspace_size();
    case Arithmetic::kFloat32:
      return TransformerLayer<Float32Policy>{params}.workspace_size();
  }
  return 0;
}

template <typename Policy>
std::size_t layer_scratch_size(const TransformerLayerParams& params) {
  const TransformerLayer<Policy> layer{params};
  return layer.scratch_size(layer.attention_params());
}

std::size_t transformer_layer_scratch_size(const TransformerLayerParams& params) {
  switch (params.qkv.arithmetic) {
    case Arithmetic::kInt8:
      return layer_scratch_size<Int8Policy>(params);
    case Arithmetic::kBFloat16:
      return layer_scratch_size<Bfloat16Policy>(params);
    case Arithmetic::kFloat32Fma:
      return layer_scratch_size<FmaFloat32>(params);
    case Arithmetic::kFloat32:
      return layer_scratch_size<Float32Policy>(params);
  }
  return 0;
}
