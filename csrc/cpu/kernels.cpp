#include "cpu/kernels.h"

#include <cstdlib>
#include <string>

#include "common/check.h"

namespace assay::cpu {

namespace scalar {
extern const KernelTable kTable;
}
#ifdef ASSAY_X86
#ifndef ASSAY_ISA_EMULATION
namespace avx2 {
extern const KernelTable kTable;
}
#ifdef ASSAY_AVX2_VNNI
namespace avx2_vnni {
extern const KernelTable kTable;
}
#endif
namespace avx512_vnni {
extern const KernelTable kTable;
}
namespace amx {
extern const KernelTable kTable;
}
#endif
namespace avx512 {
extern const KernelTable kTable;
}
namespace avx512_bf16 {
extern const KernelTable kTable;
}
namespace amx_emulated {
extern const KernelTable kTable;
}
#endif

const KernelTable* kernel_table(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return &scalar::kTable;
#ifdef ASSAY_X86
#ifndef ASSAY_ISA_EMULATION
    case Isa::kAvx2:
      return &avx2::kTable;
#ifdef ASSAY_AVX2_VNNI
    case Isa::kAvx2Vnni:
      return &avx2_vnni::kTable;
#endif
    case Isa::kAvx512Vnni:
      return &avx512_vnni::kTable;
    case Isa::kAmx:
      return &amx::kTable;
#endif
    case Isa::kAvx512:
      return &avx512::kTable;
    case Isa::kAvx512Bf16:
      return &avx512_bf16::kTable;
    case Isa::kAmxEmulated:
      return &amx_emulated::kTable;
#endif
    default:
      return nullptr;
  }
}

const KernelTable* kernel_table_by_index(int isa_idx) { return kernel_table(static_cast<Isa>(isa_idx)); }

namespace {

const KernelTable* table_by_name(const std::string& name, const char* setting) {
  std::string choices;
  for (int i = 0; i < kNumIsas; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (kernel_table(isa) == nullptr) continue;
    if (name == isa_name(isa)) {
      ASSAY_CHECK(is_supported(isa), setting, "='", name, "': this machine cannot run it");
      return kernel_table(isa);
    }
    if (is_supported(isa)) choices += (choices.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  ASSAY_CHECK(false, setting, "='", name, "': choose one of ", choices);
  return nullptr;
}

const KernelTable* choose_table() {
  const char* forced = std::getenv("ASSAY_FORCE_ISA");
  if (forced != nullptr && *forced != '\0') return table_by_name(forced, "ASSAY_FORCE_ISA");
  for (int i = kNumIsas - 1; i > 0; --i) {
    const Isa isa = static_cast<Isa>(i);
    if (kernel_table(isa) != nullptr && is_supported(isa) && !is_emulated(isa)) return kernel_table(isa);
  }
  return kernel_table(Isa::kScalar);
}

const KernelTable*& active_slot() {
  static const KernelTable* table = choose_table();
  return table;
}

}  // namespace

const KernelTable& active_table() { return *active_slot(); }

void set_active_isa(const char* name) { active_slot() = table_by_name(name, "isa"); }

}  // namespace assay::cpu
