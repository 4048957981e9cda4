// The products of attention on AMX tiles. Included inside an AMX namespace by attention.h, after attention_tiles.h, so
// it includes nothing.
//
// The layouts of attention_tiles.h are tiles as they stand: 16 units of a row block are an input tile, 16 units of half
// a column panel a weight tile. What fills the last 16 units up must be zero in both operands.
#pragma once

// A unit is two bfloat16.
struct TileStep {};

static_assert(kAttentionRows == 2 * kTileRows && kBlockUnits == kTilePairs && kPanelCols == 2 * kTileRows);

// Scales what stands in the rows of column tiles [first, first + num_tiles) by the rows' carry.
inline void carry_tiles(const Product& p, std::int64_t first, int num_tiles, int num_rows) {
  const std::int64_t row_stride = p.row_stride();
  for (int r = 0; r < num_rows; ++r) {
    const Vec carry = vec_set1(p.carry[r]);
    for (int tile = 0; tile < num_tiles; ++tile) {
      float* at = p.out_tile(first + tile) + r * row_stride;
      vec_store(at, vec_mul(carry, vec_load(at)));
    }
  }
}

// kRowTiles times 16 rows (1 or 2) by kColTiles times 16 columns (1 or 2), from column tile `first` on: sums in tiles 0
// to 3, 16 units of the rows in tiles 4 and 5, of the columns in 6 and 7.
template <int kRowTiles, int kColTiles>
inline void product_tiles(const Product& p, std::int64_t first, int num_rows) {
  const std::int64_t row_stride = p.row_stride();
  const std::int64_t row_bytes = row_stride * static_cast<std::int64_t>(sizeof(float));
  constexpr std::int64_t kPanelRowBytes = kPanelCols * sizeof(float);
  constexpr std::int64_t kTileFloats = kTileRows * kBlockUnits;
  const float* const panel = p.panels + first / 2 * p.panel_floats + first % 2 * kTileRows;
  const float* const second_panel = p.panels + (first + 1) / 2 * p.panel_floats + (first + 1) % 2 * kTileRows;
  float* const out = p.out_tile(first);
  float* const second_out = p.out_tile(first + 1);
  if (p.carry != nullptr) {
    carry_tiles(p, first, kColTiles, num_rows);
    tile_load<0>(out, row_bytes);
    if constexpr (kColTiles > 1) tile_load<1>(second_out, row_bytes);
    if constexpr (kRowTiles > 1) tile_load<2>(out + kTileRows * row_stride, row_bytes);
    if constexpr (kRowTiles > 1 && kColTiles > 1) tile_load<3>(second_out + kTileRows * row_stride, row_bytes);
  } else {
    TileGeometry::zero_tiles();
  }
  for (std::int64_t unit = 0; unit < p.num_units; unit += kBlockUnits) {
    const float* const rows = p.rows + block_offset(unit);
    tile_load<4>(rows, kCacheLine);
    tile_load<6>(panel + unit * kPanelCols, kPanelRowBytes);
    if constexpr (kColTiles > 1) tile_load<7>(second_panel + unit * kPanelCols, kPanelRowBytes);
    if constexpr (kRowTiles > 1) tile_load<5>(rows + kTileFloats, kCacheLine);
    tile_dot_bf16<0, 4, 6>();
    if constexpr (kColTiles > 1) tile_dot_bf16<1, 4, 7>();
    if constexpr (kRowTiles > 1) tile_dot_bf16<2, 5, 6>();
    if constexpr (kRowTiles > 1 && kColTiles > 1) tile_dot_bf16<3, 5, 7>();
  }
  tile_store<0>(out, row_bytes);
  if constexpr (kColTiles > 1) tile_store<1>(second_out, row_bytes);
  if constexpr (kRowTiles > 1) tile_store<2>(out + kTileRows * row_stride, row_bytes);
  if constexpr (kRowTiles > 1 && kColTiles > 1) tile_store<3>(second_out + kTileRows * row_stride, row_bytes);
}

// Computes whole tiles of rows; those past num_rows are stale scratch and nobody reads their result.
template <int kRowTiles>
inline void product_row_tiles(const Product& p, int num_rows, std::int64_t num_cols) {
  const std::int64_t num_tiles = ceil_div(num_cols, kTileRows);
  std::int64_t tile = 0;
  for (; tile + 2 <= num_tiles; tile += 2) product_tiles<kRowTiles, 2>(p, tile, num_rows);
  if (tile < num_tiles) product_tiles<kRowTiles, 1>(p, tile, num_rows);
}
template <>
inline void product<TileStep>(const Product& p, int num_rows, std::int64_t num_cols) {
  num_rows > kTileRows ? product_row_tiles<2>(p, num_rows, num_cols) : product_row_tiles<1>(p, num_rows, num_cols);
}
