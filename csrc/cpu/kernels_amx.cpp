// The kernels for AMX tiles; everything that is no matrix product runs on AVX-512.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"

#define ASSAY_AMX
namespace assay::cpu::amx {
namespace {
#include "cpu/vec_avx512.h"
//
#include "cpu/kernel_set.h"
}  // namespace

extern const KernelTable kTable;
constinit const KernelTable kTable = make_table(Isa::kAmx);
}  // namespace assay::cpu::amx
