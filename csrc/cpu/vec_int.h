// kVecWidth int32 lanes beside a vec_*.h's floats, and the multiply-adds that the int8 mode and block fixed point are
// made of.
// Included inside an ISA's namespace after its vec_*.h.
//
// add_octets adds to each int32 lane the eight products of a token's unsigned bytes x0[4], x1[4] with its signed bytes
// w0[4], w1[4]. Without VNNI four products meet in an int16, those of two neighbours of x0 and of the two at their
// place in x1. Inputs are not negative, so nothing saturates where of four such weights neither those above zero nor
// those below come to more than kWeightsTogether: 181 * 181 < 2^15.
//
// add_pairs adds to each int32 lane the products of two int16.
#pragma once

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int kInputSteps = 255;           // the largest byte of an input
constexpr int kWeightsTogether = 4 * 128;  // never: products meet in int32
#else
constexpr int kInputSteps = 181;
constexpr int kWeightsTogether = 181;
#endif
constexpr int kWeightLargest = 127;

#if defined(__AVX512F__)
using IntVec = __m512i;
constexpr int kByteRun = kVecWidth;  // floats that store_bytes takes

inline IntVec int_zero() { return _mm512_setzero_si512(); }
inline IntVec int_load(const void* source) { return _mm512_loadu_si512(source); }
inline IntVec int_max(IntVec a, IntVec b) { return _mm512_max_epi32(a, b); }
inline std::int32_t int_max_of(IntVec v) { return _mm512_reduce_max_epi32(v); }
inline IntVec magnitude_bits(Vec v) { return _mm512_castps_si512(vec_abs(v)); }
inline Vec int_to_float(IntVec v) { return _mm512_cvtepi32_ps(v); }
inline IntVec int_broadcast(const char* bytes) {
  std::int32_t quad;
  memcpy(&quad, bytes, sizeof quad);
  return _mm512_set1_epi32(quad);
}

inline IntVec add_octets(IntVec sum, IntVec x0, const char* x1, IntVec w0, IntVec w1) {
#if defined(__AVX512VNNI__)
  return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, x0, w0), int_broadcast(x1), w1);
#else
  const IntVec low = _mm512_maddubs_epi16(x0, w0);
  const IntVec pairs = _mm512_add_epi16(low, _mm512_maddubs_epi16(int_broadcast(x1), w1));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

// (kByteRun floats - least) * factor, rounded: whole numbers from 0 to kInputSteps.
inline void store_bytes(const float* from, Vec least, Vec factor, char* to) {
  const IntVec integers = _mm512_cvtps_epi32(vec_mul(vec_sub(vec_load(from), least), factor));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(integers));
}

#if defined(ASSAY_FIXED_POINT)
constexpr int kShortRun = kVecWidth;  // floats that store_shorts takes

// kShortRun floats * factor, rounded, to int16.
inline void store_shorts(const float* from, Vec factor, char* to) {
  const IntVec integers = _mm512_cvtps_epi32(vec_mul(vec_load(from), factor));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(integers));
}

// In assembly because GCC 12 would copy and spill sums.
inline IntVec add_pairs(IntVec sum, IntVec a, IntVec b) {
  __asm__("vpdpwssd %[b], %[a], %[sum]" : [sum] "+v"(sum) : [a] "v"(a), [b] "v"(b));
  return sum;
}
#endif
#elif defined(__AVX2__)
using IntVec = __m256i;
constexpr int kByteRun = 4 * kVecWidth;

inline IntVec int_zero() { return _mm256_setzero_si256(); }
inline IntVec int_load(const void* source) { return _mm256_loadu_si256(static_cast<const __m256i*>(source)); }
inline IntVec int_max(IntVec a, IntVec b) { return _mm256_max_epi32(a, b); }
inline std::int32_t int_max_of(IntVec v) {
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1));
  return _mm_cvtsi128_si32(half);
}
inline IntVec magnitude_bits(Vec v) { return _mm256_castps_si256(vec_abs(v)); }
inline Vec int_to_float(IntVec v) { return _mm256_cvtepi32_ps(v); }
// As a float: VBROADCASTSS from memory takes no shuffle unit.
inline IntVec int_broadcast(const char* bytes) {
  return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(bytes)));
}

#if defined(__AVXVNNI__)
inline IntVec add_octets(IntVec sum, IntVec x0, const char* x1, IntVec w0, IntVec w1) {
  return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum, x0, w0), int_broadcast(x1), w1);
}
#else
// In assembly because GCC 12 would gather all products first and spill the sums. x1 is broadcast here, so that eight
// sums, four weights and what one row needs fill the 16 registers exactly.
inline IntVec add_octets(IntVec sum, IntVec x0, const char* x1, IntVec w0, IntVec w1) {
  const IntVec ones = _mm256_set1_epi16(1);
  IntVec low, high;
  __asm__(
      "vbroadcastss %[x1], %[high]\n\t"
      "vpmaddubsw %[w0], %[x0], %[low]\n\t"
      "vpmaddubsw %[w1], %[high], %[high]\n\t"
      "vpaddw %[high], %[low], %[low]\n\t"
      "vpmaddwd %[ones], %[low], %[low]\n\t"
      "vpaddd %[low], %[sum], %[sum]"
      : [sum] "+x"(sum), [low] "=&x"(low), [high] "=&x"(high)
      : [x0] "x"(x0), [x1] "m"(*reinterpret_cast<const std::int32_t(*)>(x1)), [w0] "x"(w0), [w1] "x"(w1),
        [ones] "x"(ones));
  return sum;
}
#endif

inline void store_bytes(const float* from, Vec least, Vec factor, char* to) {
  const auto integers = [&](int i) {
    return _mm256_cvtps_epi32(vec_mul(vec_sub(vec_load(from + i * kVecWidth), least), factor));
  };
  const __m256i low = _mm256_packs_epi32(integers(0), integers(1));
  const __m256i high = _mm256_packs_epi32(integers(2), integers(3));
  // The packs work within halves of a register: every four bytes of the result have to be put back in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
}

constexpr int kShortRun = 2 * kVecWidth;

inline void store_shorts(const float* from, Vec factor, char* to) {
  const __m256i low = _mm256_cvtps_epi32(vec_mul(vec_load(from), factor));
  const __m256i high = _mm256_cvtps_epi32(vec_mul(vec_load(from + kVecWidth), factor));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed);
}

// In assembly because GCC 12 would gather all products first and spill the sums.
inline IntVec add_pairs(IntVec sum, IntVec a, IntVec b) {
#if defined(__AVXVNNI__)
  return _mm256_dpwssd_avx_epi32(sum, a, b);
#else
  IntVec products;
  __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(a), "x"(b));
  return sum;
#endif
}
#else
using IntVec = std::int32_t;
constexpr int kByteRun = 1;

inline IntVec int_zero() { return 0; }
inline IntVec int_load(const void* source) {
  IntVec value;
  memcpy(&value, source, sizeof value);
  return value;
}
inline IntVec int_max(IntVec a, IntVec b) { return a > b ? a : b; }
inline std::int32_t int_max_of(IntVec v) { return v; }
inline IntVec magnitude_bits(Vec v) {
  const Vec magnitude = vec_abs(v);
  return int_load(&magnitude);
}
inline Vec int_to_float(IntVec v) { return static_cast<float>(v); }
inline IntVec int_broadcast(const char* bytes) { return int_load(bytes); }

inline IntVec add_quad(IntVec sum, IntVec x, IntVec w) {
  for (int byte = 0; byte < 4; ++byte) {
    const int shift = 8 * byte;
    sum += ((x >> shift) & 0xFF) * static_cast<std::int8_t>((w >> shift) & 0xFF);
  }
  return sum;
}
inline IntVec add_octets(IntVec sum, IntVec x0, const char* x1, IntVec w0, IntVec w1) {
  return add_quad(add_quad(sum, x0, w0), int_load(x1), w1);
}

inline void store_bytes(const float* from, Vec least, Vec factor, char* to) {
  const float integer = vec_round(vec_mul(vec_sub(*from, least), factor));
  // A run with a NaN or infinity has a NaN for its scale: its bytes are multiplied and then count for nothing.
  *to = static_cast<char>(integer == integer ? static_cast<int>(integer) : 0);
}
#endif
