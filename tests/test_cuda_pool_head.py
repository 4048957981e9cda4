"""The CUDA `pool` and `classifier_head`: the contracts of their CPU twins, emulated and on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cuda_devices
import reference
from assay import ops
from cuda_devices import Device, address, dtype_name

NAMES = ("identity", "sigmoid", "softmax")

on_devices = pytest.mark.parametrize("device", cuda_devices.DEVICES)
on_modules = pytest.mark.parametrize("module", cuda_devices.MODULES)


def pool(device: Device, hidden_states: torch.Tensor, lengths: list[int], pooling: str) -> torch.Tensor:
    """hidden_states [num_tokens, hidden_size] on the device -> [num_seqs, hidden_size]."""
    offsets = device.put(reference.cu_seqlens(lengths))
    out = reference.poisoned(len(lengths), hidden_states.shape[1], device=device.torch_device)
    device.module.pool(
        hidden_states=hidden_states.data_ptr(),
        hidden_stride=hidden_states.stride(0),
        cu_seqlens=offsets.data_ptr(),
        pooling=pooling,
        out=out.data_ptr(),
        num_seqs=len(lengths),
        hidden_size=hidden_states.shape[1],
        dtype=dtype_name(hidden_states.dtype),
        stream=device.stream(),
    )
    return out


class Head:
    """A random head on a device and its input."""

    def __init__(
        self, device: Device, num_rows: int, hidden_size: int, num_labels: int, *, dense: int = 0, seed: int = 0
    ) -> None:
        self.device = device
        generator = torch.Generator().manual_seed(seed)

        def layer(out_features: int, in_features: int) -> tuple[torch.Tensor, torch.Tensor]:
            weight = torch.randn(out_features, in_features, generator=generator) * 2 / in_features**0.5
            return device.put(weight), device.put(torch.randn(out_features, generator=generator))

        self.pooled = device.put(torch.randn(num_rows, hidden_size, generator=generator))
        self.dense = layer(dense, hidden_size) if dense else None
        self.classifier = layer(num_labels, dense or hidden_size)
        self.activations = [NAMES[i % 3] for i in range(num_rows)]

    def run(
        self, part: Any = slice(None), *, dense_activation: str = "tanh", mean: float = 0.0, sigma: float = 1.0
    ) -> torch.Tensor:
        pooled = self.pooled[part].contiguous()
        codes = torch.tensor([ops.HEAD_ACTIVATIONS[name] for name in self.activations], dtype=torch.uint8)
        codes = self.device.put(codes[part])
        dense_weight, dense_bias = self.dense or (None, None)
        dense_size = 0 if dense_weight is None else dense_weight.shape[0]
        buffer = reference.poisoned(pooled.shape[0], dense_size, device=self.device.torch_device)
        out = reference.poisoned(pooled.shape[0], self.classifier[0].shape[0], device=self.device.torch_device)
        self.device.module.classifier_head(
            pooled=pooled.data_ptr(),
            dense_weight=address(dense_weight),
            dense_bias=address(dense_bias),
            dense_activation=dense_activation,
            classifier_weight=self.classifier[0].data_ptr(),
            classifier_bias=self.classifier[1].data_ptr(),
            logit_mean=mean,
            logit_sigma=sigma,
            row_activations=codes.data_ptr(),
            dense_buffer=buffer.data_ptr(),
            out=out.data_ptr(),
            num_rows=pooled.shape[0],
            hidden_size=pooled.shape[1],
            dense_size=dense_size,
            num_labels=out.shape[1],
            stream=self.device.stream(),
        )
        return out

    def plain(self, dtype: torch.dtype, dense_activation: str, mean: float, sigma: float) -> torch.Tensor:
        def cast(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            return pair[0].cpu().to(dtype), pair[1].cpu().to(dtype)

        return reference.classifier_head(
            self.pooled.cpu().to(dtype),
            cast(self.classifier),
            self.activations,
            cast(self.dense) if self.dense else None,
            dense_activation,
            mean,
            sigma,
        )

    def check(self, dense_activation: str = "tanh", mean: float = 0.0, sigma: float = 1.0) -> None:
        exact = self.plain(torch.float64, dense_activation, mean, sigma)
        base = self.plain(torch.float32, dense_activation, mean, sigma)
        out = self.run(dense_activation=dense_activation, mean=mean, sigma=sigma).cpu()
        assert reference.max_err(out, exact) <= reference.budget(base, exact, self.pooled.shape[1])


@on_devices
@pytest.mark.parametrize("pooling", ["cls", "last_token", "mean"])
@pytest.mark.parametrize("lengths", reference.RAGGED_LENGTHS, ids=str)
def test_cuda_pool_matches_float64(device: Device, lengths: list[int], pooling: str) -> None:
    for hidden_size in (1, 31, 32, 33, 100, 384):
        x = torch.randn(sum(lengths), hidden_size, generator=torch.Generator().manual_seed(0))
        exact, base = reference.pool(x.double(), lengths, pooling), reference.pool(x, lengths, pooling)
        out = pool(device, device.put(x), lengths, pooling).cpu()
        assert reference.max_err(out, exact) <= reference.budget(base, exact)


@on_devices
@pytest.mark.parametrize("pooling", ["cls", "last_token", "mean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("hidden_size", [5, 264])
def test_cuda_pool_reads_half_floats(device: Device, pooling: str, dtype: torch.dtype, hidden_size: int) -> None:
    lengths = [3, 40, 1]
    x = torch.randn(sum(lengths), hidden_size, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact, base = reference.pool(x.double(), lengths, pooling), reference.pool(x.float(), lengths, pooling)
    out = pool(device, device.put(x), lengths, pooling).cpu()
    assert reference.max_err(out, exact) <= reference.budget(base, exact)


@on_devices
@pytest.mark.parametrize("pooling", ["cls", "last_token", "mean"])
def test_cuda_pool_of_no_tokens_is_nan(device: Device, pooling: str) -> None:
    x = device.put(torch.randn(7, 24))
    out = pool(device, x, [3, 0, 4, 0], pooling).cpu()
    assert out[[1, 3]].isnan().all()
    assert torch.equal(out[[0, 2]], pool(device, x, [3, 4], pooling).cpu())


@on_devices
@pytest.mark.parametrize("pooling", ["cls", "last_token", "mean"])
def test_cuda_pool_is_batch_invariant(device: Device, pooling: str) -> None:
    lengths = [300, 1, 47, 128, 33, 700, 16, 5]
    x = torch.randn(sum(lengths), 200, generator=torch.Generator().manual_seed(0))
    x = device.put(x)
    whole = pool(device, x, lengths, pooling)
    order = [7, 3, 0, 5, 1, 2, 4, 6]
    parts = x.split(lengths)
    shuffled = pool(device, torch.cat([parts[i] for i in order]), [lengths[i] for i in order], pooling)
    assert torch.equal(shuffled, whole[order])
    for i, part in enumerate(parts):
        assert torch.equal(pool(device, part, [lengths[i]], pooling)[0], whole[i])


@on_devices
def test_cuda_pool_accepts_strided_tokens(device: Device) -> None:
    wide = device.put(torch.randn(14, 100))
    assert torch.equal(
        pool(device, wide[:, 20:60], [5, 9], "mean"), pool(device, wide[:, 20:60].contiguous(), [5, 9], "mean")
    )


@on_devices
@pytest.mark.parametrize("num_labels", [1, 2, 3, 31, 32, 33, 300])
def test_cuda_head_matches_float64(device: Device, num_labels: int) -> None:
    Head(device, 37, 384, num_labels).check()
    Head(device, 37, 65, num_labels, dense=48).check()


@on_devices
@pytest.mark.parametrize("num_rows", [0, 1, 31, 32, 33, 300])
def test_cuda_head_takes_any_number_of_rows(device: Device, num_rows: int) -> None:
    Head(device, num_rows, 64, 3, dense=64).check(mean=0.5, sigma=1.75)


@on_devices
@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
def test_cuda_head_dense_activation(device: Device, activation: str) -> None:
    Head(device, 20, 96, 5, dense=80).check(dense_activation=activation)


@on_devices
@pytest.mark.parametrize("num_labels", [1, 3, 40])
def test_cuda_head_is_batch_invariant(device: Device, num_labels: int) -> None:
    head = Head(device, 600, 96, num_labels, dense=72)
    whole = head.run(mean=0.1, sigma=1.3)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    assert torch.equal(head.run(order, mean=0.1, sigma=1.3), whole[order])
    for part in (slice(0, 1), slice(7, 8), slice(3, 40), slice(599, 600)):
        assert torch.equal(head.run(part, mean=0.1, sigma=1.3), whole[part])


@on_devices
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_cuda_head_lets_a_bad_logit_show(device: Device, bad: float) -> None:
    head = Head(device, 9, 32, 4)
    clean = head.run()
    head.pooled[3:6, 7] = bad  # one identity, one sigmoid and one softmax row
    out = head.run()
    assert not out[3:6].isfinite().any()
    keep = [0, 1, 2, 6, 7, 8]
    assert torch.equal(out[keep], clean[keep])


@on_devices
def test_cuda_sm_is_one_this_build_has_code_for(device: Device) -> None:
    built = [
        int(name.rstrip("a").split("-")[0].rstrip("a"))
        for name in device.module.built_for().split()
        if name[0].isdigit()
    ]
    assert min(built) <= device.module.sm()


@on_modules
def test_cuda_module_refuses_wrong_arguments(module: Any) -> None:
    arguments = {
        "hidden_states": 64,
        "hidden_stride": 8,
        "cu_seqlens": 64,
        "pooling": "mean",
        "out": 64,
        "num_seqs": 1,
        "hidden_size": 8,
        "stream": 0,
    }
    for change, message in [
        ({"pooling": "max"}, "pooling='max': choose one of cls, last_token, mean"),
        ({"num_seqs": -1}, "num_seqs must be 0 to 2147483647, got -1"),
        ({"hidden_size": 0}, "hidden_size must be 1 to 2097120, got 0"),
        ({"hidden_stride": 7}, "hidden_stride must be 8 to .*, got 7"),
        ({"out": 0}, "out must be a device pointer, got null"),
        ({"dtype": "int8"}, "dtype='int8': choose one of float32, float16, bfloat16"),
    ]:
        with pytest.raises(ValueError, match=message):
            module.pool(**{**arguments, **change})
    with pytest.raises(TypeError):
        module.pool(*arguments.values())
    module.pool(**{**arguments, "num_seqs": 0})


@on_modules
def test_cuda_module_loads_without_a_gpu(module: Any) -> None:
    assert module.device_count() >= 0
    assert module.built_for().split()[0][:2].isdigit()  # "80 90a", or what the build was asked for
