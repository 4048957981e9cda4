"""Strict loading: every tensor used or on a list, every parameter filled, and errors that name tensors."""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.batch import Sequence
from assay.errors import ConfigError, UnsupportedModelError, WeightsError
from assay.weights import WeightMap
from parity import load, max_error, run
from tiny_models import make

SEQUENCES = [Sequence([2, 7, 9, 11, 3]), Sequence([2, 40, 3]), Sequence([2, 5, 6, 3, 8, 3], [0, 0, 0, 0, 1, 1])]


@pytest.fixture
def bert(tmp_path):
    return make(tmp_path / "bert", "Bert", "ForSequenceClassification")


def edit(folder, change):
    """Rewrite the checkpoint after `change` has had its way with the dict of tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    changed = change(tensors)
    save_file(tensors if changed is None else changed, path, metadata={"format": "pt"})


def edit_config(folder, **values):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.update(values)
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    ["classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.encoder.layer.1.output.LayerNorm.bias"],
)
def test_a_missing_tensor_is_named_and_never_made_up(bert, name):
    edit(bert, lambda tensors: {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(WeightsError, match=rf"missing tensors {name}"):
        load(bert)


def test_all_missing_tensors_are_named_at_once(bert):
    names = ["bert.encoder.layer.0.intermediate.dense.weight", "classifier.bias"]
    edit(bert, lambda tensors: {key: value for key, value in tensors.items() if key not in names})
    with pytest.raises(WeightsError) as error:
        load(bert)
    assert all(name in str(error.value) for name in names)


def test_a_backbone_that_is_absent_says_what_was_looked_for(bert):
    edit(bert, lambda tensors: {"other." + key: value for key, value in tensors.items()})
    with pytest.raises(WeightsError, match=r"none of bert\.embeddings\.word_embeddings\.weight"):
        load(bert)


def test_an_unexpected_tensor_is_named(bert):
    edit(bert, lambda tensors: {**tensors, "bert.encoder.layer.2.extra.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"no use for: bert\.encoder\.layer\.2\.extra\.weight"):
        load(bert)


def test_pretraining_heads_are_unexpected_in_a_bert_classifier_but_not_in_ernie(bert, tmp_path):
    extra = {"cls.predictions.bias": torch.zeros(3)}
    edit(bert, lambda tensors: {**tensors, **extra})
    with pytest.raises(WeightsError, match=r"cls\.predictions\.bias"):
        load(bert)
    ernie = make(tmp_path / "ernie", "Ernie", "ForSequenceClassification")
    edit(ernie, lambda tensors: {**tensors, **extra})
    load(ernie)


def test_a_wrong_shape_names_both_shapes(bert):
    edit_config(bert, intermediate_size=64)
    with pytest.raises(WeightsError, match=r"intermediate\.dense\.weight has shape \(128, 96\).*\(64, 96\)"):
        load(bert)


def test_label_count_must_fit_the_head(bert):
    with pytest.raises(WeightsError, match=r"2 labels.*classifier\.weight has 3 rows"):
        load(bert, id2label={"0": "no", "1": "yes"})


def test_position_ids_and_the_unused_pooler_are_ignored(tmp_path):
    folder = make(tmp_path / "m", "Bert", "ForTokenClassification")
    extra = {
        "bert.embeddings.position_ids": torch.arange(128).unsqueeze(0),
        "bert.pooler.dense.weight": torch.zeros(96, 96),
        "bert.pooler.dense.bias": torch.zeros(96),
    }
    edit(folder, lambda tensors: {**tensors, **extra})
    assert load(folder).task == "token_classify"


@pytest.mark.parametrize(
    ("name", "head", "old", "new"),
    [
        ("Bert", "ForSequenceClassification", "bert.", ""),
        ("Roberta", "ForSequenceClassification", "roberta.", ""),
        ("Electra", "ForTokenClassification", "electra.", ""),
        ("DistilBert", "ForSequenceClassification", "distilbert.", ""),
        ("Ernie", "ForSequenceClassification", "ernie.", "bert."),
        ("Bert", "Model", "", "bert."),
        ("Bert", "ForSequenceClassification", "LayerNorm.weight", "LayerNorm.gamma"),
        ("Ernie", "ForTokenClassification", "LayerNorm.bias", "LayerNorm.beta"),
    ],
)
def test_other_spellings_of_names_give_the_same_numbers(tmp_path, name, head, old, new):
    folder = make(tmp_path / "m", name, head)
    sequences = SEQUENCES if name in ("Bert", "Ernie") else SEQUENCES[:2]  # the others have one token type or none
    before = [result.clone() for result in run(load(folder), sequences)]

    def rename(key):
        if old.startswith("LayerNorm"):
            return key.replace(old, new)
        return new + key.removeprefix(old) if key.startswith(old) else key

    edit(folder, lambda tensors: {rename(key): value for key, value in tensors.items()})
    assert all(torch.equal(a, b) for a, b in zip(run(load(folder), sequences), before, strict=True))


def test_shards_and_bin_files_give_the_same_numbers(bert):
    before = [result.clone() for result in run(load(bert), SEQUENCES)]
    tensors = load_file(bert / "model.safetensors")
    (bert / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-{1 + i % 2}-of-2.safetensors" for i, name in enumerate(names)}
    for shard in sorted(set(weight_map.values())):
        save_file({name: tensors[name] for name in names if weight_map[name] == shard}, bert / shard)
    index = bert / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert all(torch.equal(a, b) for a, b in zip(run(load(bert), SEQUENCES), before, strict=True))
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, bert / "model.safetensors")
    assert not any(torch.equal(a, b) for a, b in zip(run(load(bert), SEQUENCES), before, strict=True))
    (bert / "model.safetensors").unlink()  # as in transformers, the single file had been read
    index.unlink()
    for is_new_format in (True, False):
        torch.save(tensors, bert / "pytorch_model.bin", _use_new_zipfile_serialization=is_new_format)
        assert all(torch.equal(a, b) for a, b in zip(run(load(bert), SEQUENCES), before, strict=True))


class _Runs:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_a_pickle_that_runs_code_is_refused(bert, capsys):
    (bert / "model.safetensors").unlink()
    (bert / "pytorch_model.bin").write_bytes(pickle.dumps({"x": _Runs()}))
    with pytest.raises(WeightsError, match="weights_only"):
        load(bert)
    assert "ran" not in capsys.readouterr().out


def test_a_file_that_is_no_checkpoint_is_named(bert):
    (bert / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match=r"model\.safetensors is not a readable safetensors file"):
        load(bert)
    (bert / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load(bert)


@pytest.mark.parametrize(
    ("stored", "dtype", "word"),
    [
        (torch.float32, "float32", "float32"),
        (torch.bfloat16, "bfloat16", "bfloat16"),
        (torch.float16, "float32", "float16"),
    ],
)
def test_dtype_auto_keeps_what_the_checkpoint_promises(tmp_path, stored, dtype, word):
    model = load(make(tmp_path / "m", "Bert", "ForSequenceClassification", dtype=stored))
    assert model.dtype == dtype
    assert word in model.dtype_reason


def test_a_float16_checkpoint_runs_float32_accurate(tmp_path):
    import transformers

    folder = make(tmp_path / "m", "Bert", "ForSequenceClassification", dtype=torch.float16)
    model = transformers.BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        exact = [
            model(torch.tensor([s.input_ids]), token_type_ids=torch.tensor([s.token_type_ids or [0] * len(s)])).logits[
                0
            ]
            for s in SEQUENCES
        ]
    assert max_error(run(load(folder), SEQUENCES), exact) <= 1e-4


def test_other_dtypes_are_refused_by_name(bert):
    for dtype in ("float16", "int8"):
        with pytest.raises(ConfigError, match=dtype):
            load(bert, dtype=dtype)


def test_integer_weights_are_refused(bert):
    edit(bert, lambda tensors: {**tensors, "classifier.weight": tensors["classifier.weight"].to(torch.int8)})
    with pytest.raises(WeightsError, match=r"classifier\.weight has dtype torch\.int8"):
        load(bert)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "Only 'absolute' position_embedding_type is supported"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not supported"),
        ({"num_attention_heads": 5}, "not a multiple"),
        (
            {"hidden_size": 264, "num_attention_heads": 1},
            r"head_dim 264 \(hidden_size 264 / num_attention_heads 1\) is not supported",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        (
            {"architectures": ["BertForMaskedLM"]},
            r"Model architectures \['BertForMaskedLM'\] are not supported for now",
        ),
        (
            {"architectures": ["NoSuchForSequenceClassification"]},
            "Supported architectures: .*BertForSequenceClassification",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(bert, values, message):
    with pytest.raises(UnsupportedModelError, match=message):
        load(bert, **values)


def test_an_encoder_needs_a_layer(bert):
    with pytest.raises(ConfigError, match="at least one layer"):
        load(bert, num_hidden_layers=0)


def test_names_are_listed_up_to_a_limit(tmp_path):
    save_file({f"t{i:02}": torch.zeros(1) for i in range(20)}, tmp_path / "model.safetensors")
    weights = WeightMap([tmp_path / "model.safetensors"])
    weights.take("t00", (1,))
    with pytest.raises(WeightsError, match=r"t01, t02.* and 7 more"):
        weights.finish()
    weights.finish(ignore=[r"t\d+"])


def test_tensors_outlive_the_pages_that_were_given_back(tmp_path):
    tensors = {"table": torch.randn(4096, 512), **{f"t{i:02}": torch.randn(512, 2048) for i in range(8)}}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = WeightMap([tmp_path / "model.safetensors"])  # 40 MiB, several times what may stay mapped at once
    taken = {name: weights.take(name) for name in weights.names()}
    halved = weights.take_as("table", (4096, 512), torch.bfloat16)
    weights.finish()
    del weights
    assert all(torch.equal(taken[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(halved, tensors["table"].to(torch.bfloat16))


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are read from /proc")
def test_tensors_taken_before_are_no_longer_resident(tmp_path):
    def resident_kib():
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.search(r"RssFile:\s+(\d+)", status).group(1))

    save_file({f"t{i:02}": torch.ones(1024, 4096) for i in range(6)}, tmp_path / "model.safetensors")
    weights = WeightMap([tmp_path / "model.safetensors"])
    before, most = resident_kib(), 0
    for name in weights.names():
        assert weights.take(name).sum() == 1024 * 4096
        most = max(most, resident_kib())
    assert most - before < 40 * 1024  # of 96 MiB: one tensor, and what may stay beside it
    weights.finish()
    assert resident_kib() - before < 8 * 1024  # half a tensor: code that ran for the first time is resident as well


def test_a_header_that_is_not_padded_gives_the_same_numbers(tmp_path):
    tensors = {"a": torch.randn(7, 5), "b": torch.randn(3).to(torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors")
    stored = (tmp_path / "model.safetensors").read_bytes()
    size = int.from_bytes(stored[:8], "little")
    header = stored[8 : 8 + size].rstrip()
    header += b" " * (1 - len(header) % 2)  # the tensors start at an odd byte
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + stored[8 + size :])
    weights = WeightMap([tmp_path / "model.safetensors"])
    for name, tensor in tensors.items():
        assert torch.equal(weights.take(name), tensor)


def test_tensors_without_numbers_have_shapes_and_dtypes(bert):
    paths = [bert / "model.safetensors"]
    full, shapes = WeightMap(paths), WeightMap(paths, has_numbers=False)
    assert shapes.names() == full.names()
    for name in full.names():
        real, sized = full.take(name), shapes.take(name)
        assert (sized.shape, sized.dtype, sized.is_meta) == (real.shape, real.dtype, real.ndim > 1)
    rows = shapes.take_rows("classifier.weight", [2, 0])
    assert rows.is_meta and rows.shape == full.take_rows("classifier.weight", [2, 0]).shape


@pytest.mark.parametrize("has_numbers", [True, False])
def test_integers_are_no_weights(tmp_path, has_numbers):
    save_file({"ids": torch.arange(6).view(2, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"ids has dtype torch\.int64; only float checkpoints"):
        WeightMap([tmp_path / "model.safetensors"], has_numbers=has_numbers).take("ids")
