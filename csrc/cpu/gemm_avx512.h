// The int8 products of one depth block of a whole tile (10 x 32) on AVX-512, in assembly: GCC 12 moves the twenty sums
// from register to register and puts some on the stack in every step of the loop. Included inside an AVX-512 namespace
// by gemm_int8.h; includes nothing. The emulation has the intrinsics of Int8::sum_block in its place.
//
// Registers: 0 to 3 weights, 4 and 5 a row's inputs, 6 and 7 products, 8 ones, 12 to 31 sums. An asm statement cannot
// have twenty sums as operands, so they leave in memory, which the next step reads anyway.
#pragma once

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
#define ASSAY_INT8_ZERO(row, low, high, octet)      \
  "vpxord %%zmm" #low ", %%zmm" #low ", %%zmm" #low \
  "\n\t"                                            \
  "vpxord %%zmm" #high ", %%zmm" #high ", %%zmm" #high "\n\t"
#define ASSAY_INT8_STORE(row, low, high, octet) \
  "vmovdqa64 %%zmm" #low ", " #row              \
  " * 128(%[sums])\n\t"                         \
  "vmovdqa64 %%zmm" #high ", " #row " * 128 + 64(%[sums])\n\t"

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
  __asm__(ASSAY_INT8_EACH_ROW(ASSAY_INT8_ZERO, )
#if !defined(__AVX512VNNI__)
          "vpternlogd $0xFF, %%zmm8, %%zmm8, %%zmm8\n\t"
          "vpabsw %%zmm8, %%zmm8\n\t"
#endif
          "mov $8, %%ecx\n"
          "1:\n\t" ASSAY_INT8_OCTET(0) ASSAY_INT8_OCTET(1)
          "add $16, %[x]\n\t"
          "add $512, %[w]\n\t"
          "dec %%ecx\n\t"
          "jnz 1b\n\t" ASSAY_INT8_EACH_ROW(ASSAY_INT8_STORE, )
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
#undef ASSAY_INT8_STORE
#undef ASSAY_INT8_ZERO
#undef ASSAY_INT8_EACH_ROW
