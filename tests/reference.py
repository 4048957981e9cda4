"""Plain torch versions of the kernels, in the dtype of their inputs: float64 gives the exact answer, float32 the error
that a straightforward implementation makes. And what every kernel test shares: lengths, poison, the error budget."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RAGGED_LENGTHS = [
    [1],
    [16],
    [7, 1, 64],
    [15, 16, 17],
    [31, 32, 33, 2],
    [1, 1, 1, 1, 1, 1, 1, 1, 1],
    [513],
    [300, 1, 47, 128, 33, 700],
]
"""Sequence lengths around the tile sizes; tests of kernels where empty sequences are legal add zeros."""

ROUNDING = 2.0**-22
"""Two float32 rounding steps: the floor of every budget, relative to the largest value."""

ACTIVATIONS = {
    "none": lambda x: x,
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": torch.relu,
    "silu": lambda x: x * torch.sigmoid(x),
    "tanh": torch.tanh,
}


VNNI = ("avx2_vnni", "avx512_vnni", "avx512_bf16", "amx", "amx_emulated")
"""Instruction sets that add the products of bytes in int32: the scales of the int8 mode are finer there."""

FIXED_POINT = ("avx2", "avx2_vnni", "avx512_vnni")
"""Instruction sets whose bfloat16 mode is block fixed point."""


def cu_seqlens(lengths: list[int]) -> Tensor:
    """[num_seqs + 1] int32, starting at 0."""
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def operand(x: Tensor, arithmetic: str, isa: str, *, is_weight: bool = False) -> Tensor:
    """x [rows, depth], bfloat16 values, as a product multiplies it: what arithmetic rounds is its definition."""
    if arithmetic == "int8":
        has_vnni = isa in VNNI
        run = x.shape[1] if isa.startswith("amx") else 128
        if is_weight:
            return fixed_point(x, 127 if has_vnni else together_steps(x, run), run)
        return byte_steps(x, 255 if has_vnni else 181, run)
    return fixed_point(x) if arithmetic == "bfloat16" and isa in FIXED_POINT else x


def together_steps(weight: Tensor, run: int) -> Tensor:
    """[rows, num_runs, 1]: what the largest weight of a run becomes where the products of four weights meet in int16.

    The four are two neighbours and the two that stand four behind them; those of one sign may come to 181.
    """
    runs = torch.nn.functional.pad(weight, (0, -weight.shape[1] % run)).unflatten(1, (-1, run))
    fours = runs.unflatten(2, (-1, 2, 2, 2)).transpose(3, 4).flatten(4, 5)
    together = torch.maximum(fours.clamp(min=0).sum(-1), -fours.clamp(max=0).sum(-1)).amax((2, 3))[..., None]
    return (179 * (runs.abs().amax(-1, keepdim=True) / together)).nan_to_num(127.0).floor().clamp(max=127.0)


def fixed_point(x: Tensor, steps: int | Tensor = 4095, run: int = 128) -> Tensor:
    """x [rows, depth] float32 to whole multiples of 1 / steps of the largest of each `run` numbers of a row."""
    depth = x.shape[1]
    runs = torch.nn.functional.pad(x, (0, -depth % run)).unflatten(1, (-1, run))
    largest = runs.abs().amax(-1, keepdim=True)
    # A number / tensor rounds twice.
    steps = steps if isinstance(steps, Tensor) else torch.full_like(largest, steps)
    integers = (runs * (steps / largest)).nan_to_num().round()
    return (integers * (largest / steps)).flatten(1)[:, :depth]


def byte_steps(x: Tensor, steps: int, run: int) -> Tensor:
    """x [rows, depth] float32 to `steps` equal steps from the least to the largest of each `run` numbers of a row."""
    depth = x.shape[1]
    runs = torch.nn.functional.pad(x, (0, -depth % run)).unflatten(1, (-1, run))
    least = runs.amin(-1, keepdim=True)
    size = runs.amax(-1, keepdim=True) - least
    integers = ((runs - least) * (torch.full_like(size, steps) / size)).nan_to_num().round()
    return (integers.double() * (size / steps) + least).flatten(1)[:, :depth].to(x.dtype)


def poisoned(*shape: int, device: str = "cpu") -> Tensor:
    """An output full of NaN: an element that the kernel forgets shows."""
    return torch.full(shape, math.nan, device=device)


def max_err(ours: Tensor, exact: Tensor) -> float:
    """The largest absolute difference; NaN anywhere gives NaN, which fails every comparison."""
    return float((ours.double() - exact.double()).abs().max()) if exact.numel() else 0.0


def budget(base: Tensor, exact: Tensor, depth: int = 0) -> float:
    """Twice the error of the plain float32 implementation, plus the rounding floor.

    `depth` is the number of terms of a product inside: summed one by one they round as a random walk does.
    """
    if exact.numel() == 0:
        return 0.0
    floor = ROUNDING * (1 + depth**0.5 / 8)
    return 2 * max_err(base, exact) + floor * max(1.0, exact.abs().max().item())


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, residual: Tensor | None = None
) -> Tensor:
    """x [num_rows, hidden_size]; two-pass variance."""
    x = x if residual is None else x + residual
    centered = x - x.mean(-1, keepdim=True)
    normed = centered / (centered.square().mean(-1, keepdim=True) + epsilon).sqrt()
    return normed * weight if bias is None else normed * weight + bias


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x [..., size], weight [size]."""
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight


def rotary(x: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor, is_interleaved: bool) -> Tensor:
    """x [num_tokens, num_heads, head_dim]; cos and sin [num_positions, rotary_dim / 2]."""
    half = cos.shape[1]
    angle_cos, angle_sin = cos[position_ids.long()][:, None], sin[position_ids.long()][:, None]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    a, b = (turned[..., ::2], turned[..., 1::2]) if is_interleaved else turned.split(half, dim=-1)
    parts = a * angle_cos - b * angle_sin, b * angle_cos + a * angle_sin
    turned = torch.stack(parts, -1).flatten(-2) if is_interleaved else torch.cat(parts, -1)
    return torch.cat([turned, rest], -1)


def embed(ids: list[Tensor], tables: list[Tensor]) -> Tensor:
    """The sum of tables[i][ids[i]], in order."""
    total = tables[0][ids[0].long()]
    for index, table in zip(ids[1:], tables[1:], strict=True):
        total = total + table[index.long()]
    return total


def pool(hidden_states: Tensor, lengths: list[int], pooling: str) -> Tensor:
    """[num_tokens, hidden_size] -> [num_seqs, hidden_size]."""
    pick = {"cls": lambda seq: seq[0], "last_token": lambda seq: seq[-1], "mean": lambda seq: seq.mean(0)}[pooling]
    return torch.stack([pick(seq) for seq in hidden_states.split(lengths)])


def classifier_head(
    pooled: Tensor,
    classifier: tuple[Tensor, Tensor],
    row_activations: list[str],
    dense: tuple[Tensor, Tensor] | None = None,
    dense_activation: str = "tanh",
    logit_mean: float = 0.0,
    logit_sigma: float = 1.0,
) -> Tensor:
    """pooled [num_rows, hidden_size], (weight, bias) pairs -> [num_rows, num_labels]."""
    if dense is not None:
        pooled = ACTIVATIONS[dense_activation](pooled @ dense[0].T + dense[1])
    logits = (pooled @ classifier[0].T + classifier[1] - logit_mean) / logit_sigma
    finish = {"identity": lambda row: row, "sigmoid": torch.sigmoid, "softmax": lambda row: row.softmax(-1)}
    rows = [finish[name](row) for name, row in zip(row_activations, logits, strict=True)]
    return torch.stack(rows) if rows else logits


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, lengths: list[int], activation: str = "none"
) -> Tensor:
    """x [num_tokens, num_channels], weight [width, num_channels]; each sequence behind its own zeros."""
    width = len(weight)
    parts = []
    for part in x.split(lengths):
        padded = torch.nn.functional.pad(part, (0, 0, width - 1, 0))
        total = torch.zeros_like(part) if bias is None else bias.expand_as(part)
        for k in range(width):
            total = total + weight[k] * padded[k : k + len(part)]
        parts.append(total)
    return ACTIVATIONS[activation](torch.cat(parts))


def selective_scan(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    lengths: list[int],
    z: Tensor | None = None,
) -> Tensor:
    """u, delta, z [num_tokens, num_channels]; a [state_size, num_channels]; b, c [num_tokens, state_size]."""
    step = delta.clamp(min=0) + torch.log1p(torch.exp(-delta.abs()))
    out, token = torch.empty_like(u), 0
    for length in lengths:
        state = torch.zeros_like(a)
        for _ in range(length):
            state = torch.exp(step[token] * a) * state + (step[token] * u[token]) * b[token][:, None]
            out[token] = c[token] @ state
            token += 1
    out = out + d * u
    return out if z is None else out * ACTIVATIONS["silu"](z)


def activation_error(activation: str, arithmetic: str, isa: str) -> float:
    """By how much an activation itself may be off: GELU of what is rounded next, on tiles."""
    return 4.4e-5 if activation == "gelu" and isa.startswith("amx") and arithmetic in ("bfloat16", "int8") else 0.0
