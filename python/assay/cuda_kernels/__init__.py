"""The CUDA module behind the names and signatures of the CPU's: tensors in, addresses, sizes and a stream out.

Shapes, dtypes, contiguity and the device are checked here, with the CPU module's messages. Values that lie on the
device are not: nothing is read back.
"""

from __future__ import annotations

from assay.cuda_kernels.heads import Heads
from assay.cuda_kernels.layers import Layers
from assay.cuda_kernels.products import DeviceWeight, Products
from assay.cuda_kernels.recurrence import Recurrence
from assay.cuda_kernels.rows import Rows


class CudaKernels(Products, Rows, Heads, Layers, Recurrence):
    """Every op of `ops` on one device; one object per model."""


__all__ = ["CudaKernels", "DeviceWeight"]
