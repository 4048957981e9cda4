// What the machine has, as the operating system lets this process use it.
#pragma once

namespace assay::cpu {

// In rising order of preference, so that the best one available is the last.
enum class Isa : int { kScalar, kAvx2, kAvx512, kAvx512Bf16, kAmx, kAmxEmulated };
constexpr int kNumIsas = 6;

const char* isa_name(Isa isa);  // "scalar", "avx2", "avx512", "avx512_bf16", "amx", "amx_emulated"

// True where the CPU has every instruction set the kernels of `isa` are compiled for, the OS saves its registers,
// and (AMX) the kernel granted this process the tile data permission. kAmxEmulated: tile instructions replaced by
// plain code, for tests on machines without AMX; true where kAvx512Bf16 is.
bool is_supported(Isa isa);

}  // namespace assay::cpu
