"""The CUDA `causal_conv1d` and `selective_scan`: the contracts of their CPU twins, emulated and on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_devices
import reference
from assay import ops
from assay.cuda_kernels import CudaKernels
from assay.device import CPU, Device
from assay.device_choice import choose_device

LENGTHS = [[1], [5, 1, 18], [0, 3, 0, 0, 20, 1, 0], [33]]
"""The convolution's threads take 16 tokens each, wherever a sequence ends."""


@pytest.fixture(params=cuda_devices.DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    if request.param.torch_device != "cpu":
        return choose_device("cuda")
    return Device("cuda", 0, CudaKernels(request.param.module, "cpu"), "emulation", 80, is_emulated=True)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def convolve(device: Device, x: Tensor, weight: Tensor, bias: Tensor | None, lengths: list[int], act: str) -> Tensor:
    place = device.torch_device
    out = reference.poisoned(*x.shape, device=place)
    ends = reference.cu_seqlens(lengths).to(place)
    given = None if bias is None else bias.to(place)
    ops.causal_conv1d(x.to(place), weight.to(place), given, ends, activation=act, out=out, device=device)
    return out.cpu()


def scan_case(num_tokens: int, num_channels: int, state_size: int) -> dict[str, Tensor]:
    """By the names of the arguments."""
    wide, states = (num_tokens, num_channels), (num_tokens, state_size)
    return {
        "u": randn(*wide, seed=1),
        "delta": 2 * randn(*wide, seed=2),
        "a": -torch.exp(randn(state_size, num_channels, seed=3) * 3 - 2),
        "b": randn(*states, seed=4),
        "c": randn(*states, seed=5),
        "d": randn(num_channels, seed=6),
        "z": randn(*wide, seed=7),
    }


def scan(device: Device, case: dict[str, Tensor], lengths: list[int], over: str | None = None) -> Tensor:
    """over: the argument that is also the output."""
    put: dict[str, Any] = {name: tensor.to(device.torch_device, copy=True) for name, tensor in case.items()}
    out = reference.poisoned(*case["u"].shape, device=device.torch_device) if over is None else put[over]
    ends = reference.cu_seqlens(lengths).to(device.torch_device)
    return ops.selective_scan(**put, cu_seqlens=ends, out=out, device=device).cpu()


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("width", [1, 4, 7])
def test_cuda_causal_conv1d_matches_float64(device: Device, lengths: list[int], width: int) -> None:
    for num_channels, act in ((1, "none"), (63, "silu"), (66, "gelu")):
        x, weight = randn(sum(lengths), num_channels, seed=0), randn(width, num_channels, seed=1)
        bias = randn(num_channels, seed=2) if act == "silu" else None
        doubled = None if bias is None else bias.double()
        exact = reference.causal_conv1d(x.double(), weight.double(), doubled, lengths, act)
        base = reference.causal_conv1d(x, weight, bias, lengths, act)
        ours = convolve(device, x, weight, bias, lengths, act)
        assert reference.max_err(ours, exact) <= reference.budget(base, exact, width)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("state_size", [1, 5, 16, 17, 33, 64])
def test_cuda_selective_scan_matches_float64(device: Device, lengths: list[int], state_size: int) -> None:
    for num_channels in (1, 15, 18):
        case = scan_case(sum(lengths), num_channels, state_size)
        exact, base = (
            reference.selective_scan(**{name: tensor.to(dtype) for name, tensor in case.items()}, lengths=lengths)
            for dtype in (torch.float64, torch.float32)
        )
        assert reference.max_err(scan(device, case, lengths), exact) <= reference.budget(base, exact, state_size)


def test_cuda_selective_scan_takes_accurate_steps(device: Device) -> None:
    """One token a sequence, whose state takes up softplus(delta) and nothing else."""
    delta = torch.linspace(-87, 100, 200)[:, None].contiguous()
    ones, zero = torch.ones(200, 1), torch.zeros(1, 1)
    case = {"u": ones, "delta": delta, "a": zero, "b": ones, "c": ones, "d": zero[0]}
    put = {name: tensor.to(device.torch_device) for name, tensor in case.items()}
    ends = torch.arange(201, dtype=torch.int32, device=device.torch_device)
    steps = ops.selective_scan(**put, cu_seqlens=ends, device=device).cpu()
    exact = torch.logaddexp(delta.double(), torch.zeros(1, dtype=torch.float64))
    assert ((steps - exact).abs() / exact).max().item() <= 5e-7


@pytest.mark.parametrize("over", ["u", "delta", "z"])
def test_cuda_selective_scan_may_write_over_what_it_reads(device: Device, over: str) -> None:
    case = scan_case(24, 18, 5)
    assert torch.equal(scan(device, case, [20, 4], over), scan(device, case, [20, 4]))


def test_cuda_recurrence_reads_and_writes_strided_tokens(device: Device) -> None:
    lengths, place = [7, 4], device.torch_device
    wide, ends = randn(11, 40, seed=0).to(place), reference.cu_seqlens(lengths).to(place)
    weight, out = randn(3, 10, seed=1).to(place), reference.poisoned(11, 30, device=place)
    ops.causal_conv1d(wide[:, 4:14], weight, None, ends, out=out[:, 2:12], device=device)
    plain = ops.causal_conv1d(wide[:, 4:14].contiguous(), weight, None, ends, device=device)
    assert torch.equal(out[:, 2:12], plain)
    case = {name: tensor.to(place) for name, tensor in scan_case(11, 10, 6).items()}
    views = {"u": wide[:, 1:11], "delta": wide[:, 11:21], "z": wide[:, 20:30], "b": wide[:, 30:36], "c": wide[:, 33:39]}
    ops.selective_scan(**{**case, **views}, cu_seqlens=ends, out=out[:, 15:25], device=device)
    copies = {name: view.contiguous() for name, view in views.items()}
    plain = ops.selective_scan(**{**case, **copies}, cu_seqlens=ends, device=device)
    assert torch.equal(out[:, 15:25], plain)
    assert out[:, [0, 1, 12, 13, 14, 25, 29]].isnan().all()


def test_cuda_recurrence_is_batch_invariant(device: Device) -> None:
    lengths = [20, 1, 0, 17]
    x, weight, case = randn(38, 18, seed=0), randn(4, 18, seed=1), scan_case(38, 18, 16)
    convolved = convolve(device, x, weight, None, lengths, "silu").split(lengths)
    scanned = scan(device, case, lengths).split(lengths)
    first = 0
    for i, length in enumerate(lengths):
        part = slice(first, first + length)
        alone = {name: tensor if name in "ad" else tensor[part] for name, tensor in case.items()}
        assert torch.equal(convolve(device, x[part], weight, None, [length], "silu"), convolved[i])
        assert torch.equal(scan(device, alone, [length]), scanned[i])
        first += length


def test_cuda_recurrence_of_no_tokens_is_empty(device: Device) -> None:
    for lengths in ([], [0, 0]):
        assert convolve(device, randn(0, 8, seed=0), randn(4, 8, seed=1), None, lengths, "none").shape == (0, 8)
        assert scan(device, scan_case(0, 8, 4), lengths).shape == (0, 8)


def test_wrong_arguments_are_named_in_the_words_of_the_cpu(device: Device) -> None:
    for place in (device, CPU):
        x, weight = randn(10, 8, seed=0).to(place.torch_device), randn(4, 8, seed=1).to(place.torch_device)
        ends = reference.cu_seqlens([10]).to(place.torch_device)
        wrong_convolutions: dict[str, dict[str, Any]] = {
            "x must be float32, got bfloat16": {"x": x.bfloat16()},
            r"weight must have shape \[\*, 8\], got \[4, 7\]": {"weight": weight[:, 1:].contiguous()},
            "weight must have at least one row": {"weight": weight[:0]},
            r"bias must have shape \[8\], got \[7\]": {"bias": weight[0, 1:]},
            "cu_seqlens must be int32": {"cu_seqlens": ends.float()},
            "activation='swish': choose one of": {"activation": "swish"},
            r"out must have shape \[10, 8\], got \[9, 8\]": {"out": x[1:].clone()},
            "out must not share memory with x": {"out": x},
        }
        for message, changes in wrong_convolutions.items():
            good = {"x": x, "weight": weight, "bias": None, "cu_seqlens": ends}
            with pytest.raises(ValueError, match=message):
                ops.causal_conv1d(**{**good, **changes}, device=place)
        case = {name: tensor.to(place.torch_device) for name, tensor in scan_case(10, 8, 4).items()}
        wrong_scans: dict[str, dict[str, Tensor]] = {
            "u must be float32, got bfloat16": {"u": x.bfloat16()},
            r"delta must have shape \[10, 8\], got \[9, 8\]": {"delta": x[1:]},
            "state_size must be 1 to 64, got 65": {
                "a": torch.zeros(65, 8, device=place.torch_device),
                "b": torch.zeros(10, 65, device=place.torch_device),
                "c": torch.zeros(10, 65, device=place.torch_device),
            },
            r"b must have shape \[10, 4\], got \[10, 3\]": {"b": case["b"][:, 1:]},
            r"d must have shape \[8\], got \[7\]": {"d": case["d"][1:]},
            r"z must have shape \[10, 8\], got \[10, 7\]": {"z": x[:, 1:]},
        }
        for message, tensors in wrong_scans.items():
            with pytest.raises(ValueError, match=message):
                ops.selective_scan(**{**case, **tensors}, cu_seqlens=ends, device=place)


@pytest.mark.parametrize("module", cuda_devices.MODULES)
def test_the_module_checks_sizes_and_null_pointers(module: Any) -> None:
    sizes = {"num_tokens": 4, "num_seqs": 1, "num_channels": 8, "stream": 0, "cu_seqlens": 1, "out": 1, "out_stride": 8}
    conv = {**sizes, "x": 1, "x_stride": 8, "weight": 1, "bias": 0, "activation": "none", "width": 4}
    state: dict[str, int] = {**dict.fromkeys(("u", "delta", "a", "b", "c", "d", "z"), 1), "state_size": 16}
    strides = dict.fromkeys(("u_stride", "delta_stride", "b_stride", "c_stride", "z_stride"), 8)
    for changes, message in (
        ({"num_tokens": -1}, "num_tokens must be 0 to"),
        ({"num_seqs": 0}, "num_seqs must be 1 to"),
        ({"num_channels": 0}, "num_channels must be 1 to 1048560, got 0"),
        ({"cu_seqlens": 0}, "cu_seqlens must be a device pointer, got null"),
        ({"out": 0}, "out must be a device pointer, got null"),
    ):
        with pytest.raises(ValueError, match=message):
            module.causal_conv1d(**{**conv, **changes})
        with pytest.raises(ValueError, match=message):
            module.selective_scan(**{**sizes, **state, **strides, **changes})
    with pytest.raises(ValueError, match="width must be 1 to"):
        module.causal_conv1d(**{**conv, "width": 0})
    with pytest.raises(ValueError, match="delta must be a device pointer, got null"):
        module.selective_scan(**{**sizes, **state, **strides, "delta": 0})
