"""Token ids equal transformers' for every tokenizer kind, truncation included, from any number of threads."""

from __future__ import annotations

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import transformers

from assay.errors import ConfigError, ValidationError
from assay.files import resolve_model
from assay.tokenizer import Tokenizer
from parity import checkpoint, hf_encoding, tokenizer
from tiny_models import FAMILIES, SENTENCES, all_inputs, pair_texts, single_texts

KINDS = ("Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert")
HEAD = "ForSequenceClassification"


@pytest.fixture
def folder_of(tmp_path_factory):
    return lambda name: checkpoint(tmp_path_factory, name, HEAD)


def hf_tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", KINDS)
def test_the_tokenizers_own_truncation_is_reproduced_for_every_length(name, side, folder_of):
    folder = folder_of(name)
    ours, theirs = tokenizer(folder), hf_tokenizer(folder)
    ours.facts = dataclasses.replace(ours.facts, truncation_side=side)
    theirs.truncation_side = side
    texts = [
        *single_texts()[::12],
        *pair_texts()[::7],
        ("short", "word " * 60),
        ("word " * 60, "short"),
        ("a b c", "d e f"),
    ]
    for length in (4, 5, 6, 7, 8, 13, 20, 33, 64):
        for text, sequence in zip(texts, ours.encode_batch(texts, truncate_to=length), strict=True):
            expected = hf_encoding(theirs, text, length)
            assert sequence.input_ids == expected["input_ids"][0].tolist(), (text, length)
            if "token_type_ids" in expected:
                types = sequence.token_type_ids or [0] * len(sequence)
                assert types == expected["token_type_ids"][0].tolist(), (text, length)


@pytest.mark.parametrize("name", KINDS)
def test_the_side_of_the_cut_can_be_chosen_per_call(name, folder_of):
    ours, theirs = tokenizer(folder_of(name)), hf_tokenizer(folder_of(name))
    texts = [*single_texts()[::12], *pair_texts()[::7]]
    for side in ("left", "right"):
        theirs.truncation_side = side
        for length in (6, 13, 33):
            for text, sequence in zip(texts, ours.encode_batch(texts, truncate_to=length, cut_side=side), strict=True):
                assert sequence.input_ids == hf_encoding(theirs, text, length)["input_ids"][0].tolist(), (text, length)


@pytest.mark.parametrize("name", KINDS)
def test_the_second_text_alone_can_be_cut(name, folder_of):
    ours, theirs = tokenizer(folder_of(name)), hf_tokenizer(folder_of(name))
    pairs = [("word " * 20, "a b c d e f g h"), ("short", "word " * 60), *pair_texts()[::9]]
    for first, second in pairs:
        least = len(theirs(first, add_special_tokens=False)["input_ids"]) + theirs.num_special_tokens_to_add(pair=True)
        for length in (least + 1, least + 4, least + 30):
            expected = theirs([first], [second], truncation="only_second", max_length=length)["input_ids"][0]
            (sequence,) = ours.encode_batch([(first, second)], truncate_to=length, only_second=True)
            assert sequence.input_ids == expected, (first, second, length)
            (whole,) = ours.encode_whole([(first, second)], True, length, None, only_second=True)
            assert whole.input_ids == expected, (first, second, length)


@pytest.mark.parametrize("name", KINDS)
def test_an_explicit_side_slices_the_whole_encoding(name, folder_of):
    ours = tokenizer(folder_of(name))
    texts = [*single_texts()[::10], *pair_texts()[::10]]
    for whole, text in zip(ours.encode_batch(texts), texts, strict=True):
        for length in (0, 1, 3, 10, 1000):
            options = {"truncate_to": length, "max_length": 512}
            right = ours.encode_batch([text], truncation_side="right", **options)[0]
            left = ours.encode_batch([text], truncation_side="left", **options)[0]
            assert right.input_ids == whole.input_ids[:length]
            assert left.input_ids == (whole.input_ids[-length:] if length else [])
            if whole.token_type_ids is not None:
                types = whole.token_type_ids[-length:] if length else []
                assert (left.token_type_ids or [0] * len(left)) == types


def test_fewer_tokens_than_special_ones_are_a_plain_slice(folder_of):
    ours = tokenizer(folder_of("Bert"))
    whole = ours.encode_batch([("a fox", "a dog")])[0].input_ids
    for length in (0, 1, 2):
        assert ours.encode_batch([("a fox", "a dog")], truncate_to=length)[0].input_ids == whole[:length]


@pytest.mark.parametrize("name", KINDS)
def test_special_tokens_can_be_left_out(name, folder_of):
    folder = folder_of(name)
    theirs = hf_tokenizer(folder)
    for text, sequence in zip(
        SENTENCES, tokenizer(folder).encode_batch(list(SENTENCES), add_special_tokens=False), strict=True
    ):
        assert sequence.input_ids == theirs(text, add_special_tokens=False)["input_ids"]
    cut = tokenizer(folder).encode_batch([SENTENCES[0]], add_special_tokens=False, truncate_to=3)[0]
    assert cut.input_ids == theirs(SENTENCES[0], add_special_tokens=False)["input_ids"][:3]


def test_saved_truncation_and_padding_have_no_say(folder_of, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(folder_of("Bert"), folder)
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    truncation = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    saved |= {"truncation": truncation, "padding": {**padding, "pad_type_id": 0, "pad_token": "[PAD]"}}
    path.write_text(json.dumps(saved), encoding="utf-8")
    texts = list(single_texts()[::9])
    assert tokenizer(folder).encode_batch(texts) == tokenizer(folder_of("Bert")).encode_batch(texts)


def test_results_are_the_same_from_many_threads(folder_of):
    ours = tokenizer(folder_of("Roberta"))
    inputs = all_inputs()
    lengths = [6, 20, 128, None] * 8
    expected = {length: ours.encode_batch(inputs, truncate_to=length) for length in set(lengths)}
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda length: ours.encode_batch(inputs, truncate_to=length), lengths))
    assert all(result == expected[length] for result, length in zip(results, lengths, strict=True))


def test_a_lone_surrogate_is_a_validation_error(folder_of):
    ours = tokenizer(folder_of("Bert"))
    for bad in ("ok \ud83d broken", ("fine", "x\udc00")):
        with pytest.raises(ValidationError, match=r"lone surrogate U\+D"):
            ours.encode_batch(["good", bad])
    with pytest.raises(ValidationError, match="got int"):
        ours.encode_batch(["good", ("a", 5)])


def test_a_wrong_side_is_a_validation_error(folder_of):
    with pytest.raises(ValidationError, match="must be either 'left' or 'right'"):
        tokenizer(folder_of("Bert")).encode_batch(["a"], truncation_side="middle", truncate_to=3)


def test_do_lower_case_of_sentence_transformers_lowers_first(folder_of, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(folder_of("Roberta"), folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": true}', encoding="utf-8")
    ours, plain = tokenizer(folder), tokenizer(folder_of("Roberta"))
    assert ours.do_lower_case and not plain.do_lower_case
    texts = [text for text in SENTENCES if text.isascii()]
    assert ours.encode_batch(texts) == plain.encode_batch([text.lower() for text in texts])


def test_facts_about_the_vocabulary(folder_of):
    for name in KINDS:
        ours, theirs = tokenizer(folder_of(name)), hf_tokenizer(folder_of(name))
        assert ours.pad_token_id == theirs.pad_token_id
        assert ours.max_token_id == max(theirs.get_vocab().values())
        assert ours.max_chars_per_token == max(map(len, theirs.get_vocab()))
        assert ours.model_max_length == 128
        assert ours.truncation_side == "right"
        assert ours.num_special_tokens(is_pair=True) == theirs.num_special_tokens_to_add(pair=True)
    assert FAMILIES.keys() >= set(KINDS)


def test_another_tokenizer_can_be_named_and_a_missing_one_is_an_error(folder_of, tmp_path):
    files = resolve_model(folder_of("Bert"))
    other = Tokenizer.from_files(files, tokenizer=str(folder_of("Roberta")))
    assert other.encode_batch(["a fox"]) == tokenizer(folder_of("Roberta")).encode_batch(["a fox"])
    shutil.copy(files.folder / "config.json", tmp_path / "config.json")
    with pytest.raises(ConfigError, match="no vocabulary: its files are missing"):
        tokenizer(tmp_path)
