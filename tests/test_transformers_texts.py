"""Texts and pairs of architectures that run through transformers: ids are their tokenizers', scores transformers'."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
import transformers

import tiny_models
import tiny_transformers
from assay import LLM
from assay.files import resolve_model
from assay.tokenizer import Tokenizer
from parity import hf_encoding
from tiny_models import all_inputs

MAX_LENGTH = 128
QUERY = "how long does the battery last"
DOCS = ["Two days of battery is worth the weight!", "", "the lens is  soft\nat f/1.8", "naïve café " * 8]


def deberta_v2_tokenizer():
    """DeBERTa v2's and v3's kind: Unigram, and BERT's pairs."""
    special = [(name, 0.0) for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    vocab = [*special, *tiny_models.unigram_pieces(500), ("[MASK]", 0.0)]
    return transformers.DebertaV2Tokenizer(vocab=vocab, model_max_length=MAX_LENGTH)


def deberta_tokenizer():
    """DeBERTa v1's kind: byte-level, and BERT's pairs."""
    model = json.loads(tiny_models.byte_bpe_tokenizer().backend_tokenizer.to_str())["model"]
    names = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    vocab = dict(zip(names, range(len(names)), strict=True))
    vocab |= {piece: index for piece, index in model["vocab"].items() if index >= len(names)}
    merges = [tuple(merge) for merge in model["merges"]]
    return transformers.DebertaTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)


def mpnet_tokenizer():
    """MPNet's kind: WordPiece, and RoBERTa's pairs."""
    pieces = tiny_models.wordpiece_tokenizer().get_vocab()
    names = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
    ordered = [names.get(piece, piece) for piece in sorted(pieces, key=pieces.get)]
    ordered = ["<s>", "<pad>", *(piece for piece in ordered if piece not in ("<s>", "<pad>"))]
    vocab = {piece: index for index, piece in enumerate(ordered)}
    return transformers.MPNetTokenizer(vocab=vocab, model_max_length=MAX_LENGTH)


TOKENIZERS = {"DebertaV2": deberta_v2_tokenizer, "Deberta": deberta_tokenizer, "MPNet": mpnet_tokenizer}
_folders = {}


@cache
def tokenizer_of(name):
    return TOKENIZERS[name]()


def checkpoint(tmp_path_factory, name):
    """A reranker with its tokenizer, made once."""
    if name not in _folders:
        tokenizer = tokenizer_of(name)
        sizes = {"vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
        types = {} if name == "MPNet" else {"type_vocab_size": 2}
        folder = tmp_path_factory.mktemp(name) / "model"
        _folders[name] = tiny_transformers.make(folder, name, **sizes, **types)
        tokenizer.save_pretrained(folder)
    return _folders[name]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_token_ids_and_types_equal_transformers(name, tmp_path_factory):
    folder = checkpoint(tmp_path_factory, name)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_files(resolve_model(folder))
    for text in all_inputs():
        encoding = hf_encoding(theirs, text, MAX_LENGTH)
        ids = encoding["input_ids"][0].tolist()
        [sequence] = ours.encode_batch([text], truncate_to=MAX_LENGTH)
        assert sequence.input_ids == ids, text
        if "token_type_ids" in encoding:
            assert (sequence.token_type_ids or [0] * len(ids)) == encoding["token_type_ids"][0].tolist(), text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pairs_score_as_in_transformers(name, tmp_path_factory):
    folder = checkpoint(tmp_path_factory, name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model_class = getattr(transformers, tiny_transformers.class_name(name))
    model = model_class.from_pretrained(folder).eval()
    encodings = [hf_encoding(tokenizer, (QUERY, doc), MAX_LENGTH) for doc in DOCS]
    known = ("input_ids", "token_type_ids", "attention_mask") if name != "MPNet" else ("input_ids", "attention_mask")
    with LLM(folder) as llm, torch.inference_mode():
        outputs = llm.score(QUERY, DOCS)
        for output, encoding in zip(outputs, encodings, strict=True):
            assert output.prompt_token_ids == encoding["input_ids"][0].tolist()
            exact = model(**{key: encoding[key] for key in known if key in encoding}).logits.sigmoid().item()
            assert output.outputs.score == pytest.approx(exact, abs=1e-5)
