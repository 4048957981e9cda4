"""One function per kernel: the only place that picks a device.

Every function takes torch tensors, allocates the output unless `out` is given, and calls the compiled module of
`device`: its functions have one signature on the CPU (`_cpu`) and on CUDA (`cuda_kernels.CudaKernels`). Shapes use the
words of `docs/kernels.md`; all tensors are contiguous in their last dimension. Shapes and dtypes are checked there:
ValueError names the argument, what is wanted and what came. On CUDA every dtype written "bfloat16" below may be float16
as well, tensors lie on the device, work is asynchronous on torch's current stream, and nothing is read back: values
(ids, positions, cu_seqlens) are the caller's to check.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from assay.device import CPU

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor

    from assay.device import Device

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "gelu_quick", "relu", "silu", "tanh")
"""Names `linear` and the layers accept; "gelu" is the erf form."""

HEAD_ACTIVATIONS = {"identity": 0, "sigmoid": 1, "softmax": 2}
"""Codes of `classifier_head(row_activations=...)`."""


@functools.cache
def cpu_module() -> ModuleType:
    """The compiled CPU module; raises ImportError with a hint where the package was not built."""
    try:
        from assay import _cpu
    except ImportError as err:
        err.add_note("assay's compiled module is missing: build it with `pip install .` in the source folder")
        raise
    module: ModuleType = _cpu
    return module


@functools.cache
def cuda_module() -> ModuleType | None:
    """The compiled CUDA module, or None where this build has none."""
    try:
        from assay import _cuda  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        return None
    module: ModuleType = _cuda
    return module


def _kernels(device: Device) -> Any:
    return cpu_module() if device.kernels is None else device.kernels


def _empty(shape: tuple[int, ...], like: Tensor, dtype: Any = None) -> Tensor:
    import torch

    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


def pack_weight(weight: Tensor, bias: Tensor | None, arithmetic: str, device: Device = CPU) -> Any:
    """Lay out a linear layer's weight for the matrix kernel of the ISA in use.

    weight [out_features, in_features] float32 or bfloat16, bias [out_features] float32 or None. `arithmetic` is
    "float32" (float32-accurate, the fastest way the ISA has), "float32_fma" (plain FMA everywhere; heads), "bfloat16"
    or on CUDA "float16". Returns a PackedWeight that owns its copy, or on CUDA the tensors themselves. Of a weight on
    the meta device, which has no numbers, it has the sizes only.
    """
    if weight.is_meta:
        return _weight_of_shape(weight, bias is not None, arithmetic, is_gated=False)
    if device.kernels is not None:
        return device.kernels.weight(weight.contiguous(), bias, arithmetic)
    return cpu_module().PackedWeight(weight.contiguous(), bias, arithmetic)


def pack_gated_weight(
    gate: Tensor,
    up: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    arithmetic: str,
    device: Device = CPU,
) -> Any:
    """Lay out the two matrices of a gated MLP as one weight, whose product is act(x @ gate.T) * (x @ up.T).

    gate and up [inner_size, in_features] of one dtype, float32 or bfloat16; each bias [inner_size] float32 or None;
    `arithmetic` as for `pack_weight`. Returns a PackedWeight with out_features = inner_size, of meta tensors its sizes.
    """
    if gate.is_meta:
        return _weight_of_shape(gate, gate_bias is not None or up_bias is not None, arithmetic, is_gated=True)
    gate, up = gate.contiguous(), up.contiguous()
    if device.kernels is not None:
        return device.kernels.gated_weight(gate, up, gate_bias, up_bias, arithmetic)
    return cpu_module().PackedWeight.gated(gate, up, gate_bias, up_bias, arithmetic)


def _weight_of_shape(weight: Tensor, has_bias: bool, arithmetic: str, *, is_gated: bool) -> Any:
    out_features, in_features = weight.shape
    return cpu_module().PackedWeight.of_shape(
        out_features=out_features,
        in_features=in_features,
        has_bias=has_bias,
        is_gated=is_gated,
        arithmetic=arithmetic,
    )


def linear(
    hidden_states: Tensor,
    weight: Any,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
    out: Tensor | None = None,
    out_dtype: Any = None,
    device: Device = CPU,
) -> Tensor:
    """activation(hidden_states @ weight.T + bias) + residual -> [num_tokens, out_features].

    hidden_states [num_tokens, in_features] float32 or bfloat16; residual [num_tokens, out_features] float32; out and
    out_dtype float32 (default) or bfloat16. A gated weight gives activation(gate product) * up product + residual.
    """
    import torch

    if out is None:
        out = _empty((hidden_states.shape[0], weight.out_features), hidden_states, out_dtype or torch.float32)
    _kernels(device).linear(hidden_states, weight, activation, residual, out)
    return out


def embed(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    word_embeddings: Tensor,
    position_embeddings: Tensor | None,
    token_type_embeddings: Tensor | None,
    task_type_embeddings: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    epsilon: float,
    out: Tensor | None = None,
    device: Device = CPU,
) -> Tensor:
    """LayerNorm of the sum of embedding rows -> [num_tokens, hidden_size] float32.

    Ids are int32 [num_tokens]; tables are [rows, hidden_size], all float32 or all bfloat16; an absent table is None,
    absent token_type_ids mean row 0, task_type_embeddings gives row 0 to every token (ERNIE). norm_weight None skips
    the LayerNorm. Raises ValueError for an id outside its table.
    """
    import torch

    if out is None:
        out = _empty((input_ids.shape[0], word_embeddings.shape[1]), word_embeddings, torch.float32)
    _kernels(device).embed(
        input_ids,
        position_ids,
        token_type_ids,
        word_embeddings,
        position_embeddings,
        token_type_embeddings,
        task_type_embeddings,
        norm_weight,
        norm_bias,
        epsilon,
        out,
    )
    return out


def layer_norm(
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    device: Device = CPU,
) -> Tensor:
    """LayerNorm(hidden_states + residual) over the last dimension -> [num_tokens, hidden_size]; all float32."""
    if out is None:
        out = _empty(tuple(hidden_states.shape), hidden_states)
    _kernels(device).layer_norm(hidden_states, weight, bias, epsilon, residual, out)
    return out


def rms_norm(
    hidden_states: Tensor, weight: Tensor, epsilon: float, out: Tensor | None = None, device: Device = CPU
) -> Tensor:
    """hidden_states / sqrt(mean(hidden_states^2) + epsilon) * weight over the last dimension; all float32.

    hidden_states and out [num_tokens, hidden_size], which may be one tensor; weight [hidden_size].
    """
    if out is None:
        out = _empty(tuple(hidden_states.shape), hidden_states)
    _kernels(device).rms_norm(hidden_states, weight, epsilon, out)
    return out


def rotary(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    position_ids: Tensor,
    *,
    is_interleaved: bool = False,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    epsilon: float = 0.0,
    device: Device = CPU,
) -> None:
    """Rotate q and k in place by the angles of their positions, each head after an RMSNorm where one is given.

    q [num_tokens, num_heads, head_dim], k [num_tokens, num_kv_heads, head_dim], float32 or bfloat16 alike; token
    strides are free, heads are contiguous. cos and sin float32 [num_positions, rotary_dim / 2], position_ids int32
    [num_tokens]; the first rotary_dim of a head turn, as pairs (i, i + rotary_dim / 2), or (2 i, 2 i + 1) where
    is_interleaved. q_norm and k_norm float32 [head_dim]. Arithmetic is float32. Raises ValueError for a position
    outside the tables.
    """
    _kernels(device).rotary(q, k, cos, sin, position_ids, is_interleaved, q_norm, k_norm, epsilon)


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_k: int | None = None,
    is_causal: bool = False,
    softmax_scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    soft_cap: float = 0.0,
    out: Tensor | None = None,
    device: Device = CPU,
) -> Tensor:
    """Softmax(q k^T * softmax_scale) v for every sequence -> [num_tokens, num_heads, head_dim].

    q [num_tokens, num_heads, head_dim], k and v [num_k_tokens, num_kv_heads, head_dim], float32 or bfloat16 alike;
    token strides are free, heads are contiguous. cu_seqlens int32 [num_seqs + 1] on the CPU; cu_seqlens_k defaults
    to it. Empty sequences are legal. Query i stands at key p = i + (seqlen_k - seqlen_q). It sees keys from
    p - window_size[0] to p + window_size[1], where -1 is no limit, and with is_causal none after p. softmax_scale
    defaults to head_dim ** -0.5. soft_cap > 0 turns scores s into soft_cap * tanh(s / soft_cap) before the mask.
    """
    if out is None:
        out = _empty(tuple(q.shape), q)
    cu_seqlens_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    max_seqlen_k = max_seqlen if max_seqlen_k is None else max_seqlen_k
    scale = q.shape[2] ** -0.5 if softmax_scale is None else softmax_scale
    left, right = window_size
    _kernels(device).attention_varlen(
        q, k, v, cu_seqlens, cu_seqlens_k, max_seqlen, max_seqlen_k, is_causal, scale, left, right, soft_cap, out
    )
    return out


def attention_schedule_size(num_tokens: int, num_seqs: int, device: Device = CPU) -> int:
    """Bytes `attention_schedule` needs for a batch of this size; 0 on the CPU, which has no schedule."""
    return 0 if device.kernels is None else device.kernels.attention_schedule_size(num_tokens, num_seqs)


def attention_schedule(
    cu_seqlens: Tensor, num_tokens: int, out: Tensor, *, is_causal: bool = False, device: Device = CPU
) -> None:
    """Into out (uint8, `attention_schedule_size` bytes): in which order attention over these sequences is computed.

    For every layer of a batch on CUDA, whatever its heads and windows; no result depends on it.
    """
    device.kernels.attention_schedule(cu_seqlens, num_tokens, out, is_causal)


def pool(
    hidden_states: Tensor, cu_seqlens: Tensor, pooling: str, out: Tensor | None = None, device: Device = CPU
) -> Tensor:
    """One row per sequence -> [num_seqs, hidden_size] float32.

    hidden_states [num_tokens, hidden_size] float32; pooling is "cls", "last_token" or "mean" (float32 sum in token
    order, divided by the count). ("all" needs no kernel: it is hidden_states itself.) Raises ValueError for an
    empty sequence.
    """
    if out is None:
        out = _empty((cu_seqlens.shape[0] - 1, hidden_states.shape[1]), hidden_states)
    _kernels(device).pool(hidden_states, cu_seqlens, pooling, out)
    return out


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cu_seqlens: Tensor,
    *,
    activation: str = "none",
    out: Tensor | None = None,
    device: Device = CPU,
) -> Tensor:
    """Each channel convolved over the tokens of its own sequence, none of them later -> [num_tokens, num_channels].

    out[t, c] = activation(bias[c] + sum over k of weight[k, c] * x[t - width + 1 + k, c]), where tokens before the
    first of a sequence count as zeros: torch's conv1d with groups = num_channels and width - 1 zeros on the left. x and
    out [num_tokens, num_channels], token strides are free, no memory is shared; weight [width, num_channels], its last
    row meets the token itself; bias [num_channels] or None; all float32. cu_seqlens int32 [num_seqs + 1]. Empty
    sequences are legal. activation: of ACTIVATIONS.
    """
    if out is None:
        out = _empty(tuple(x.shape), x)
    _kernels(device).causal_conv1d(x, weight, bias, cu_seqlens, activation, out)
    return out


def selective_scan(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    cu_seqlens: Tensor,
    *,
    z: Tensor | None = None,
    out: Tensor | None = None,
    device: Device = CPU,
) -> Tensor:
    """Mamba's selective state space model over every sequence -> [num_tokens, num_channels].

    After Gu and Dao 2023 (arXiv 2312.00752), equations 2 and 4, with B discretised by Euler's rule as in their code.
    Channel e has a state h [state_size], 0 before its sequence's first token; token t makes of it

        step = softplus(delta[t, e])
        h = exp(step * a[:, e]) * h + step * u[t, e] * b[t]
        out[t, e] = (c[t] . h + d[e] * u[t, e]) * silu(z[t, e])

    where z None leaves out the last factor. u, delta, z and out [num_tokens, num_channels]; b and c [num_tokens,
    state_size]; token strides are free, and out may be u, delta or z. a [state_size, num_channels], state_size up to
    64, not above 0; d [num_channels]; all float32. cu_seqlens int32 [num_seqs + 1]. Empty sequences are legal.
    """
    if out is None:
        out = _empty(tuple(u.shape), u)
    _kernels(device).selective_scan(u, delta, a, b, c, d, z, cu_seqlens, out)
    return out


def classifier_head(
    pooled: Tensor,
    classifier: Any,
    row_activations: Tensor,
    *,
    dense: Any = None,
    dense_activation: str = "tanh",
    logit_mean: float | None = None,
    logit_sigma: float | None = None,
    out: Tensor | None = None,
    device: Device = CPU,
) -> Tensor:
    """[dense + dense_activation] -> classifier -> (logits - mean) / sigma -> activation per row.

    Returns [num_rows, num_labels]. pooled [num_rows, hidden_size] float32; classifier and dense are PackedWeights of
    arithmetic "float32_fma"; row_activations uint8 [num_rows] of HEAD_ACTIVATIONS codes. float32 throughout. The
    order of operations is that of vLLM's pooling head (affine before activation, applied even to identity rows).
    """
    import torch

    if out is None:
        out = _empty((pooled.shape[0], classifier.out_features), pooled)
    buffer = None if dense is None else _empty((pooled.shape[0], dense.out_features), pooled, torch.float32)
    mean = 0.0 if logit_mean is None else logit_mean
    sigma = 1.0 if logit_sigma is None else logit_sigma
    kernels = _kernels(device)
    kernels.classifier_head(pooled, dense, dense_activation, classifier, mean, sigma, row_activations, buffer, out)
    return out


def takes_row_keys(hidden_size: int, head_dim: int, device: Device = CPU) -> bool:
    """Whether a layer of these sizes can have row_keys (`fused_layer`): on the CPU, where both are whole panels."""
    multiple: int = cpu_module().ROW_KEYS_MULTIPLE
    return device.kernels is None and hidden_size % multiple == 0 and head_dim % multiple == 0


def fused_layer(device: Device = CPU, *, row_keys: Any = None, **parts: Any) -> Any:
    """A transformer block of packed weights for `transformer_layer`; see `layers.TransformerLayer.fuse`.

    row_keys, where `takes_row_keys`: the key projection of each key head transposed, one below the other, packed
    [num_kv_heads * hidden_size, head_dim].
    """
    if device.kernels is None:
        return cpu_module().TransformerLayer(row_keys=row_keys, **parts)
    assert row_keys is None
    return device.kernels.layer(**parts)


def arithmetic_name(kind: str, device: Device = CPU) -> str:
    """How products of this arithmetic are computed there, in words."""
    return str(_kernels(device).arithmetic_name(kind))


def transformer_layer_workspace_size(layer: Any, num_tokens: int, num_seqs: int, device: Device = CPU) -> int:
    """Bytes of workspace `transformer_layer` needs for a batch of this size."""
    size: int = _kernels(device).transformer_layer_workspace_size(layer, num_tokens, num_seqs)
    return size


def transformer_layer_scratch_size(layer: Any, max_seqlen: int) -> int:
    """Bytes of scratch that `transformer_layer` has each thread keep, for sequences of up to max_seqlen tokens."""
    size: int = cpu_module().transformer_layer_scratch_size(layer, max_seqlen)
    return size


def transformer_layer(
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    layer: Any,
    workspace: Tensor,
    *,
    position_ids: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    rows: Tensor | None = None,
    rows_out: Tensor | None = None,
    schedule: Tensor | None = None,
    device: Device = CPU,
) -> Tensor:
    """One transformer block (norms, attention, residuals, MLP), fused.

    hidden_states [num_tokens, hidden_size] float32, updated in place and returned. `layer` comes
    from `fused_layer` (packed weights, norms, settings). workspace: uint8 tensor of `transformer_layer_workspace_size`
    bytes, 64-byte aligned (on CUDA 256). A layer with rotary positions takes position_ids int32
    [num_tokens] and the float32 tables cos and sin [num_positions, rotary_dim / 2]. With `rows` int32 [num_seqs] (the
    token index wanted of each sequence, in order) only those rows are computed, into rows_out [num_seqs, hidden_size],
    which is returned, and hidden_states is left alone; each row is bitwise what the full call gives, but for a layer
    with row_keys, which sums in another order. schedule, on CUDA: of `attention_schedule`; without one the layer makes
    its own.
    """
    tensors = (hidden_states, cu_seqlens, max_seqlen, layer, workspace, position_ids, cos, sin, rows, rows_out)
    if device.kernels is None:
        cpu_module().transformer_layer(*tensors)
    else:
        device.kernels.transformer_layer(*tensors, schedule)
    if rows is None:
        return hidden_states
    assert rows_out is not None
    return rows_out


def set_num_threads(num_threads: int) -> None:
    """Resize the kernel thread pool of this process. Raises ValueError unless 1 <= num_threads <= 1024."""
    cpu_module().set_num_threads(num_threads)


def set_gives_way(gives_way: bool) -> None:
    """Whether kernel threads of this process offer their core, about every millisecond, to a thread that waits for one.

    For a process that also answers: a kernel may let a thread that computes run to its next tick, some milliseconds,
    before one that has just woken. Results are the same either way.
    """
    cpu_module().set_gives_way(gives_way)


def release_free_memory() -> None:
    """Give freed memory back to the system that malloc would keep: after work that allocated much for a while."""
    cpu_module().release_free_memory()


def wake_threads() -> None:
    """Say that a kernel call follows within about a millisecond: the pool's threads wake meanwhile. Returns at once."""
    cpu_module().wake_threads()


def num_threads() -> int:
    """Threads in use: `set_num_threads`, else ASSAY_NUM_THREADS, else min(affinity, cgroup quota, OMP_NUM_THREADS)."""
    count: int = cpu_module().num_threads()
    return count


def available_isas() -> tuple[str, ...]:
    """Instruction-set paths this machine can run, slowest first."""
    return tuple(cpu_module().available_isas())


def active_isa() -> str:
    """The path in use: ASSAY_FORCE_ISA where set, else the best available."""
    name: str = cpu_module().active_isa()
    return name
