// The kernels for AVX-512 with bfloat16 dot products.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"

namespace assay::cpu::avx512_bf16 {
namespace {
#include "cpu/vec_avx512.h"
//
#include "cpu/kernel_set.h"
}  // namespace

extern const KernelTable kTable;
constinit const KernelTable kTable = make_table(Isa::kAvx512Bf16);
}  // namespace assay::cpu::avx512_bf16
