// Matrix products: packing, the tile driver, and the `linear` op. Included inside an ISA's namespace after the other
// gemm_*.h and norm.h.
#pragma once

// Bytes of packed input that a thread keeps hot beside the weight panel it streams: half of its L2.
#if defined(ASSAY_AMX)
constexpr std::int64_t kInputBlockBytes = 1024 * 1024;
#else
constexpr std::int64_t kInputBlockBytes = 512 * 1024;
#endif
// Below this many multiply-adds (some 20 us on one core) waking the other threads costs more than it gives.
constexpr std::int64_t kInlineProducts = 1 << 20;
// Work items per thread: enough to even out a core that loses its time slice to someone else.
constexpr std::int64_t kItemsPerThread = 4;
// Tokens of a row block, where there are as many: fewer would stream the weights too often.
constexpr std::int64_t kMinBlockRows = 24;
// Row blocks per thread where there are rows enough: the last item of a phase is all that can leave a thread idle.
constexpr std::int64_t kRowBlocksPerThread = 16;

template <typename Policy>
std::int64_t input_panel_bytes(std::int64_t in_features) {
  return ceil_div(in_features, Policy::kDepth) * Policy::kPanelBlockBytes;
}

template <typename Policy>
std::int64_t weight_panel_bytes(std::int64_t in_features) {
  return ceil_div(in_features, Policy::kDepth) * Policy::kWeightBlockBytes;
}

// Output features of a weight panel. A panel of a gated weight has gate columns in its first half and the up columns
// of the same features in the second, so that both factors of a result are in one tile.
template <typename Policy>
std::int64_t panel_features(bool is_gated) {
  static_assert(Policy::kCols % (2 * kVecWidth) == 0);
  return is_gated ? Policy::kCols / 2 : Policy::kCols;
}

template <typename Policy>
std::int64_t num_weight_panels(const PackedWeightView& weight) {
  return ceil_div(weight.out_features, panel_features<Policy>(weight.is_gated));
}

template <typename Policy>
std::size_t packed_bytes(std::int64_t out_features, std::int64_t in_features, bool is_gated) {
  const std::int64_t num_panels = ceil_div(out_features, panel_features<Policy>(is_gated));
  return static_cast<std::size_t>(num_panels * weight_panel_bytes<Policy>(in_features));
}

// One output feature's weights into its column of a panel.
template <typename Policy>
void pack_weight_row(const PackWeightParams& p, std::int64_t row, char* panel, int col) {
  for (std::int64_t depth = 0; depth < p.in_features; ++depth) {
    Policy::put_weight(panel + (depth / Policy::kDepth) * Policy::kWeightBlockBytes,
                       static_cast<int>(depth % Policy::kDepth), col, weight_at(p, row, depth));
  }
}

// The rows of p.weight, panel_features a panel, from column first_col of each panel on. A panel is one thread's work,
// so that no two threads write to a cache line.
template <typename Policy>
void pack_matrix(const PackWeightParams& p, ThreadPool& pool, bool is_gated, std::int64_t first_col) {
  const std::int64_t panel_bytes = weight_panel_bytes<Policy>(p.in_features);
  const std::int64_t features = panel_features<Policy>(is_gated);
  parallel_rows(pool, ceil_div(p.out_features, features), 1, p.out_features * p.in_features,
                [&](std::int64_t first, std::int64_t last) {
                  const std::int64_t stop = min_of(last * features, p.out_features);
                  for (std::int64_t row = first * features; row < stop; ++row) {
                    pack_weight_row<Policy>(p, row, static_cast<char*>(p.packed) + row / features * panel_bytes,
                                            static_cast<int>(first_col + row % features));
                  }
                });
}

template <typename Policy>
void pack_weight_panels(const PackWeightParams& p, ThreadPool& pool) {
  const bool is_gated = p.up != nullptr;
  pack_matrix<Policy>(p, pool, is_gated, 0);
  if (!is_gated) return;
  PackWeightParams up = p;
  up.weight = p.up;
  pack_matrix<Policy>(up, pool, is_gated, panel_features<Policy>(is_gated));
}

// What a panel needs between its last put_input and its first micro: nothing, but for what becomes integers.
template <typename Policy>
void seal_panel(char*, int, std::int64_t) {}

#if defined(ASSAY_FIXED_POINT)
template <>
void pack_weight_row<FixedPoint>(const PackWeightParams& p, std::int64_t row, char* panel, int col) {
  FixedPoint::pack_weight(p, row, panel, col);
}
template <>
void seal_panel<FixedPoint>(char* panel, int rows, std::int64_t num_blocks) {
  FixedPoint::seal_panel(panel, rows, num_blocks);
}
#endif
template <>
void pack_weight_row<Int8Policy>(const PackWeightParams& p, std::int64_t row, char* panel, int col) {
  Int8Policy::pack_weight(p, row, panel, col);
}
template <>
void seal_panel<Int8Policy>(char* panel, int rows, std::int64_t num_blocks) {
  Int8Policy::seal_panel(panel, rows, num_blocks);
}

// One token into row r of a panel; depth beyond in_features is zero. Whole depth blocks have a loop of constant length
// and offsets: with the place of every vector worked out by itself, packing is bound by the arithmetic of places.
template <typename Policy, typename Element>
void pack_input_row(const Element* row, std::int64_t in_features, int r, char* panel) {
  std::int64_t col = 0;
  for (; col + Policy::kDepth <= in_features; col += Policy::kDepth, panel += Policy::kPanelBlockBytes) {
#pragma GCC unroll 16
    for (int i = 0; i < Policy::kDepth; i += kVecWidth) {
      Policy::put_input(panel, r, i, load_lanes(row + col + i, std::int64_t{kVecWidth}));
    }
  }
  if (col == in_features) return;
  for (int i = 0; i < Policy::kDepth; i += kVecWidth) {
    const std::int64_t left = in_features - col - i;
    Policy::put_input(panel, r, i, left > 0 ? load_lanes(row + col + i, left) : vec_zero());
  }
}

// Lays up to kRows tokens out as one input panel.
template <typename Policy>
void pack_input_panel(const void* x, DType dtype, std::int64_t stride, std::int64_t in_features, int rows,
                      char* panel) {
  for (int r = 0; r < rows; ++r) {
    if (dtype == DType::kFloat32) {
      pack_input_row<Policy>(static_cast<const float*>(x) + r * stride, in_features, r, panel);
    } else {
      pack_input_row<Policy>(static_cast<const bfloat16*>(x) + r * stride, in_features, r, panel);
    }
  }
  seal_panel<Policy>(panel, rows, ceil_div(in_features, Policy::kDepth));
}

// Lays `rows` tokens out as input panels, normalised first where the norm has a weight: x is then float32, and `normed`
// holds kRows rows of in_features.
template <typename Policy>
void pack_input_panels(const void* x, DType dtype, std::int64_t stride, std::int64_t in_features, std::int64_t rows,
                       const NormView& norm, float* normed, char* panels) {
  const std::int64_t element = dtype == DType::kFloat32 ? 4 : 2;
  const std::int64_t panel_bytes = input_panel_bytes<Policy>(in_features);
  for (std::int64_t r = 0; r < rows; r += Policy::kRows) {
    const int used = static_cast<int>(min_of(Policy::kRows, rows - r));
    const char* at = static_cast<const char*>(x) + r * stride * element;
    char* panel = panels + r / Policy::kRows * panel_bytes;
    if (norm.weight == nullptr) {
      pack_input_panel<Policy>(at, dtype, stride, in_features, used, panel);
      continue;
    }
    for (int i = 0; i < used; ++i) {
      norm_row(norm, reinterpret_cast<const float*>(at) + i * stride, in_features, normed + i * in_features);
    }
    pack_input_panel<Policy>(normed, DType::kFloat32, in_features, in_features, used, panel);
  }
}

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

// Rows of a tile that are finished beside one depth block of the next: fewer would be more calls.
constexpr int kFinishRows = 8;
// Depth blocks that go by before: the tile's sums are on their way to memory first, and whoever reads them waits.
constexpr std::int64_t kFinishDelay = 3;
// Rows whose lines are fetched beside one depth block.
constexpr int kFetchRows = 4;

// What a tile goes through after its product, all at once or some rows at a time; then it is handed to take(tile).
template <typename Policy, typename Take>
class TileFinish {
 public:
  TileFinish(const PackedWeightView& weight, Activation activation, const Take& take)
      : weight_(weight), activation_(activation), take_(take) {
#if defined(ASSAY_AMX)
    if constexpr (kLeavesVectorUnits<Policy>) finish_of_whole_ = finish_of<Take>(activation, weight.is_gated);
#endif
  }

  void begin(float* values, std::int64_t row0, int rows, std::int64_t col0, std::int64_t cols) {
    values_ = values;
    row0_ = row0;
    rows_left_ = rows;
    col0_ = col0;
    cols_ = cols;
  }

  [[gnu::always_inline]] void finish_rows(int count) {
    if (rows_left_ != 0) finish_some(count < rows_left_ ? count : rows_left_);
  }
  void finish() { finish_rows(rows_left_); }

#if defined(ASSAY_AMX)
  // GELU on its way to the next product, a row at a time and inline. A tile's rows are taken up when its sums have had
  // time to reach memory.
  static constexpr bool kPutsGelu =
      std::is_same_v<Take, PutTiles<TileBfloat16>> || std::is_same_v<Take, PutTiles<TileFloat32>>;
  bool puts_gelu() const {
    return kPutsGelu && activation_ == Activation::kGeluErf && !weight_.is_gated &&
           weight_.out_features % Policy::kCols == 0;
  }
  void take_up_gelu() {
    if constexpr (kPutsGelu) {
      if (rows_left_ == 0) return;
      gelu_ = {values_, weight_.bias == nullptr ? nullptr : weight_.bias + col0_, take_.line_of(row0_, col0_),
               rows_left_};
      rows_left_ = 0;
    }
  }
  [[gnu::always_inline]] void put_gelu_row() {
    if (gelu_.rows_left == 0) return;
    gelu_row<Policy>(gelu_.from, gelu_.bias, gelu_.line);
    gelu_.from += Policy::kCols;
    gelu_.line += kCacheLine;
    --gelu_.rows_left;
  }
  void finish_gelu() {
    if constexpr (kPutsGelu) {
      take_up_gelu();
      while (gelu_.rows_left > 0) put_gelu_row();
    }
  }
#endif

 private:
  void finish_some(int count) {
    const float* bias = weight_.bias == nullptr ? nullptr : weight_.bias + col0_;
    const float* up_bias = bias == nullptr || !weight_.is_gated ? nullptr : bias + weight_.out_features;
#if defined(ASSAY_AMX)
    if (kLeavesVectorUnits<Policy> && cols_ == panel_features<Policy>(weight_.is_gated)) {
      finish_of_whole_(take_, TileRows{values_, row0_, count, col0_, bias, up_bias});
      return advance(count);
    }
#endif
    if (weight_.is_gated) {
      finish_gated_tile<Policy>(activation_, values_, count, cols_, bias, up_bias);
    } else if (bias != nullptr || activation_ != Activation::kNone) {
      finish_tile<Policy>(activation_, values_, count, cols_, bias);
    }
    take_(FinishedTile{values_, row0_, count, col0_, cols_});
    advance(count);
  }

  void advance(int count) {
    values_ += count * Policy::kCols;
    row0_ += count;
    rows_left_ -= count;
  }

  const PackedWeightView& weight_;
  Activation activation_;
  const Take& take_;
#if defined(ASSAY_AMX)
  FinishRows<Take> finish_of_whole_ = nullptr;
  struct {
    const float* from;
    const float* bias;
    char* line;
    int rows_left;
  } gelu_ = {};
#endif
  float* values_ = nullptr;
  std::int64_t row0_ = 0;
  int rows_left_ = 0;
  std::int64_t col0_ = 0;
  std::int64_t cols_ = 0;
};

// Beside the products of a tile: fetches weights and the lines that the tile goes to, and finishes the tile before it.
template <typename Finish, typename Take>
struct FetchAndFinish {
  Prefetch fetch;
  Finish& before;
  const Take& take;
  std::int64_t row0;
  int rows;
  std::int64_t col0;

  void block(std::int64_t block_idx, std::int64_t block_bytes) const {
    fetch.block(block_idx, block_bytes);
    const int first = static_cast<int>(block_idx) * kFetchRows;
    if (first < rows) take.prefetch_rows(row0 + first, first + kFetchRows < rows ? kFetchRows : rows - first, col0);
    if (block_idx >= kFinishDelay) before.finish_rows(kFinishRows);
  }
  void piece() const {}
};

#if defined(ASSAY_AMX)
// The same where it is GELU that the tile before goes through.
template <typename Finish>
struct FetchAndPutGelu {
  Prefetch fetch;
  Finish& before;

  [[gnu::always_inline]] void block(std::int64_t block_idx, std::int64_t block_bytes) const {
    fetch.block(block_idx, block_bytes);
    if (block_idx == 1) before.take_up_gelu();
  }
  [[gnu::always_inline]] void piece() const { before.put_gelu_row(); }
};
#endif

// Multiplies `rows` tokens held in input panels, of the depth `part`, by the weight panels [first_col_panel,
// last_col_panel). After the last part it hands each finished tile, or some rows of it at a time, to take(tile), its
// rows counted from the first panel. `then` is the weight panel that is read after these, or nullptr.
template <typename Policy, typename Take>
void multiply_part(const char* panels, std::int64_t rows, const PackedWeightView& weight, const DepthPart& part,
                   std::int64_t first_col_panel, std::int64_t last_col_panel, Activation activation, const char* then,
                   const Take& take) {
  constexpr std::int64_t kTileFloats = Policy::kRows * Policy::kCols;
  // Two where a tile is finished beside the next one's products.
  alignas(kCacheLine) float whole_tiles[kLeavesVectorUnits<Policy> ? 2 : 1][kTileFloats];
  float* values = part.sums == nullptr ? whole_tiles[0] : part.sums;
  const std::int64_t values_step = part.sums == nullptr ? 0 : kTileFloats;
  const std::int64_t panel_bytes = part.num_blocks * Policy::kPanelBlockBytes;
  const std::int64_t weight_bytes = ceil_div(weight.in_features, Policy::kDepth) * Policy::kWeightBlockBytes;
  const std::int64_t fetch_bytes =
      round_up(ceil_div(Policy::kWeightBlockBytes, ceil_div(rows, Policy::kRows)), kCacheLine);
  using Finish = TileFinish<Policy, Take>;
  Finish finish(weight, activation, take);
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
#if defined(ASSAY_AMX)
        if (Finish::kPutsGelu && finish.puts_gelu()) {
          if constexpr (Finish::kPutsGelu) {
            Policy::micro(panel, weights, part.num_blocks, used, values, FetchAndPutGelu<Finish>{next, finish});
            finish.finish_gelu();
          }
        } else
#endif
          Policy::micro(panel, weights, part.num_blocks, used, values,
                        FetchAndFinish<Finish, Take>{next, finish, take, row0, used, col0});
        finish.finish();
        finish.begin(values, row0, used, col0, cols);
        values = values == whole_tiles[0] ? whole_tiles[1] : whole_tiles[0];
      } else {
        if constexpr (Policy::kResumes) {
          Policy::micro(panel, weights, part.num_blocks, used, values, next, part.first_block > 0);
        } else {
          Policy::micro(panel, weights, part.num_blocks, used, values, next);
        }
        if (!part.is_last) continue;
        finish.begin(values, row0, used, col0, cols);
        finish.finish();
      }
    }
  }
#if defined(ASSAY_AMX)
  if (finish.puts_gelu()) finish.finish_gelu();
#endif
  if constexpr (kLeavesVectorUnits<Policy>) finish.finish();
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
  plan.rows_per_block =
      min_of(max_block_rows<Policy>(weight.in_features), max_of(fair, max_of(4 * Policy::kRows, kMinBlockRows)));
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
