#include "cpu/isa.h"

#ifdef ASSAY_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace assay::cpu {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx2Vnni:
      return "avx2_vnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Vnni:
      return "avx512_vnni";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmx:
      return "amx";
    case Isa::kAmxEmulated:
      return "amx_emulated";
  }
  return "unknown";
}

#ifdef ASSAY_X86
namespace {

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

// AVX-VNNI, the VEX-coded form that CPUs without AVX-512 have. Intel SDM: CPUID leaf 7, sub-leaf 1, EAX bit 4.
bool has_avx2_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 4)) != 0;
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

// Every CPU with bfloat16 dot products has VNNI's too.
bool has_avx512_bf16() { return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16"); }

// Intel SDM: CPUID leaf 7 EDX bit 22 = AMX-BF16, bit 24 = AMX-TILE, bit 25 = AMX-INT8. XCR0 bits 17 and 18 = the OS
// saves tile state.
bool has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  const unsigned wanted = (1u << 22) | (1u << 24) | (1u << 25);
  if ((edx & wanted) != wanted) return false;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & (1u << 27))) return false;  // OSXSAVE
  unsigned xcr0_low = 0, xcr0_high = 0;
  __asm__ volatile("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
  const unsigned tile_state = (1u << 17) | (1u << 18);
  return (xcr0_low & tile_state) == tile_state;
}

// Linux grants the 8 KiB tile data state per process and only on request (arch_prctl(2), since 5.16).
bool request_tile_permission() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureXtiledata = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
#else
  return false;
#endif
}

}  // namespace

bool is_supported(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return has_avx2();
    case Isa::kAvx2Vnni:
      return has_avx2_vnni();
#ifdef ASSAY_ISA_EMULATION
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
    case Isa::kAmxEmulated:
      return has_avx2();
    case Isa::kAvx512Vnni:
      return false;  // not in that build
#else
    case Isa::kAvx512:
      return has_avx512();
    case Isa::kAvx512Vnni:
      return has_avx512_vnni();
    case Isa::kAvx512Bf16:
    case Isa::kAmxEmulated:
      return has_avx512_bf16();
#endif
    case Isa::kAmx: {
      static const bool granted = has_avx512_bf16() && has_amx() && request_tile_permission();
      return granted;
    }
  }
  return false;
}
#else
bool is_supported(Isa isa) { return isa == Isa::kScalar; }
#endif

bool is_emulated(Isa isa) {
#ifdef ASSAY_ISA_EMULATION
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512Bf16) return true;
#endif
  return isa == Isa::kAmxEmulated;
}

}  // namespace assay::cpu
