"""A layer with row_keys, whose rows need no keys and values: as close to float64 as without, and batch invariant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import reference
from assay import ops
from layer_runs import aligned_bytes, make_batch, make_input, run
from reference_layer import FAMILIES, Config, Layer

LENGTHS = [1, 33, 14, 7, 64, 31, 32, 65, 300, 2]  # around tiles of 32 keys; many of them
ARITHMETICS = ("float32", "bfloat16", "int8")
BERT = replace(FAMILIES["bert"], hidden=64, inner=96, num_heads=2, num_kv_heads=2, head_dim=32, softmax_scale=0.4)
CONFIGS = {
    "bert": BERT,
    "many_heads": replace(BERT, hidden=96, num_heads=17, num_kv_heads=17),  # more than rows of a tile, no equal groups
    "grouped": replace(BERT, num_heads=6, num_kv_heads=2, head_dim=64),
    "causal": replace(BERT, is_causal=True),
    "window": replace(BERT, window_size=(40, 3)),
    "causal_window": replace(BERT, num_kv_heads=1, is_causal=True, window_size=(0, -1), has_bias=False),
    "out_norms": Config(
        hidden=64,
        num_heads=2,
        num_kv_heads=1,
        head_dim=96,
        norms=("attn_out_norm", "mlp_in_norm", "mlp_out_norm"),
        rotary_dim=0,
        is_causal=False,
    ),
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
arithmetics = pytest.mark.parametrize("arithmetic", ARITHMETICS)


def wanted_rows(lengths: list[int]) -> dict[str, Tensor]:
    offsets = reference.cu_seqlens(lengths)
    return {
        "cls": offsets[:-1].contiguous(),
        "middle": offsets[:-1] + offsets.diff() // 2,
        "last_token": offsets[1:] - 1,
    }


@configs
def test_folded_rows_match_float64(isa: str, config: Config) -> None:
    layer, x, positions = Layer(config, has_row_keys=True), make_input(LENGTHS, config.hidden), make_batch(LENGTHS)
    exact = layer.reference(x, LENGTHS, positions.position_ids, torch.float64)
    base = layer.reference(x, LENGTHS, positions.position_ids, torch.float32)
    # One more product of head_dim terms stands between a query and its scores than in the reference.
    budget = reference.budget(base, exact, config.hidden + config.inner + config.head_dim + max(LENGTHS))
    if isa.startswith("amx"):  # three-product form: 16-bit operands, see test_kernels_linear
        budget += 5e-5 * max(1.0, exact.abs().max().item())
    for rows in wanted_rows(LENGTHS).values():
        assert reference.max_err(run(layer, x, LENGTHS, rows), exact[rows.long()]) <= budget


@arithmetics
@configs
def test_folded_rows_are_no_worse_than_unfolded_ones(isa: str, config: Config, arithmetic: str) -> None:
    """In 16 or 8 bits other numbers are rounded, so the errors are others, but as a whole not larger."""
    folded, plain = Layer(config, arithmetic, has_row_keys=True), Layer(config, arithmetic)
    x = make_input(LENGTHS, config.hidden)
    exact = folded.reference(x, LENGTHS, make_batch(LENGTHS).position_ids, torch.float64)

    def error(layer: Layer) -> float:
        parts = [run(layer, x, LENGTHS, rows) - exact[rows.long()] for rows in wanted_rows(LENGTHS).values()]
        return torch.cat(parts).square().mean().sqrt().item()

    assert error(folded) <= 1.5 * error(plain)


@arithmetics
@pytest.mark.parametrize("name", ["bert", "many_heads", "grouped", "causal_window"])
def test_folded_rows_are_batch_invariant(isa: str, name: str, arithmetic: str, restore_threads: None) -> None:
    layer = Layer(CONFIGS[name], arithmetic, has_row_keys=True)
    x = make_input(LENGTHS, layer.config.hidden)
    pieces = x.split(LENGTHS)
    order = [3, 9, 0, 5, 1, 7, 2, 8, 6, 4]
    shuffled = torch.cat([pieces[i] for i in order])
    shuffled_lengths = [LENGTHS[i] for i in order]
    for kind, rows in wanted_rows(LENGTHS).items():
        ops.set_num_threads(1)
        whole = run(layer, x, LENGTHS, rows)
        for threads in (1, 2, 5):
            ops.set_num_threads(threads)
            assert torch.equal(run(layer, x, LENGTHS, rows), whole)
            for i, piece in enumerate(pieces):
                (row,) = run(layer, piece, [LENGTHS[i]], wanted_rows([LENGTHS[i]])[kind])
                assert torch.equal(row, whole[i])
            assert torch.equal(
                run(layer, shuffled, shuffled_lengths, wanted_rows(shuffled_lengths)[kind]), whole[order]
            )


def test_folded_rows_in_many_short_sequences_are_batch_invariant(isa: str, restore_threads: None) -> None:
    """More rows than a block of a head's product, and more than a panel."""
    layer = Layer(BERT, has_row_keys=True)
    lengths = [1 + i % 3 for i in range(150)]
    x, rows = make_input(lengths, BERT.hidden), wanted_rows(lengths)["last_token"]
    ops.set_num_threads(1)
    alone = [run(layer, piece, [len(piece)], torch.tensor([len(piece) - 1]).int()) for piece in x.split(lengths)]
    for threads in (1, 2, 5):
        ops.set_num_threads(threads)
        assert torch.equal(run(layer, x, lengths, rows), torch.cat(alone))


@arithmetics
def test_row_keys_leave_the_full_layer_as_it_is(isa: str, arithmetic: str) -> None:
    x = make_input(LENGTHS, BERT.hidden)
    folded, plain = (Layer(BERT, arithmetic, has_row_keys=has_row_keys) for has_row_keys in (True, False))
    assert torch.equal(run(folded, x, LENGTHS), run(plain, x, LENGTHS))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_folded_rows_keep_a_bad_sequence_to_themselves(isa: str, value: float) -> None:
    """Also after it: what it leaves in scratch is never read."""
    layer = Layer(BERT, has_row_keys=True)
    lengths = [9, 70, 14]
    x, rows = make_input(lengths, BERT.hidden), wanted_rows(lengths)["cls"]
    clean = run(layer, x, lengths, rows)
    bad = x.clone()
    bad[50, 3] = value
    out = run(layer, bad, lengths, rows)
    assert torch.equal(out[[0, 2]], clean[[0, 2]])
    assert out[1].isnan().all()
    bad[:] = float("nan")
    run(layer, bad, lengths, rows)
    assert torch.equal(run(layer, x, lengths, rows), clean)


def test_folded_rows_need_no_room_for_keys_and_values_of_all_tokens(isa: str) -> None:
    """A workspace of exactly what is asked for suffices, and no byte behind it is touched."""
    layer = Layer(BERT, has_row_keys=True)
    lengths = [40, 3]
    x, rows = make_input(lengths, BERT.hidden), wanted_rows(lengths)["cls"]
    batch, out = make_batch(lengths), reference.poisoned(2, BERT.hidden)
    with pytest.raises(ValueError, match=r"workspace must have \d+ bytes, got 64") as refusal:
        layer.layer(x, batch, aligned_bytes(64), rows=rows, rows_out=out)
    needed = int(str(refusal.value).split()[3])
    assert needed <= layer.layer.workspace_size(43, 2)
    memory = aligned_bytes(needed + 256)
    layer.layer(x, batch, memory[:needed], rows=rows, rows_out=out)
    assert bool((memory[needed:] == 0xFF).all())
    assert torch.equal(out, run(layer, x, lengths, rows))


def test_row_keys_count_among_a_layers_bytes(isa: str) -> None:
    folded, plain = Layer(BERT, has_row_keys=True), Layer(BERT)
    assert folded.layer.packed.size_bytes - plain.layer.packed.size_bytes == folded.row_keys().size_bytes > 0


ROTARY = replace(BERT, rotary_dim=32)
WRONG: list[tuple[Config, str]] = [
    (ROTARY, "row_keys must be None for a layer with rotary positions, q_norm, k_norm, attn_in_norm or a soft cap"),
    (replace(BERT, has_head_norms=True), "row_keys must be None for a layer with"),
    (replace(BERT, norms=("attn_in_norm", "mlp_in_norm")), "row_keys must be None for a layer with"),
    (replace(BERT, soft_cap=5.0), "row_keys must be None for a layer with"),
    (replace(BERT, head_dim=48), "multiples of 32, got 64 and 48"),
    (replace(BERT, hidden=80), "multiples of 32, got 80 and 32"),
]


@pytest.mark.parametrize(("config", "message"), WRONG, ids=["rotary", "norms", "in_norm", "cap", "head", "hidden"])
def test_a_layer_that_cannot_be_folded_refuses_row_keys(config: Config, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layer(config, has_row_keys=True)


def test_wrong_row_keys_are_refused() -> None:
    layer = Layer(BERT)
    wrong: list[tuple[Any, str]] = [
        (ops.pack_weight(torch.ones(64, 32), None, "float32"), r"row_keys must be \[128, 32\], got \[64, 32\]"),
        (ops.pack_weight(torch.ones(128, 32), torch.ones(128), "float32"), "row_keys must have no bias"),
        (ops.pack_weight(torch.ones(128, 32), None, "bfloat16"), "one instruction set and arithmetic"),
    ]
    for row_keys, message in wrong:
        with pytest.raises(ValueError, match=message):
            layer.fuse(row_keys=row_keys)


@pytest.mark.parametrize(("sizes", "expected"), [((384, 32), True), ((64, 16), False), ((80, 32), False)])
def test_row_keys_are_for_whole_panels(sizes: tuple[int, int], expected: bool) -> None:
    assert ops.takes_row_keys(*sizes) is expected
