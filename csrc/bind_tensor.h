// From a torch tensor to a TensorView, by attribute: neither this module nor its build knows libtorch.
#pragma once

#include <pybind11/pybind11.h>

#include "common/tensor_view.h"

namespace assay {

namespace py = pybind11;

// The attribute names, made once; and torch's dtype objects, which are singletons and so compare by address.
struct TorchNames {
  py::str data_ptr{"data_ptr"}, shape{"shape"}, stride{"stride"}, dtype{"dtype"}, is_cpu{"is_cpu"}, is_cuda{"is_cuda"};
  py::object float32, float16, bfloat16, int32, int8, uint8;

  TorchNames() {
    const py::module_ torch = py::module_::import("torch");
    float32 = torch.attr("float32");
    float16 = torch.attr("float16");
    bfloat16 = torch.attr("bfloat16");
    int32 = torch.attr("int32");
    int8 = torch.attr("int8");
    uint8 = torch.attr("uint8");
  }
  static const TorchNames& get() {
    static const TorchNames* names = new TorchNames;  // never freed: the interpreter may be gone at exit
    return *names;
  }
};

inline py::object get_attribute(py::handle object, const py::str& name, const char* argument) {
  PyObject* value = PyObject_GetAttr(object.ptr(), name.ptr());
  if (value == nullptr) {
    PyErr_Clear();
    throw py::type_error(std::string(argument) + " must be a torch.Tensor, got " +
                         std::string(py::str(py::type::of(object).attr("__name__"))));
  }
  return py::reinterpret_steal<py::object>(value);
}

inline py::object call_method(py::handle object, const py::str& name) {
  PyObject* value = PyObject_CallMethodNoArgs(object.ptr(), name.ptr());
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

enum class Device { kCpu, kCuda };

// A view of `tensor`, which must outlive it. None gives a view that is not present.
inline TensorView view_of(py::handle tensor, const char* argument, Device device = Device::kCpu) {
  TensorView view;
  if (tensor.is_none()) return view;
  const TorchNames& names = TorchNames::get();
  const py::object dtype = get_attribute(tensor, names.dtype, argument);
  if (dtype.is(names.float32)) {
    view.dtype = DType::kFloat32;
  } else if (dtype.is(names.float16)) {
    view.dtype = DType::kFloat16;
  } else if (dtype.is(names.bfloat16)) {
    view.dtype = DType::kBFloat16;
  } else if (dtype.is(names.int32)) {
    view.dtype = DType::kInt32;
  } else if (dtype.is(names.uint8)) {
    view.dtype = DType::kUInt8;
  } else if (dtype.is(names.int8)) {
    view.dtype = DType::kInt8;
  } else {
    throw py::value_error(std::string(argument) + " must be float32, float16, bfloat16, int32, int8 or uint8, got " +
                          std::string(py::str(dtype)));
  }
  const bool is_there =
      get_attribute(tensor, device == Device::kCpu ? names.is_cpu : names.is_cuda, argument).ptr() == Py_True;
  ASSAY_CHECK(is_there, argument, " must be on ", device == Device::kCpu ? "the CPU" : "a CUDA device");
  const py::tuple shape = get_attribute(tensor, names.shape, argument);
  const py::tuple stride = call_method(tensor, names.stride);
  view.num_dims = static_cast<int>(shape.size());
  ASSAY_CHECK(view.num_dims >= 1 && view.num_dims <= kMaxDims, argument, " must have 1 to ", kMaxDims,
              " dimensions, got ", view.num_dims);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    view.shape[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), static_cast<Py_ssize_t>(i)));
    view.strides[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(stride.ptr(), static_cast<Py_ssize_t>(i)));
  }
  view.data = PyLong_AsVoidPtr(call_method(tensor, names.data_ptr).ptr());
  return view;
}

inline TensorView required_view(py::handle tensor, const char* argument, Device device = Device::kCpu) {
  ASSAY_CHECK(!tensor.is_none(), argument, " must be a torch.Tensor, got None");
  return view_of(tensor, argument, device);
}

}  // namespace assay
