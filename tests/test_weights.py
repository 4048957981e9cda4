"""Strict loading: every tensor used or on a list, every parameter filled, and errors that name tensors."""

from __future__ import annotations

import json
import pickle

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


def test_names_are_listed_up_to_a_limit(tmp_path):
    save_file({f"t{i:02}": torch.zeros(1) for i in range(20)}, tmp_path / "model.safetensors")
    weights = WeightMap([tmp_path / "model.safetensors"])
    weights.take("t00", (1,))
    with pytest.raises(WeightsError, match=r"t01, t02.* and 7 more"):
        weights.finish()
    weights.finish(ignore=[r"t\d+"])
