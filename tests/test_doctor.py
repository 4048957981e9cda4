from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reranker_tokenizers
import tiny_models
import tiny_rerankers
import tiny_transformers
from assay.cli import main
from assay.doctor import Example, Report, cause, compare, examine, inputs, page, words
from assay.errors import ValidationError

SEQUENCE = "ForSequenceClassification"
TOKEN = "ForTokenClassification"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(tmp_path_factory.mktemp("bert"), "Bert", SEQUENCE, num_labels=3)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(tmp_path_factory.mktemp("roberta"), "Roberta", SEQUENCE, num_labels=1)


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "copy"))


def examine_some(model: str, **options: Any) -> Report:
    """`examine` on a third of the built-in inputs: singles and pairs, short and longer than the model."""
    return examine(model, examples=inputs.built_in(with_pairs=True)[::3], **options)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), encoding="utf-8")


def edit_weights(folder: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


# ---- agreement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "head", "num_labels"),
    [
        ("Bert", SEQUENCE, 3),
        ("Roberta", SEQUENCE, 1),
        ("DistilBert", SEQUENCE, 2),
        ("Bert", "ForTokenClassification", 4),
    ],
)
def test_a_sound_model_agrees(tmp_path: Path, family: str, head: str, num_labels: int) -> None:
    report = examine(str(tiny_models.make(tmp_path, family, head, num_labels=num_labels)))
    assert report.agrees, words.describe(report)
    assert report.cause.kind == cause.NONE
    assert report.first_token_difference is None
    assert report.batch_changes == 0
    assert report.totals.kendall_tau == pytest.approx(1.0, abs=1e-3)
    assert report.totals.max_logit_error is not None and report.totals.max_logit_error <= report.allowed


@pytest.mark.parametrize("kind", ["qwen3-reranker", "mxbai-rerank-v2", "bge-reranker-v2-gemma"])
def test_a_reranker_made_of_a_language_model_agrees(tmp_path: Path, kind: str) -> None:
    """transformers runs the language model on the prompt it renders itself, and its logits make the score.

    float32 by name: the tiny gemma magnifies what dtype="auto" loses on AMX tiles beyond the budget.
    """
    folder = tiny_rerankers.make(tmp_path, kind)
    report = examine_some(str(folder), dtype="float32")
    assert report.agrees, words.describe(report)
    assert report.batch_changes == 0
    assert any(example.pair for example in report.examples)
    other = {"classifier_from_token": ["1", "0"], "method": "from_2_way_softmax"}
    report = examine_some(str(folder), dtype="float32", hf_overrides=other)
    assert report.agrees, words.describe(report)


def test_a_tokenizer_without_special_tokens_leaves_the_empty_text_out(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    tokenizer = reranker_tokenizers.qwen2()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, pad_token_id=0, **sizes)
    Qwen2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    report = examine(str(tmp_path))
    assert report.agrees
    assert 0 < len(report.examples) < len(inputs.built_in(with_pairs=True))


def test_bfloat16_is_held_to_what_transformers_loses_itself(bert: Path) -> None:
    report = examine(str(bert), dtype="bfloat16")
    assert report.setting.dtype == "bfloat16"
    assert "own error in bfloat16" in report.basis
    assert report.totals.max_logit_error is not None and report.totals.max_logit_error > 1e-5
    assert report.cause.kind in (cause.NONE, cause.PRECISION)


def test_the_demo_model_agrees() -> None:
    report = examine("demo")
    assert report.agrees, words.describe(report)


# ---- broken copies -------------------------------------------------------------------------------------------------


def test_an_altered_tokenizer_is_found(bert: Path, tmp_path: Path) -> None:
    copy = copy_of(bert, tmp_path)
    path = copy / "tokenizer.json"
    state = json.loads(path.read_text("utf-8"))
    vocab = state["model"]["vocab"]
    vocab["a"], vocab["o"] = vocab["o"], vocab["a"]
    path.write_text(json.dumps(state), encoding="utf-8")
    report = examine_some(str(copy), reference=str(bert))
    assert report.cause.kind == cause.TOKEN_IDS
    assert report.first_token_difference is not None
    assert {report.first_token_difference["ours"], report.first_token_difference["theirs"]} == {vocab["a"], vocab["o"]}


def test_another_length_limit_is_truncation(bert: Path, tmp_path: Path) -> None:
    copy = copy_of(bert, tmp_path)
    edit_json(copy / "tokenizer_config.json", model_max_length=40)
    assert examine_some(str(copy), reference=str(bert)).cause.kind == cause.POSITION


def test_a_wrong_position_offset_is_found(roberta: Path, tmp_path: Path) -> None:
    copy = copy_of(roberta, tmp_path)

    def shift(tensors: dict[str, Any]) -> None:
        name = "roberta.embeddings.position_embeddings.weight"
        tensors[name] = tensors[name].roll(-1, 0).contiguous()

    edit_weights(copy, shift)
    report = examine_some(str(copy), reference=str(roberta))
    assert report.cause.kind == cause.POSITION
    assert "positions start 1 later" in report.cause.detail


def test_missing_token_types_are_found(bert: Path, tmp_path: Path) -> None:
    copy = copy_of(bert, tmp_path)

    def forget(tensors: dict[str, Any]) -> None:
        table = tensors["bert.embeddings.token_type_embeddings.weight"]
        table[1] = table[0]

    edit_weights(copy, forget)
    assert examine_some(str(copy), reference=str(bert)).cause.kind == cause.TOKEN_TYPES


@pytest.mark.parametrize("name", ["relu", "gelu_new"])
def test_a_wrong_hidden_activation_is_found(bert: Path, name: str) -> None:
    report = examine_some(str(bert), hf_overrides={"hidden_act": name})
    assert report.cause.kind == cause.HEAD
    assert report.cause.detail.endswith(f"use {name}")


def test_a_wrong_score_activation_is_found(bert: Path) -> None:
    report = examine_some(str(bert), hf_overrides={"problem_type": "multi_label_classification"})
    assert report.cause.kind == cause.HEAD
    assert "the logits agree" in report.cause.detail


def test_a_changed_head_is_found(bert: Path, tmp_path: Path) -> None:
    copy = copy_of(bert, tmp_path)
    edit_weights(copy, lambda tensors: tensors["classifier.weight"].mul_(-0.5))
    assert examine_some(str(copy), reference=str(bert)).cause.kind == cause.HEAD
    shutil.rmtree(copy)
    copy = copy_of(bert, tmp_path)

    def reorder(tensors: dict[str, Any]) -> None:
        for name in ("classifier.weight", "classifier.bias"):
            tensors[name] = tensors[name][[2, 0, 1]].contiguous()

    edit_weights(copy, reorder)
    report = examine_some(str(copy), reference=str(bert))
    assert report.cause.kind == cause.HEAD
    assert "another order" in report.cause.detail


def test_a_changed_head_is_found_where_every_token_goes_through_it(tmp_path: Path) -> None:
    tokenizer = tiny_models.byte_bpe_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "classifier_pooling": "late"}
    folder = tiny_transformers.make(tmp_path / "model", "EuroBert", **sizes)
    tokenizer.save_pretrained(folder)
    copy = copy_of(folder, tmp_path)
    edit_weights(copy, lambda tensors: tensors["dense.weight"].mul_(-0.5))
    assert examine_some(str(folder)).agrees
    assert examine_some(str(copy), reference=str(folder)).cause.kind == cause.HEAD


def test_rounded_weights_are_precision(bert: Path, tmp_path: Path) -> None:
    import torch

    copy = copy_of(bert, tmp_path)

    def round_all(tensors: dict[str, Any]) -> None:
        for name, value in tensors.items():
            tensors[name] = value.to(torch.bfloat16).float()

    edit_weights(copy, round_all)
    report = examine_some(str(copy), reference=str(bert))
    assert not report.agrees
    assert report.cause.kind == cause.PRECISION


def test_other_weights_are_weights(bert: Path, tmp_path: Path) -> None:
    other = tiny_models.make(tmp_path, "Bert", SEQUENCE, num_labels=3, seed=5)
    assert examine_some(str(other), reference=str(bert)).cause.kind == cause.BACKBONE


def test_nan_is_non_finite(bert: Path, tmp_path: Path) -> None:
    copy = copy_of(bert, tmp_path)
    edit_weights(copy, lambda tensors: tensors["classifier.bias"].fill_(float("nan")))
    report = examine_some(str(copy), reference=str(bert))
    assert report.cause.kind == cause.NON_FINITE
    assert "assay gives NaN" in report.cause.detail
    json.dumps(report.to_dict(), allow_nan=False)
    page.render(report)


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_kendall_tau_is_scipys_tau_b() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        ours, theirs = rng.integers(0, 12, 60).astype(float), rng.integers(0, 12, 60).astype(float)
        assert compare.kendall_tau(ours, theirs) == pytest.approx(float(stats.kendalltau(ours, theirs).statistic))
    assert compare.kendall_tau(np.ones(4), np.arange(4.0)) is None


def test_first_difference_sees_values_and_lengths() -> None:
    assert compare.first_difference([1, 2, 3], [1, 2, 3]) is None
    assert compare.first_difference([1, 2, 3], [1, 5, 3]) == compare.TokenDifference(1, 2, 5)
    assert compare.first_difference([1, 2], [1, 2, 3]) == compare.TokenDifference(2, None, 3)


def test_top_changes_counts_what_fell_out() -> None:
    theirs = np.arange(20.0)
    ours = theirs.copy()
    ours[19] = -1.0
    assert compare.top_changes(ours, theirs, 10) == 1
    assert compare.top_changes(theirs, theirs, 10) == 0


def test_examples_from_fields() -> None:
    assert inputs.from_fields({"text": "a"}, "line 1") == Example("line 1", "a")
    assert inputs.from_fields({"query": "q", "document": "d"}, "x") == Example("x", "q", "d")
    assert inputs.from_fields({"text": "q", "text_pair": "d"}, "x") == Example("x", "q", "d")
    for wrong in ({}, {"text": 1}, {"query": "q"}):
        with pytest.raises(ValidationError, match="line 1"):
            inputs.from_fields(wrong, "line 1")


# ---- the command and the page --------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_exit_codes_and_json(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "the quick fox"}\n{"query": "a fox", "document": "the lazy dog"}\n')
    assert run("doctor", bert, "--data", data, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["verdict"] == "agrees" and record["num_inputs"] == 2
    assert run("doctor", bert, "--data", data, "--hf-overrides", '{"hidden_act": "relu"}') == 1
    assert "DISAGREES: head or activation" in capsys.readouterr().out
    assert run("doctor", bert, "--data", data, "--tolerance", "0") == 1
    assert run("doctor", tmp_path / "nothing") == 2
    assert "could not compare" in capsys.readouterr().err
    assert run("doctor", bert, "--data", tmp_path / "missing.txt") == 2


class TagBalance(HTMLParser):
    """Fails on a tag that is closed out of turn, and collects what the page would load."""

    VOID = frozenset(("meta", "link", "img", "br", "hr", "input"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(html: str) -> TagBalance:
    parser = TagBalance()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert parser.loads == []
    return parser


def test_page_is_whole_and_escapes_texts(bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    data = tmp_path / "data.txt"
    data.write_text("<script>alert(1)</script>\nthe quick fox\n")
    assert run("doctor", bert, "--data", data, "--html", path) == 0
    html = path.read_text(encoding="utf-8")
    tags = parsed(html)
    assert tags.counts["svg"] == 2
    assert tags.counts["circle"] == 2 * 3
    assert "script" not in tags.counts and "&lt;script&gt;" in html
    assert "Agrees with transformers" in html


def test_page_of_a_disagreement(bert: Path, tmp_path: Path) -> None:
    other = tiny_models.make(tmp_path, "Bert", SEQUENCE, num_labels=3, seed=9)
    report: Report = examine(str(other), reference=str(bert))
    html = page.render(report)
    parsed(html)
    assert "Disagrees with transformers" in html
    assert 'class="dot off"' in html
