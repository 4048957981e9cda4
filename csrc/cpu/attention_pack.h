// Lays q, k and v out as attention_tiles.h reads them. Included inside an ISA's namespace after it.
//
// An operand policy says what a unit is: the element type in memory, how many elements of the summed dimension share
// a unit, the step that multiplies units, and how many of them it takes at a time: those that are missing are zero.
#pragma once

struct Float32Operand {
  using Element = float;
  using Step = FmaStep;
  static constexpr int kUnitsMultiple = 1;
  static constexpr int kPerUnit = 1;
  static float unit(const float* at) { return *at; }
#if defined(__AVX2__)
  static __m256 load_units(const float* at, std::int64_t) { return _mm256_loadu_ps(at); }
#endif
};

// bfloat16 in memory, float32 arithmetic.
struct WidenedOperand {
  using Element = bfloat16;
  using Step = FmaStep;
  static constexpr int kUnitsMultiple = 1;
  static constexpr int kPerUnit = 1;
  static float unit(const bfloat16* at) { return bf16_to_float(*at); }
#if defined(__AVX2__)
  static __m256 load_units(const bfloat16* at, std::int64_t) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
#endif
};

#if defined(__AVX512BF16__)
struct PairOperand {
  using Element = bfloat16;
#if defined(ASSAY_AMX)
  using Step = TileStep;
  static constexpr int kUnitsMultiple = kBlockUnits;
#else
  using Step = DotStep;
  static constexpr int kUnitsMultiple = 1;
#endif
  static constexpr int kPerUnit = 2;
  static __m256 load_units(const bfloat16* at, std::int64_t num_units) {
    const __mmask8 mask = num_units >= 8 ? 0xFF : 0x0F;  // head_dim is a multiple of 8
    return _mm256_castsi256_ps(_mm256_maskz_loadu_epi32(mask, at));
  }
};
#endif

#if defined(__AVX2__)
// target[c * stride + r] = rows[r][c]
inline void transpose_store_8x8(const __m256 rows[8], float* target, std::int64_t stride) {
  __m256 pairs[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  __m256 quads[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256d a = _mm256_castps_pd(pairs[i + half]);
      const __m256d b = _mm256_castps_pd(pairs[i + half + 2]);
      quads[i + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
      quads[i + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(target + c * stride, _mm256_permute2f128_ps(quads[c], quads[c + 4], 0x20));
    _mm256_storeu_ps(target + (c + 4) * stride, _mm256_permute2f128_ps(quads[c], quads[c + 4], 0x31));
  }
}
#endif

// k [num_keys, head_dim] -> panels of kPanelCols keys, [units][kPanelCols] each; keys past the last are zero.
template <typename Operand>
void pack_keys(const typename Operand::Element* k, std::int64_t k_stride, std::int64_t num_keys, std::int64_t num_units,
               std::int64_t panel_floats, float* packed) {
#if defined(__AVX2__)
  static_assert(kPanelCols % 8 == 0);
  const std::int64_t padded_keys = round_up(num_keys, kVecWidth);
  for (std::int64_t key = 0; key < padded_keys; key += 8) {
    float* panel = packed + key / kPanelCols * panel_floats + key % kPanelCols;
    for (std::int64_t unit = 0; unit < round_up(num_units, Operand::kUnitsMultiple); unit += 8) {
      __m256 rows[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        rows[i] = _mm256_setzero_ps();
        if (key + i < num_keys && unit < num_units) {
          rows[i] = Operand::load_units(k + (key + i) * k_stride + unit * Operand::kPerUnit, num_units - unit);
        }
      }
      transpose_store_8x8(rows, panel + unit * kPanelCols, kPanelCols);
    }
  }
#else
  for (std::int64_t key = 0; key < round_up(num_keys, kPanelCols); ++key) {
    float* panel = packed + key / kPanelCols * panel_floats + key % kPanelCols;
    for (std::int64_t unit = 0; unit < num_units; ++unit) {
      panel[unit * kPanelCols] = key < num_keys ? Operand::unit(k + key * k_stride + unit) : 0.0f;
    }
  }
#endif
}

// One unit of kVecWidth columns of v, the columns past `left` zero.
template <typename Operand>
Vec value_units(const typename Operand::Element* v, std::int64_t v_stride, std::int64_t left, std::int64_t keys_left) {
  const int n = static_cast<int>(left < kVecWidth ? left : kVecWidth);
#if defined(__AVX512BF16__)
  if constexpr (Operand::kPerUnit == 2) {
    const __mmask16 mask = lane_mask(n);
    const __mmask16 second_mask = keys_left > 1 ? mask : 0;
    const __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, v));
    const __m512i second = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second_mask, v + v_stride));
    return _mm512_castsi512_ps(_mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
  }
#endif
  (void)v_stride;
  (void)keys_left;
  if constexpr (sizeof(*v) == sizeof(float)) {
    return n == kVecWidth ? vec_load(reinterpret_cast<const float*>(v))
                          : vec_load_n(reinterpret_cast<const float*>(v), n);
  } else {
    const bfloat16* at = reinterpret_cast<const bfloat16*>(v);
    return n == kVecWidth ? vec_load_bf16(at) : vec_load_bf16_n(at, n);
  }
}

// v [num_keys, head_dim] -> panels of kPanelCols columns, [units][kPanelCols] each; columns past head_dim and the
// missing half of an odd last pair are zero, and so are the units that fill a step up.
template <typename Operand>
void pack_values(const typename Operand::Element* v, std::int64_t v_stride, std::int64_t num_keys, int head_dim,
                 std::int64_t panel_floats, float* packed) {
  // Row by row, a cache line of it at a time: rows collide in the L1 cache, so a second pass would read them from L2.
  const int whole_cols = head_dim / kPanelCols * kPanelCols;
  for (std::int64_t key = 0; key < num_keys; key += Operand::kPerUnit) {
    const typename Operand::Element* row = v + key * v_stride;
    float* units = packed + key / Operand::kPerUnit * kPanelCols;
    const std::int64_t keys_left = num_keys - key;
    for (int col = 0; col < whole_cols; col += kPanelCols, units += panel_floats) {
#pragma GCC unroll 8
      for (int i = 0; i < kPanelCols; i += kVecWidth) {
        vec_store(units + i, value_units<Operand>(row + col + i, v_stride, kVecWidth, keys_left));
      }
    }
    for (int col = whole_cols; col < head_dim; col += kVecWidth) {
      vec_store(units + col - whole_cols, value_units<Operand>(row + col, v_stride, head_dim - col, keys_left));
    }
  }
  if constexpr (Operand::kUnitsMultiple > 1) {
    const std::int64_t num_units = ceil_div(num_keys, Operand::kPerUnit);
    const std::int64_t missing = round_up(num_units, Operand::kUnitsMultiple) - num_units;
    for (std::int64_t panel = 0; panel < ceil_div(head_dim, kPanelCols); ++panel) {
      memset(packed + panel * panel_floats + num_units * kPanelCols, 0,
             static_cast<std::size_t>(missing * kPanelCols) * sizeof(float));
    }
  }
}

// num_rows of q -> row blocks.
template <typename Operand>
void pack_queries(const typename Operand::Element* q, std::int64_t q_stride, int num_rows, std::int64_t num_units,
                  float* packed) {
  for (int r = 0; r < num_rows; ++r) {
    const typename Operand::Element* row = q + r * q_stride;
    for (std::int64_t unit = 0; unit < num_units; unit += kBlockUnits) {
      float* block = packed + block_offset(unit) + r * kBlockUnits;
      const std::int64_t left = num_units - unit;
      if (left < Operand::kUnitsMultiple) memset(block, 0, sizeof(float) * kBlockUnits);
      if constexpr (sizeof(*q) * Operand::kPerUnit == sizeof(float)) {
        if (left >= kBlockUnits) {
          memcpy(block, row + unit * Operand::kPerUnit, sizeof(float) * kBlockUnits);
        } else {
          for (int i = 0; i < left; i += 4) memcpy(block + i, row + (unit + i) * Operand::kPerUnit, 4 * sizeof(float));
        }
      } else {
        for (int i = 0; i < kBlockUnits && i < left; i += kVecWidth) {
          vec_store(block + i, value_units<Operand>(row + unit + i, 0, left - i, 1));
        }
      }
    }
  }
}
