// The kernels for AVX-512 (F, BW, VL, DQ).
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"

namespace assay::cpu::avx512 {
namespace {
#include "cpu/vec_avx512.h"
//
#include "cpu/kernel_set.h"
}  // namespace

extern const KernelTable kTable;
constinit const KernelTable kTable = make_table(Isa::kAvx512);
}  // namespace assay::cpu::avx512
