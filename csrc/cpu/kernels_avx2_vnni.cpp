// The kernels for AVX2 with FMA and AVX-VNNI: laptops and desktops since 2021.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"

namespace assay::cpu::avx2_vnni {
namespace {
#include "cpu/vec_avx2.h"
//
#include "cpu/kernel_set.h"
}  // namespace

extern const KernelTable kTable;
constinit const KernelTable kTable = make_table(Isa::kAvx2Vnni);
}  // namespace assay::cpu::avx2_vnni
