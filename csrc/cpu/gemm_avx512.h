// The integer products of one depth block of a whole tile (int8 10 x 32, block fixed point 14 x 32) on AVX-512, in
// assembly: GCC 12 moves the sums from register to register and puts some on the stack in every step of the loop.
// Included inside an AVX-512 namespace by gemm_tiles.h; includes nothing. The emulation has the intrinsics of
// Int8::sum_block in its place. An asm statement cannot have all sums as operands, so they leave in memory, which the
// next step reads anyway.
#pragma once

// A row's two sums, before and after the loop.
#define ASSAY_SUM_ZERO(row, low, high, step)        \
  "vpxord %%zmm" #low ", %%zmm" #low ", %%zmm" #low \
  "\n\t"                                            \
  "vpxord %%zmm" #high ", %%zmm" #high ", %%zmm" #high "\n\t"
#define ASSAY_SUM_STORE(row, low, high, step) \
  "vmovdqa64 %%zmm" #low ", " #row            \
  " * 128(%[sums])\n\t"                       \
  "vmovdqa64 %%zmm" #high ", " #row " * 128 + 64(%[sums])\n\t"

// Int8's registers: 0 to 3 weights, 4 and 5 a row's inputs, 6 and 7 products, 8 ones, 12 to 31 sums.
// clang-format off: one row a line
#define ASSAY_INT8_EACH_ROW(DO, octet) \
  DO(0, 12, 13, octet)                 \
  DO(1, 14, 15, octet)                 \
  DO(2, 16, 17, octet)                 \
  DO(3, 18, 19, octet)                 \
  DO(4, 20, 21, octet)                 \
  DO(5, 22, 23, octet)                 \
  DO(6, 24, 25, octet)                 \
  DO(7, 26, 27, octet)                 \
  DO(8, 28, 29, octet)                 \
  DO(9, 30, 31, octet)
// clang-format on
#if defined(__AVX512VNNI__)
#define ASSAY_INT8_ADD(weight0, weight1, sum)      \
  "vpdpbusd %%zmm" #weight0 ", %%zmm4, %%zmm" #sum \
  "\n\t"                                           \
  "vpdpbusd %%zmm" #weight1 ", %%zmm5, %%zmm" #sum "\n\t"
#else
// Two quads meet in int16, which the ranges of both keep from saturating.
#define ASSAY_INT8_ADD(weight0, weight1, sum) \
  "vpmaddubsw %%zmm" #weight0                 \
  ", %%zmm4, %%zmm6\n\t"                      \
  "vpmaddubsw %%zmm" #weight1                 \
  ", %%zmm5, %%zmm7\n\t"                      \
  "vpaddw %%zmm7, %%zmm6, %%zmm6\n\t"         \
  "vpmaddwd %%zmm8, %%zmm6, %%zmm6\n\t"       \
  "vpaddd %%zmm6, %%zmm" #sum ", %%zmm" #sum "\n\t"
#endif
#define ASSAY_INT8_ROW(row, low, high, octet)                                                    \
  "vpbroadcastd " #row " * 128 + " #octet                                                        \
  " * 8(%[x]), %%zmm4\n\t"                                                                       \
  "vpbroadcastd " #row " * 128 + " #octet " * 8 + 4(%[x]), %%zmm5\n\t" ASSAY_INT8_ADD(0, 2, low) \
      ASSAY_INT8_ADD(1, 3, high)
#define ASSAY_INT8_OCTET(octet)    \
  "vmovdqa64 " #octet              \
  " * 256(%[w]), %%zmm0\n\t"       \
  "vmovdqa64 " #octet              \
  " * 256 + 64(%[w]), %%zmm1\n\t"  \
  "vmovdqa64 " #octet              \
  " * 256 + 128(%[w]), %%zmm2\n\t" \
  "vmovdqa64 " #octet " * 256 + 192(%[w]), %%zmm3\n\t" ASSAY_INT8_EACH_ROW(ASSAY_INT8_ROW, octet)

// sums = x . w for x [10][128] unsigned bytes and w [32][32] quads of signed ones; sums and w on 64 bytes.
inline void int8_block_sums(const char* x, const char* w, IntVec (&sums)[10][2]) {
  const char* weights = w;
  const char* inputs = x;
  __asm__(ASSAY_INT8_EACH_ROW(ASSAY_SUM_ZERO, )
#if !defined(__AVX512VNNI__)
          "vpternlogd $0xFF, %%zmm8, %%zmm8, %%zmm8\n\t"
          "vpabsw %%zmm8, %%zmm8\n\t"
#endif
          "mov $8, %%ecx\n"
          "1:\n\t" ASSAY_INT8_OCTET(0) ASSAY_INT8_OCTET(1)
          "add $16, %[x]\n\t"
          "add $512, %[w]\n\t"
          "dec %%ecx\n\t"
          "jnz 1b\n\t" ASSAY_INT8_EACH_ROW(ASSAY_SUM_STORE, )
          : [x] "+r"(inputs), [w] "+r"(weights), "=m"(sums)
          : [sums] "r"(&sums), "m"(*reinterpret_cast<const char (*)[10 * 128]>(x)),
            "m"(*reinterpret_cast<const char (*)[32 * 128]>(w))
          : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm12", "xmm13", "xmm14", "xmm15",
            "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27",
            "xmm28", "xmm29", "xmm30", "xmm31", "ecx", "cc");
}

#undef ASSAY_INT8_OCTET
#undef ASSAY_INT8_ROW
#undef ASSAY_INT8_ADD
#undef ASSAY_INT8_EACH_ROW

#if defined(ASSAY_FIXED_POINT)
// Registers: 0 and 1 weights, 2 a row's input, 4 to 31 sums.
// clang-format off: one row a line
#define ASSAY_FIXED_EACH_ROW(DO, pair) \
  DO(0, 4, 5, pair)                    \
  DO(1, 6, 7, pair)                    \
  DO(2, 8, 9, pair)                    \
  DO(3, 10, 11, pair)                  \
  DO(4, 12, 13, pair)                  \
  DO(5, 14, 15, pair)                  \
  DO(6, 16, 17, pair)                  \
  DO(7, 18, 19, pair)                  \
  DO(8, 20, 21, pair)                  \
  DO(9, 22, 23, pair)                  \
  DO(10, 24, 25, pair)                 \
  DO(11, 26, 27, pair)                 \
  DO(12, 28, 29, pair)                 \
  DO(13, 30, 31, pair)
// clang-format on
#define ASSAY_FIXED_ROW(row, low, high, pair) \
  "vpbroadcastd " #row " * 256 + " #pair      \
  " * 4(%[x]), %%zmm2\n\t"                    \
  "vpdpwssd %%zmm0, %%zmm2, %%zmm" #low       \
  "\n\t"                                      \
  "vpdpwssd %%zmm1, %%zmm2, %%zmm" #high "\n\t"
#define ASSAY_FIXED_PAIR(pair) \
  "vmovdqa64 " #pair           \
  " * 128(%[w]), %%zmm0\n\t"   \
  "vmovdqa64 " #pair " * 128 + 64(%[w]), %%zmm1\n\t" ASSAY_FIXED_EACH_ROW(ASSAY_FIXED_ROW, pair)

// sums = x . w for x [14][64] and w [64][32] pairs of int16; sums and w on 64 bytes.
inline void fixed_block_sums(const char* x, const char* w, IntVec (&sums)[14][2]) {
  const char* weights = w;
  const char* inputs = x;
  __asm__(ASSAY_FIXED_EACH_ROW(ASSAY_SUM_ZERO, )
          "mov $16, %%ecx\n"
          "1:\n\t" ASSAY_FIXED_PAIR(0) ASSAY_FIXED_PAIR(1) ASSAY_FIXED_PAIR(2) ASSAY_FIXED_PAIR(3)
          "add $16, %[x]\n\t"
          "add $512, %[w]\n\t"
          "dec %%ecx\n\t"
          "jnz 1b\n\t" ASSAY_FIXED_EACH_ROW(ASSAY_SUM_STORE, )
          : [x] "+r"(inputs), [w] "+r"(weights), "=m"(sums)
          : [sums] "r"(&sums), "m"(*reinterpret_cast<const char (*)[14 * 256]>(x)),
            "m"(*reinterpret_cast<const char (*)[64 * 128]>(w))
          : "xmm0", "xmm1", "xmm2", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
            "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",
            "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "ecx", "cc");
}

#undef ASSAY_FIXED_PAIR
#undef ASSAY_FIXED_ROW
#undef ASSAY_FIXED_EACH_ROW
#endif

#undef ASSAY_SUM_STORE
#undef ASSAY_SUM_ZERO
