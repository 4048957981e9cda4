// The kernels for AVX-512 with VNNI: servers since Cascade Lake.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"

namespace assay::cpu::avx512_vnni {
namespace {
#include "cpu/vec_avx512.h"
//
#include "cpu/kernel_set.h"
}  // namespace

extern const KernelTable kTable;
constinit const KernelTable kTable = make_table(Isa::kAvx512Vnni);
}  // namespace assay::cpu::avx512_vnni
