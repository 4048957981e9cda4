"""The fused transformer layer: close to float64, equal to its parts bit for bit, batch invariant, rows where asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import reference
from assay import ops
from assay.layers import TransformerLayer
from layer_runs import aligned_bytes, make_batch, make_input, run
from reference_layer import FAMILIES, LLAMA, WRONG_WEIGHTS, Config, Layer

LENGTHS = [1, 33, 0, 14, 7, 64, 15, 16, 17, 300, 2]  # around row blocks, panels and windows; more than a tile of keys
SHORT = [5, 1, 40]
ARITHMETICS = ("float32", "bfloat16", "int8")
families = pytest.mark.parametrize("family", FAMILIES)
arithmetics = pytest.mark.parametrize("arithmetic", ARITHMETICS)


def inner_dtype(isa: str, arithmetic: str) -> torch.dtype:
    """What attention and the MLP pass on between products: bfloat16 where the ISA multiplies bfloat16 inputs."""
    native = isa in ("avx512_bf16", "amx", "amx_emulated")
    return torch.bfloat16 if arithmetic in ("bfloat16", "int8") and native else torch.float32


def from_parts(layer: Layer, x: Tensor, lengths: list[int], dtype: torch.dtype) -> Tensor:
    """The same block out of one kernel call per step."""
    c, batch, packed = layer.config, make_batch(lengths), layer.packed()

    def norm(x: Tensor, name: str) -> Tensor:
        if name not in layer.norms:
            return x
        weight, bias = layer.norms[name].weight, layer.norms[name].bias
        if c.norm == "rms":
            return ops.rms_norm(x, weight, c.epsilon)
        return ops.layer_norm(x, weight, bias, c.epsilon)

    def add(x: Tensor, inputs: Tensor, weight: str, side: str) -> Tensor:
        if f"{side}_out_norm" in layer.norms:
            total = x + norm(ops.linear(inputs, packed[weight]), f"{side}_out_norm")
        else:
            total = ops.linear(inputs, packed[weight], residual=x)
        return norm(total, f"{side}_residual_norm")

    qkv = ops.linear(norm(x, "attn_in_norm"), packed["qkv"], out_dtype=dtype).view(len(x), -1, c.head_dim)
    q, k, v = qkv.split([c.num_heads, c.num_kv_heads, c.num_kv_heads], dim=1)
    if layer.cos is not None and layer.sin is not None:
        ops.rotary(
            q,
            k,
            layer.cos,
            layer.sin,
            batch.position_ids,
            is_interleaved=c.is_rotary_interleaved,
            q_norm=layer.q_norm,
            k_norm=layer.k_norm,
            epsilon=c.epsilon,
        )
    context = ops.attention_varlen(
        q,
        k,
        v,
        batch.cu_seqlens,
        batch.max_seqlen,
        is_causal=c.is_causal,
        softmax_scale=c.softmax_scale,
        window_size=c.window_size,
        soft_cap=c.soft_cap,
        out=torch.empty(q.shape, dtype=dtype),
    )
    x = add(x, context.view(len(x), -1), "attn_out", "attn")
    wide = ops.linear(norm(x, "mlp_in_norm"), packed["mlp_up"], activation=c.activation, out_dtype=dtype)
    return add(x, wide, "mlp_down", "mlp")


@families
def test_transformer_layer_matches_float64(isa: str, family: str) -> None:
    layer = Layer(FAMILIES[family])
    c, x, positions = layer.config, make_input(LENGTHS, layer.config.hidden), make_batch(LENGTHS).position_ids
    exact = layer.reference(x, LENGTHS, positions, torch.float64)
    base = layer.reference(x, LENGTHS, positions, torch.float32)
    budget = reference.budget(base, exact, c.hidden + c.inner + max(LENGTHS))
    if isa.startswith("amx"):  # three-product form: 16-bit operands, see test_kernels_linear
        budget += 5e-5 * max(1.0, exact.abs().max().item())
    assert reference.max_err(run(layer, x, LENGTHS), exact) <= budget


@pytest.mark.parametrize("threads", [1, 2, 5])  # 5: fewer panels than threads, the spread variant
@arithmetics
@families
def test_transformer_layer_equals_its_parts(
    isa: str, family: str, arithmetic: str, threads: int, restore_threads: None
) -> None:
    ops.set_num_threads(threads)
    layer = Layer(FAMILIES[family], arithmetic)
    for lengths in (LENGTHS, SHORT, [1]):
        x = make_input(lengths, layer.config.hidden)
        assert torch.equal(run(layer, x, lengths), from_parts(layer, x, lengths, inner_dtype(isa, arithmetic)))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_float32_fma_is_a_layer_of_its_own_where_float32_is_tiles(isa: str, family: str, restore_threads: None) -> None:
    exact, fast = (Layer(FAMILIES[family], arithmetic) for arithmetic in ("float32_fma", "float32"))
    x = make_input(LENGTHS, exact.config.hidden)
    for threads in (1, 2):
        ops.set_num_threads(threads)
        out = run(exact, x, LENGTHS)
        assert torch.equal(out, from_parts(exact, x, LENGTHS, torch.float32))
        assert torch.equal(out, run(fast, x, LENGTHS)) != isa.startswith("amx")


@arithmetics
@pytest.mark.parametrize("family", ["bert", "gemma2", "modernbert_local", "everything"])
def test_transformer_layer_is_batch_invariant(isa: str, family: str, arithmetic: str, restore_threads: None) -> None:
    layer = Layer(FAMILIES[family], arithmetic)
    x = make_input(LENGTHS, layer.config.hidden)
    ops.set_num_threads(1)
    whole = run(layer, x, LENGTHS).split(LENGTHS)
    order = [3, 9, 0, 5, 1, 10, 7, 2, 8, 6, 4]
    pieces = x.split(LENGTHS)
    for threads in (1, 2):
        ops.set_num_threads(threads)
        for i, piece in enumerate(pieces):
            assert torch.equal(run(layer, piece, [LENGTHS[i]]), whole[i])
        shuffled = run(layer, torch.cat([pieces[i] for i in order]), [LENGTHS[i] for i in order])
        assert torch.equal(shuffled, torch.cat([whole[i] for i in order]))


@arithmetics
@families
def test_transformer_layer_rows_equal_the_full_layer(
    isa: str, family: str, arithmetic: str, restore_threads: None
) -> None:
    layer = Layer(FAMILIES[family], arithmetic)
    lengths = [length for length in LENGTHS if length > 0]
    x, offsets = make_input(lengths, layer.config.hidden), reference.cu_seqlens(lengths)
    full = run(layer, x, lengths)
    middle = offsets[:-1] + offsets.diff() // 2
    for threads in (1, 2):
        ops.set_num_threads(threads)
        for rows in (offsets[:-1].contiguous(), middle, offsets[1:] - 1):
            assert torch.equal(run(layer, x, lengths, rows), full[rows.long()])


@arithmetics
@pytest.mark.parametrize("inner", [205, 384, 385, 1000])  # around the parts of 384 that a down projection adds up
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_transformer_layer_takes_wide_models(
    isa: str, family: str, inner: int, arithmetic: str, restore_threads: None
) -> None:
    """Several column panels and row blocks a thread, a head_dim the panels do not divide, inner sizes in parts."""
    sizes = {"hidden": 120, "inner": inner, "num_heads": 5, "head_dim": 40}
    if family == "llama":
        sizes |= {"num_kv_heads": 1, "rotary_dim": 40}
    else:
        sizes |= {"num_kv_heads": 5}
    config = replace(FAMILIES[family], **sizes)
    layer = Layer(config, arithmetic)
    lengths = [130, 90, 1]
    x, offsets = make_input(lengths, 120), reference.cu_seqlens(lengths)
    whole = from_parts(layer, x, lengths, inner_dtype(isa, arithmetic))
    for threads in (1, 2, 4):
        ops.set_num_threads(threads)
        assert torch.equal(run(layer, x, lengths), whole)
        assert torch.equal(run(layer, x, lengths, offsets[1:] - 1), whole[offsets[1:].long() - 1])


def test_transformer_layer_with_weights_beyond_the_cache_has_the_same_bits_at_every_cut(
    isa: str, restore_threads: None
) -> None:
    """On AMX a few tokens of such a layer are spread over output features, more are cut into blocks of tokens."""
    sizes = {"hidden": 768, "inner": 3072, "num_heads": 12, "num_kv_heads": 12, "head_dim": 64}
    layer = Layer(replace(FAMILIES["bert"], **sizes), "bfloat16")
    lengths = [64, 36]
    x = make_input(lengths, 768)
    ops.set_num_threads(1)
    whole = run(layer, x, lengths)
    ops.set_num_threads(2)
    assert torch.equal(run(layer, x, lengths), whole)
    assert torch.equal(run(layer, x[64:].contiguous(), [36]), whole[64:])


def test_transformer_layer_keeps_a_bad_sequence_to_itself(isa: str) -> None:
    layer = Layer(FAMILIES["everything"])
    lengths = [9, 20, 14]
    x = make_input(lengths, layer.config.hidden)
    clean = run(layer, x, lengths)
    x[12, 3] = float("nan")
    out = run(layer, x, lengths)
    assert torch.equal(out[:9], clean[:9])
    assert torch.equal(out[29:], clean[29:])
    assert out[12].isnan().all()


def test_transformer_layer_takes_no_tokens(isa: str) -> None:
    layer = Layer(LLAMA)
    assert run(layer, torch.empty(0, LLAMA.hidden), [0, 0]).shape == (0, LLAMA.hidden)


@pytest.mark.parametrize(("changes", "message"), WRONG_WEIGHTS, ids=str)
def test_transformer_layer_refuses_wrong_weights(changes: dict[str, Any], message: str) -> None:
    layer = Layer(LLAMA)
    packed = layer.packed()
    changes = {name: packed.get(value, value) if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        layer.fuse(**changes)


def test_transformer_layer_refuses_mixed_weights() -> None:
    layer = Layer(LLAMA)
    with pytest.raises(ValueError, match="must be packed for one instruction set and arithmetic"):
        layer.fuse(attn_out=Layer(LLAMA, "bfloat16").packed()["attn_out"])
    with pytest.raises(ValueError, match="must be packed for one instruction set and arithmetic"):
        layer.fuse(attn_out=Layer(LLAMA, "float32_fma").packed()["attn_out"])
    with pytest.raises(ValueError, match=r"mlp_up must be a gated weight \(pack_gated_weight\), got a plain one"):
        Layer(replace(LLAMA, is_gated=False)).fuse(is_gated=True)
    square = ops.pack_gated_weight(torch.ones(48, 64), torch.ones(48, 64), None, None, "float32")
    with pytest.raises(ValueError, match="only mlp_up may be a gated weight"):
        layer.fuse(attn_out=square)


def test_transformer_layer_refuses_wrong_norms() -> None:
    biased = Layer(replace(LLAMA, norm="layer", has_norm_bias=True))
    with pytest.raises(ValueError, match=r"attn_in_norm\.bias must be None for norm='rms'"):
        biased.fuse(norm="rms")
    with pytest.raises(ValueError, match=r"mlp_out_norm\.weight must have shape \[48\], got \[16\]"):
        Layer(LLAMA).fuse(mlp_out_norm=Layer(Config(hidden=16)).norms["mlp_in_norm"])


def call(layer: TransformerLayer, **changes: Any) -> None:
    """The layer of LLAMA on 4 tokens of one sequence, with arguments replaced."""
    tables = torch.ones(9, 8)
    arguments: dict[str, Any] = dict(
        hidden_states=make_input([4], 48),
        cu_seqlens=reference.cu_seqlens([4]),
        max_seqlen=4,
        workspace=aligned_bytes(layer.workspace_size(4, 1)),
        position_ids=torch.arange(4).int(),
        cos=tables,
        sin=tables,
    )
    ops.transformer_layer(layer=layer.packed, **{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_states": torch.zeros(4, 47)}, r"hidden_states must have shape \[\*, 48\], got \[4, 47\]"),
        ({"max_seqlen": 3}, "max_seqlen must be >= 4, got 3"),
        ({"cos": None}, "cos must be a torch.Tensor, got None"),
        ({"cos": torch.ones(9, 7)}, r"cos must have shape \[\*, 8\], got \[9, 7\]"),
        ({"sin": torch.ones(8, 8)}, r"sin must have shape \[9, 8\], got \[8, 8\]"),
        ({"sin": torch.ones(9, 8).bfloat16()}, "sin must be float32, got bfloat16"),
        ({"position_ids": torch.arange(4)}, "position_ids must be .*, got torch.int64"),
        ({"position_ids": torch.arange(5).int()}, r"position_ids must have shape \[4\], got \[5\]"),
        ({"position_ids": torch.arange(6, 10).int()}, r"position_ids must be in \[0, 9\), got 9 at index 3"),
        ({"workspace": torch.zeros(64, dtype=torch.uint8)}, "workspace must have .* bytes, got 64"),
        ({"rows": torch.tensor([1]).int()}, "rows_out must be given with rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_transformer_layer_refuses_wrong_calls(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Layer(LLAMA).layer, **changes)


def test_transformer_layer_refuses_wrong_rows_and_memory() -> None:
    layer = Layer(LLAMA).layer
    with pytest.raises(ValueError, match=r"rows\[0\] must be a token of sequence 0, got 4"):
        call(layer, rows=torch.tensor([4]).int(), rows_out=torch.empty(1, 48))
    with pytest.raises(ValueError, match=r"rows_out must have shape \[1, 48\], got \[2, 48\]"):
        call(layer, rows=torch.tensor([3]).int(), rows_out=torch.empty(2, 48))
    with pytest.raises(ValueError, match="sequence 0 is empty"):
        offsets = reference.cu_seqlens([0, 4])
        call(layer, cu_seqlens=offsets, rows=torch.tensor([0, 1]).int(), rows_out=torch.empty(2, 48))
    with pytest.raises(ValueError, match="workspace must be 64-byte aligned"):
        call(layer, workspace=aligned_bytes(layer.workspace_size(4, 1) + 8)[8:])
    with pytest.raises(ValueError, match="cos and sin must be None for a layer of rotary_dim 0"):
        call(Layer(replace(LLAMA, rotary_dim=0)).layer)
