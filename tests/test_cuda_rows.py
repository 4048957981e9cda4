"""The CUDA `layer_norm`, `rms_norm`, `embed` and `gather_rows`, emulated and on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_devices
import reference
from cuda_devices import Device, address, dtype_name, rounding

on_devices = pytest.mark.parametrize("device", cuda_devices.DEVICES)
on_modules = pytest.mark.parametrize("module", cuda_devices.MODULES)
on_dtypes = pytest.mark.parametrize("dtype", cuda_devices.DTYPES, ids=dtype_name)
on_kinds = pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])

SIZES = [1, 7, 8, 32, 100, 384, 520, 1030]
"""Hidden sizes: less than a chunk, whole chunks, odd ones, more than one warp, uneven passes."""
EPSILON = 1e-6


class Norm:
    """A random norm, its input and what is added to that."""

    def __init__(self, device: Device, kind: str, dtype: torch.dtype, num_rows: int, hidden_size: int) -> None:
        generator = torch.Generator().manual_seed(num_rows + hidden_size)
        self.device, self.kind, self.dtype = device, kind, dtype
        # A mean far from 0 shows a variance taken in one pass.
        self.x = torch.randn(num_rows, hidden_size, generator=generator) + 20
        self.delta = torch.randn(num_rows, hidden_size, generator=generator).to(dtype)
        self.weight = torch.randn(hidden_size, generator=generator)
        self.bias = torch.randn(hidden_size, generator=generator)

    def plain(self, dtype: torch.dtype, x: Tensor) -> Tensor:
        if self.kind == "rms_norm":
            return reference.rms_norm(x.to(dtype), self.weight.to(dtype), EPSILON)
        return reference.layer_norm(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype), EPSILON)

    def run(self, x: Tensor, delta: Tensor | None, *, live: int | None = None, **outputs: Tensor | None) -> None:
        """Outputs are tensors on the device: sum, normed and out."""
        weight, bias = self.device.put(self.weight), self.device.put(self.bias)
        num_live = None if live is None else self.device.put(torch.tensor([live], dtype=torch.int32))
        getattr(self.device.module, self.kind)(
            x=address(x),
            x_dtype=dtype_name(x.dtype),
            delta=address(delta),
            weight=address(weight),
            **({"bias": address(bias)} if self.kind == "layer_norm" else {}),
            epsilon=EPSILON,
            **{name: address(outputs.get(name)) for name in ("sum", "normed", "out")},
            dtype=dtype_name(self.dtype),
            num_live_rows=address(num_live),
            num_rows=x.shape[0],
            hidden_size=x.shape[1],
            stream=self.device.stream(),
        )

    def poison(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.device.put(reference.poisoned(*self.x.shape).to(dtype))


def check(ours: Tensor, base: Tensor, exact: Tensor) -> None:
    assert reference.max_err(ours.cpu(), exact) <= reference.budget(base, exact) + rounding(ours.dtype, exact)


@on_devices
@on_kinds
@on_dtypes
@pytest.mark.parametrize("hidden_size", SIZES)
def test_cuda_norm_matches_float64(device: Device, kind: str, dtype: torch.dtype, hidden_size: int) -> None:
    case = Norm(device, kind, dtype, 5, hidden_size)
    exact, base = case.plain(torch.float64, case.x), case.plain(torch.float32, case.x)
    normed, out = case.poison(), case.poison(dtype)
    case.run(device.put(case.x), None, normed=normed, out=out)
    check(normed, base, exact)
    check(out, base, exact)
    assert torch.equal(out, normed.to(dtype))


@on_devices
@on_kinds
@on_dtypes
@pytest.mark.parametrize("hidden_size", [7, 384])
def test_cuda_norm_adds_first(device: Device, kind: str, dtype: torch.dtype, hidden_size: int) -> None:
    case = Norm(device, kind, dtype, 6, hidden_size)
    total = case.x + case.delta.float()
    exact = case.plain(torch.float64, case.x.double() + case.delta.double())
    base = case.plain(torch.float32, total)
    delta = device.put(case.delta)
    # Before a block: the sum stays in the residual stream, the norm goes to the product.
    residual, out = device.put(case.x.clone()), case.poison(dtype)
    case.run(residual, delta, sum=residual, out=out)
    assert torch.equal(residual.cpu(), total)
    check(out, base, exact)
    # After a block: the norm is the residual stream.
    residual, again = device.put(case.x.clone()), case.poison(dtype)
    case.run(residual, delta, normed=residual, out=again)
    check(residual, base, exact)
    assert torch.equal(again, out)


@on_devices
@on_kinds
@on_dtypes
def test_cuda_norm_reads_its_own_dtype(device: Device, kind: str, dtype: torch.dtype) -> None:
    case = Norm(device, kind, dtype, 4, 96)
    x = case.x.to(dtype)
    out, same = case.poison(dtype), device.put(x.clone())
    case.run(device.put(x), None, out=out)
    check(out, case.plain(torch.float32, x.float()), case.plain(torch.float64, x.double()))
    case.run(same, None, out=same)
    assert torch.equal(same, out)


@on_devices
@on_kinds
def test_cuda_norm_rows_are_invariant(device: Device, kind: str) -> None:
    case = Norm(device, kind, torch.bfloat16, 33, 200)
    x, delta, out = device.put(case.x), device.put(case.delta), case.poison()
    case.run(x, delta, normed=out)
    for rows in (slice(0, 1), slice(32, 33), slice(5, 20)):
        part = device.put(reference.poisoned(*case.x[rows].shape))
        case.run(x[rows], delta[rows], normed=part)
        assert torch.equal(part, out[rows])
    # A row that lies elsewhere than on 16 bytes goes another way to the same sums.
    odd = device.put(torch.empty(case.x.numel() + 1))[1:].view_as(case.x).copy_(x)
    again = case.poison()
    case.run(odd, delta, normed=again)
    assert torch.equal(again, out)


@on_devices
@on_kinds
def test_cuda_norm_leaves_rows_behind_the_last_alone(device: Device, kind: str) -> None:
    case = Norm(device, kind, torch.float16, 5, 24)
    out = case.poison(torch.float16)
    case.run(device.put(case.x), None, live=3, out=out)
    assert out[:3].isfinite().all()
    assert out[3:].isnan().all()


@on_devices
@pytest.mark.parametrize("hidden_size", [4096, 16384])
def test_cuda_norm_takes_long_rows(device: Device, hidden_size: int) -> None:
    case = Norm(device, "layer_norm", torch.float32, 2, hidden_size)
    out = case.poison()
    case.run(device.put(case.x), None, out=out)
    check(out, case.plain(torch.float32, case.x), case.plain(torch.float64, case.x))


class Embedding:
    """Random tables and ids."""

    def __init__(self, device: Device, dtype: torch.dtype, num_tokens: int, hidden_size: int) -> None:
        generator = torch.Generator().manual_seed(hidden_size)
        self.device, self.dtype, self.hidden_size = device, dtype, hidden_size
        names = {"word": 50, "token_type": 2, "position": 40, "task_type": 3}
        self.tables = {
            name: torch.randn(rows, hidden_size, generator=generator).to(dtype) for name, rows in names.items()
        }
        self.ids = {
            name: torch.randint(rows, (num_tokens,), generator=generator, dtype=torch.int32)
            for name, rows in names.items()
        }
        self.ids["task_type"].zero_()
        self.weight = torch.randn(hidden_size, generator=generator)
        self.bias = torch.randn(hidden_size, generator=generator)

    def plain(self, dtype: torch.dtype, used: list[str], has_norm: bool) -> Tensor:
        total = reference.embed([self.ids[name] for name in used], [self.tables[name].to(dtype) for name in used])
        if not has_norm:
            return total
        return reference.layer_norm(total, self.weight.to(dtype), self.bias.to(dtype), EPSILON)

    def run(self, used: list[str], has_norm: bool, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """hidden_states float32 and out in dtype."""
        tables = {name: self.device.put(self.tables[name]) for name in used}
        ids = {name: self.device.put(self.ids[name][rows].contiguous()) for name in used}
        weight, bias = self.device.put(self.weight), self.device.put(self.bias)
        num_tokens = len(self.ids["word"][rows])
        hidden_states = self.device.put(reference.poisoned(num_tokens, self.hidden_size))
        out = self.device.put(reference.poisoned(num_tokens, self.hidden_size).to(self.dtype))
        self.device.module.embed(
            input_ids=address(ids["word"]),
            position_ids=address(ids.get("position")),
            token_type_ids=address(ids.get("token_type")),
            **{f"{name}_embeddings": address(tables.get(name)) for name in ("position", "token_type", "task_type")},
            word_embeddings=address(tables["word"]),
            norm_weight=address(weight) if has_norm else 0,
            norm_bias=address(bias) if has_norm else 0,
            epsilon=EPSILON,
            hidden_states=address(hidden_states),
            out=address(out),
            dtype=dtype_name(self.dtype),
            num_live_rows=0,
            num_tokens=num_tokens,
            hidden_size=self.hidden_size,
            stream=self.device.stream(),
        )
        return hidden_states, out


@on_devices
@on_dtypes
@pytest.mark.parametrize("hidden_size", [7, 64, 136])
@pytest.mark.parametrize(
    ("used", "has_norm"),
    [
        (["word"], False),
        (["word"], True),
        (["word", "token_type", "position"], True),
        (["word", "token_type", "position", "task_type"], True),
    ],
)
def test_cuda_embed_matches_float64(
    device: Device, dtype: torch.dtype, hidden_size: int, used: list[str], has_norm: bool
) -> None:
    case = Embedding(device, dtype, 9, hidden_size)
    hidden_states, out = case.run(used, has_norm)
    base, exact = case.plain(torch.float32, used, has_norm), case.plain(torch.float64, used, has_norm)
    check(hidden_states, base, exact)
    assert torch.equal(out, hidden_states.to(dtype))
    alone, _ = case.run(used, has_norm, slice(4, 5))
    assert torch.equal(alone[0], hidden_states[4])


@on_devices
@on_dtypes
@pytest.mark.parametrize("hidden_size", [2, 33, 384])
def test_cuda_gather_rows_copies_bits(device: Device, dtype: torch.dtype, hidden_size: int) -> None:
    if dtype != torch.float32 and hidden_size % 2:
        hidden_size += 1
    wide = device.put(torch.randn(12, hidden_size + 8).to(dtype))
    x = wide[:, :hidden_size]
    rows = device.put(torch.tensor([11, 0, 3, 3, 7], dtype=torch.int32))
    out = device.put(reference.poisoned(5, hidden_size).to(dtype))
    size = x.element_size()
    device.module.gather_rows(
        x=address(x),
        x_stride_bytes=x.stride(0) * size,
        rows=address(rows),
        out=address(out),
        num_rows=5,
        row_bytes=hidden_size * size,
        stream=device.stream(),
    )
    assert torch.equal(out, x[rows.long()])


@on_modules
def test_cuda_norm_refuses_wrong_arguments(module: Any) -> None:
    arguments: dict[str, Any] = {
        **dict.fromkeys(("x", "delta", "weight", "sum", "normed", "out"), 64),
        "x_dtype": "float32",
        "dtype": "bfloat16",
        "epsilon": 1e-6,
        "num_live_rows": 0,
        "num_rows": 1,
        "hidden_size": 8,
        "stream": 0,
    }
    for change, message in [
        ({"dtype": "int8"}, "dtype='int8': choose one of float32, float16, bfloat16"),
        ({"x_dtype": "float16"}, r"x_dtype must be float32 or dtype \(bfloat16\), got float16"),
        ({"hidden_size": 16385}, "hidden_size must be 1 to 16384, got 16385"),
        ({"num_rows": -1}, "num_rows must be 0 to 2147483647, got -1"),
        ({"weight": 0}, "weight must be a device pointer, got null"),
        ({"sum": 0, "normed": 0, "out": 0}, "one of sum, normed and out must be given"),
    ]:
        with pytest.raises(ValueError, match=message):
            module.rms_norm(**{**arguments, **change})
    module.rms_norm(**{**arguments, "num_rows": 0})


@on_modules
def test_cuda_embed_and_gather_refuse_wrong_arguments(module: Any) -> None:
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings", "task_type_embeddings")
    embed: dict[str, Any] = {
        **dict.fromkeys((*tables, "input_ids", "position_ids", "hidden_states", "norm_weight"), 64),
        **dict.fromkeys(("token_type_ids", "norm_bias", "out", "num_live_rows", "stream"), 0),
        "epsilon": 1e-6,
        "dtype": "float32",
        "num_tokens": 1,
        "hidden_size": 8,
    }
    for name in ("input_ids", "position_ids", "word_embeddings", "hidden_states"):
        with pytest.raises(ValueError, match=f"{name} must be a device pointer, got null"):
            module.embed(**{**embed, name: 0})
    gather = {"x": 64, "x_stride_bytes": 32, "rows": 64, "out": 64, "num_rows": 1, "row_bytes": 16, "stream": 0}
    for change, message in [
        ({"row_bytes": 15}, "must be even, got 15 and 32"),
        ({"x_stride_bytes": 14}, "x_stride_bytes must be 16 to .*, got 14"),
        ({"rows": 0}, "rows must be a device pointer, got null"),
    ]:
        with pytest.raises(ValueError, match=message):
            module.gather_rows(**{**gather, **change})
