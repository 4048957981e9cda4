"""Attention with relative positions, one sequence at a time: distances, biases and convolutions are transformers'."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.deberta.modeling_deberta import build_relative_position as every_distance
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position as bucketed_distance

import tiny_transformers
from assay.batch import Sequence, pack
from assay.models.packed_attention import PackedSequences
from assay.models.relative_attention import attend_each, by_pair
from assay.models.relative_convolution import is_packable, pack_convolution
from assay.models.relative_deberta import DistanceTerms, embedding_rows
from assay.models.relative_mpnet import DistanceBias
from parity import float32_budget, max_error
from test_transformers_path import load, run

SEQUENCE = "ForSequenceClassification"
MAX_LEN = 320
LENGTHS = [1, 2, 37, 1, 200]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def packed(lengths):
    sequences = PackedSequences()
    sequences.start(pack([Sequence([0] * length) for length in lengths]))
    return sequences


def rows_by_pair(rows, length):
    """[length, length]: what `rows` says of each query minus key."""
    index = torch.arange(length)
    return rows[index.unsqueeze(1) - index + len(rows) // 2]


def test_by_pair_picks_the_column_of_each_distance():
    products = random(3, 5, 9)
    index = torch.arange(5)
    columns = (index - index.unsqueeze(1) + 4).expand(3, 5, 5)
    assert torch.equal(by_pair(products), products.gather(2, columns))


@pytest.mark.parametrize("length", [1, 2, 16, 17, 37, 319, 320])
@pytest.mark.parametrize(("num_buckets", "span"), [(-1, 320), (-1, 60), (32, 320), (20, 512), (256, 512)])
def test_distances_take_the_embeddings_transformers_gives_them(num_buckets, span, length):
    encoder = torch.nn.Identity()
    encoder.max_relative_positions, encoder.position_buckets = span, num_buckets
    tokens = torch.zeros(1, length, 4)
    theirs = bucketed_distance(tokens, tokens, num_buckets, span)[0]
    size = num_buckets if num_buckets > 0 else span
    assert torch.equal(rows_by_pair(embedding_rows(encoder, MAX_LEN), length), (theirs + size).clamp(0, 2 * size - 1))
    if num_buckets < 0:
        del encoder.position_buckets  # DeBERTa v1 knows none
        assert torch.equal(theirs, every_distance(tokens, tokens)[0])
        assert torch.equal(
            rows_by_pair(embedding_rows(encoder, MAX_LEN), length), (theirs + size).clamp(0, 2 * size - 1)
        )


@pytest.mark.parametrize("length", [1, 2, 37, 200, 320])
def test_the_bias_of_mpnet_is_that_of_its_encoder(length):
    config = transformers.MPNetConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=4)
    encoder = transformers.MPNetModel(config).encoder
    with torch.inference_mode():
        encoder.relative_attention_bias.weight.copy_(random(32, 4))
        values = encoder.relative_attention_bias(encoder.relative_position_bucket(torch.arange(1 - MAX_LEN, MAX_LEN)))
        scores = torch.zeros(4, length, length)
        DistanceBias(values.T.contiguous()).add(scores, scores, scores)
        assert torch.equal(scores, encoder.compute_position_bias(torch.zeros(1, length, 32))[0])


@pytest.mark.parametrize("has_pos_key", [True, False])
@pytest.mark.parametrize("has_pos_query", [True, False])
def test_attention_matches_the_formula_for_each_sequence(has_pos_key, has_pos_query):
    """A score is q k + q pos_key + k pos_query, each for its pair of tokens."""
    q, k, v = (random(sum(LENGTHS), 2, 16, seed=seed) for seed in range(3))
    pos_key, pos_query = (0.5 * random(2, 64, 16, seed=seed) for seed in (3, 4))
    rows = (torch.arange(1 - MAX_LEN, MAX_LEN) + 32).clamp(0, 63)
    terms = DistanceTerms(pos_key if has_pos_key else None, pos_query if has_pos_query else None, rows)
    out = attend_each(packed(LENGTHS), q, k, v, 0.2, terms.add)
    for got, queries, keys, values in zip(*(part.split(LENGTHS) for part in (out, q, k, v)), strict=True):
        queries, keys, values = (part.transpose(0, 1).double() for part in (0.2 * queries, keys, values))
        scores = queries @ keys.transpose(1, 2)
        index = rows_by_pair(rows, len(got))
        if has_pos_key:
            scores += torch.einsum("hqd,hqkd->hqk", queries, pos_key.double()[:, index])
        if has_pos_query:
            scores += torch.einsum("hkd,hqkd->hqk", keys, pos_query.double()[:, index])
        exact = (scores.softmax(dim=-1) @ values).transpose(0, 1).flatten(1)
        assert (got - exact).abs().max() <= 2e-6 * values.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_heads", [1, 3])
def test_a_sequence_attends_with_the_same_bits_wherever_it_lies(num_heads, dtype):
    """An odd width: rows of a batch begin anywhere in a vector."""
    q, k, v = (random(sum(LENGTHS), num_heads, 7, seed=seed).to(dtype) for seed in range(3))
    terms = DistanceTerms(random(num_heads, 64, 7), None, (torch.arange(1 - MAX_LEN, MAX_LEN) + 32).clamp(0, 63))
    together = attend_each(packed(LENGTHS), q, k, v, 0.2, terms.add).split(LENGTHS)
    for index, parts in enumerate(zip(*(part.split(LENGTHS) for part in (q, k, v)), strict=True)):
        alone = attend_each(packed(LENGTHS[index : index + 1]), *parts, 0.2, terms.add)
        assert torch.equal(together[index], alone)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_convolution_stays_within_each_sequence(kernel_size):
    conv = torch.nn.Conv1d(24, 40, kernel_size, padding=kernel_size // 2)
    parts = [random(1, 24, length, seed=length) for length in LENGTHS]
    with torch.inference_mode():
        exact = torch.cat([conv(part) for part in parts], dim=2)
        pack_convolution(conv, packed(LENGTHS), "float32")
        assert (conv(torch.cat(parts, dim=2)) - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_what_is_no_product_of_neighbours_is_no_packable_convolution():
    assert is_packable(torch.nn.Conv1d(4, 4, 3))
    assert not is_packable(torch.nn.Conv1d(4, 4, 3, groups=2))
    assert not is_packable(torch.nn.Conv1d(4, 4, 2))


OPTIONS = {
    "c2p only": ("DebertaV2", {"pos_att_type": ["c2p"]}),
    "p2c only": ("DebertaV2", {"pos_att_type": ["p2c"]}),
    "named in one text": ("DebertaV2", {"pos_att_type": "c2p|p2c"}),
    "neither": ("DebertaV2", {"pos_att_type": []}),
    "not shared": ("DebertaV2", {"share_att_key": False}),
    "not bucketed": ("DebertaV2", {"position_buckets": -1}),
    "another pooler": ("DebertaV2", {"pooler_hidden_act": "tanh", "type_vocab_size": 2}),
    "v1, c2p only": ("Deberta", {"pos_att_type": ["c2p"]}),
    "v1, p2c only": ("Deberta", {"pos_att_type": ["p2c"]}),
    "v1, absolute": ("Deberta", {"relative_attention": False, "position_biased_input": True}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_deberta_matches_transformers(name, tmp_path):
    kind, changes = OPTIONS[name]
    folder = tiny_transformers.make(tmp_path / "model", kind, **changes)
    exact = tiny_transformers.logits(folder, kind + SEQUENCE, tiny_transformers.sequences(8))
    assert max_error(run(load(folder), tiny_transformers.sequences(8)), exact) <= float32_budget(exact)
