"""Heads, tasks and activations of loaded models, and what `assay check` reports."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from assay.arena import ALIGNMENT, Arena
from assay.batch import Sequence, pack
from assay.config import PoolerConfig
from assay.errors import ConfigError
from assay.files import ModelFiles, resolve_model
from assay.hf_config import HFConfig
from assay.models import check_model, load_model
from parity import checkpoint, load, max_error, run, tokenizer
from tiny_models import SENTENCES, make

TEXTS = list(SENTENCES)


@pytest.fixture
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory, "Bert", "ForSequenceClassification")


@pytest.fixture
def sequences(folder):
    return tokenizer(folder).encode_batch(TEXTS)


def logits(folder, sequences, **options):
    return torch.stack([row.clone() for row in run(load(folder, **options), sequences)])


def test_affine_calibration_comes_before_the_activation_and_without_it(folder, sequences):
    plain = logits(folder, sequences)
    config = PoolerConfig(logit_mean=1.5, logit_sigma=2.0)
    calibrated = logits(folder, sequences, config=config)
    assert torch.allclose(calibrated, (plain - 1.5) / 2.0, atol=1e-6)
    scores = torch.stack(run(load(folder, config=config), sequences, use_activation=True))
    assert torch.allclose(scores, torch.softmax((plain - 1.5) / 2.0, dim=-1), atol=1e-6)
    assert torch.equal(logits(folder, sequences, config=PoolerConfig(logit_bias=1.5, logit_scale=0.5)), calibrated)


@pytest.mark.parametrize(
    ("overrides", "config", "name", "function"),
    [
        ({}, {}, "softmax", lambda x: torch.softmax(x, -1)),
        ({"problem_type": "regression"}, {}, "identity", lambda x: x),
        ({"problem_type": "multi_label_classification"}, {}, "sigmoid", torch.sigmoid),
        ({"problem_type": "single_label_classification"}, {}, "softmax", lambda x: torch.softmax(x, -1)),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, {}, "softmax", None),
        (
            {
                "problem_type": "regression",
                "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
            },
            {},
            "identity",
            lambda x: x,
        ),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, {}, "Tanh", torch.tanh),
        ({"problem_type": "regression"}, {"activation": "sigmoid"}, "sigmoid", torch.sigmoid),
        ({}, {"activation": "identity"}, "identity", lambda x: x),
        ({}, {"activation": "torch.nn.modules.activation.Sigmoid"}, "sigmoid", torch.sigmoid),
        ({}, {"activation": "torch.nn.modules.activation.ReLU"}, "ReLU", torch.relu),
    ],
)
def test_the_activation_is_the_first_that_applies(folder, sequences, overrides, config, name, function):
    plain = logits(folder, sequences)
    model = load(folder, config=PoolerConfig(**config), **overrides)
    assert model.activation_name == name
    scores = torch.stack(run(model, sequences, use_activation=True))
    if function is not None:
        assert torch.allclose(scores, function(plain), atol=1e-6)
    assert torch.equal(torch.stack(run(model, sequences)), plain)


@pytest.mark.parametrize("name", ["os.path", "torch.nn.modules.activation.system", "torch.nn.modules.Sigmoid"])
def test_activations_that_are_no_torch_modules_are_refused(folder, name):
    with pytest.raises(ConfigError):
        load(folder, sbert_ce_default_activation_function=name)


@pytest.mark.parametrize(
    "path", ["softmax", "torch.nn.modules.activation.Softmax", "torch.nn.modules.activation.Softmin"]
)
def test_a_softmax_over_one_label_is_refused(tmp_path, path):
    folder = make(tmp_path / "model", "Bert", "ForSequenceClassification", num_labels=1)
    with pytest.raises(
        ConfigError, match=r"PoolerConfig\.activation: .* over one label gives every text the same score"
    ):
        load(folder, config=PoolerConfig(activation=path))


def test_a_softmax_that_a_checkpoint_declares_for_one_label_is_a_sigmoid(tmp_path):
    """As in vLLM, where both names mean the activation that fits the number of labels."""
    folder = make(tmp_path / "model", "Bert", "ForSequenceClassification", num_labels=1)
    model = load(folder, sbert_ce_default_activation_function="torch.nn.modules.activation.Softmax")
    assert model.activation_name == "sigmoid"


def test_rows_of_one_batch_may_differ_in_activation(folder, sequences):
    model = load(folder)
    raw = torch.stack([row.clone() for row in run(model, sequences[:4])])
    mixed = model.run(pack(sequences[:4]), [True, False, False, True])
    assert torch.equal(mixed[1], raw[1]) and torch.equal(mixed[2], raw[2])
    assert torch.allclose(mixed[0], torch.softmax(raw[0], -1), atol=1e-6)


def test_tasks_and_their_errors(folder, tmp_path):
    model = load(folder)
    assert model.supported_tasks == ("classify", "token_classify")
    assert (model.task, model.score_kind) == ("classify", "cross-encoder")
    assert load(folder, config=PoolerConfig(task="token_classify")).task == "token_classify"
    with pytest.raises(
        RuntimeError, match=r"Unsupported task: 'embed' Supported tasks: \('classify', 'token_classify'\)"
    ):
        load(folder, config=PoolerConfig(task="embed"))
    with pytest.raises(ConfigError, match="STEP"):
        load(make(tmp_path / "e", "Bert", "Model"), config=PoolerConfig(pooling_type="STEP"))
    token = load(make(tmp_path / "t", "Bert", "ForTokenClassification"))
    assert (token.supported_tasks, token.task, token.score_kind) == (("token_classify",), "token_classify", None)


def test_token_classify_of_a_sequence_classifier_gives_the_class_of_its_first_token(folder, sequences):
    rows = run(load(folder, dtype="float32", config=PoolerConfig(task="token_classify")), sequences)
    assert [row.shape for row in rows] == [(len(s), 3) for s in sequences]
    # Not bit for bit: the last layer of a model that reads one row of it sums in another order (docs/kernels-layer.md).
    pooled = logits(folder, sequences, dtype="float32")
    assert torch.allclose(torch.stack([row[0] for row in rows]), pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("head", "kind", "folds"),
    [
        ("ForSequenceClassification", None, True),
        ("ForSequenceClassification", "LAST", True),
        ("ForSequenceClassification", "MEAN", False),
        ("Model", None, True),
        ("ForTokenClassification", None, False),
    ],
)
def test_the_last_layer_is_laid_out_for_rows_where_the_task_reads_one_token(tmp_path_factory, head, kind, folds, dtype):
    config = PoolerConfig() if kind is None else PoolerConfig(pooling_type=kind)
    model: Any = load(checkpoint(tmp_path_factory, "Bert", head), config=config, dtype=dtype)
    *others, last = [layer.layer.packed.size_bytes for layer in model.backbone.layers]
    assert [size < last for size in others] == [folds] * len(others)
    assert folds is model.heads[model.task].reads_one_token


@pytest.mark.parametrize("kind", ["CLS", "LAST", "MEAN"])
def test_pooling_overrides_read_other_rows(folder, sequences, kind):
    import transformers

    model = transformers.BertForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    expected = []
    with torch.inference_mode():
        for sequence in sequences:
            hidden = model.bert(torch.tensor([sequence.input_ids])).last_hidden_state[0]
            row = {"CLS": hidden[0], "LAST": hidden[-1], "MEAN": hidden.mean(0)}[kind]
            expected.append(model.classifier(torch.tanh(model.bert.pooler.dense(row))))
    ours = run(load(folder, config=PoolerConfig(pooling_type=kind)), sequences)
    assert max_error(ours, expected) <= 1e-4


def test_an_empty_sequence_is_refused_and_an_empty_batch_is_nothing(folder):
    model = load(folder)
    with pytest.raises(ValueError, match="sequence 1 of the batch is empty"):
        model.run(pack([Sequence([1]), Sequence([])]), [True, True])
    assert model.run(pack([]), []) == []


def test_memory_is_one_block_that_any_legal_batch_fits(folder):
    model = load(folder)
    size = model._arena.size_bytes
    for lengths in ([128] * 16, [1] * 32, [2048 // 32] * 32, [128]):
        model.run(pack([Sequence([5] * n) for n in lengths]), [True] * len(lengths))
        assert model._arena.size_bytes == size and model._arena.high_water <= size
    with pytest.raises(ConfigError, match="max_batch_tokens"):
        model.run(pack([Sequence([5] * 128)] * 32), [True] * 32)


def test_the_arena_hands_out_aligned_views():
    arena = Arena(1024)
    first, second = arena.take((3, 5), torch.float32), arena.take((2,), torch.uint8)
    assert first.data_ptr() % ALIGNMENT == 0 and second.data_ptr() % ALIGNMENT == 0
    assert first.data_ptr() + 64 <= second.data_ptr()
    with pytest.raises(ConfigError):
        arena.take((1024,), torch.uint8)
    arena.reset()
    assert arena.take((1024,), torch.uint8).data_ptr() == first.data_ptr()


def test_pack_lays_sequences_end_to_end():
    batch = pack([Sequence([7, 8, 9]), Sequence([5], [0]), Sequence([]), Sequence([6, 2], [0, 1])], position_offset=2)
    assert batch.input_ids.tolist() == [7, 8, 9, 5, 6, 2]
    assert batch.position_ids.tolist() == [2, 3, 4, 2, 2, 3]
    assert batch.token_type_ids is not None and batch.token_type_ids.tolist() == [0, 0, 0, 0, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 4, 6]
    assert (batch.max_seqlen, batch.num_tokens, batch.num_seqs, batch.seqlens()) == (3, 6, 4, [3, 1, 0, 2])
    tensors = (batch.input_ids, batch.position_ids, batch.token_type_ids, batch.cu_seqlens)
    assert all(tensor.dtype == torch.int32 for tensor in tensors)
    assert pack([Sequence([1, 2])]).token_type_ids is None
    assert pack([]).cu_seqlens.tolist() == [0]


def test_pack_does_not_count_pad_tokens_where_positions_are_offset():
    pad = 1
    batch = pack([Sequence([5, pad, 6]), Sequence([]), Sequence([pad, 7]), Sequence([8])], position_offset=pad + 1)
    assert batch.position_ids.tolist() == [2, 1, 3, 1, 2, 2]
    assert pack([Sequence([5, 0, 6])]).position_ids.tolist() == [0, 1, 2]


def test_a_separate_head_on_a_backbone_classifies_its_mean(tmp_path, tmp_path_factory):
    backbone = tmp_path / "backbone"
    shutil.copytree(checkpoint(tmp_path_factory, "Bert", "Model"), backbone)
    head = tmp_path / "head"
    head.mkdir()
    config = {"pooling": "mean", "id2label": {"0": "bad", "1": "good"}}
    (head / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weight, bias = torch.randn(2, 96), torch.randn(2)
    save_file({"classifier.weight": weight, "classifier.bias": bias}, head / "head.safetensors")
    files = ModelFiles("demo", backbone, head)

    def loaded(**options):
        config = HFConfig.from_folder(backbone)
        limits = {"max_batch_tokens": 512, "max_batch_size": 8}
        return load_model(files, config, dtype="auto", pooler_config=PoolerConfig(**options), **limits)

    model = loaded()
    assert (model.supported_tasks, model.task) == (("embed", "classify"), "classify")
    assert list(model.id2label.values()) == ["bad", "good"]
    sequences = tokenizer(backbone).encode_batch(TEXTS[:5])
    embedder = loaded(task="embed", pooling_type="MEAN")
    means = torch.stack([row.clone() for row in run(embedder, sequences)])
    assert max_error(run(model, sequences), list(means @ weight.T + bias)) <= 1e-4
    assert embedder.default_use_activation
    report = check_model(files)
    assert report.supported and report.tasks == ("classify", "embed") and report.labels == ("bad", "good")


def test_check_reports_without_reading_weights(folder, tmp_path):
    copy = tmp_path / "m"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").write_bytes(b"")
    declared = {
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
        "auto_map": {"A": "b"},
    }
    report = check_model(resolve_model(copy), declared)
    assert report.supported and report.reason is None
    assert (report.architecture, report.family) == ("BertForSequenceClassification", "BERT")
    assert (report.num_labels, report.labels) == (3, ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert (report.activation, report.pooling, report.max_length, report.dtype) == ("softmax", "cls", 128, "float32")
    assert report.activation_source is not None and "read as softmax for 3 labels" in report.activation_source
    assert any("PoolerConfig(activation='sigmoid')" in note for note in report.notes)
    assert any("never executed" in note for note in report.notes)


def test_check_says_why_not(folder):
    report = check_model(resolve_model(folder), {"architectures": ["NoSuchForSequenceClassification"]})
    assert not report.supported
    assert report.architecture == "NoSuchForSequenceClassification"
    assert report.reason is not None and "Supported architectures" in report.reason
