// The emulation's own tests, in the emulated module only.
#include "bind_cuda.h"
#include "cuda/emulation/self_test.h"

namespace assay::cuda {

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
  m.def("self_test_fault", &self_test_fault, py::arg("fault"));
}

}  // namespace assay::cuda
