"""`ops` on a CUDA device: the answers of the CPU, and its words where an argument is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import cuda_devices
from assay import ops
from assay.cuda_kernels import CudaKernels
from assay.device import CPU, Device
from assay.device_choice import choose_device
from assay.errors import UnsupportedModelError

LENGTHS = (5, 1, 7)
NUM_TOKENS, WIDTH, NUM_HEADS, HEAD_DIM = sum(LENGTHS), 32, 2, 16


@pytest.fixture(params=cuda_devices.DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    if request.param.torch_device != "cpu":
        return choose_device("cuda")
    return Device("cuda", 0, CudaKernels(request.param.module, "cpu"), "emulation", 80, is_emulated=True)


class Inputs:
    """The same numbers on whichever device."""

    def __init__(self, device: Device) -> None:
        generator = torch.Generator().manual_seed(0)

        def put(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device.torch_device)

        def randn(*shape: int) -> torch.Tensor:
            return put(torch.randn(shape, generator=generator))

        self.device = device
        self.x, self.residual = randn(NUM_TOKENS, WIDTH), randn(NUM_TOKENS, WIDTH)
        self.weight, self.bias = randn(WIDTH), randn(WIDTH)
        self.word, self.position, self.types = randn(50, WIDTH), randn(8, WIDTH), randn(2, WIDTH)
        self.q, self.k, self.v = (randn(NUM_TOKENS, NUM_HEADS, HEAD_DIM) for _ in range(3))
        self.cos, self.sin = randn(8, HEAD_DIM // 2), randn(8, HEAD_DIM // 2)
        self.head_norm = randn(HEAD_DIM)
        self.matrix, self.classifier = randn(WIDTH, WIDTH), randn(3, WIDTH)
        self.three = randn(3)
        self.ids = put(torch.arange(NUM_TOKENS, dtype=torch.int32))
        self.positions = put(torch.cat([torch.arange(length) for length in LENGTHS]).int())
        self.type_ids = put((torch.arange(NUM_TOKENS) % 2).int())
        ends = torch.tensor([0, *LENGTHS]).cumsum(0)
        self.ends = put(ends.int())
        self.codes = put((torch.arange(NUM_TOKENS) % 3).to(torch.uint8))

    def head(self, **changes: Any) -> torch.Tensor:
        dense = ops.pack_weight(self.matrix, self.bias, "float32_fma", self.device)
        classifier = ops.pack_weight(self.classifier, self.three, "float32_fma", self.device)
        values = {"pooled": self.x, "row_activations": self.codes, **changes}
        return ops.classifier_head(
            values["pooled"],
            classifier,
            values["row_activations"],
            dense=dense,
            logit_mean=0.5,
            logit_sigma=2.0,
            device=self.device,
        )

    def embed(self, **changes: Any) -> torch.Tensor:
        values = {"ids": self.ids, "positions": self.positions, "word": self.word, "position": self.position, **changes}
        return ops.embed(
            values["ids"],
            values["positions"],
            self.type_ids,
            values["word"],
            values["position"],
            self.types,
            None,
            self.weight,
            self.bias,
            1e-5,
            device=self.device,
        )

    def linear(self, hidden_states: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        packed = ops.pack_weight(self.matrix, self.bias, "float32_fma", self.device)
        return ops.linear(hidden_states, packed, activation="gelu", residual=residual, device=self.device)

    def gated(self) -> torch.Tensor:
        packed = ops.pack_gated_weight(self.matrix, self.matrix.T, self.bias, self.weight, "float32_fma", self.device)
        return ops.linear(self.x, packed, activation="silu", device=self.device)

    def rotary(self, positions: torch.Tensor | None = None) -> torch.Tensor:
        q, k = self.q.clone(), self.k.clone()
        where = self.positions if positions is None else positions
        ops.rotary(
            q,
            k,
            self.cos,
            self.sin,
            where,
            q_norm=self.head_norm,
            k_norm=self.head_norm,
            epsilon=1e-5,
            device=self.device,
        )
        return torch.cat([q, k])

    def attention(self, **changes: Any) -> torch.Tensor:
        values = {"q": self.q, "k": self.k, "v": self.v, "ends": self.ends, **changes}
        return ops.attention_varlen(
            values["q"], values["k"], values["v"], values["ends"], max(LENGTHS), is_causal=True, device=self.device
        )


ANSWERS: dict[str, Callable[[Inputs], torch.Tensor]] = {
    "embed": lambda i: i.embed(),
    "layer_norm": lambda i: ops.layer_norm(i.x, i.weight, i.bias, 1e-5, i.residual, device=i.device),
    "rms_norm": lambda i: ops.rms_norm(i.x, i.weight, 1e-5, device=i.device),
    "rotary": lambda i: i.rotary(),
    "attention": lambda i: i.attention(),
    "pool cls": lambda i: ops.pool(i.x, i.ends, "cls", device=i.device),
    "pool last": lambda i: ops.pool(i.x, i.ends, "last_token", device=i.device),
    "pool mean": lambda i: ops.pool(i.x, i.ends, "mean", device=i.device),
    "head": lambda i: i.head(),
    "linear": lambda i: i.linear(i.x, i.residual),
    "gated linear": lambda i: i.gated(),
}


@pytest.mark.parametrize("op", ANSWERS)
def test_ops_on_cuda_answer_as_on_the_cpu(device: Device, op: str) -> None:
    """Sums of at most 32 float32 terms in another order: a few roundings of values around 1 to 10."""
    ours, theirs = ANSWERS[op](Inputs(device)), ANSWERS[op](Inputs(CPU))
    assert torch.allclose(ours.cpu(), theirs, rtol=2e-5, atol=2e-5)


WRONG: list[tuple[Callable[[Inputs], object], str]] = [
    (lambda i: i.embed(ids=i.ids.float()), "input_ids must be int32"),
    (lambda i: i.embed(positions=i.positions[1:]), r"position_ids must have shape \[13\], got \[12\]"),
    (lambda i: i.embed(position=i.position[:, 1:]), r"position_embeddings must have shape \[\*, 32\]"),
    (lambda i: i.embed(position=i.position.bfloat16()), "position_embeddings must be float32, got bfloat16"),
    (lambda i: ops.layer_norm(i.x, i.weight[1:], None, 1e-5, device=i.device), r"weight must have shape \[32\]"),
    (lambda i: ops.layer_norm(i.x, i.weight, None, 1e-5, i.x[1:], device=i.device), r"residual must have shape \[13"),
    (lambda i: ops.rms_norm(i.x.T, i.bias[:13], 1e-5, device=i.device), "hidden_states must be contiguous"),
    (lambda i: i.rotary(i.positions[1:]), r"position_ids must have shape \[13\], got \[12\]"),
    (lambda i: i.attention(k=i.k.bfloat16()), "k must be float32, got bfloat16"),
    (lambda i: i.attention(v=i.v[1:]), "v must have"),
    (lambda i: i.attention(ends=i.ends.float()), "cu_seqlens must be int32"),
    (lambda i: ops.pool(i.x.bfloat16(), i.ends, "cls", i.x[:3], device=i.device), "hidden_states must be float32"),
    (lambda i: ops.pool(i.x, i.ends, "first", device=i.device), "pooling='first': choose one of cls, last_token, mean"),
    (lambda i: i.head(pooled=i.x[:, 1:]), r"pooled must have shape \[\*, 32\], got \[13, 31\]"),
    (lambda i: i.head(row_activations=i.codes[1:]), r"row_activations must have shape \[13\], got \[12\]"),
    (lambda i: i.linear(i.x[:, :8]), r"hidden_states must have shape \[\*, 32\]"),
    (lambda i: i.linear(i.x, i.x[1:]), r"residual must have shape \[13, 32\]"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message[:24] for _, message in WRONG])
def test_wrong_arguments_are_named_in_the_words_of_the_cpu(
    device: Device, call: Callable[[Inputs], object], message: str
) -> None:
    for place in (device, CPU):
        with pytest.raises(ValueError, match=message):
            call(Inputs(place))


def test_tensors_of_another_device_are_refused(device: Device) -> None:
    elsewhere = torch.empty((1, 8), device="meta")
    ends = torch.tensor([0, 1], dtype=torch.int32, device=device.torch_device)
    with pytest.raises(ValueError, match=rf"hidden_states must be on {device.torch_device}, got meta"):
        ops.pool(elsewhere, ends, "cls", torch.empty((1, 8), device=device.torch_device), device=device)


def test_narrow_heads_run_and_narrow_layers_are_refused(device: Device) -> None:
    """A classifier has as many rows as labels; a layer's product wants multiples of 8."""
    i = Inputs(device)
    head = ops.pack_weight(i.classifier, i.three, "float32_fma", device)
    wanted = (i.x.double() @ i.classifier.double().T + i.three.double()).float()
    assert torch.allclose(ops.linear(i.x, head, device=device), wanted, atol=2e-5)
    with pytest.raises(UnsupportedModelError, match=r"multiples of 8 on CUDA, got \[3, 32\]: use device='cpu'"):
        ops.pack_weight(i.classifier.bfloat16(), None, "bfloat16", device)
