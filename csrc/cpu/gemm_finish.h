// From a tile of sums to where its product goes: bias, activation, gate, residual, and the store. Included inside an
// ISA's namespace after gemm_policies.h, activation.h and parallel_rows.h, so it includes nothing.
#pragma once

// Where finished rows go when they leave as a row-major tensor.
struct Epilogue {
  const float* residual;
  std::int64_t residual_stride;
  void* out;
  DType out_dtype;
  std::int64_t out_stride;
};

// A tile of finished results, rows x cols of them from (row0, col0) on. They stand kTileCols floats apart, that is a
// whole tile's width for a gated weight too.
struct FinishedTile {
  const float* values;
  std::int64_t row0;
  int rows;
  std::int64_t col0;
  std::int64_t cols;
};

// body(rows, columns), both compile-time constants where the tile is a whole one: no loop is left of it then. On AMX
// the columns alone where it is some rows of one, as most are there.
template <int kRows, int kCols, typename Body>
[[gnu::always_inline]] inline void with_extent(int rows, std::int64_t cols, Body&& body) {
  if (rows == kRows && cols == kCols) {
    body(std::integral_constant<int, kRows>{}, std::integral_constant<std::int64_t, kCols>{});
#if defined(ASSAY_AMX)
  } else if (cols == kCols) {
    body(rows, std::integral_constant<std::int64_t, kCols>{});
#endif
  } else {
    body(rows, cols);
  }
}

// The activation of a product, as exact as its arithmetic asks for.
template <typename Policy, Activation kActivation>
[[gnu::always_inline]] inline Vec activate_for(Vec x) {
#if defined(ASSAY_AMX)
  if constexpr (kActivation == Activation::kGeluErf && kRoundsActivations<Policy>) return gelu_rounded<WholeLanes>(x);
#endif
  return activate<kActivation>(x);
}

// What a tile goes through after its product is kept out of line: inlined into the loops over panels, their counters
// would not stay in registers. What it is told comes by value where it stores: a vector store could change anything
// that is behind a reference, which would be read again after each.

// values = activation(values + bias), in place. `bias` points at the tile's first column, or is nullptr.
template <typename Policy>
[[gnu::noinline]] void finish_tile(Activation activation, float* values, int tile_rows, std::int64_t tile_cols,
                                   const float* bias) {
  with_activation(activation, [&](auto tag) {
    with_extent<Policy::kRows, Policy::kCols>(tile_rows, tile_cols, [&](auto rows, auto cols) {
      for (std::int64_t c = 0; c < cols; c += kVecWidth) {
        const Vec add = bias == nullptr ? vec_zero() : load_lanes(bias + c, cols - c);
        for (int r = 0; r < rows; ++r) {
          float* at = values + r * Policy::kCols + c;
          vec_store(at, activate_for<Policy, decltype(tag)::kValue>(vec_add(vec_load(at), add)));
        }
      }
    });
  });
}

// The same for a gated weight, gate and up in the halves of the tile: activation(gate + its bias) * (up + its bias)
// into the first half.
template <typename Policy>
[[gnu::noinline]] void finish_gated_tile(Activation activation, float* values, int tile_rows, std::int64_t tile_cols,
                                         const float* gate_bias, const float* up_bias) {
  with_activation(activation, [&](auto tag) {
    with_extent<Policy::kRows, Policy::kCols / 2>(tile_rows, tile_cols, [&](auto rows, auto cols) {
      for (std::int64_t c = 0; c < cols; c += kVecWidth) {
        const Vec add_gate = gate_bias == nullptr ? vec_zero() : load_lanes(gate_bias + c, cols - c);
        const Vec add_up = up_bias == nullptr ? vec_zero() : load_lanes(up_bias + c, cols - c);
        for (int r = 0; r < rows; ++r) {
          float* at = values + r * Policy::kCols + c;
          const Vec gate = activate_for<Policy, decltype(tag)::kValue>(vec_add(vec_load(at), add_gate));
          vec_store(at, vec_mul(gate, vec_add(vec_load(at + Policy::kCols / 2), add_up)));
        }
      }
    });
  });
}

// Either of them, for rows of a tile from column col0 of the weight on.
template <typename Policy>
void finish_values(const PackedWeightView& weight, Activation activation, float* values, int rows, std::int64_t col0,
                   std::int64_t cols) {
  const float* bias = weight.bias == nullptr ? nullptr : weight.bias + col0;
  if (weight.is_gated) {
    const float* up_bias = bias == nullptr ? nullptr : bias + weight.out_features;
    finish_gated_tile<Policy>(activation, values, rows, cols, bias, up_bias);
  } else if (bias != nullptr || activation != Activation::kNone) {
    finish_tile<Policy>(activation, values, rows, cols, bias);
  }
}

// Into a row-major tensor of one dtype, after the residual is added where there is one.
template <int kTileRows, int kTileCols, int kCols, typename Out, bool kHasResidual>
void store_tile_as(Epilogue e, FinishedTile tile) {
  Out* const out = static_cast<Out*>(e.out) + tile.row0 * e.out_stride + tile.col0;
  const float* const residual = kHasResidual ? e.residual + tile.row0 * e.residual_stride + tile.col0 : nullptr;
  with_extent<kTileRows, kCols>(tile.rows, tile.cols, [&](auto rows, auto cols) {
    for (int r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; c += kVecWidth) {
        const std::int64_t n = min_of(cols - c, kVecWidth);
        Vec v = vec_load(tile.values + r * kTileCols + c);
        if constexpr (kHasResidual) v = vec_add(v, load_lanes(residual + r * e.residual_stride + c, n));
        Out* at = out + r * e.out_stride + c;
        if constexpr (sizeof(Out) == sizeof(float)) {
          store_lanes(at, v, n);
        } else {
          n == kVecWidth ? vec_store_bf16(at, v) : vec_store_bf16_n(at, v, static_cast<int>(n));
        }
      }
    }
  });
}

// kCols: of a whole tile's results, half of its width for a gated weight.
template <int kTileRows, int kTileCols, int kCols>
[[gnu::noinline]] void store_tile(const Epilogue& e, const FinishedTile& tile) {
  const bool is_float32 = e.out_dtype == DType::kFloat32;
  if (e.residual != nullptr) {
    is_float32 ? store_tile_as<kTileRows, kTileCols, kCols, float, true>(e, tile)
               : store_tile_as<kTileRows, kTileCols, kCols, bfloat16, true>(e, tile);
  } else {
    is_float32 ? store_tile_as<kTileRows, kTileCols, kCols, float, false>(e, tile)
               : store_tile_as<kTileRows, kTileCols, kCols, bfloat16, false>(e, tile);
  }
}

// Into input panels of the next product; the tile's rows are one panel's, from its first on unless they are a part.
template <typename Policy, int kCols>
[[gnu::noinline]] void put_tile(char* panel, FinishedTile tile) {
  const int first_row = kLeavesVectorUnits<Policy> ? static_cast<int>(tile.row0 % Policy::kRows) : 0;
  with_extent<Policy::kRows, kCols>(tile.rows, tile.cols, [&](auto rows, auto cols) {
    for (int r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; c += kVecWidth) {
        const Vec v = vec_load(tile.values + r * Policy::kCols + c);
        Policy::put_input(panel, first_row + r, tile.col0 + c, as_activation<Policy>(v));
      }
    }
  });
}

template <typename Policy>
void store_panel_tile(const Epilogue& e, bool is_gated, const FinishedTile& tile) {
  is_gated ? store_tile<Policy::kRows, Policy::kCols, Policy::kCols / 2>(e, tile)
           : store_tile<Policy::kRows, Policy::kCols, Policy::kCols>(e, tile);
}

template <typename Policy>
void put_panel_tile(char* panel, bool is_gated, const FinishedTile& tile) {
  is_gated ? put_tile<Policy, Policy::kCols / 2>(panel, tile) : put_tile<Policy, Policy::kCols>(panel, tile);
}
