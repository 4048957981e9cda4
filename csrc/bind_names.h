// Choices that Python makes by name.
#pragma once

#include <string>

#include "common/check.h"
#include "common/types.h"

namespace assay {

template <typename Value>
struct Named {
  const char* name;
  Value value;
};

template <typename Value, std::size_t kSize>
Value by_name(const Named<Value> (&table)[kSize], const std::string& name, const char* argument) {
  std::string choices;
  for (const auto& entry : table) {
    if (name == entry.name) return entry.value;
    choices += (choices.empty() ? "" : ", ") + std::string(entry.name);
  }
  ASSAY_CHECK(false, argument, "='", name, "': choose one of ", choices);
  return table[0].value;
}

inline constexpr Named<Activation> kActivations[] = {
    {"none", Activation::kNone},          {"gelu", Activation::kGeluErf},
    {"gelu_tanh", Activation::kGeluTanh}, {"gelu_quick", Activation::kGeluQuick},
    {"relu", Activation::kRelu},          {"silu", Activation::kSilu},
    {"tanh", Activation::kTanh}};
inline constexpr Named<NormKind> kNormKinds[] = {{"layer", NormKind::kLayer}, {"rms", NormKind::kRms}};
inline constexpr Named<Pooling> kPoolings[] = {
    {"cls", Pooling::kCls}, {"last_token", Pooling::kLastToken}, {"mean", Pooling::kMean}};

}  // namespace assay
