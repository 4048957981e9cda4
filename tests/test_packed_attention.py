"""transformers' attention interface on packed sequences: mask rules read as windows, and what is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import masking_utils as masks

from assay.batch import Sequence, pack
from assay.errors import UnsupportedModelError
from assay.models.packed_attention import SEQUENCES, MaskRule, PackedSequences, attention, mask_rule

LENGTHS = [3, 1, 200, 17]
RULES = {
    "causal": masks.causal_mask_function,
    "bidirectional": masks.bidirectional_mask_function,
    "sliding causal": masks.sliding_window_causal_mask_function(64),
    "sliding bidirectional": masks.sliding_window_bidirectional_mask_function(20),
}


def packed(lengths):
    sequences = PackedSequences()
    sequences.start(pack([Sequence([0] * length) for length in lengths]))
    return sequences


def dense_mask(rule, length):
    return masks.sdpa_mask(1, length, length, mask_function=rule, allow_is_causal_skip=False)[0, 0]


@pytest.mark.parametrize("longest", [1, 2, 20, 21, 22, 63, 64, 65, 200])
@pytest.mark.parametrize("name", RULES)
def test_mask_rule_gives_the_window_of_the_mask_transformers_would_fill(name, longest):
    left, right = mask_rule(mask_function=RULES[name]).window(packed([2, longest, 1]))
    index = torch.arange(longest)
    distance = index.unsqueeze(1) - index
    ours = torch.ones(longest, longest, dtype=torch.bool)
    if left >= 0:
        ours &= distance <= left
    if right >= 0:
        ours &= distance >= -right
    assert torch.equal(ours, dense_mask(RULES[name], longest))


@pytest.mark.parametrize(
    "rule",
    [
        masks.chunked_causal_mask_function(16, torch.zeros(1, dtype=torch.int)),
        masks.or_masks(masks.causal_mask_function, lambda batch, head, query, key: key < 5),
        masks.and_masks(masks.causal_mask_function, lambda batch, head, query, key: key != 7),
    ],
    ids=["chunks", "prefix", "hole"],
)
def test_a_rule_that_is_no_window_is_refused(rule):
    with pytest.raises(UnsupportedModelError, match="not a window around each token"):
        MaskRule(rule).window(packed([40]))


def test_a_padding_mask_is_accepted_only_where_it_hides_nothing():
    hidden = torch.tensor([[True, True, False]])
    assert mask_rule(mask_function=masks.causal_mask_function, attention_mask=torch.ones(1, 3)).window(packed([3]))
    with pytest.raises(UnsupportedModelError, match="an attention mask of its own"):
        mask_rule(mask_function=masks.causal_mask_function, attention_mask=hidden)


def call(mask, lengths=LENGTHS, **kwargs):
    module = torch.nn.Identity()
    setattr(module, SEQUENCES, packed(lengths))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, sum(lengths), 16, generator=generator) for heads in (4, 2, 2))
    return (q, k, v), attention(module, q, k, v, mask, **kwargs)[0]


@pytest.mark.parametrize("name", RULES)
def test_attention_matches_a_masked_softmax_of_each_sequence(name):
    (q, k, v), out = call(mask_rule(mask_function=RULES[name]), scaling=0.3)
    assert out.shape == (1, sum(LENGTHS), 4, 16)
    start = 0
    for length in LENGTHS:
        rows = slice(start, start + length)
        keys, values = (part[0, :, rows].repeat_interleave(2, dim=0).double() for part in (k, v))
        scores = q[0, :, rows].double() @ keys.transpose(1, 2) * 0.3
        scores = scores.masked_fill(~dense_mask(RULES[name], length), -torch.inf)
        exact = (scores.softmax(dim=-1) @ values).transpose(0, 1)
        assert (out[0, rows] - exact).abs().max() <= 2e-6 * values.abs().max()
        start += length


def test_no_mask_means_that_every_token_sees_every_other():
    _, without = call(None)
    _, bidirectional = call(mask_rule(mask_function=masks.bidirectional_mask_function))
    assert torch.equal(without, bidirectional)


@pytest.mark.parametrize(
    ("mask", "kwargs", "message"),
    [
        (torch.zeros(1, 1, 3, 3), {}, "uses a mask tensor"),
        (None, {"s_aux": torch.zeros(4)}, "adds s_aux to the attention scores"),
        (None, {"position_bias": torch.zeros(4)}, "adds position_bias to the attention scores"),
    ],
)
def test_what_packed_attention_cannot_do_is_refused(mask, kwargs, message):
    with pytest.raises(UnsupportedModelError, match=message):
        call(mask, **kwargs)


def test_queries_that_are_not_the_packed_tokens_are_refused():
    module = torch.nn.Identity()
    setattr(module, SEQUENCES, packed([4]))
    q, kv = torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 4, 16)
    with pytest.raises(UnsupportedModelError, match="one row of 4 tokens was expected"):
        attention(module, q, kv, kv, None)


def test_a_call_outside_a_forward_pass_is_refused():
    tensor = torch.zeros(1, 2, 4, 16)
    with pytest.raises(UnsupportedModelError, match="outside a packed forward pass"):
        attention(torch.nn.Identity(), tensor, tensor, tensor, None)
