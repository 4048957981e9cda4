// Weights and inputs as the panels that micro-kernels read, and their packing. Included inside an ISA's namespace after
// gemm_policies.h, norm.h and parallel_rows.h, so it includes nothing.
#pragma once

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
