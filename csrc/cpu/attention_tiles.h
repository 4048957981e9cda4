// The one matrix micro-kernel of attention: scores = q k^T and out = probs v are both rows x columns products of a
// broadcast operand and a packed operand. Included inside an ISA's namespace after gemm_tiles.h, so it includes
// nothing.
//
// Both operands are made of 32-bit units: a float32, or two bfloat16 that are neighbours along the summed dimension.
//   row blocks     [ceil(units / 16)][kAttentionRows][16 units]: q of a block of query rows, its scores, its probs
//   column panels  [units][kPanelCols]: k^T of kPanelCols keys, or v in kPanelCols of head_dim
// An output element is summed unit by unit in one order, whatever the tile it falls in.
#pragma once

// Rows of a block.
#if defined(ASSAY_AMX)
constexpr int kAttentionRows = 2 * kTileRows;
#else
constexpr int kAttentionRows = kFmaRows;
#endif
constexpr int kBlockUnits = 16;
constexpr int kBlockFloats = kAttentionRows * kBlockUnits;
constexpr int kPanelCols = kFmaVecs * kVecWidth;
static_assert(kVecWidth == 1 || kFmaVecs == 2);  // product() knows whole panels and half ones
// From one vector of a tile's columns to the next in a row block.
constexpr int kBlockVecStride = kVecWidth < kBlockUnits ? kVecWidth : kBlockFloats;

// Where column `col` of row 0 stands in a row block buffer.
inline std::int64_t block_offset(std::int64_t col) { return col / kBlockUnits * kBlockFloats + col % kBlockUnits; }

// A unit is one float32 (or a bfloat16 widened when it was packed).
struct FmaStep {
  using Lanes = Vec;
  static Lanes broadcast(const float* unit) { return vec_set1(*unit); }
  static Lanes load(const float* units) { return vec_load(units); }
  static Vec add(Lanes a, Lanes b, Vec acc) { return vec_fma(a, b, acc); }
};

#if defined(__AVX512BF16__)
// A unit is two bfloat16.
struct DotStep {
  using Lanes = __m512bh;
  static Lanes broadcast(const float* unit) {
    return reinterpret_cast<__m512bh>(_mm512_castps_si512(_mm512_set1_ps(*unit)));
  }
  static Lanes load(const float* units) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(units)); }
  static Vec add(Lanes a, Lanes b, Vec acc) { return _mm512_dpbf16_ps(acc, a, b); }
};
#endif

struct Product {
  const float* rows;    // row blocks
  const float* panels;  // column panels
  std::int64_t panel_floats;
  std::int64_t num_units;
  const float* carry;  // [kAttentionRows] out = rows . panels + carry * out, or nullptr: out = rows . panels
  float* out;
  std::int64_t out_row_stride;  // 0: out are row blocks

  std::int64_t row_stride() const { return out_row_stride == 0 ? kBlockUnits : out_row_stride; }
  Product from_row(int row) const {
    Product rest = *this;
    rest.rows += row * kBlockUnits;
    rest.out += row * row_stride();
    if (carry != nullptr) rest.carry += row;
    return rest;
  }
#if defined(ASSAY_AMX)
  float* out_tile(std::int64_t tile_idx) const { return out + tile_idx * (out_row_stride == 0 ? kBlockFloats : 16); }
#endif
  float* out_panel(std::int64_t panel_idx) const {
    const std::int64_t col = panel_idx * kPanelCols;
    return out + (out_row_stride == 0 ? block_offset(col) : col);
  }
};

// Panels [panel_idx, last_panel).
template <typename Step, int kUsedRows, int kUsedVecs>
void product_rows(const Product& p, std::int64_t panel_idx, std::int64_t last_panel) {
  const std::int64_t row_stride = p.row_stride();
  const std::int64_t vec_stride = p.out_row_stride == 0 ? kBlockVecStride : kVecWidth;
  for (; panel_idx < last_panel; ++panel_idx) {
    float* out = p.out_panel(panel_idx);
    Vec acc[kUsedRows][kUsedVecs];
#pragma GCC unroll 16
    for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kUsedVecs; ++j) acc[r][j] = vec_zero();
    }
    if (p.carry != nullptr) {
#pragma GCC unroll 16
      for (int r = 0; r < kUsedRows; ++r) {
        const Vec carry = vec_set1(p.carry[r]);
#pragma GCC unroll 8
        for (int j = 0; j < kUsedVecs; ++j) {
          acc[r][j] = vec_mul(carry, vec_load(out + r * row_stride + j * vec_stride));
        }
      }
    }
    const float* rows = p.rows;
    const float* panel = p.panels + panel_idx * p.panel_floats;
    const auto step = [&](int unit) __attribute__((always_inline)) {
      typename Step::Lanes cols[kUsedVecs];
#pragma GCC unroll 8
      for (int j = 0; j < kUsedVecs; ++j) cols[j] = Step::load(panel + unit * kPanelCols + j * kVecWidth);
#pragma GCC unroll 16
      for (int r = 0; r < kUsedRows; ++r) {
        const typename Step::Lanes row = Step::broadcast(rows + r * kBlockUnits + unit);
#pragma GCC unroll 8
        for (int j = 0; j < kUsedVecs; ++j) acc[r][j] = Step::add(row, cols[j], acc[r][j]);
      }
    };
    std::int64_t left = p.num_units;
    for (; left >= kBlockUnits; left -= kBlockUnits) {
#pragma GCC unroll 4
      for (int unit = 0; unit < kBlockUnits; ++unit) step(unit);
      rows += kBlockFloats;
      panel += kBlockUnits * kPanelCols;
    }
#pragma GCC unroll 1
    for (int unit = 0; unit < left; ++unit) step(unit);
#pragma GCC unroll 16
    for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kUsedVecs; ++j) vec_store(out + r * row_stride + j * vec_stride, acc[r][j]);
    }
  }
}

// May compute a few rows more than num_rows; their operands are stale scratch and nobody reads their result.
template <typename Step, int kUsedVecs>
void product_vecs(const Product& p, int num_rows, std::int64_t first_panel, std::int64_t last_panel) {
  if constexpr (kAttentionRows > kFmaRows) {
    if (num_rows > kFmaRows) {
      // An even number, so that the first half's kernel computes no row of the second.
      const int half = (num_rows + 3) / 4 * 2;
      product_vecs<Step, kUsedVecs>(p, half, first_panel, last_panel);
      return product_vecs<Step, kUsedVecs>(p.from_row(half), num_rows - half, first_panel, last_panel);
    }
  }
  if constexpr (kFmaRows == 14) {
    if (num_rows > 12) return product_rows<Step, 14, kUsedVecs>(p, first_panel, last_panel);
    if (num_rows > 10) return product_rows<Step, 12, kUsedVecs>(p, first_panel, last_panel);
    if (num_rows > 8) return product_rows<Step, 10, kUsedVecs>(p, first_panel, last_panel);
    if (num_rows > 6) return product_rows<Step, 8, kUsedVecs>(p, first_panel, last_panel);
    if (num_rows > 4) return product_rows<Step, 6, kUsedVecs>(p, first_panel, last_panel);
  } else {
    if (num_rows > 4) return product_rows<Step, kFmaRows, kUsedVecs>(p, first_panel, last_panel);
  }
  if (num_rows > 2) return product_rows<Step, 4, kUsedVecs>(p, first_panel, last_panel);
  if (num_rows > 1) return product_rows<Step, 2, kUsedVecs>(p, first_panel, last_panel);
  return product_rows<Step, 1, kUsedVecs>(p, first_panel, last_panel);
}

// The first num_cols columns (rounded up to vectors) of the panels.
template <typename Step>
void product(const Product& p, int num_rows, std::int64_t num_cols) {
  // A last panel of one vector is computed as half a panel.
  constexpr std::int64_t kHalfCols = kVecWidth > 1 ? kVecWidth : 0;
  const std::int64_t num_whole = (num_cols - kHalfCols + kPanelCols - 1) / kPanelCols;
  if (num_whole > 0) product_vecs<Step, kFmaVecs>(p, num_rows, 0, num_whole);
  if constexpr (kVecWidth > 1) {
    if (num_whole * kPanelCols < num_cols) product_vecs<Step, 1>(p, num_rows, num_whole, num_whole + 1);
  }
}
