// What the machine has, as the operating system lets this process use it.
#pragma once

namespace assay::cpu {

// In rising order of preference, so that the best one available is the last.
enum class Isa : int { kScalar, kAvx2, kAvx2Vnni, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx, kAmxEmulated };
constexpr int kNumIsas = 8;

const char* isa_name(Isa isa);  // "scalar", "avx2", "avx2_vnni" and so on

// True where the CPU has every instruction set the kernels of `isa` are compiled for, the OS saves its registers,
// and (AMX) the kernel granted this process the tile data permission. An emulated path needs what its plain code is
// compiled for.
bool is_supported(Isa isa);

// Paths in which plain code stands for instructions: for tests, never chosen by itself. kAmxEmulated everywhere; in a
// build with ASSAY_ISA_EMULATION every path of AVX-512 as well (emulation/avx512.h).
bool is_emulated(Isa isa);

}  // namespace assay::cpu
