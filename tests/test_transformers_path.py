"""Architectures that run through transformers on packed sequences: scores, bits, heads and strict loading."""

from __future__ import annotations

import json
import random
from functools import cache

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny_models
import tiny_transformers
from assay import LLM, ops
from assay.arena import Arena
from assay.batch import Sequence, pack
from assay.config import PoolerConfig
from assay.errors import ConfigError, UnsupportedModelError, WeightsError
from assay.files import resolve_model
from assay.hf_config import HFConfig
from assay.models import check_model, load_model
from parity import float32_budget, max_error, mean_error
from tiny_transformers import PACKABLE, WITHOUT_CLASSIFIER, checkpoint, class_name, sequences

SEQUENCE, TOKEN, MODEL = "ForSequenceClassification", "ForTokenClassification", "Model"


def load(folder, *, dtype="float32", model_impl="auto", config=None, overrides=None):
    files = resolve_model(folder)
    return load_model(
        files,
        HFConfig.from_folder(files.folder, overrides),
        dtype=dtype,
        pooler_config=config or PoolerConfig(),
        max_batch_tokens=2048,
        max_batch_size=32,
        model_impl=model_impl,
    )


def run(model, inputs):
    results = []
    for start in range(0, len(inputs), 7):
        batch = pack(inputs[start : start + 7], model.position_offset)
        results += [result.clone() for result in model.run(batch, [False] * batch.num_seqs)]
    return results


def load_packable(folder, name, dtype="float32"):
    """The model of a folder, whichever family the architecture belongs to; hidden states where it has no classifier."""
    config = PoolerConfig(task="token_embed") if name in WITHOUT_CLASSIFIER else None
    return load(folder, dtype=dtype, model_impl="transformers", config=config)


@cache
def reference(folder, name):
    return tiny_transformers.logits(folder, class_name(name), sequences(14))


@pytest.mark.parametrize("name", PACKABLE)
def test_float32_logits_match_transformers(name, tmp_path_factory):
    folder = checkpoint(tmp_path_factory, name)
    exact = reference(folder, name)
    assert max_error(run(load_packable(folder, name), sequences(14)), exact) <= float32_budget(exact)


@pytest.mark.parametrize("name", PACKABLE)
def test_bfloat16_hidden_states_are_as_close_as_transformers_bfloat16(name, tmp_path_factory):
    """Every token's, because the few logits of a small set are right or wrong by chance."""
    folder, inputs = checkpoint(tmp_path_factory, name), sequences(8)
    exact, theirs = (
        tiny_transformers.hidden_states(folder, class_name(name), inputs, dtype) for dtype in ("float32", "bfloat16")
    )
    model = load_packable(folder, name, "bfloat16")
    batch = pack(inputs, model.position_offset)
    ours = model.backbone(batch, Arena(0)).split_with_sizes(batch.seqlens())
    assert mean_error(ours, exact) <= 1.1 * mean_error(theirs, exact)
    assert max_error(ours, exact) <= 1.5 * max_error(theirs, exact)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PACKABLE)
def test_results_are_bitwise_equal_in_any_batch(name, dtype, restore_threads, tmp_path_factory):
    model = load_packable(checkpoint(tmp_path_factory, name), name, dtype)
    inputs = sequences(16, longest=90)
    ops.set_num_threads(1)
    alone = [run(model, [sequence])[0] for sequence in inputs]
    rng = random.Random(2)
    for batch_idx in range(8):
        ops.set_num_threads(1 + batch_idx % 2)
        chosen = rng.sample(range(len(inputs)), rng.choice((2, 3, 7)))
        for i, result in zip(chosen, run(model, [inputs[i] for i in chosen]), strict=True):
            assert torch.equal(result, alone[i]), f"input {i} in a batch of {len(chosen)}"


def test_float32_logits_match_transformers_on_every_isa(isa, tmp_path_factory):
    folder = checkpoint(tmp_path_factory, "Albert")
    exact = reference(folder, "Albert")
    assert max_error(run(load(folder), sequences(14)), exact) <= float32_budget(exact)


def test_longrope_ends_where_a_sequence_would_change_the_angles_of_its_neighbours(tmp_path):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    limit = {"original_max_position_embeddings": 64}
    folder = tiny_transformers.make(tmp_path / "model", "Phi3", rope_parameters={**rope, **limit}, **limit)
    model, inputs = load(folder), sequences(12, longest=64)
    assert model.max_model_len == 64
    exact = tiny_transformers.logits(folder, "Phi3" + SEQUENCE, inputs)
    assert max_error(run(model, inputs), exact) <= float32_budget(exact)


@pytest.mark.parametrize("pooling", ["late", "bos"])
def test_every_classifier_pooling_of_eurobert_matches_transformers(pooling, tmp_path):
    folder = tiny_transformers.make(tmp_path / "model", "EuroBert", classifier_pooling=pooling)
    inputs = sequences(8)
    exact = tiny_transformers.logits(folder, "EuroBert" + SEQUENCE, inputs)
    model = load(folder)
    results = run(model, inputs)
    assert max_error(results, exact) <= float32_budget(exact)
    assert all(torch.equal(run(model, [one])[0], result) for one, result in zip(inputs, results, strict=True))


@pytest.mark.parametrize("name", ["XLMRobertaXL", "MPNet"])
def test_pad_tokens_inside_a_text_take_the_position_transformers_gives_them(name, tmp_path_factory):
    folder = checkpoint(tmp_path_factory, name)
    inputs = [Sequence([5, 1, 9, 1, 1, 30]), Sequence([1, 17, 4])]
    exact = tiny_transformers.logits(folder, name + SEQUENCE, inputs)
    assert max_error(run(load(folder), inputs), exact) <= float32_budget(exact)


@pytest.mark.parametrize("name", ["Albert", "DebertaV2 unshared"])
def test_token_types_reach_the_model(name, tmp_path_factory):
    folder = checkpoint(tmp_path_factory, name)
    types = [0, 0, 0, 1, 1, 1, 1]
    inputs = [Sequence([5, 8, 9, 10, 11, 30, 40], types), Sequence([7, 17, 4])]
    model = getattr(transformers, class_name(name)).from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        exact = model(torch.tensor([inputs[0].input_ids]), token_type_ids=torch.tensor([types])).logits
    assert max_error(run(load(folder), inputs)[:1], list(exact)) <= float32_budget(list(exact))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *((name, TOKEN) for name in ("Phi", "Albert", "DebertaV2", "Deberta", "MPNet")),
        *((name, MODEL) for name in ("Phi", "NomicBert", "EuroBert", "DebertaV2", "Deberta", "MPNet")),
    ],
)
def test_other_heads_match_transformers(name, head, tmp_path_factory):
    folder = checkpoint(tmp_path_factory, name, head)
    inputs = sequences(6, longest=70)
    exact = tiny_transformers.logits(folder, name + head, inputs)
    config = PoolerConfig(task="token_classify" if head == TOKEN else "token_embed")
    assert max_error(run(load(folder, config=config), inputs), exact) <= float32_budget(exact)


@pytest.mark.parametrize(
    ("name", "pooling"), [("Phi", "LAST"), ("Albert", "CLS"), ("DebertaV2", "CLS"), ("MPNet", "CLS")]
)
def test_embeddings_pool_by_attention_kind(name, pooling, tmp_path_factory):
    folder = checkpoint(tmp_path_factory, name, MODEL)
    default, stated = load(folder), load(folder, config=PoolerConfig(pooling_type=pooling))
    assert default.task == "embed"
    for a, b in zip(run(default, sequences(4)), run(stated, sequences(4)), strict=True):
        assert torch.equal(a, b)


def test_a_causal_checkpoint_gives_embeddings_without_its_head(tmp_path):
    folder = tiny_transformers.make(tmp_path / "model", "Phi", "ForCausalLM")
    model = load(folder, overrides={"architectures": ["PhiModel"]})
    exact = tiny_transformers.hidden_states(folder, "PhiForCausalLM", sequences(4), "float32")
    assert model.task == "embed"
    assert max_error(run(model, sequences(4)), [rows[-1] for rows in exact]) <= float32_budget(exact)


@pytest.mark.parametrize("name", ["NomicBert", "MPNet", "DebertaV2"])
@pytest.mark.parametrize("has_head", [True, False])
def test_a_sentence_transformers_folder_takes_the_backbone_of_any_class(name, has_head, tmp_path):
    """Saved with the head it was trained with, or without it under the name of that class, as sentence-transformers
    itself does."""
    folder = tiny_transformers.make(tmp_path / "model", name, "ForMaskedLM")
    exact = tiny_transformers.hidden_states(folder, name + "ForMaskedLM", sequences(4), "float32")
    if not has_head:
        _keep_backbone(folder)
    chain = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    kinds = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in chain]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    model = load(folder)
    assert model.pooling == "mean"
    assert max_error(run(model, sequences(4)), [rows.mean(dim=0) for rows in exact]) <= float32_budget(exact)


def _keep_backbone(folder):
    """The tensors of the backbone alone, by the names they have in its own class."""
    tensors = load_file(folder / "model.safetensors")
    prefixes = ("nomic_bert.", "mpnet.", "deberta.", "model.")
    kept = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_llm_runs_texts_and_pairs_through_transformers(tmp_path):
    folder = tiny_models.make(tmp_path / "model", "Bert", SEQUENCE, num_labels=1)
    with LLM(folder) as own, LLM(folder, model_impl="transformers") as through:
        assert "BertForSequenceClassification through transformers, task classify" in through.summary
        assert "through transformers" not in own.summary
        texts = ["a quick brown fox", "two days of battery is worth the weight!"]
        for ask in (lambda llm: llm.classify(texts), lambda llm: llm.score(texts[0], texts)):
            for a, b in zip(ask(own), ask(through), strict=True):
                ours, theirs = (getattr(x.outputs, "score", None) or x.outputs.probs[0] for x in (a, b))
                assert abs(ours - theirs) <= 1e-5


def test_two_models_do_not_mix_their_batches(tmp_path_factory):
    folders = [checkpoint(tmp_path_factory, name) for name in ("Albert", "Phi")]
    models = [load(folder) for folder in folders]
    before = [run(model, sequences(5)) for model in models]
    for _ in range(2):
        for model, expected in zip(models, before, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(run(model, sequences(5)), expected, strict=True))


def test_model_impl_transformers_runs_a_known_family_too(tmp_path):
    folder = tiny_models.make(tmp_path / "model", "Roberta", SEQUENCE)
    own, through = load(folder), load(folder, model_impl="transformers")
    inputs = sequences(8, longest=100)
    assert type(own.backbone) is not type(through.backbone)
    assert max_error(run(own, inputs), run(through, inputs)) <= 1e-4


def test_model_impl_vllm_knows_the_families_only(tmp_path_factory):
    with pytest.raises(UnsupportedModelError, match=r"\['PhiForSequenceClassification'\] are not supported for now"):
        load(checkpoint(tmp_path_factory, "Phi"), model_impl="vllm")


def test_an_unknown_model_impl_is_named(tmp_path_factory):
    with pytest.raises(ConfigError, match=r"model_impl must be one of .*, got 'terratorch'"):
        load(checkpoint(tmp_path_factory, "Phi"), model_impl="terratorch")


@pytest.mark.parametrize(
    ("model_impl", "path"), [("auto", "this package's own"), ("transformers", "transformers' code")]
)
def test_the_check_says_which_way_a_model_runs(model_impl, path, tmp_path):
    folder = tiny_models.make(tmp_path / "model", "Roberta", SEQUENCE)
    report = check_model(resolve_model(folder), model_impl=model_impl)
    assert report.supported and report.path is not None and report.path.startswith(path)
    assert report.max_length == load(folder, model_impl=model_impl).max_model_len == 128


def _rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("Phi", "score.weight"),
        ("Phi", "model.layers.1.mlp.fc1.bias"),
        ("DebertaV2", "pooler.dense.weight"),
        ("DebertaV2", "deberta.encoder.rel_embeddings.weight"),
        ("MPNet", "mpnet.encoder.relative_attention_bias.weight"),
    ],
)
def test_a_missing_tensor_is_named(name, lost, tmp_path):
    folder = tiny_transformers.make(tmp_path / "model", name)
    _rewrite(folder, lambda tensors: tensors.pop(lost))
    with pytest.raises(WeightsError, match=f"{name}ForSequenceClassification lacks tensors {lost}"):
        load(folder)


def test_a_tensor_without_use_is_named(tmp_path):
    folder = tiny_transformers.make(tmp_path / "model", "Phi")
    _rewrite(folder, lambda tensors: tensors.update({"model.adapter.weight": torch.ones(2, 2)}))
    with pytest.raises(WeightsError, match=r"has no use for model\.adapter\.weight"):
        load(folder)


def test_a_table_that_old_versions_saved_is_no_hindrance(tmp_path, tmp_path_factory):
    folder = tiny_transformers.make(tmp_path / "model", "Albert")
    _rewrite(folder, lambda tensors: tensors.update({"albert.embeddings.position_ids": torch.arange(320)[None]}))
    fresh = checkpoint(tmp_path_factory, "Albert")
    for a, b in zip(run(load(folder), sequences(3)), run(load(fresh), sequences(3)), strict=True):
        assert torch.equal(a, b)


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    folder = tiny_transformers.make(tmp_path / "model", "Phi")
    _rewrite(folder, lambda tensors: tensors.update({"score.weight": torch.ones(5, 64)}))
    with pytest.raises(WeightsError, match=r"score\.weight"):
        load(folder)
