"""The fused encoder layer: equal to its parts bit for bit, close to float64, batch invariant, rows only where asked."""

from __future__ import annotations

import math

import pytest
import torch

from assay import ops

HIDDEN, HEADS, WIDE = 96, 3, 200
SEQLENS = [1, 33, 14, 7, 64, 128, 15, 16, 17, 2]
ARITHMETICS = ("float32", "bfloat16")


class Weights:
    """Plain tensors of one layer and its packed form."""

    def __init__(self, arithmetic: str, activation: str = "gelu", hidden: int = HIDDEN, wide: int = WIDE) -> None:
        generator = torch.Generator().manual_seed(3)

        def make(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])

        self.qkv, self.qkv_bias = make(3 * hidden, hidden), make(3 * hidden)
        self.out, self.out_bias = make(hidden, hidden), make(hidden)
        self.up, self.up_bias = make(wide, hidden), make(wide)
        self.down, self.down_bias = make(hidden, wide), make(hidden)
        self.norms = [1 + make(hidden), make(hidden), 1 + make(hidden), make(hidden)]
        self.activation = activation
        self.hidden = hidden
        self.packed = [
            ops.pack_weight(w, b, arithmetic)
            for w, b in (
                (self.qkv, self.qkv_bias),
                (self.out, self.out_bias),
                (self.up, self.up_bias),
                (self.down, self.down_bias),
            )
        ]
        self.layer = ops.cpu_module().EncoderLayer(
            *self.packed, *self.norms, 1e-12, activation, HEADS, (hidden // HEADS) ** -0.5
        )

    def fused(self, hidden_states: torch.Tensor, seqlens: list[int], rows: torch.Tensor | None = None) -> torch.Tensor:
        cu_seqlens = cumulative(seqlens)
        size = ops.encoder_layer_workspace_size(self.layer, hidden_states.shape[0], len(seqlens))
        workspace = aligned_bytes(size)
        rows_out = None if rows is None else torch.full((len(seqlens), self.hidden), float("nan"))
        out = ops.encoder_layer(hidden_states.clone(), cu_seqlens, max(seqlens), self.layer, workspace, rows, rows_out)
        return out

    def from_parts(self, hidden_states: torch.Tensor, seqlens: list[int], inner_dtype: torch.dtype) -> torch.Tensor:
        qkv, out, up, down = self.packed
        tokens, head_dim = hidden_states.shape[0], self.hidden // HEADS
        projected = ops.linear(hidden_states, qkv, out_dtype=inner_dtype).view(tokens, 3, HEADS, head_dim)
        q, k, v = projected.unbind(1)
        context = ops.attention_varlen(q, k, v, cumulative(seqlens), max(seqlens), out=torch.empty_like(q.contiguous()))
        x = ops.linear(context.reshape(tokens, self.hidden), out, residual=hidden_states)
        x = ops.layer_norm(x, self.norms[0], self.norms[1], 1e-12)
        wide = ops.linear(x, up, activation=self.activation, out_dtype=inner_dtype)
        x = ops.linear(wide, down, residual=x)
        return ops.layer_norm(x, self.norms[2], self.norms[3], 1e-12)

    def reference(self, hidden_states: torch.Tensor, seqlens: list[int], dtype: torch.dtype) -> torch.Tensor:
        def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return x @ weight.to(dtype).T + bias.to(dtype)

        def norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.layer_norm(x, (self.hidden,), weight.to(dtype), bias.to(dtype), 1e-12)

        done = []
        for x in hidden_states.to(dtype).split(seqlens):
            q, k, v = linear(x, self.qkv, self.qkv_bias).view(len(x), 3, HEADS, -1).permute(1, 2, 0, 3)
            probs = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(self.hidden // HEADS), -1)
            context = (probs @ v).transpose(0, 1).reshape(len(x), self.hidden)
            x = norm(x + linear(context, self.out, self.out_bias), self.norms[0], self.norms[1])
            wide = torch.nn.functional.gelu(linear(x, self.up, self.up_bias))
            done.append(norm(x + linear(wide, self.down, self.down_bias), self.norms[2], self.norms[3]))
        return torch.cat(done)


def cumulative(seqlens: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(seqlens).cumsum(0).tolist()], dtype=torch.int32)


def aligned_bytes(size: int) -> torch.Tensor:
    block = torch.full((size + 64,), 0xFF, dtype=torch.uint8)  # poisoned: all NaN as float32
    start = -block.data_ptr() % 64
    return block[start : start + size]


def make_input(seqlens: list[int], hidden: int = HIDDEN) -> torch.Tensor:
    return torch.randn(sum(seqlens), hidden, generator=torch.Generator().manual_seed(4))


def inner_dtype(isa: str, arithmetic: str) -> torch.dtype:
    """What attention and the MLP pass on between products: bfloat16 where the ISA multiplies bfloat16 inputs."""
    native = isa in ("avx512_bf16", "amx", "amx_emulated")
    return torch.bfloat16 if arithmetic == "bfloat16" and native else torch.float32


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_encoder_layer_equals_its_parts(isa: str, arithmetic: str, threads: int, restore_threads: None) -> None:
    ops.set_num_threads(threads)
    weights = Weights(arithmetic)
    for seqlens in (SEQLENS, [5], [1], [40]):
        x = make_input(seqlens)
        assert torch.equal(weights.fused(x, seqlens), weights.from_parts(x, seqlens, inner_dtype(isa, arithmetic))), (
            seqlens
        )


def test_encoder_layer_matches_float64(isa: str) -> None:
    weights = Weights("float32")
    x = make_input(SEQLENS)
    exact = weights.reference(x, SEQLENS, torch.float64)
    base = weights.reference(x, SEQLENS, torch.float32)
    error = (weights.fused(x, SEQLENS).double() - exact).abs().max().item()
    floor = 5e-5 if isa.startswith("amx") else 2e-6  # three-product form: 16-bit operands, see test_kernels_linear
    assert error <= 2 * (base.double() - exact).abs().max().item() + floor


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_encoder_layer_is_batch_invariant(isa: str, arithmetic: str, restore_threads: None) -> None:
    weights = Weights(arithmetic)
    x = make_input(SEQLENS)
    ops.set_num_threads(1)
    whole = weights.fused(x, SEQLENS).split(SEQLENS)
    order = [3, 9, 0, 5, 1, 7, 2, 8, 6, 4]
    pieces = x.split(SEQLENS)
    for threads in (1, 2, 4):
        ops.set_num_threads(threads)
        for i, piece in enumerate(pieces):
            assert torch.equal(weights.fused(piece, [SEQLENS[i]]), whole[i])
        shuffled = weights.fused(torch.cat([pieces[i] for i in order]), [SEQLENS[i] for i in order])
        assert torch.equal(shuffled, torch.cat([whole[i] for i in order]))


@pytest.mark.parametrize("hidden", [HIDDEN, 120])  # 120 is no whole number of weight panels
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_encoder_layer_rows_equal_the_full_layer(isa: str, arithmetic: str, hidden: int, restore_threads: None) -> None:
    weights = Weights(arithmetic, hidden=hidden)
    x = make_input(SEQLENS, hidden)
    cu_seqlens = cumulative(SEQLENS)
    full = weights.fused(x, SEQLENS)
    for threads in (1, 2, 4):
        ops.set_num_threads(threads)
        for rows in (cu_seqlens[:-1].contiguous(), cu_seqlens[1:] - 1):
            assert torch.equal(weights.fused(x, SEQLENS, rows), full[rows.long()])


def test_encoder_layer_refuses_wrong_arguments() -> None:
    weights = Weights("float32")
    x, cu_seqlens = make_input([4]), cumulative([4])
    workspace = aligned_bytes(ops.encoder_layer_workspace_size(weights.layer, 4, 1))
    with pytest.raises(ValueError, match="workspace must have"):
        ops.encoder_layer(x, cu_seqlens, 4, weights.layer, workspace[:64])
    with pytest.raises(ValueError, match="workspace must be 64-byte aligned"):
        ops.encoder_layer(x, cu_seqlens, 4, weights.layer, aligned_bytes(len(workspace) + 8)[8:])
    with pytest.raises(ValueError, match="max_seqlen must be >= 4, got 3"):
        ops.encoder_layer(x, cu_seqlens, 3, weights.layer, workspace)
    rows = torch.tensor([4], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"rows\[0\] must be a token of sequence 0, got 4"):
        ops.encoder_layer(x, cu_seqlens, 4, weights.layer, workspace, rows, torch.empty(1, HIDDEN))
    with pytest.raises(ValueError, match="num_heads must divide hidden_size 96, got 5"):
        ops.cpu_module().EncoderLayer(*weights.packed, *weights.norms, 1e-12, "gelu", 5, 1.0)
