// The products of attention on AMX tiles. Included inside an AMX namespace by attention.h, after attention_tiles.h, so
// it includes nothing.
//
// The layouts of attention_tiles.h are tiles as they stand: 16 units of a row block are an input tile, 16 units of half
// a column panel a weight tile. What fills the last 16 units up must be zero in both operands.
#pragma once

// A unit is two bfloat16.
struct TileStep {};

static_assert(kAttentionRows == kTileRows && kBlockUnits == kTilePairs && kPanelCols == 2 * kTileRows);

// kNumTiles (at most 4) times 16 columns, from column tile `first` on: sums in tiles 0 to 3, the row block's 16 units
// in tile 4, each column tile's in one of 5 to 7.
template <int kNumTiles>
inline void product_tiles(const Product& p, std::int64_t first, int num_rows) {
  const std::int64_t row_stride = p.row_stride();
  const std::int64_t row_bytes = row_stride * static_cast<std::int64_t>(sizeof(float));
  constexpr std::int64_t kPanelRowBytes = kPanelCols * sizeof(float);
  const auto out_of = [&](int tile) { return p.out + (first + tile) * (p.out_row_stride == 0 ? kBlockFloats : 16); };
  const auto panel_of = [&](int tile) {
    return p.panels + (first + tile) / 2 * p.panel_floats + (first + tile) % 2 * kTileRows;
  };
  if (p.carry != nullptr) {
    for (int r = 0; r < num_rows; ++r) {
      const Vec carry = vec_set1(p.carry[r]);
      for (int tile = 0; tile < kNumTiles; ++tile) {
        float* at = out_of(tile) + r * row_stride;
        vec_store(at, vec_mul(carry, vec_load(at)));
      }
    }
    tile_load<0>(out_of(0), row_bytes);
    if constexpr (kNumTiles > 1) tile_load<1>(out_of(1), row_bytes);
    if constexpr (kNumTiles > 2) tile_load<2>(out_of(2), row_bytes);
    if constexpr (kNumTiles > 3) tile_load<3>(out_of(3), row_bytes);
  } else {
    TileGeometry::zero_tiles();
  }
  for (std::int64_t unit = 0; unit < p.num_units; unit += kBlockUnits) {
    tile_load<4>(p.rows + block_offset(unit), kCacheLine);
    tile_load<5>(panel_of(0) + unit * kPanelCols, kPanelRowBytes);
    tile_dot_bf16<0, 4, 5>();
    if constexpr (kNumTiles > 1) {
      tile_load<6>(panel_of(1) + unit * kPanelCols, kPanelRowBytes);
      tile_dot_bf16<1, 4, 6>();
    }
    if constexpr (kNumTiles > 2) {
      tile_load<7>(panel_of(2) + unit * kPanelCols, kPanelRowBytes);
      tile_dot_bf16<2, 4, 7>();
    }
    if constexpr (kNumTiles > 3) {
      tile_load<5>(panel_of(3) + unit * kPanelCols, kPanelRowBytes);
      tile_dot_bf16<3, 4, 5>();
    }
  }
  tile_store<0>(out_of(0), row_bytes);
  if constexpr (kNumTiles > 1) tile_store<1>(out_of(1), row_bytes);
  if constexpr (kNumTiles > 2) tile_store<2>(out_of(2), row_bytes);
  if constexpr (kNumTiles > 3) tile_store<3>(out_of(3), row_bytes);
}

// Computes all 16 rows; those past num_rows are stale scratch and nobody reads their result.
template <>
inline void product<TileStep>(const Product& p, int num_rows, std::int64_t num_cols) {
  const std::int64_t num_tiles = ceil_div(num_cols, kTileRows);
  std::int64_t tile = 0;
  for (; tile + 4 <= num_tiles; tile += 4) product_tiles<4>(p, tile, num_rows);
  if (num_tiles - tile == 3) product_tiles<3>(p, tile, num_rows);
  if (num_tiles - tile == 2) product_tiles<2>(p, tile, num_rows);
  if (num_tiles - tile == 1) product_tiles<1>(p, tile, num_rows);
}
