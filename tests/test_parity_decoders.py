"""Decoders and modern encoders against transformers: logits in float32 and bfloat16 on every ISA, at many lengths."""

from __future__ import annotations

from statistics import median

import pytest
import torch

import cpu_isas
from assay.batch import Sequence
from parity import float32_budget, load, max_error, mean_error, run
from tiny_decoders import CASES, LENGTHS, answers

STRIDE = {"scalar": 4, "amx_emulated": 4, "emulated": 2}
"""Slow paths run a part of the inputs, the longest among them."""
THREE_PRODUCTS_SLACK = {"gte-mixed-ntk": 1.6}
"""On AMX tiles dtype="auto" computes float32 from three bfloat16 products. Of these models, which magnify in their few
layers what is lost, one takes 1.5 times the budget, the others at most 0.8 (docs/kernels-linear.md). dtype="float32"
keeps it."""
BFLOAT16_BUDGET = 1.1
NUM_SEEDS = 5
"""Of random weights, where one set is not enough to tell."""


def _chosen(isa, rows):
    return rows[:: -STRIDE.get(cpu_isas.kind(isa), 1)]


@pytest.mark.parametrize("name", CASES)
def test_float32_logits_match_transformers(name, isa, tmp_path_factory):
    expected = answers(tmp_path_factory, name)
    model = load(expected.folder)
    assert model.dtype == "float32"
    ours = run(model, [Sequence(ids) for ids in _chosen(isa, expected.ids)])
    slack = THREE_PRODUCTS_SLACK.get(name, 1.0) if isa.startswith("amx") else 1.0
    assert max_error(ours, _chosen(isa, expected.float32)) <= slack * float32_budget(expected.float32)


@pytest.mark.parametrize("name", CASES)
def test_float32_by_name_is_plain_multiply_adds_on_every_isa(name, isa, tmp_path_factory):
    expected = answers(tmp_path_factory, name)
    few = range(len(LENGTHS) - 1, 0, -4)
    inputs = [Sequence(expected.ids[idx]) for idx in few]
    model, auto = load(expected.folder, dtype="float32"), load(expected.folder)
    assert (model.product_arithmetic, auto.product_arithmetic) == ("float32_fma", "float32")
    ours = run(model, inputs)
    assert max_error(ours, [expected.float32[idx] for idx in few]) <= 0.25 * float32_budget(expected.float32)
    same = all(torch.equal(a, b) for a, b in zip(ours, run(auto, inputs), strict=True))
    assert same != isa.startswith("amx")


def _bfloat16_ratios(expected, isa):
    """Our largest and our mean error in bfloat16, in transformers' own."""
    ours = run(load(expected.folder, dtype="bfloat16"), [Sequence(ids) for ids in _chosen(isa, expected.ids)])
    exact, theirs = _chosen(isa, expected.float32), _chosen(isa, expected.bfloat16)
    largest = max_error(ours, exact) / max_error(expected.bfloat16, expected.float32)
    return largest, mean_error(ours, exact) / mean_error(theirs, exact)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_logits_are_as_close_as_transformers_bfloat16(name, isa, tmp_path_factory):
    """The mean error with one set of weights; the largest with that one, or as the median over five.

    The largest error is one input's on either side, however many inputs there are. On AMX the median over 214 sets of
    random weights is 0.62 of transformers', and ten sets are above 1.1; the RMS error is 0.45 to 0.85 of theirs in all.
    """
    largest, mean = _bfloat16_ratios(answers(tmp_path_factory, name), isa)
    assert mean <= BFLOAT16_BUDGET
    if largest > BFLOAT16_BUDGET:
        others = (answers(tmp_path_factory, name, seed) for seed in range(1, NUM_SEEDS))
        assert median([largest, *(_bfloat16_ratios(other, isa)[0] for other in others)]) <= BFLOAT16_BUDGET
