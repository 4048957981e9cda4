// The tile driver on AMX: finished tiles leave beside the products of the next, and the depth is cut where a weight
// panel would not stay in L1. Included inside an AMX namespace after gemm_take.h and gemm_panels.h, so it includes
// nothing.
#pragma once

// Rows of a tile that are finished beside one depth block of the next: fewer would be more calls.
constexpr int kFinishRows = 8;
// Depth blocks that go by before: the tile's sums are on their way to memory first, and whoever reads them waits.
constexpr std::int64_t kFinishDelay = 3;
// Rows whose lines are fetched beside one depth block.
constexpr int kFetchRows = 4;
// Tiles of one weight panel whose sums wait for the next chunk of the depth: 64 KiB.
constexpr std::int64_t kMaxWaiting = 16;

// What a tile goes through after its product, some rows at a time; then it is handed to take(tile).
template <typename Policy, typename Take>
class TileFinish {
 public:
  TileFinish(const PackedWeightView& weight, Activation activation, const Take& take)
      : weight_(weight),
        activation_(activation),
        take_(take),
        finish_of_whole_(finish_of<Take>(activation, weight.is_gated)) {}

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
  void finish() {
    if constexpr (Take::kPutsRows) {
      while (rows_.left > 0) put_row();
    }
    finish_rows(rows_left_);
  }

  // GELU on its way to the next product, a row at a time and inline. A tile's rows are taken up when its sums have had
  // time to reach memory.
  bool puts_rows() const {
    return Take::kPutsRows && activation_ == Activation::kGeluErf && !weight_.is_gated &&
           weight_.out_features % Policy::kCols == 0;
  }
  [[gnu::always_inline]] void take_up_rows() {
    if (rows_left_ == 0) return;
    rows_ = {values_, weight_.bias == nullptr ? nullptr : weight_.bias + col0_, take_.line_of(row0_, col0_),
             rows_left_};
    rows_left_ = 0;
  }
  [[gnu::always_inline]] void put_row() {
    if (rows_.left != 0) put_gelu_row<Policy>(rows_);
  }

 private:
  void finish_some(int count) {
    const float* bias = weight_.bias == nullptr ? nullptr : weight_.bias + col0_;
    if (cols_ == panel_features<Policy>(weight_.is_gated)) {
      const float* up_bias = bias == nullptr || !weight_.is_gated ? nullptr : bias + weight_.out_features;
      finish_of_whole_(take_, TileRows{values_, row0_, count, col0_, bias, up_bias});
    } else {
      finish_values<Policy>(weight_, activation_, values_, count, col0_, cols_);
      take_(FinishedTile{values_, row0_, count, col0_, cols_});
    }
    values_ += count * Policy::kCols;
    row0_ += count;
    rows_left_ -= count;
  }

  const PackedWeightView& weight_;
  Activation activation_;
  const Take& take_;
  FinishRows<Take> finish_of_whole_;
  GeluRows rows_ = {};
  float* values_ = nullptr;
  std::int64_t row0_ = 0;
  int rows_left_ = 0;
  std::int64_t col0_ = 0;
  std::int64_t cols_ = 0;
};

// Beside the products of a tile: fetches weights and the lines that the tile goes to, if it is finished next, and
// finishes the tile before it.
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

// The same where rows are put inline, into panels that are in the cache.
template <typename Finish>
struct FetchAndPutRows {
  Prefetch fetch;
  Finish& before;

  [[gnu::always_inline]] void block(std::int64_t block_idx, std::int64_t block_bytes) const {
    fetch.block(block_idx, block_bytes);
    if (block_idx == 1) before.take_up_rows();
  }
  [[gnu::always_inline]] void piece() const { before.put_row(); }
};

// How row panels take turns with chunks of the depth: `group` of them pass a chunk of `chunk` depth blocks, whose
// weights stay in L1 meanwhile; their sums wait in memory for the next chunk. A sum's additions and their order are
// those of the whole depth.
struct DepthChunks {
  std::int64_t chunk;
  std::int64_t group;

  template <typename Policy>
  static DepthChunks of(std::int64_t num_blocks, std::int64_t num_panels) {
    // Nothing is read twice by a single panel, and all of it fits in a chunk.
    if (kChunkBlocks<Policy> == 0 || num_panels == 1 || num_blocks <= kChunkBlocks<Policy>) {
      return {num_blocks, num_panels};
    }
    return {ceil_div(num_blocks, ceil_div(num_blocks, kChunkBlocks<Policy>)),
            ceil_div(num_panels, ceil_div(num_panels, kMaxWaiting))};
  }
};

// multiply_part on tiles, of the whole depth.
template <typename Policy, typename Take>
void multiply_tiles(const char* panels, std::int64_t rows, const PackedWeightView& weight, std::int64_t first_col_panel,
                    std::int64_t last_col_panel, Activation activation, const char* then, const Take& take) {
  alignas(kCacheLine) float tiles[kMaxWaiting][Policy::kRows * Policy::kCols];
  const std::int64_t num_blocks = ceil_div(weight.in_features, Policy::kDepth);
  const std::int64_t num_panels = ceil_div(rows, Policy::kRows);
  const DepthChunks chunks = DepthChunks::of<Policy>(num_blocks, num_panels);
  const bool is_whole = chunks.chunk == num_blocks;
  const std::int64_t share = round_up(ceil_div(Policy::kWeightBlockBytes, chunks.group), kCacheLine);
  using Finish = TileFinish<Policy, Take>;
  Finish finish(weight, activation, take);
  const bool puts_rows = finish.puts_rows();
  bool takes_turn = false;
  for (std::int64_t col_panel = first_col_panel; col_panel < last_col_panel; ++col_panel) {
    const char* const column =
        static_cast<const char*>(weight.data) + col_panel * num_blocks * Policy::kWeightBlockBytes;
    const char* const next_column =
        col_panel + 1 < last_col_panel ? column + num_blocks * Policy::kWeightBlockBytes : then;
    const std::int64_t col0 = col_panel * panel_features<Policy>(weight.is_gated);
    const std::int64_t cols = min_of(panel_features<Policy>(weight.is_gated), weight.out_features - col0);
    for (std::int64_t group0 = 0; group0 < num_panels; group0 += chunks.group) {
      const std::int64_t group_end = min_of(num_panels, group0 + chunks.group);
      for (std::int64_t block0 = 0; block0 < num_blocks; block0 += chunks.chunk) {
        const std::int64_t blocks = min_of(chunks.chunk, num_blocks - block0);
        const char* const weights = column + block0 * Policy::kWeightBlockBytes;
        const bool is_last = block0 + blocks == num_blocks;
        // Each row panel fetches its share of the weights that come next, which it would otherwise wait for.
        const char* const next_weights = is_last ? next_column : weights + blocks * Policy::kWeightBlockBytes;
        for (std::int64_t row_panel = group0; row_panel < group_end; ++row_panel) {
          const std::int64_t row0 = row_panel * Policy::kRows;
          const int used = static_cast<int>(min_of(Policy::kRows, rows - row0));
          const char* const panel = panels + (row_panel * num_blocks + block0) * Policy::kPanelBlockBytes;
          const Prefetch next{next_weights + (row_panel - group0) * share, next_weights == nullptr ? 0 : share};
          // Of whole tiles two take turns: one is finished while the next is made.
          float* const values = tiles[is_whole ? takes_turn : row_panel - group0];
          takes_turn = !takes_turn;
          if (puts_rows) {
            if constexpr (Take::kPutsRows) {
              Policy::micro(panel, weights, blocks, used, values, FetchAndPutRows<Finish>{next, finish}, block0 > 0);
            }
          } else {
            Policy::micro(panel, weights, blocks, used, values,
                          FetchAndFinish<Finish, Take>{next, finish, take, row0, is_last ? used : 0, col0}, block0 > 0);
          }
          finish.finish();
          if (is_last) finish.begin(values, row0, used, col0, cols);
        }
      }
    }
  }
  finish.finish();
}
