// One depth block of a whole tile (6 x 16, or 3 x 32) on AVX2, in assembly: the sums, two weights, an input and a
// product are exactly the sixteen registers, and a compiler that schedules the unrolled loop spills some of them.
// Included inside the AVX2 namespace by gemm_tiles.h; includes nothing. What the assembly reads is an operand: a
// "memory" clobber would put the sums into memory and back.
#pragma once

// acc += x . w for x [6][16] and w [16][16] float32.
inline void fma_add_block(const float* x, const float* w, Vec (&acc)[6][2]) {
#define ASSAY_FMA_ROW(row, depth)          \
  "vbroadcastss " #row " * 64 + " #depth   \
  " * 4(%[x]), %%ymm2\n\t"                 \
  "vfmadd231ps %%ymm0, %%ymm2, %[low" #row \
  "]\n\t"                                  \
  "vfmadd231ps %%ymm1, %%ymm2, %[high" #row "]\n\t"
#define ASSAY_FMA_DEPTH(depth)                                                                     \
  "vmovups " #depth                                                                                \
  " * 64(%[w]), %%ymm0\n\t"                                                                        \
  "vmovups " #depth " * 64 + 32(%[w]), %%ymm1\n\t" ASSAY_FMA_ROW(0, depth) ASSAY_FMA_ROW(1, depth) \
      ASSAY_FMA_ROW(2, depth) ASSAY_FMA_ROW(3, depth) ASSAY_FMA_ROW(4, depth) ASSAY_FMA_ROW(5, depth)
  __asm__(ASSAY_FMA_DEPTH(0) ASSAY_FMA_DEPTH(1) ASSAY_FMA_DEPTH(2) ASSAY_FMA_DEPTH(3) ASSAY_FMA_DEPTH(4)
              ASSAY_FMA_DEPTH(5) ASSAY_FMA_DEPTH(6) ASSAY_FMA_DEPTH(7) ASSAY_FMA_DEPTH(8) ASSAY_FMA_DEPTH(9)
                  ASSAY_FMA_DEPTH(10) ASSAY_FMA_DEPTH(11) ASSAY_FMA_DEPTH(12) ASSAY_FMA_DEPTH(13) ASSAY_FMA_DEPTH(14)
                      ASSAY_FMA_DEPTH(15)
          : [low0] "+x"(acc[0][0]), [high0] "+x"(acc[0][1]), [low1] "+x"(acc[1][0]), [high1] "+x"(acc[1][1]),
            [low2] "+x"(acc[2][0]), [high2] "+x"(acc[2][1]), [low3] "+x"(acc[3][0]), [high3] "+x"(acc[3][1]),
            [low4] "+x"(acc[4][0]), [high4] "+x"(acc[4][1]), [low5] "+x"(acc[5][0]), [high5] "+x"(acc[5][1])
          : [x] "r"(x), [w] "r"(w), "m"(*reinterpret_cast<const float (*)[96]>(x)),
            "m"(*reinterpret_cast<const float (*)[256]>(w))
          : "xmm0", "xmm1", "xmm2");
#undef ASSAY_FMA_DEPTH
#undef ASSAY_FMA_ROW
}

// acc += x . w for x [3][64] and w [64][32] pairs of int16, by VPMADDWD, or VPDPWSSD. Two of the four weights of a pair
// are kept in registers, the others are read three times: this loop is bound by the number of instructions, not by
// loads.
inline void fixed_add_block(const char* x, const char* w, __m256i (&acc)[3][4]) {
#if defined(__AVXVNNI__)
#define ASSAY_FIXED_ADD(weight, product, sum) "%{vex%} vpdpwssd " weight ", %%ymm2, %[" #sum "]\n\t"
#else
#define ASSAY_FIXED_ADD(weight, product, sum)   \
  "vpmaddwd " weight ", %%ymm2, %%ymm" #product \
  "\n\t"                                        \
  "vpaddd %%ymm" #product ", %[" #sum "], %[" #sum "]\n\t"
#endif
#define ASSAY_FIXED_ROW(row, pair)                                                                          \
  "vbroadcastss " #row " * 256 + " #pair " * 4(%[x]), %%ymm2\n\t" ASSAY_FIXED_ADD("%%ymm0", 3, sum##row##0) \
      ASSAY_FIXED_ADD("%%ymm1", 3, sum##row##1) ASSAY_FIXED_ADD(#pair " * 128 + 64(%[w])", 3, sum##row##2)  \
          ASSAY_FIXED_ADD(#pair " * 128 + 96(%[w])", 2, sum##row##3)
#define ASSAY_FIXED_PAIR(pair)                                                                       \
  "vmovdqa " #pair                                                                                   \
  " * 128(%[w]), %%ymm0\n\t"                                                                         \
  "vmovdqa " #pair " * 128 + 32(%[w]), %%ymm1\n\t" ASSAY_FIXED_ROW(0, pair) ASSAY_FIXED_ROW(1, pair) \
      ASSAY_FIXED_ROW(2, pair)
  // The loop is in the assembly as well: between two pieces of it, a compiler would put sums on the stack and back.
  // It counts in a register of its own, because an asm statement takes no more than thirty operands.
  const char* weights = w;
  const char* inputs = x;
  __asm__("mov $16, %%ecx\n"
          "1:\n\t" ASSAY_FIXED_PAIR(0) ASSAY_FIXED_PAIR(1) ASSAY_FIXED_PAIR(2) ASSAY_FIXED_PAIR(3)
          "add $16, %[x]\n\t"
          "add $512, %[w]\n\t"
          "dec %%ecx\n\t"
          "jnz 1b"
          : [sum00] "+x"(acc[0][0]), [sum01] "+x"(acc[0][1]), [sum02] "+x"(acc[0][2]), [sum03] "+x"(acc[0][3]),
            [sum10] "+x"(acc[1][0]), [sum11] "+x"(acc[1][1]), [sum12] "+x"(acc[1][2]), [sum13] "+x"(acc[1][3]),
            [sum20] "+x"(acc[2][0]), [sum21] "+x"(acc[2][1]), [sum22] "+x"(acc[2][2]), [sum23] "+x"(acc[2][3]),
            [x] "+r"(inputs), [w] "+r"(weights)
          : "m"(*reinterpret_cast<const char (*)[3 * 256]>(x)), "m"(*reinterpret_cast<const char (*)[64 * 128]>(w))
          : "xmm0", "xmm1", "xmm2", "xmm3", "ecx", "cc");
#undef ASSAY_FIXED_PAIR
#undef ASSAY_FIXED_ROW
#undef ASSAY_FIXED_ADD
}

// acc += x . w for x [4][128] unsigned bytes and w [32][16] quads of signed ones, by VPDPBUSD, or by VPMADDUBSW: two
// quads then meet in int16, which the ranges of both keep from saturating.
inline void int8_add_block(const char* x, const char* w, __m256i (&acc)[4][2]) {
#if defined(__AVXVNNI__)
#define ASSAY_INT8_ADD(weight0, weight1, sum) \
  "%{vex%} vpdpbusd " weight0 ", %%ymm3, %[" #sum "]\n\t%{vex%} vpdpbusd " weight1 ", %%ymm4, %[" #sum "]\n\t"
#else
#define ASSAY_INT8_ADD(weight0, weight1, sum)                     \
  "vpmaddubsw " weight0 ", %%ymm3, %%ymm5\n\tvpmaddubsw " weight1 \
  ", %%ymm4, %%ymm6\n\t"                                          \
  "vpaddw %%ymm6, %%ymm5, %%ymm5\n\t"                             \
  "vpmaddwd %[ones], %%ymm5, %%ymm5\n\t"                          \
  "vpaddd %%ymm5, %[" #sum "], %[" #sum "]\n\t"
#endif
#define ASSAY_INT8_ROW(row, octet)                                                                                  \
  "vbroadcastss " #row " * 128 + " #octet                                                                           \
  " * 8(%[x]), %%ymm3\n\t"                                                                                          \
  "vbroadcastss " #row " * 128 + " #octet " * 8 + 4(%[x]), %%ymm4\n\t" ASSAY_INT8_ADD("%%ymm0", "%%ymm2", low##row) \
      ASSAY_INT8_ADD("%%ymm1", #octet " * 128 + 96(%[w])", high##row)
#define ASSAY_INT8_OCTET(octet)                                                                       \
  "vmovdqu " #octet                                                                                   \
  " * 128(%[w]), %%ymm0\n\t"                                                                          \
  "vmovdqu " #octet                                                                                   \
  " * 128 + 32(%[w]), %%ymm1\n\t"                                                                     \
  "vmovdqu " #octet " * 128 + 64(%[w]), %%ymm2\n\t" ASSAY_INT8_ROW(0, octet) ASSAY_INT8_ROW(1, octet) \
      ASSAY_INT8_ROW(2, octet) ASSAY_INT8_ROW(3, octet)
  const char* weights = w;
  const char* inputs = x;
  __asm__("mov $8, %%ecx\n"
          "1:\n\t" ASSAY_INT8_OCTET(0) ASSAY_INT8_OCTET(1)
          "add $16, %[x]\n\t"
          "add $256, %[w]\n\t"
          "dec %%ecx\n\t"
          "jnz 1b"
          : [low0] "+x"(acc[0][0]), [high0] "+x"(acc[0][1]), [low1] "+x"(acc[1][0]), [high1] "+x"(acc[1][1]),
            [low2] "+x"(acc[2][0]), [high2] "+x"(acc[2][1]), [low3] "+x"(acc[3][0]), [high3] "+x"(acc[3][1]),
            [x] "+r"(inputs), [w] "+r"(weights)
          : [ones] "x"(_mm256_set1_epi16(1)), "m"(*reinterpret_cast<const char (*)[4 * 128]>(x)),
            "m"(*reinterpret_cast<const char (*)[32 * 64]>(w))
          : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "ecx", "cc");
#undef ASSAY_INT8_OCTET
#undef ASSAY_INT8_ROW
#undef ASSAY_INT8_ADD
}
