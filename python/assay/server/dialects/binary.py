"""Tensors as bytes of a chosen type and byte order."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

DTYPES: Final = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}
"""Names of requests, and torch's."""


def bytes_of(data: Tensor, dtype: str, endianness: str) -> bytes:
    """The values of `data`, flattened; endianness "native", "little" or "big"."""
    import torch

    values = data.to(getattr(torch, DTYPES[dtype])).contiguous().flatten()
    raw = values.view(torch.uint8).numpy()
    if endianness not in ("native", sys.byteorder) and values.element_size() > 1:
        raw = raw.reshape(-1, values.element_size())[:, ::-1]
    return raw.tobytes()


def base64_of(data: Tensor, dtype: str, endianness: str) -> str:
    """The same as text."""
    return base64.b64encode(bytes_of(data, dtype, endianness)).decode("ascii")
