// The emulation's own tests, in the emulated module only.
#include "bind_cuda.h"
#include "cuda/emulation/self_test.h"

namespace assay::cuda {
namespace {

constexpr Named<HopperFault> kHopperFaults[] = {
    {"none", HopperFault::kNone},
    {"written", HopperFault::kWritten},
    {"no init", HopperFault::kNoInit},
    {"no init fence", HopperFault::kNoInitFence},
    {"few bytes", HopperFault::kFewBytes},
    {"next phase", HopperFault::kNextPhase},
    {"no copy wait", HopperFault::kNoCopyWait},
    {"no product fence", HopperFault::kNoProductFence},
    {"other descriptors", HopperFault::kOtherDescriptors},
    {"no product wait", HopperFault::kNoProductWait},
    {"no memory fence", HopperFault::kNoMemoryFence},
    {"far descriptor", HopperFault::kFarDescriptor},
    {"no last wait", HopperFault::kNoLastWait},
};

}  // namespace

void bind_emulation(py::module_& m) {
  m.def(
      "self_test_multiply",
      [](Pointer a, Pointer b, Pointer c, bool is_bfloat16, bool is_transposed, bool waits) {
        self_test_multiply(device_pointer<void>(a), device_pointer<void>(b), device_pointer<float>(c), is_bfloat16,
                           is_transposed, waits);
      },
      py::kw_only(), py::arg("a"), py::arg("b"), py::arg("c"), py::arg("is_bfloat16"), py::arg("is_transposed"),
      py::arg("waits") = true);
  m.def(
      "self_test_reverse",
      [](Pointer in, Pointer out, int size, bool has_barrier) {
        self_test_reverse(device_pointer<float>(in), device_pointer<float>(out), size, has_barrier);
      },
      py::kw_only(), py::arg("x"), py::arg("out"), py::arg("size"), py::arg("has_barrier"));
  m.def(
      "self_test_shuffle",
      [](Pointer in, Pointer out) { self_test_shuffle(device_pointer<float>(in), device_pointer<float>(out)); },
      py::kw_only(), py::arg("x"), py::arg("out"));
  m.def(
      "self_test_warpgroup",
      [](Pointer a, Pointer b, Pointer c, int num_rows, Pointer products, Pointer sums, bool is_bfloat16,
         const std::string& fault) {
        self_test_warpgroup(device_pointer<void>(a), device_pointer<void>(b), device_pointer<void>(c), num_rows,
                            device_pointer<float>(products), device_pointer<float>(sums), is_bfloat16,
                            by_name(kHopperFaults, fault, "fault"));
      },
      py::kw_only(), py::arg("a"), py::arg("b"), py::arg("c"), py::arg("num_rows"), py::arg("products"),
      py::arg("sums"), py::arg("is_bfloat16"), py::arg("fault") = "none");
  m.def("self_test_fault", &self_test_fault, py::arg("fault"));
}

}  // namespace assay::cuda
