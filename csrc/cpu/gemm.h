// Matrix products: the driver of vector micro-kernels (of tiles: gemm_drive_amx.h) and the `linear` op. Included inside
// an ISA's namespace after the other gemm_*.h.
#pragma once

// Bytes of packed input that a thread keeps hot beside the weight panel it streams: half of its L2, of 2 MiB more,
// because there weights come from L3 for every block.
#if defined(ASSAY_AMX)
constexpr std::int64_t kInputBlockBytes = 1536 * 1024;
#else
constexpr std::int64_t kInputBlockBytes = 512 * 1024;
#endif
// Below this many multiply-adds (some 20 us on one core) waking the other threads costs more than it gives.
constexpr std::int64_t kInlineProducts = 1 << 20;
// Work items per thread: enough to even out a core that loses its time slice to someone else.
constexpr std::int64_t kItemsPerThread = 4;
// Tokens and panels of a row block, where there are as many: fewer would stream the weights too often.
constexpr std::int64_t kMinBlockRows = 24;
#if defined(ASSAY_AMX)
constexpr std::int64_t kMinBlockPanels = 8;
#else
constexpr std::int64_t kMinBlockPanels = 4;
#endif
// Row blocks per thread where there are rows enough: the last item of a phase is all that can leave a thread idle.
constexpr std::int64_t kRowBlocksPerThread = 16;

// A part of the depth, for products whose input comes in parts. Between parts the tiles wait in `sums`, those of one
// weight panel together; a sum's additions are those of the whole depth, in the same order.
struct DepthPart {
  std::int64_t first_block;
  std::int64_t num_blocks;
  bool is_last;
  float* sums;  // nullptr: this is the whole depth
};

template <typename Policy>
DepthPart whole_depth(const PackedWeightView& weight) {
  return {0, ceil_div(weight.in_features, Policy::kDepth), true, nullptr};
}

// Multiplies `rows` tokens held in input panels, of the depth `part`, by the weight panels [first_col_panel,
// last_col_panel). After the last part it hands each finished tile, or some rows of it at a time, to take(tile), its
// rows counted from the first panel. `then` is the weight panel that is read after these, or nullptr.
template <typename Policy, typename Take>
void multiply_part(const char* panels, std::int64_t rows, const PackedWeightView& weight, const DepthPart& part,
                   std::int64_t first_col_panel, std::int64_t last_col_panel, Activation activation, const char* then,
                   const Take& take) {
#if defined(ASSAY_AMX)
  if constexpr (kLeavesVectorUnits<Policy>) {
    return multiply_tiles<Policy>(panels, rows, weight, first_col_panel, last_col_panel, activation, then, take);
  }
#endif
  constexpr std::int64_t kTileFloats = Policy::kRows * Policy::kCols;
  alignas(kCacheLine) float whole_tile[kTileFloats];
  float* values = part.sums == nullptr ? whole_tile : part.sums;
  const std::int64_t values_step = part.sums == nullptr ? 0 : kTileFloats;
  const std::int64_t panel_bytes = part.num_blocks * Policy::kPanelBlockBytes;
  const std::int64_t weight_bytes = ceil_div(weight.in_features, Policy::kDepth) * Policy::kWeightBlockBytes;
  const std::int64_t fetch_bytes =
      round_up(ceil_div(Policy::kWeightBlockBytes, ceil_div(rows, Policy::kRows)), kCacheLine);
  for (std::int64_t col_panel = first_col_panel; col_panel < last_col_panel; ++col_panel) {
    const char* weights =
        static_cast<const char*>(weight.data) + col_panel * weight_bytes + part.first_block * Policy::kWeightBlockBytes;
    // Each row panel fetches its share of the next weight panel, which it would otherwise wait for.
    const char* next_weights = col_panel + 1 < last_col_panel ? weights + weight_bytes : then;
    const std::int64_t share = next_weights == nullptr ? 0 : fetch_bytes;
    const std::int64_t col0 = col_panel * panel_features<Policy>(weight.is_gated);
    const std::int64_t cols = min_of(panel_features<Policy>(weight.is_gated), weight.out_features - col0);
    for (std::int64_t row0 = 0; row0 < rows; row0 += Policy::kRows, values += values_step) {
      const Prefetch next{next_weights + row0 / Policy::kRows * share, share};
      const int used = static_cast<int>(min_of(Policy::kRows, rows - row0));
      const char* panel = panels + row0 / Policy::kRows * panel_bytes;
      if constexpr (kLeavesVectorUnits<Policy>) {
        // Returned above.
      } else if constexpr (Policy::kResumes) {
        Policy::micro(panel, weights, part.num_blocks, used, values, next, part.first_block > 0);
      } else {
        Policy::micro(panel, weights, part.num_blocks, used, values, next);
      }
      if (!part.is_last) continue;
      finish_values<Policy>(weight, activation, values, used, col0, cols);
      take(FinishedTile{values, row0, used, col0, cols});
    }
  }
}

// The same with the whole depth at once.
template <typename Policy, typename Take>
void multiply_panels(const char* panels, std::int64_t rows, const PackedWeightView& weight,
                     std::int64_t first_col_panel, std::int64_t last_col_panel, Activation activation,
                     const Take& take) {
  multiply_part<Policy>(panels, rows, weight, whole_depth<Policy>(weight), first_col_panel, last_col_panel, activation,
                        nullptr, take);
}

// How a linear layer is cut into work items: blocks of tokens times chunks of output features. The cut changes which
// thread computes an element, never how.
struct LinearPlan {
  std::int64_t rows_per_block;
  std::int64_t num_row_blocks;
  std::int64_t col_panels_per_chunk;
  std::int64_t num_col_chunks;
};

template <typename Policy>
std::int64_t max_block_rows(std::int64_t in_features) {
  return max_of(1, kInputBlockBytes / input_panel_bytes<Policy>(in_features)) * Policy::kRows;
}

template <typename Policy>
LinearPlan plan_linear(std::int64_t num_tokens, const PackedWeightView& weight, int num_threads) {
  LinearPlan plan;
  const std::int64_t row_panels = ceil_div(num_tokens, Policy::kRows);
  const std::int64_t fair = ceil_div(row_panels, kRowBlocksPerThread * num_threads) * Policy::kRows;
  plan.rows_per_block = min_of(max_block_rows<Policy>(weight.in_features),
                               max_of(fair, max_of(kMinBlockPanels * Policy::kRows, kMinBlockRows)));
  plan.num_row_blocks = ceil_div(num_tokens, plan.rows_per_block);
  const std::int64_t col_panels = num_weight_panels<Policy>(weight);
  const std::int64_t wanted = num_threads == 1 ? 1 : ceil_div(kItemsPerThread * num_threads, plan.num_row_blocks);
  plan.col_panels_per_chunk = max_of(min_of(col_panels, 2), ceil_div(col_panels, wanted));
  plan.num_col_chunks = ceil_div(col_panels, plan.col_panels_per_chunk);
  return plan;
}

template <typename Policy>
std::int64_t linear_panel_bytes(const PackedWeightView& weight) {
  const std::int64_t panels = max_block_rows<Policy>(weight.in_features) / Policy::kRows;
  return panels * input_panel_bytes<Policy>(weight.in_features);
}

// A block of input panels, and a panel's worth of normalised rows.
template <typename Policy>
std::size_t linear_scratch(const PackedWeightView& weight) {
  const std::int64_t normed_bytes = Policy::kRows * weight.in_features * static_cast<std::int64_t>(sizeof(float));
  return static_cast<std::size_t>(linear_panel_bytes<Policy>(weight) + normed_bytes);
}

// One phase of a parallel region: threads claim the items of `list` until none is left. No barrier at the end.
template <typename Policy>
void linear_phase(const LinearParams& p, ThreadContext& context, int list, char* scratch) {
  const PackedWeightView& weight = p.weight;
  const LinearPlan plan = plan_linear<Policy>(p.num_tokens, weight, context.num_threads());
  const std::int64_t element = p.x_dtype == DType::kFloat32 ? 4 : 2;
  const std::int64_t col_panels = num_weight_panels<Policy>(weight);
  float* const normed = reinterpret_cast<float*>(scratch + linear_panel_bytes<Policy>(weight));
  std::int64_t packed_block = -1;
  while (true) {
    const std::int64_t item = context.next(list);
    if (item >= plan.num_row_blocks * plan.num_col_chunks) return;
    const std::int64_t block = item / plan.num_col_chunks;
    const std::int64_t chunk = item % plan.num_col_chunks;
    const std::int64_t row0 = block * plan.rows_per_block;
    const std::int64_t rows = min_of(plan.rows_per_block, p.num_tokens - row0);
    if (block != packed_block) {
      pack_input_panels<Policy>(static_cast<const char*>(p.x) + row0 * p.x_stride * element, p.x_dtype, p.x_stride,
                                weight.in_features, rows, p.input_norm, normed, scratch);
      packed_block = block;
    }
    const std::int64_t out_element = p.out_dtype == DType::kFloat32 ? 4 : 2;
    const Epilogue epilogue{p.residual == nullptr ? nullptr : p.residual + row0 * p.residual_stride, p.residual_stride,
                            static_cast<char*>(p.out) + row0 * p.out_stride * out_element, p.out_dtype, p.out_stride};
    const std::int64_t first = chunk * plan.col_panels_per_chunk;
    multiply_panels<Policy>(scratch, rows, weight, first, min_of(first + plan.col_panels_per_chunk, col_panels),
                            p.activation, StoreTiles<Policy>{epilogue, weight.is_gated});
  }
}

template <typename Policy>
void run_linear(const LinearParams& params, ThreadPool& pool) {
  pool.run(
      [](void* state, ThreadContext& context) {
        TileSession<Policy> session;
        linear_phase<Policy>(*static_cast<const LinearParams*>(state), context, 0,
                             static_cast<char*>(context.scratch()));
      },
      const_cast<LinearParams*>(&params), linear_scratch<Policy>(params.weight),
      params.num_tokens * params.weight.out_features * params.weight.in_features <= kInlineProducts);
}

void linear(const LinearParams& params, ThreadPool& pool) {
  if (params.num_tokens == 0) return;
  switch (params.weight.arithmetic) {
    case Arithmetic::kFloat32:
      return run_linear<Float32Policy>(params, pool);
    case Arithmetic::kFloat32Fma:
      return run_linear<FmaFloat32>(params, pool);
    case Arithmetic::kBFloat16:
      return run_linear<Bfloat16Policy>(params, pool);
    case Arithmetic::kInt8:
      return run_linear<Int8Policy>(params, pool);
  }
}

std::size_t packed_weight_size(std::int64_t out_features, std::int64_t in_features, Arithmetic arithmetic,
                               bool is_gated) {
  switch (arithmetic) {
    case Arithmetic::kFloat32:
      return packed_bytes<Float32Policy>(out_features, in_features, is_gated);
    case Arithmetic::kFloat32Fma:
      return packed_bytes<FmaFloat32>(out_features, in_features, is_gated);
    case Arithmetic::kBFloat16:
      return packed_bytes<Bfloat16Policy>(out_features, in_features, is_gated);
    case Arithmetic::kInt8:
      return packed_bytes<Int8Policy>(out_features, in_features, is_gated);
  }
  return 0;
}

void pack_weight(const PackWeightParams& params, ThreadPool& pool) {
  switch (params.arithmetic) {
    case Arithmetic::kFloat32:
      return pack_weight_panels<Float32Policy>(params, pool);
    case Arithmetic::kFloat32Fma:
      return pack_weight_panels<FmaFloat32>(params, pool);
    case Arithmetic::kBFloat16:
      return pack_weight_panels<Bfloat16Policy>(params, pool);
    case Arithmetic::kInt8:
      return pack_weight_panels<Int8Policy>(params, pool);
  }
}

const char* arithmetic_name(Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::kFloat32Fma) return "float32 fused multiply-add";
#if defined(ASSAY_AMX)
  if (arithmetic == Arithmetic::kInt8) return "8-bit integer tile products";
#else
  if (arithmetic == Arithmetic::kInt8) return "8-bit integer products";
#endif
#if defined(ASSAY_AMX)
  return arithmetic == Arithmetic::kFloat32 ? "float32 as three bfloat16 tile products" : "bfloat16 tile products";
#elif defined(__AVX512BF16__)
  return arithmetic == Arithmetic::kFloat32 ? "float32 fused multiply-add" : "bfloat16 dot products";
#elif defined(ASSAY_FIXED_POINT)
  return arithmetic == Arithmetic::kFloat32 ? "float32 fused multiply-add" : "13-bit block fixed point products";
#else
  return arithmetic == Arithmetic::kFloat32 ? "float32 fused multiply-add"
                                            : "float32 fused multiply-add on bfloat16 weights";
#endif
}
