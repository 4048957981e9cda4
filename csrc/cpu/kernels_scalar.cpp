// The portable kernels: plain C++ for any machine.
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cpu/kernels.h"

namespace assay::cpu::scalar {
namespace {
#include "cpu/vec_scalar.h"
//
#include "cpu/kernel_set.h"
}  // namespace

extern const KernelTable kTable;
constinit const KernelTable kTable = make_table(Isa::kScalar);
}  // namespace assay::cpu::scalar
