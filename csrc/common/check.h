// Checks that throw. Messages name the argument, what is wanted and what came.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace assay {

template <typename... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace assay

// A wrong argument: std::invalid_argument becomes ValueError in Python. For host code only: kernel
// files compiled for an ISA must not include this header (its templates would be shared inlines).
#define ASSAY_CHECK(condition, ...)                                            \
  do {                                                                         \
    if (!(condition)) throw std::invalid_argument(::assay::join(__VA_ARGS__)); \
  } while (0)
