// A tile that spans whole panels of output features, from sums to where they go in one pass: bias, activation, gate,
// residual and store, a row at a time and a whole cache line of bfloat16 where it is that. Beside tile products the
// number of instructions decides. Included inside an AMX namespace after gemm_finish.h, so it includes nothing.
#pragma once

// Rows of a tile on their way; `bias` and `up_bias` point at the first column's, or are nullptr.
struct TileRows {
  const float* values;
  std::int64_t row0;
  int count;
  std::int64_t col0;
  const float* bias;
  const float* up_bias;
};

template <typename Policy, Activation kActivation, bool kIsGated, typename Write>
[[gnu::always_inline]] inline void finish_each_row(const TileRows& rows, const Write& write) {
  const auto load_bias = [](const float* from) { return from == nullptr ? vec_zero() : vec_load(from); };
  const Vec add_low = load_bias(rows.bias);
  const Vec add_high = load_bias(kIsGated || rows.bias == nullptr ? rows.up_bias : rows.bias + kVecWidth);
  const float* from = rows.values;
  for (int r = 0; r < rows.count; ++r, from += 2 * kVecWidth) {
    const Vec low = activate_for<Policy, kActivation>(vec_add(vec_load(from), add_low));
    const Vec high = vec_add(vec_load(from + kVecWidth), add_high);
    if constexpr (kIsGated) {
      write(r, vec_mul(low, high));
    } else {
      write(r, low, activate_for<Policy, kActivation>(high));
    }
  }
}

template <typename Policy, Activation kActivation, bool kIsGated, typename Out, bool kHasResidual>
[[gnu::noinline]] void store_rows(Epilogue e, TileRows rows) {
  Out* const out = static_cast<Out*>(e.out) + rows.row0 * e.out_stride + rows.col0;
  const float* const residual = kHasResidual ? e.residual + rows.row0 * e.residual_stride + rows.col0 : nullptr;
  finish_each_row<Policy, kActivation, kIsGated>(rows, [&](int r, auto... parts) {
    Vec v[] = {parts...};
    if constexpr (kHasResidual) {
      for (std::size_t i = 0; i < sizeof...(parts); ++i) {
        v[i] = vec_add(v[i], vec_load(residual + r * e.residual_stride + static_cast<int>(i) * kVecWidth));
      }
    }
    Out* const at = out + r * e.out_stride;
    if constexpr (sizeof(Out) == sizeof(float)) {
      for (std::size_t i = 0; i < sizeof...(parts); ++i) vec_store(at + static_cast<int>(i) * kVecWidth, v[i]);
    } else if constexpr (sizeof...(parts) == 2) {
      vec_store_bf16_pair(at, v[0], v[1]);
    } else {
      vec_store_bf16(at, v[0]);
    }
  });
}

template <typename Policy, Activation kActivation, bool kIsGated>
void store_finished(const Epilogue& e, const TileRows& rows) {
  const bool is_float32 = e.out_dtype == DType::kFloat32;
  if (e.residual != nullptr) {
    is_float32 ? store_rows<Policy, kActivation, kIsGated, float, true>(e, rows)
               : store_rows<Policy, kActivation, kIsGated, bfloat16, true>(e, rows);
  } else {
    is_float32 ? store_rows<Policy, kActivation, kIsGated, float, false>(e, rows)
               : store_rows<Policy, kActivation, kIsGated, bfloat16, false>(e, rows);
  }
}

// Rows of a tile on their way through GELU into a panel.
struct GeluRows {
  const float* from;
  const float* bias;  // nullptr: none
  char* line;
  int left;
};

// The next of them, inline in the loop over depth blocks: there it runs beside the products, which a longer stretch of
// code between two of them would outlast. In halves of vectors where there are few products for it (activation_amx.h).
template <typename Policy>
[[gnu::always_inline]] inline void put_gelu_row(GeluRows& rows) {
  const auto load = [&](auto lanes, int i) __attribute__((always_inline)) {
    using L = decltype(lanes);
    return L::load(rows.from + i) + (rows.bias == nullptr ? L::set1(0.0f) : L::load(rows.bias + i));
  };
  if constexpr (kRoundsActivations<Policy>) {
    constexpr int kHalf = kVecWidth / 2;
    using L = HalfLanes;
#pragma GCC unroll 2
    for (int i = 0; i < 2 * kVecWidth; i += kVecWidth) {
      store_halves(rows.line + i * 2, gelu_rounded<L>(load(L{}, i)), gelu_rounded<L>(load(L{}, i + kHalf)));
    }
  } else {
    using L = WholeLanes;
    Policy::put_line(rows.line, activate<Activation::kGeluErf>(load(L{}, 0)),
                     activate<Activation::kGeluErf>(load(L{}, kVecWidth)));
  }
  rows.from += Policy::kCols;
  rows.line += kCacheLine;
  --rows.left;
}

template <typename Policy, Activation kActivation, bool kIsGated>
[[gnu::noinline]] void put_finished(char* panel, TileRows rows) {
  const int first_row = static_cast<int>(rows.row0 % Policy::kRows);
  finish_each_row<Policy, kActivation, kIsGated>(rows, [&](int r, auto... parts) {
    if constexpr (sizeof...(parts) == 2) {
      Policy::put_inputs(panel, first_row + r, rows.col0, as_activation<Policy>(parts)...);
    } else {
      Policy::put_input(panel, first_row + r, rows.col0, as_activation<Policy>(parts)...);
    }
  });
}
