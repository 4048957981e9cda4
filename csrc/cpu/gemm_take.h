// Where the driver of gemm.h hands finished tiles: each is called with some rows of a tile. On AMX it also names the
// function that takes rows of a whole panel's columns from sums to their place. Included inside an ISA's namespace
// after gemm_finish.h and gemm_finish_amx.h, so it includes nothing.
#pragma once

// Into a row-major tensor.
template <typename Policy>
struct StoreTiles {
  Epilogue epilogue;
  bool is_gated;

  void operator()(const FinishedTile& tile) const { store_panel_tile<Policy>(epilogue, is_gated, tile); }
#if defined(ASSAY_AMX)
  // The lines that rows of a tile will be written to, on their way to L1: a store that waits for memory holds up all
  // that follow, and a tile's product takes about as long as they do.
  void prefetch_rows(std::int64_t row0, int count, std::int64_t col0) const {
    const std::int64_t element = epilogue.out_dtype == DType::kFloat32 ? 4 : 2;
    const char* at = static_cast<const char*>(epilogue.out) + (row0 * epilogue.out_stride + col0) * element;
    for (int r = 0; r < count; ++r, at += epilogue.out_stride * element) {
      __builtin_prefetch(at, 1, 3);
      if (element == 4) __builtin_prefetch(at + kCacheLine, 1, 3);
    }
  }
  static constexpr bool kPutsRows = false;
  template <Activation kActivation, bool kIsGated>
  static void finish(const StoreTiles& take, const TileRows& rows) {
    store_finished<Policy, kActivation, kIsGated>(take.epilogue, rows);
  }
#endif
};

// Into input panels of the next product, of panel_bytes each; the weight's column first_col is their first.
template <typename Policy>
struct PutTiles {
  char* panels;
  std::int64_t panel_bytes;
  std::int64_t first_col;
  bool is_gated;

  char* panel_of(std::int64_t row) const { return panels + row / Policy::kRows * panel_bytes; }
  void operator()(FinishedTile tile) const {
    tile.col0 -= first_col;
    put_panel_tile<Policy>(panel_of(tile.row0), is_gated, tile);
  }
#if defined(ASSAY_AMX)
  void prefetch_rows(std::int64_t, int, std::int64_t) const {}  // panels are in the cache

  // Where a row's line of one depth block is.
  char* line_of(std::int64_t row, std::int64_t col) const {
    return panel_of(row) + (col - first_col) / Policy::kDepth * Policy::kPanelBlockBytes +
           row % Policy::kRows * kCacheLine;
  }
  static constexpr bool kPutsRows = kLeavesVectorUnits<Policy> && !std::is_same_v<Policy, TileInt8>;
  template <Activation kActivation, bool kIsGated>
  static void finish(const PutTiles& take, const TileRows& rows) {
    TileRows of_part = rows;
    of_part.col0 -= take.first_col;
    put_finished<Policy, kActivation, kIsGated>(take.panel_of(rows.row0), of_part);
  }
#endif
};

#if defined(ASSAY_AMX)
template <typename Take>
using FinishRows = void (*)(const Take& take, const TileRows& rows);

template <typename Take>
FinishRows<Take> finish_of(Activation activation, bool is_gated) {
  FinishRows<Take> chosen = nullptr;
  with_activation(activation, [&](auto tag) {
    constexpr Activation kActivation = decltype(tag)::kValue;
    chosen = is_gated ? Take::template finish<kActivation, true> : Take::template finish<kActivation, false>;
  });
  return chosen;
}
#endif
