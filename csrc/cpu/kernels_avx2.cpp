// The kernels for AVX2 with FMA.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"

namespace assay::cpu::avx2 {
namespace {
#include "cpu/vec_avx2.h"
//
#include "cpu/kernel_set.h"
}  // namespace

extern const KernelTable kTable;
constinit const KernelTable kTable = make_table(Isa::kAvx2);
}  // namespace assay::cpu::avx2
