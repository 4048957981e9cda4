// Plain words shared by every layer of C++: dtypes, activations. No functions live here, so this header
// is safe to include from files compiled for different instruction sets.
#pragma once

#include <cstddef>
#include <cstdint>

namespace assay {

// kFloat16 is for CUDA kernels.
enum class DType : int { kFloat32, kBFloat16, kInt32, kInt8, kUInt8, kFloat16 };

// Elementwise functions a linear layer can end with.
enum class Activation : int { kNone, kGeluErf, kGeluTanh, kGeluQuick, kRelu, kSilu, kTanh };

// What turns a row of logits into scores.
enum class HeadActivation : std::uint8_t { kIdentity = 0, kSigmoid = 1, kSoftmax = 2 };

// layer: (x - mean) / sqrt(variance + epsilon) * weight + bias. rms: x / sqrt(mean(x^2) + epsilon) * weight.
enum class NormKind : int { kLayer, kRms };

enum class Pooling : int { kCls, kLastToken, kMean };

// Arithmetic of a packed weight. kFloat32: float32-accurate (FMA, or three bf16 tile products on AMX).
// kFloat32Fma: FMA on every ISA (heads, and layers where float32 was asked for by name). kBFloat16: the fastest
// bfloat16 arithmetic the ISA has. kInt8: whole numbers of 7 or 8 bits, scaled per token and output feature.
enum class Arithmetic : int { kFloat32, kFloat32Fma, kBFloat16, kInt8 };

using bfloat16 = std::uint16_t;  // raw bits; conversions live in the vec_*.h headers

}  // namespace assay
