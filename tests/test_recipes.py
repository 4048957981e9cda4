"""Which rerankers are recognised, by what, and what the config becomes; from config and tokenizer files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import reranker_tokenizers as tokenizers
from assay.adapt import Adapted, adapt
from assay.config import PoolerConfig
from assay.errors import ConfigError, UnsupportedModelError
from assay.files import ModelFiles
from assay.hf_config import HFConfig

QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "vocab_size": 700}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 700}
GEMMA = {"architectures": ["GemmaForCausalLM"], "vocab_size": 864}
NEMOTRON = {"architectures": ["LlamaBidirectionalForSequenceClassification"], "pooling": "avg"}
YES_NO = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}


def folder(parent: Path, tokenizer: Any, config: dict[str, Any], name: str = "model", template: str = "") -> Path:
    path = parent / name
    tokenizer.save_pretrained(path)
    if template:
        (path / "chat_template.jinja").write_text(template)
    (path / "config.json").write_text(json.dumps(config))
    return path


def run(path: Path, overrides: dict[str, Any] | None = None, name: str | None = None, **settings: str) -> Adapted:
    files = ModelFiles(str(path) if name is None else name, path)
    return adapt(files, HFConfig.from_folder(path, overrides), PoolerConfig(), **settings)


def summary(adapted: Adapted) -> tuple[Any, ...]:
    config = adapted.hf_config
    recipe = None if adapted.match is None else adapted.match.recipe.name
    return recipe, config.architectures[0], config.get("classifier_from_token"), config.get("method")


FULL = {
    "qwen3-reranker": (
        tokenizers.qwen3,
        QWEN3,
        "Qwen/Qwen3-Reranker-0.6B",
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided.",
        ("Qwen3ForSequenceClassification", ["no", "yes"], "from_2_way_softmax"),
    ),
    "mxbai-rerank-v2": (
        tokenizers.qwen2,
        QWEN2,
        "mixedbread-ai/mxbai-rerank-base-v2",
        "You are a search relevance expert who evaluates how well documents match search queries.",
        ("Qwen2ForSequenceClassification", ["0", "1"], "from_2_way_softmax"),
    ),
    "bge-reranker-v2-gemma": (
        tokenizers.gemma,
        GEMMA,
        "BAAI/bge-reranker-v2-gemma",
        "determine whether the passage contains an answer to the query by providing",
        ("GemmaForSequenceClassification", ["Yes"], "no_post_processing"),
    ),
}


@pytest.mark.parametrize("recipe", FULL)
@pytest.mark.parametrize("mark", ["name", "path", "cache", "_name_or_path", "template"])
def test_a_known_reranker_is_recognised_by_its_files_and_a_mark(tmp_path: Path, recipe: str, mark: str) -> None:
    tokenizer, config, hub_id, words, expected = FULL[recipe]
    base = hub_id.partition("/")[2]
    kwargs: dict[str, Any] = {}
    if mark == "path":
        kwargs["name"] = base
    if mark == "cache":
        kwargs["name"] = f"models--{hub_id.replace('/', '--')}/snapshots/0123abc"
    if mark == "template":
        kwargs["template"] = "{{ '" + words + "' }}"
    if mark == "_name_or_path":
        config = {**config, "_name_or_path": hub_id}
    path = folder(tmp_path, tokenizer(), config, **kwargs)
    adapted = run(path, name=hub_id if mark == "name" else None)
    assert summary(adapted) == (recipe, *expected)
    assert adapted.match is not None and adapted.match.converts
    assert adapted.hf_config.sentence_transformers == {"activation_fn": "torch.nn.modules.activation.Sigmoid"}


def test_a_word_table_without_spare_rows_marks_a_qwen3_reranker(tmp_path: Path) -> None:
    size = len(tokenizers.qwen3())
    path = folder(tmp_path, tokenizers.qwen3(), {**QWEN3, "vocab_size": size})
    assert summary(run(path))[0] == "qwen3-reranker"
    other = tmp_path / "other"
    for index, changes in enumerate([{"vocab_size": size + 1}, {"architectures": ["Qwen2ForCausalLM"]}]):
        path = folder(other, tokenizers.qwen3(), {**QWEN3, "vocab_size": size, **changes}, f"model{index}")
        with pytest.raises(UnsupportedModelError):
            run(path)


@pytest.mark.parametrize("recipe", FULL)
def test_a_name_alone_is_not_enough(tmp_path: Path, recipe: str) -> None:
    tokenizer, config, hub_id, _, _ = FULL[recipe]
    wrong_tokenizer = tokenizers.llama3()
    path = folder(tmp_path, wrong_tokenizer, config, "wrong-tokenizer")
    with pytest.raises(UnsupportedModelError, match="no recipe fits its config and tokenizer"):
        run(path, name=hub_id)
    path = folder(tmp_path, tokenizer(), {**config, "architectures": ["LlamaForCausalLM"]}, "wrong-architecture")
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM is a language model"):
        run(path, name=hub_id)


def test_a_directory_above_the_model_names_nothing(tmp_path: Path) -> None:
    path = folder(tmp_path, tokenizers.qwen2(), QWEN2, "mxbai-rerank-base-v2/trained-from")
    with pytest.raises(UnsupportedModelError):
        run(path)


def test_nemotron_is_known_by_architecture_and_tokenizer(tmp_path: Path) -> None:
    adapted = run(folder(tmp_path, tokenizers.llama3(), NEMOTRON))
    assert summary(adapted) == ("llama-nemotron-rerank", NEMOTRON["architectures"][0], None, None)
    assert adapted.match is not None and not adapted.match.converts
    assert adapted.match.recipe.template == "nemotron-rerank.jinja"
    assert run(folder(tmp_path, tokenizers.qwen2(), NEMOTRON, "other")).match is None


SEED_PAGE: dict[str, tuple[Any, ...]] = {
    "qwen3-reranker": (
        tokenizers.qwen3,
        QWEN3,
        {
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "is_original_qwen3_reranker": True,
        },
    ),
    "mxbai-rerank-v2": (
        tokenizers.qwen2,
        QWEN2,
        {
            "architectures": ["Qwen2ForSequenceClassification"],
            "classifier_from_token": ["0", "1"],
            "method": "from_2_way_softmax",
        },
    ),
    "bge-reranker-v2-gemma": (
        tokenizers.gemma,
        GEMMA,
        {
            "architectures": ["GemmaForSequenceClassification"],
            "classifier_from_token": ["Yes"],
            "method": "no_post_processing",
        },
    ),
}


@pytest.mark.parametrize("recipe", SEED_PAGE)
def test_the_seed_pages_overrides_get_the_recipes_template(tmp_path: Path, recipe: str) -> None:
    tokenizer, config, overrides = SEED_PAGE[recipe]
    adapted = run(folder(tmp_path, tokenizer(), config), overrides)
    assert adapted.match is not None and not adapted.match.converts
    assert adapted.match.recipe.name == recipe
    assert {key: adapted.hf_config.get(key) for key in overrides} == overrides
    stranger = run(folder(tmp_path, tokenizers.llama3(), config, "stranger"), overrides)
    assert stranger.match is None and stranger.hf_config.architectures == overrides["architectures"]


def test_keys_that_are_set_win(tmp_path: Path) -> None:
    path = folder(tmp_path, tokenizers.qwen3(), QWEN3, "Qwen3-Reranker-0.6B")
    other = run(path, {"classifier_from_token": ["0", "1"], "method": "from_2_way_softmax"})
    assert summary(other) == (None, "Qwen3ForSequenceClassification", ["0", "1"], "from_2_way_softmax")
    plain = run(path, {"method": "no_post_processing"})
    assert plain.hf_config.method == "no_post_processing"
    raw = run(path, {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}})
    assert raw.hf_config.sentence_transformers == {"activation_fn": "torch.nn.modules.linear.Identity"}
    assert summary(run(path, convert="embed"))[:2] == (None, "Qwen3Model")


def test_a_checkpoint_with_a_head_of_its_own_needs_no_recipe(tmp_path: Path) -> None:
    config = {"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1}
    path = folder(tmp_path, tokenizers.qwen3(), config, "Qwen3-Reranker-0.6B-seq-cls")
    adapted = run(path)
    assert adapted.match is None and adapted.hf_config.get("method") is None


# ---- language models without a recipe ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "settings", "architecture"),
    [
        (YES_NO, {}, "Qwen2ForSequenceClassification"),
        ({}, {"convert": "classify"}, "Qwen2ForSequenceClassification"),
        ({}, {"convert": "embed"}, "Qwen2Model"),
        ({}, {"runner": "pooling"}, "Qwen2Model"),
        (YES_NO, {"runner": "pooling"}, "Qwen2ForSequenceClassification"),
        (YES_NO, {"convert": "embed"}, "Qwen2Model"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, {}, "Qwen2ForSequenceClassification"),
        ({"architectures": ["GPT2LMHeadModel"]}, {"convert": "classify"}, "GPT2ForSequenceClassification"),
        ({"architectures": ["Qwen2Model"]}, {"convert": "classify"}, "Qwen2ForSequenceClassification"),
        ({"architectures": ["Qwen2Model"]}, {}, "Qwen2Model"),
    ],
)
def test_what_a_language_model_is_run_as(
    tmp_path: Path, overrides: dict[str, Any], settings: dict[str, str], architecture: str
) -> None:
    adapted = run(folder(tmp_path, tokenizers.qwen2(), QWEN2), overrides, **settings)
    assert adapted.match is None
    assert adapted.hf_config.architectures == [architecture]


def test_a_language_model_that_nothing_says_how_to_score_with_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path, tokenizers.qwen2(), QWEN2)
    with pytest.raises(UnsupportedModelError) as caught:
        run(path)
    for words in ("Qwen2ForCausalLM", "set classifier_from_token and method in hf_overrides", "convert='classify'"):
        assert words in str(caught.value)
    with pytest.raises(UnsupportedModelError, match="set method in hf_overrides"):
        run(path, {"classifier_from_token": ["0", "1"]})
    with pytest.raises(ConfigError, match="This model does not support `--runner pooling`"):
        run(path, runner="pooling", convert="none")


def test_other_models_are_left_alone(tmp_path: Path) -> None:
    path = folder(tmp_path, tokenizers.qwen2(), {"architectures": ["BertForSequenceClassification"]})
    adapted = run(path)
    assert adapted.match is None and adapted.hf_config.architectures == ["BertForSequenceClassification"]


# ---- folders that say it themselves --------------------------------------------------------------------------------


def saved(
    parent: Path, true_token: str, false_token: str | None, template: str = "{{ messages }}", **files: Any
) -> Path:
    """What sentence-transformers writes for a CrossEncoder on a causal language model."""
    tokenizer = tokenizers.qwen2()
    path = folder(parent, tokenizer, QWEN2, template=template)
    kind = "sentence_transformers.{}"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": kind.format("base.modules.transformer.Transformer")},
        {"idx": 1, "name": "1", "path": "1_LogitScore", "type": kind.format("cross_encoder.modules.LogitScore")},
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    ids = {"true_token_id": tokenizer.convert_tokens_to_ids(true_token), "false_token_id": None}
    if false_token is not None:
        ids["false_token_id"] = tokenizer.convert_tokens_to_ids(false_token)
    (path / "1_LogitScore").mkdir()
    (path / "1_LogitScore" / "config.json").write_text(json.dumps({**ids, **files.pop("score", {})}))
    settings = {"modality_config": {"text": {}, "message": {}}, **files.pop("settings", {})}
    (path / "sentence_bert_config.json").write_text(json.dumps(settings))
    (path / "config_sentence_transformers.json").write_text(json.dumps(files))
    return path


def test_a_saved_reranker_states_its_tokens_and_prompt(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        "Yes",
        None,
        settings={"processing_kwargs": {"chat_template": {"add_generation_prompt": True, "restore_suffix": True}}},
        prompts={"query": "Judge relevance."},
        default_prompt_name="query",
    )
    adapted = run(path)
    assert summary(adapted) == ("saved", "Qwen2ForSequenceClassification", ["Yes"], "no_post_processing")
    assert adapted.match is not None
    recipe = adapted.match.recipe
    assert (recipe.template_source(), recipe.prompt) == ("{{ messages }}", "Judge relevance.")
    assert recipe.template_kwargs == {"add_generation_prompt": True}
    assert "sentence_transformers" not in adapted.hf_config


def test_a_saved_reranker_with_two_tokens(tmp_path: Path) -> None:
    adapted = run(saved(tmp_path, "yes", "no"))
    assert summary(adapted) == ("saved", "Qwen2ForSequenceClassification", ["no", "yes"], "from_2_way_softmax")


def test_a_saved_reranker_of_texts_encodes_the_pair(tmp_path: Path) -> None:
    adapted = run(saved(tmp_path, "yes", "no", settings={"modality_config": {"text": {}}}))
    assert adapted.match is not None and adapted.match.recipe.template_source() is None
    assert adapted.hf_config.use_sep_token is True


def test_a_saved_reranker_with_the_prompt_of_a_known_one_is_that_one(tmp_path: Path) -> None:
    words = FULL["mxbai-rerank-v2"][3]
    adapted = run(saved(tmp_path, "1", "0", template="{{ '" + words + "' }}"))
    assert summary(adapted)[0] == "mxbai-rerank-v2"


def test_an_embedding_model_on_the_same_backbone_is_no_reranker(tmp_path: Path) -> None:
    """Qwen3-Embedding: architecture, tokenizer and word table are the reranker's, but modules.json pools."""
    path = folder(tmp_path, tokenizers.qwen3(), {**QWEN3, "vocab_size": len(tokenizers.qwen3())}, "Qwen3-Reranker")
    assert summary(run(path))[0] == "qwen3-reranker"
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"x.{kind}"} for i, kind in enumerate(kinds)]
    (path / "modules.json").write_text(json.dumps(modules))
    adapted = run(path)
    assert adapted.match is None and adapted.hf_config.architectures == QWEN3["architectures"]
    assert "method" not in adapted.hf_config


def test_broken_saved_rerankers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LogitScore needs the ids"):
        run(saved(tmp_path / "ids", "yes", "no", score={"true_token_id": "yes"}))
    with pytest.raises(UnsupportedModelError, match="LogitScore reads 'token_embeddings'"):
        run(saved(tmp_path / "input", "yes", "no", score={"module_input_name": "token_embeddings"}))
    path = saved(tmp_path / "json", "yes", "no")
    (path / "modules.json").write_text("[{}]")
    with pytest.raises(ConfigError, match="is not a sentence-transformers module list"):
        run(path)
