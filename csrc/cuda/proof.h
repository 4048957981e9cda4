// The proof that an algorithm of the library is batch invariant, on the card it will run on.
#pragma once

#include <optional>

#include "cuda/cublas_lt.h"

namespace assay::cuda {

// Rows of the largest product that `prove` compares.
constexpr std::int64_t kMostProvenRows = 4096;

// Bytes of scratch that `prove` needs, on the device, 256-byte aligned.
std::int64_t proof_scratch_size(const LtProduct& product);

// The first candidate with which a row comes out bit for bit the same alone, among 6, 63, 999 and 4095 others and at
// every place among them; nothing where none does. Waits for the stream.
std::optional<lt::Algorithm> prove(const CublasLt& library, const LtProduct& product, void* scratch,
                                   cudaStream_t stream);

}  // namespace assay::cuda
