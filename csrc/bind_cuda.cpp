// The CUDA module: raw device pointers in, asynchronous launches out. Tensors are checked by assay.ops, which sees
// their shapes; what can be checked from sizes alone is checked here.
#include "bind_cuda.h"

#include "cuda/devices.h"

PYBIND11_MODULE(ASSAY_CUDA_MODULE, m) {
  namespace py = pybind11;
  namespace cuda = assay::cuda;
  m.doc() = "assay's CUDA kernels. Pointers are device addresses; every launch is asynchronous on `stream`.";
  m.def("device_count", &cuda::device_count, "CUDA devices this process can use; 0 without a driver.");
  m.def("sm", &cuda::sm, py::arg("device") = 0, "Compute capability as an int: 80, 90.");
  m.def("built_for", [] { return std::string(ASSAY_CUDA_BUILT_FOR); }, "Architectures compiled in, for messages.");
  cuda::bind_head(m);
  cuda::bind_rows(m);
  cuda::bind_recurrence(m);
  cuda::bind_elementwise(m);
  cuda::bind_linear(m);
  cuda::bind_layer(m);
  cuda::bind_attention(m);
#ifdef ASSAY_CUDA_EMULATION
  cuda::bind_emulation(m);
#endif
}
