"""The CUDA transformer layer: close to float64 for every kind of model, batch invariant, rows where asked, true sizes
read on the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_devices
import reference
import reference_layer
from cuda_devices import Device
from fake_cublas_lt import FakeCublasLt
from reference_layer import LLAMA, Config, Norm

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LENGTHS = [1, 33, 0, 14, 7, 64, 15, 16, 17, 70, 2]
FAMILIES = {
    **reference_layer.FAMILIES,
    # A product's sizes are multiples of 8 here; the CPU's odd inner size has its place there.
    "partial_interleaved": replace(reference_layer.FAMILIES["partial_interleaved"], inner=56),
}
BOUND = {torch.float32: 2.0**-20, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""What a block may be off by, relative to its largest value: two roundings to the dtype that is passed between steps,
and some eight of float32's, which are in the sums."""

on_devices = pytest.mark.parametrize("device", cuda_devices.DEVICES)
in_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
families = pytest.mark.parametrize("family", FAMILIES)


def make_input(lengths: list[int], hidden: int) -> Tensor:
    return torch.randn(sum(lengths), hidden, generator=torch.Generator().manual_seed(4))


def positions(lengths: list[int]) -> Tensor:
    """Neither indices nor starting at 0."""
    return torch.cat([torch.arange(length) * 3 + 5 for length in lengths]).int()


class Layer:
    """Random tensors of one block on a device, in `dtype`, and the reference over the same numbers."""

    def __init__(self, device: Device, config: Config, dtype: torch.dtype, cublas_lt: Any = None) -> None:
        self.device, self.config, self.dtype, self.cublas_lt = device, config, dtype, cublas_lt
        self.plain = reference_layer.Layer(config)
        self.plain.weights = {name: weight.to(dtype).float() for name, weight in self.plain.weights.items()}
        self.layer = self.fuse()

    def weight(self, *names: str) -> Any:
        """The weights of `names`, one above the other."""
        matrix = torch.cat([self.plain.weights[name] for name in names]).to(self.dtype)
        biases = [self.plain.biases[name] for name in names]
        bias = None if biases[0] is None else self.device.put(torch.cat([b for b in biases if b is not None]))
        return self.device.module.Weight(self.device.put(matrix), bias, len(names) > 1)

    def put(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else self.device.put(tensor)

    def arguments(self) -> dict[str, Any]:
        norms: dict[str, Any] = dict.fromkeys(reference_layer.NORMS)
        for name, norm in self.plain.norms.items():
            norms[name] = Norm(self.device.put(norm.weight), self.put(norm.bias))
        return dict(
            qkv=self.weight("qkv"),
            attn_out=self.weight("attn_out"),
            mlp_up=self.weight("gate", "up") if self.config.is_gated else self.weight("up"),
            mlp_down=self.weight("down"),
            **norms,
            q_norm=self.put(self.plain.q_norm),
            k_norm=self.put(self.plain.k_norm),
            **self.config.settings(),
            cublas_lt=self.cublas_lt,
            stream=self.device.stream(),
        )

    def fuse(self, **changes: Any) -> Any:
        return self.device.module.TransformerLayer(**{**self.arguments(), **changes})

    def run(
        self,
        x: Tensor,
        lengths: list[int],
        rows: Tensor | None = None,
        *,
        spare_tokens: int = 0,
        spare_seqs: int = 0,
    ) -> Tensor:
        """The output of every token, or of `rows`; with spare room the buffers are larger than the batch."""
        put, c = self.device.put, self.config
        num_tokens, num_seqs = len(x), len(lengths)
        garbage = reference.poisoned(spare_tokens, c.hidden)
        hidden_states = put(torch.cat([x, garbage]))
        offsets = reference.cu_seqlens(lengths + [0] * spare_seqs)
        spare_positions = torch.full((spare_tokens,), -(2**20), dtype=torch.int32)
        position_ids = put(torch.cat([positions(lengths), spare_positions]))
        size = self.device.module.transformer_layer_workspace_size(
            self.layer, num_tokens + spare_tokens, num_seqs + spare_seqs
        )
        rows_out = None
        if rows is not None:
            rows = put(torch.cat([rows.int(), torch.full((spare_seqs,), 2**20, dtype=torch.int32)]))
            rows_out = put(reference.poisoned(num_seqs + spare_seqs, c.hidden))
        self.device.module.transformer_layer(
            hidden_states,
            put(offsets),
            max(lengths),
            self.layer,
            self.workspace(size),
            position_ids,
            self.put(self.plain.cos),
            self.put(self.plain.sin),
            rows,
            rows_out,
            self.device.stream(),
        )
        if rows_out is None:
            return hidden_states[:num_tokens].cpu()
        assert torch.equal(hidden_states[:num_tokens].cpu(), x)
        return rows_out[:num_seqs].cpu()

    def workspace(self, size: int) -> Tensor:
        """Poisoned: all NaN in every dtype."""
        block = torch.full((size + 256,), 0xFF, dtype=torch.uint8, device=self.device.torch_device)
        start = -block.data_ptr() % 256
        return block[start : start + size]


@on_devices
@in_dtypes
@families
def test_cuda_layer_matches_float64(device: Device, family: str, dtype: torch.dtype) -> None:
    layer = Layer(device, FAMILIES[family], dtype)
    x = make_input(LENGTHS, layer.config.hidden)
    exact = layer.plain.reference(x, LENGTHS, positions(LENGTHS), torch.float64)
    error = reference.max_err(layer.run(x, LENGTHS), exact)
    assert error <= BOUND[dtype] * exact.abs().max().item()


@on_devices
@in_dtypes
@pytest.mark.parametrize("family", ["bert", "gemma2", "modernbert_local", "everything"])
def test_cuda_layer_is_batch_invariant(device: Device, family: str, dtype: torch.dtype) -> None:
    layer = Layer(device, FAMILIES[family], dtype)
    x = make_input(LENGTHS, layer.config.hidden)
    whole, pieces = layer.run(x, LENGTHS).split(LENGTHS), x.split(LENGTHS)
    for i, piece in enumerate(pieces):
        assert torch.equal(layer.run(piece, [LENGTHS[i]]), whole[i])
    order = [3, 9, 0, 5, 1, 10, 7, 2, 8, 6, 4]
    shuffled = layer.run(torch.cat([pieces[i] for i in order]), [LENGTHS[i] for i in order])
    assert torch.equal(shuffled, torch.cat([whole[i] for i in order]))


@on_devices
@in_dtypes
@families
def test_cuda_layer_rows_equal_the_full_layer(device: Device, family: str, dtype: torch.dtype) -> None:
    layer = Layer(device, FAMILIES[family], dtype)
    lengths = [length for length in LENGTHS if length > 0]
    x, offsets = make_input(lengths, layer.config.hidden), reference.cu_seqlens(lengths)
    full = layer.run(x, lengths)
    middle = offsets[:-1] + offsets.diff() // 2
    for rows in (offsets[:-1], middle, offsets[1:] - 1):
        assert torch.equal(layer.run(x, lengths, rows), full[rows.long()])


@on_devices
@in_dtypes
@pytest.mark.parametrize("family", ["bert", "everything"])
def test_cuda_layer_reads_the_true_size_on_the_device(device: Device, family: str, dtype: torch.dtype) -> None:
    """Buffers of a rung of the ladder: garbage behind the last token and empty sequences at the end change nothing."""
    layer = Layer(device, FAMILIES[family], dtype)
    lengths = [5, 40, 17]
    x, offsets = make_input(lengths, layer.config.hidden), reference.cu_seqlens(lengths)
    full = layer.run(x, lengths)
    assert torch.equal(layer.run(x, lengths, spare_tokens=70, spare_seqs=3), full)
    rows = offsets[1:] - 1
    assert torch.equal(layer.run(x, lengths, rows, spare_tokens=70, spare_seqs=3), full[rows.long()])


@pytest.mark.skipif(not cuda_devices.has_gpu, reason="needs a GPU: the emulation has no graphs")
@in_dtypes
@pytest.mark.parametrize("family", ["bert", "everything"])
def test_cuda_layer_graph_serves_other_batches(family: str, dtype: torch.dtype) -> None:
    """Captured once for a rung, replayed with the lengths of smaller batches."""
    device = Device("gpu", cuda_devices.CUDA, "cuda")
    layer = Layer(device, FAMILIES[family], dtype)
    hidden, max_tokens, max_seqs = layer.config.hidden, 200, 8
    hidden_states = torch.zeros(max_tokens, hidden, device="cuda")
    cu_seqlens = torch.zeros(max_seqs + 1, dtype=torch.int32, device="cuda")
    position_ids = torch.zeros(max_tokens, dtype=torch.int32, device="cuda")
    size = device.module.transformer_layer_workspace_size(layer.layer, max_tokens, max_seqs)
    cos, sin, workspace = layer.put(layer.plain.cos), layer.put(layer.plain.sin), layer.workspace(size)

    def call() -> None:
        device.module.transformer_layer(
            hidden_states, cu_seqlens, 150, layer.layer, workspace, position_ids, cos, sin, None, None, device.stream()
        )

    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for lengths in ([5, 40, 17], [150], [1] * 8, [0, 64, 0, 64, 64]):
        x, num_tokens = make_input(lengths, hidden), sum(lengths)
        hidden_states.fill_(float("nan"))
        hidden_states[:num_tokens] = x.cuda()
        cu_seqlens.fill_(num_tokens)
        cu_seqlens[: len(lengths) + 1] = reference.cu_seqlens(lengths).cuda()
        position_ids[:num_tokens] = positions(lengths).cuda()
        graph.replay()
        assert torch.equal(hidden_states[:num_tokens].cpu(), layer.run(x, lengths))


@cuda_devices.needs_emulation
@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("bert", ("cublaslt", "cublaslt", "own", "cublaslt")),
        ("gpt2", ("cublaslt", "cublaslt", "cublaslt", "cublaslt")),
        ("qwen2", ("cublaslt", "cublaslt", "cublaslt", "cublaslt")),
    ],
)
def test_cuda_layer_with_the_library(family: str, names: tuple[str, ...], fake_cublas_lt: FakeCublasLt) -> None:
    fake_cublas_lt.suggest("order_by_place", "invariant")
    dtype = torch.float16
    device = Device("emulated", cuda_devices.EMULATION, "cpu")
    layer = Layer(device, FAMILIES[family], dtype, fake_cublas_lt.open())
    assert tuple(name.split()[0] for name in layer.layer.products) == names
    lengths = [9, 33, 1, 20]
    x, offsets = make_input(lengths, layer.config.hidden), reference.cu_seqlens(lengths)
    exact = layer.plain.reference(x, lengths, positions(lengths), torch.float64)
    whole = layer.run(x, lengths)
    # One more rounding than our own kernels make: of the gate and of the up matrix's product.
    assert reference.max_err(whole, exact) <= 1.5 * BOUND[dtype] * exact.abs().max().item()
    assert torch.equal(layer.run(x[9:42], [33]), whole[9:42])
    assert torch.equal(layer.run(x, lengths, spare_tokens=30, spare_seqs=2), whole)
    rows = offsets[1:] - 1
    assert torch.equal(layer.run(x, lengths, rows, spare_tokens=30, spare_seqs=2), whole[rows.long()])


@on_devices
@in_dtypes
def test_cuda_layer_takes_wide_models(device: Device, dtype: torch.dtype) -> None:
    """Several tiles of columns, a head_dim and sizes that no tile divides."""
    config = replace(LLAMA, hidden=120, inner=200, num_heads=5, num_kv_heads=1, head_dim=40, rotary_dim=40)
    layer = Layer(device, config, dtype)
    lengths = [130, 3]
    x, offsets = make_input(lengths, 120), reference.cu_seqlens(lengths)
    exact = layer.plain.reference(x, lengths, positions(lengths), torch.float64)
    whole = layer.run(x, lengths)
    assert reference.max_err(whole, exact) <= BOUND[dtype] * exact.abs().max().item()
    assert torch.equal(layer.run(x, lengths, offsets[1:] - 1), whole[offsets[1:].long() - 1])


@on_devices
def test_cuda_layer_keeps_a_bad_sequence_to_itself(device: Device) -> None:
    layer = Layer(device, FAMILIES["everything"], torch.float16)
    lengths = [9, 20, 14]
    x = make_input(lengths, layer.config.hidden)
    clean = layer.run(x, lengths)
    x[12, 3] = float("nan")
    out = layer.run(x, lengths)
    assert torch.equal(out[:9], clean[:9])
    assert torch.equal(out[29:], clean[29:])
    assert out[12].isnan().all()


@on_devices
def test_cuda_layer_takes_no_tokens(device: Device) -> None:
    layer = Layer(device, LLAMA, torch.float16)
    assert layer.run(torch.empty(0, LLAMA.hidden), [0, 0]).shape == (0, LLAMA.hidden)
    assert layer.run(torch.empty(0, LLAMA.hidden), [0, 0], spare_tokens=20).shape == (0, LLAMA.hidden)


@on_devices
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *reference_layer.WRONG_WEIGHTS,
        ({"attn_in_norm": Norm(torch.ones(48), torch.ones(48))}, r"attn_in_norm\.bias must be None for norm='rms'"),
        ({"mlp_out_norm": Norm(torch.ones(16), None)}, r"mlp_out_norm\.weight must have shape \[48\], got \[16\]"),
    ],
    ids=str,
)
def test_cuda_layer_refuses_wrong_weights(device: Device, changes: dict[str, Any], message: str) -> None:
    layer = Layer(device, LLAMA, torch.float16)
    made = layer.arguments()
    moved = {}
    for name, value in changes.items():
        if isinstance(value, Tensor):
            value = device.put(value)
        elif isinstance(value, Norm):
            value = Norm(device.put(value.weight), layer.put(value.bias))
        elif isinstance(value, str):
            value = made.get(value, value)
        moved[name] = value
    with pytest.raises(ValueError, match=message):
        layer.fuse(**moved)


@on_devices
def test_cuda_layer_refuses_mixed_weights(device: Device) -> None:
    layer = Layer(device, LLAMA, torch.float16)
    with pytest.raises(ValueError, match="the weights of a layer must have one dtype"):
        layer.fuse(attn_out=Layer(device, LLAMA, torch.bfloat16).weight("attn_out"))
    with pytest.raises(ValueError, match="mlp_up must be a gated weight, got a plain one"):
        layer.fuse(mlp_up=layer.weight("up"))
    square = device.module.Weight(device.put(torch.ones(96, 64).half()), None, True)
    with pytest.raises(ValueError, match="only mlp_up may be a gated weight"):
        layer.fuse(attn_out=square)


@on_devices
def test_cuda_layer_refuses_wrong_calls(device: Device) -> None:
    layer, put = Layer(device, LLAMA, torch.float16), device.put
    tables = put(torch.ones(9, 8))
    workspace = layer.workspace(device.module.transformer_layer_workspace_size(layer.layer, 4, 1))
    good: dict[str, Any] = dict(
        hidden_states=put(make_input([4], 48)),
        cu_seqlens=put(reference.cu_seqlens([4])),
        max_seqlen=4,
        layer=layer.layer,
        workspace=workspace,
        position_ids=put(torch.arange(4).int()),
        cos=tables,
        sin=tables,
        rows=None,
        rows_out=None,
        stream=device.stream(),
    )
    device.module.transformer_layer(**good)
    changes: dict[str, Any]
    for changes, message in [
        ({"hidden_states": torch.zeros(4, 47)}, r"hidden_states must have shape \[\*, 48\], got \[4, 47\]"),
        ({"cos": None}, "cos must be a torch.Tensor, got None"),
        ({"cos": torch.ones(9, 7)}, r"cos must have shape \[\*, 8\], got \[9, 7\]"),
        ({"sin": torch.ones(8, 8)}, r"sin must have shape \[9, 8\], got \[8, 8\]"),
        ({"position_ids": torch.arange(5).int()}, r"position_ids must have shape \[4\], got \[5\]"),
        ({"workspace": torch.zeros(0, dtype=torch.uint8)}, "workspace must have .* bytes, got 0"),
        ({"rows": torch.tensor([1]).int()}, "rows_out must be given with rows"),
        ({"rows": torch.tensor([1]).int(), "rows_out": torch.zeros(2, 48)}, r"rows_out must have shape \[1, 48\]"),
        ({"max_seqlen": -1}, "max_seqlen must be >= 0, got -1"),
    ]:
        moved = {name: put(value) if isinstance(value, Tensor) else value for name, value in changes.items()}
        with pytest.raises(ValueError, match=message):
            device.module.transformer_layer(**{**good, **moved})
    with pytest.raises(ValueError, match="workspace must be 256-byte aligned"):
        device.module.transformer_layer(**{**good, "workspace": torch.cat([workspace, workspace])[8:]})
    plain = Layer(device, replace(LLAMA, rotary_dim=0), torch.float16)
    with pytest.raises(ValueError, match="cos and sin must be None for a layer of rotary_dim 0"):
        device.module.transformer_layer(**{**good, "layer": plain.layer})
