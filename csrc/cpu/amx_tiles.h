// The eight AMX tile registers behind eight functions: real instructions, or plain code with the same results where
// ASSAY_AMX_EMULATED is defined (any machine can then test what is built on tiles). Every tile is 16 rows of 64 bytes.
// Included inside an AMX namespace.
#pragma once

#if defined(ASSAY_AMX_EMULATED)
alignas(64) thread_local float emulated_tiles[8][16][16];

inline void tiles_begin() {}
inline void tiles_end() {}

template <int kTile>
inline void tile_zero() {
  memset(emulated_tiles[kTile], 0, sizeof emulated_tiles[kTile]);
}

template <int kTile>
inline void tile_load(const void* base, std::int64_t stride_bytes) {
  for (int r = 0; r < 16; ++r) memcpy(emulated_tiles[kTile][r], static_cast<const char*>(base) + r * stride_bytes, 64);
}

template <int kTile>
inline void tile_load_past_l1(const void* base, std::int64_t stride_bytes) {
  tile_load<kTile>(base, stride_bytes);
}

template <int kTile>
inline void tile_store(void* base, std::int64_t stride_bytes) {
  for (int r = 0; r < 16; ++r) memcpy(static_cast<char*>(base) + r * stride_bytes, emulated_tiles[kTile][r], 64);
}

// TDPBF16PS as the instruction reference has it: even and odd products are summed apart, then added.
template <int kAcc, int kInput, int kWeight>
inline void tile_dot_bf16() {
  for (int row = 0; row < 16; ++row) {
    const bfloat16* a = reinterpret_cast<const bfloat16*>(emulated_tiles[kInput][row]);
    __m512 even = _mm512_setzero_ps();
    __m512 odd = _mm512_setzero_ps();
    for (int pair = 0; pair < 16; ++pair) {
      const __m512i b = _mm512_loadu_si512(emulated_tiles[kWeight][pair]);
      const __m512 b_even = _mm512_castsi512_ps(_mm512_slli_epi32(b, 16));
      const __m512 b_odd = _mm512_castsi512_ps(_mm512_and_si512(b, _mm512_set1_epi32(-65536)));
      even = _mm512_fmadd_ps(_mm512_set1_ps(bf16_to_float(a[2 * pair])), b_even, even);
      odd = _mm512_fmadd_ps(_mm512_set1_ps(bf16_to_float(a[2 * pair + 1])), b_odd, odd);
    }
    float* acc = emulated_tiles[kAcc][row];
    _mm512_storeu_ps(acc, _mm512_add_ps(_mm512_loadu_ps(acc), _mm512_add_ps(even, odd)));
  }
}

// TDPBUSD: unsigned bytes of the input times signed bytes of the weight, exact in int32.
template <int kAcc, int kInput, int kWeight>
inline void tile_dot_int8() {
  for (int row = 0; row < 16; ++row) {
    const unsigned char* a = reinterpret_cast<const unsigned char*>(emulated_tiles[kInput][row]);
    for (int col = 0; col < 16; ++col) {
      std::int32_t sum;
      memcpy(&sum, &emulated_tiles[kAcc][row][col], sizeof sum);
      for (int depth = 0; depth < 64; ++depth) {
        const signed char* b = reinterpret_cast<const signed char*>(&emulated_tiles[kWeight][depth / 4][col]);
        sum += a[depth] * b[depth % 4];
      }
      memcpy(&emulated_tiles[kAcc][row][col], &sum, sizeof sum);
    }
  }
}
#else
// The layout LDTILECFG reads (Intel SDM): palette 1, bytes per row and rows of each tile.
inline void tiles_begin() {
  alignas(64) unsigned char config[64] = {1};
  for (int tile = 0; tile < 8; ++tile) {
    config[16 + 2 * tile] = 64;
    config[48 + tile] = 16;
  }
  // Not by GCC 12's intrinsic, which tells the compiler of the first 8 bytes only: the others could be left unwritten.
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
inline void tiles_end() { _tile_release(); }

// Written as assembly because GCC's intrinsics paste the tile number into the instruction and so refuse a template
// argument. Operand order is AT&T's: the destination comes last.
template <int kTile>
inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

template <int kTile>
inline void tile_load(const void* base, std::int64_t stride_bytes) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(base), "r"(stride_bytes), "i"(kTile) : "memory");
}

// The same for what is not soon read again: it does not take the place of what is in L1.
template <int kTile>
inline void tile_load_past_l1(const void* base, std::int64_t stride_bytes) {
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(base), "r"(stride_bytes), "i"(kTile) : "memory");
}

template <int kTile>
inline void tile_store(void* base, std::int64_t stride_bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(base), "r"(stride_bytes), "i"(kTile) : "memory");
}

// acc[16 x 16 float32] += input[16 x 32 bfloat16] . weight[16 pairs x 16 columns x 2 bfloat16]
template <int kAcc, int kInput, int kWeight>
inline void tile_dot_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kAcc), "i"(kInput), "i"(kWeight));
}

// acc[16 x 16 int32] += input[16 x 64 uint8] . weight[16 quads x 16 columns x 4 int8]
template <int kAcc, int kInput, int kWeight>
inline void tile_dot_int8() {
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kAcc), "i"(kInput), "i"(kWeight));
}
#endif
