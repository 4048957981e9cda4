"""Inputs of a forward pass, and a CUDA device that is only a name, for tests that need no kernels."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from assay.batch import Sequence, pack
from assay.device import Device
from assay.models.forward_pass import PassInputs

DEVICE = Device("cuda", kernels=SimpleNamespace(), is_emulated=True)


def inputs(lengths: list[int], *, is_per_token: bool = False, has_types: bool = True) -> PassInputs:
    sequences = [
        Sequence(list(range(1, n + 1)), [index % 2] * n if has_types else None) for index, n in enumerate(lengths)
    ]
    batch = pack(sequences)
    rows = None if is_per_token else batch.cu_seqlens[1:] - 1
    num_rows = batch.num_tokens if is_per_token else batch.num_seqs
    return PassInputs(batch, rows, torch.arange(1, num_rows + 1, dtype=torch.uint8))
