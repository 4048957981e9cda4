"""Decoders and modern encoders against transformers: logits in float32 and bfloat16 on every ISA, at many lengths."""

from __future__ import annotations

import pytest

from assay.batch import Sequence
from parity import float32_budget, load, max_error, mean_error, run
from tiny_decoders import CASES, answers

STRIDE = {"scalar": 4, "amx_emulated": 4}
"""Slow paths run every fourth input, the longest among them."""


def _chosen(isa, rows):
    return rows[:: -STRIDE.get(isa, 1)]


@pytest.mark.parametrize("name", CASES)
def test_float32_logits_match_transformers(name, isa, tmp_path_factory):
    expected = answers(tmp_path_factory, name)
    model = load(expected.folder)
    assert model.dtype == "float32"
    ours = run(model, [Sequence(ids) for ids in _chosen(isa, expected.ids)])
    assert max_error(ours, _chosen(isa, expected.float32)) <= float32_budget(expected.float32)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_logits_are_as_close_as_transformers_bfloat16(name, isa, tmp_path_factory):
    expected = answers(tmp_path_factory, name)
    ours = run(load(expected.folder, dtype="bfloat16"), [Sequence(ids) for ids in _chosen(isa, expected.ids)])
    exact, theirs = _chosen(isa, expected.float32), _chosen(isa, expected.bfloat16)
    assert max_error(ours, exact) <= 1.1 * max_error(expected.bfloat16, expected.float32)
    assert mean_error(ours, exact) <= 1.1 * mean_error(theirs, exact)
