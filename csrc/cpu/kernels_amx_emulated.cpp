// The AMX kernels with the tile instructions replaced by plain code, so that any AVX-512 machine can test them.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"

#define ASSAY_AMX
#define ASSAY_AMX_EMULATED
namespace assay::cpu::amx_emulated {
namespace {
#include "cpu/vec_avx512.h"
//
#include "cpu/kernel_set.h"
}  // namespace

extern const KernelTable kTable;
constinit const KernelTable kTable = make_table(Isa::kAmxEmulated);
}  // namespace assay::cpu::amx_emulated
