"""int8 with a guard: figures, which layers are put back, what is refused, and the verdict kept for the next start."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import llms
import tiny_models
from assay import LLM, ConfigError, ops
from assay.llm import quantized
from assay.quantization import Budget, Figures, Verdict, built_in_pairs, built_in_texts, given, kept_verdict
from assay.quantization.damage import layer_damage
from assay.quantization.figures import compare_embeddings, compare_scores, kendall_tau

LENIENT = Budget(min_tau=-1.0, max_flips=1.0)
STRICT = Budget(min_tau=1.0, max_flips=0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "int8"


@pytest.fixture
def budget(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Budget]:
    """The budget in force, parametrised indirectly."""
    monkeypatch.setattr(quantized, "Budget", lambda: request.param)
    yield request.param


lenient = pytest.mark.parametrize("budget", [LENIENT], indirect=True)
strict = pytest.mark.parametrize("budget", [STRICT], indirect=True)


def probs(llm: LLM, texts: list[str]) -> torch.Tensor:
    return torch.tensor([output.outputs.probs for output in llm.classify(texts, use_tqdm=False)])


@lenient
@pytest.mark.parametrize(
    ("head", "num_labels", "family"),
    [
        (llms.CLASSIFIER, 3, "Bert"),
        (llms.CLASSIFIER, 1, "Roberta"),
        (llms.TOKENS, 3, "Bert"),
        (llms.MODEL, 3, "Electra"),
    ],
)
def test_int8_answers_are_close_to_bfloat16(head: str, num_labels: int, family: str, budget: Budget) -> None:
    with llms.load(head, num_labels, family, quantization="int8", self_check=True) as llm:
        verdict = llm.quantization
        assert verdict is not None and verdict.kept == ()
        # Scores of random weights lie close together: trained models are further from changing the order of any two.
        assert 0 < verdict.figures.max_change < 0.2 and verdict.figures.tau > 0.8
        assert ops.arithmetic_name("int8") in llm.summary and str(verdict) in llm.summary


@lenient
def test_int8_is_batch_invariant(budget: Budget, restore_threads: None) -> None:
    texts = list(tiny_models.single_texts()[16:60])
    with llms.load(quantization="int8") as llm:
        ops.set_num_threads(1)
        together = probs(llm, texts)
        for threads in (1, 3):
            ops.set_num_threads(threads)
            assert torch.equal(torch.cat([probs(llm, [text]) for text in texts]), together)


@strict
def test_int8_is_refused_with_the_figures_where_half_the_layers_are_not_enough(budget: Budget, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 of 2 layers in bfloat16 has tau 0\.9\d+, .*budget is tau >= 1 and flips"):
        llms.load(num_labels=1, quantization="int8")
    assert not cache.exists()


def test_guard_puts_back_the_layer_that_int8_harms(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the most harmful layer back the figures improve; the budget is set between the two."""
    monkeypatch.setattr(quantized, "Budget", lambda: LENIENT)
    with llms.load(num_labels=1, quantization="int8") as llm:
        all_layers = llm.quantization
    assert all_layers is not None
    between = Budget(min_tau=all_layers.figures.tau + 1e-6, max_flips=1.0)
    monkeypatch.setattr(quantized, "Budget", lambda: between)
    with llms.load(num_labels=1, quantization="int8") as llm:
        verdict = llm.quantization
        assert verdict is not None and len(verdict.kept) == 1
        assert verdict.figures.tau > all_layers.figures.tau
        first = [output.outputs.score for output in llm.score("a", ["b c", "d", "e f g"], use_tqdm=False)]
    monkeypatch.setattr(quantized, "judge", None)  # the second start must not need it
    with llms.load(num_labels=1, quantization="int8") as llm:
        assert llm.quantization == verdict
        assert [output.outputs.score for output in llm.score("a", ["b c", "d", "e f g"], use_tqdm=False)] == first


@lenient
def test_verdict_is_used_again_and_belongs_to_its_inputs(
    budget: Budget, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with llms.load(quantization="int8") as llm:
        verdict = llm.quantization
    assert [json.loads(path.read_text())["kept"] for path in cache.iterdir()] == [[]]
    with llms.load(quantization="int8", quantization_data=[f"text number {i}" for i in range(20)]) as llm:
        assert llm.quantization is not None and llm.quantization.figures.decisions == 20
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(quantized, "judge", None)
    with llms.load(quantization="int8") as llm:
        assert llm.quantization == verdict


@lenient
@pytest.mark.parametrize(
    "change",
    [
        lambda values: "not json",
        lambda values: "[]",
        lambda values: json.dumps({**values, "fingerprint": "of another model"}),
        lambda values: json.dumps({**values, "kept": [7]}),
        lambda values: json.dumps({**values, "num_layers": 3}),
        lambda values: json.dumps({**values, "figures": {"tau": 1.0}}),
    ],
)
def test_a_wrong_verdict_file_is_measured_again(
    budget: Budget, change: Any, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with llms.load(quantization="int8"):
        pass
    (path,) = cache.iterdir()
    right = path.read_text()
    path.write_text(change(json.loads(right)))
    with caplog.at_level(logging.WARNING), llms.load(quantization="int8"):
        pass
    assert "measuring again" in caplog.text
    assert path.read_text() == right


@lenient
def test_cache_can_be_switched_off(budget: Budget, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", "0")
    with llms.load(quantization="int8"):
        pass
    assert not cache.exists() and kept_verdict("any", 2) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "int8", "dtype": "float32"}, "quantization='int8' and dtype='float32' contradict each other"),
        ({"quantization": "int4"}, "quantization='int4' is not supported: use None or 'int8'"),
        ({"quantization_data": ["a"]}, "quantization_data is read for quantization='int8' only"),
        ({"quantization": "int8", "quantization_data": ["a"]}, "at least 16 prompts, got 1"),
        (
            {"quantization": "int8", "quantization_data": "missing.txt"},
            "quantization_data='missing.txt': .*No such file",
        ),
        ({"quantization": "int8", "quantization_data": 3}, "must be a file or a list of prompts, got int"),
        (
            {"quantization": "int8", "quantization_data": [("a", "b")] * 16},
            "16 pairs among 16 prompts for task classify",
        ),
        (
            {"quantization": "int8", "skip_tokenizer_init": True},
            "needs quantization_data: a list of lists of token ids",
        ),
        ({"quantization": "int8", "model_impl": "transformers"}, "quantization='int8' is not supported for Bert"),
    ],
)
def test_int8_refuses_what_it_cannot_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        llms.load(**settings)


@lenient
def test_int8_without_a_tokenizer_takes_token_ids(budget: Budget) -> None:
    data = [[5 + i, 9, 11 + i] for i in range(16)]
    with llms.load(quantization="int8", skip_tokenizer_init=True, quantization_data=data) as llm:
        assert llm.quantization is not None and llm.quantization.figures.decisions == 16


def test_calibration_file_holds_texts_or_pairs(tmp_path: Path) -> None:
    path = tmp_path / "texts.tsv"
    path.write_text("a question\tan answer\n\nonly one text\n" * 8)
    assert given(path) == [("a question", "an answer"), "only one text"] * 8


def test_built_in_calibration_is_varied() -> None:
    pairs, texts = built_in_pairs(), built_in_texts()
    assert (len(set(pairs)), len(set(texts))) == (128, 64)
    assert {len([pair for pair in pairs if pair[0] == query]) for query, _ in pairs} == {8}


def test_kendall_tau_is_scipys_without_ties() -> None:
    a = torch.tensor([0.1, 0.4, 0.2, 0.9, 0.5])
    assert kendall_tau(a, a * 2 + 1) == 1.0
    assert kendall_tau(a, -a) == -1.0
    swapped = torch.tensor([0.1, 0.2, 0.4, 0.9, 0.5])
    assert kendall_tau(a, swapped) == pytest.approx(1 - 2 / 10)  # one of ten pairs is the other way round
    assert kendall_tau(torch.ones(4), a[:4]) == 1.0


def test_figures_count_decisions() -> None:
    reference = torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.51, 0.49], [0.9, 0.1]])
    ours = torch.tensor([[0.7, 0.3], [0.1, 0.9], [0.49, 0.51], [0.8, 0.2]])
    assert compare_scores(reference, ours, threshold=None).flips == 0.25
    both = compare_scores(reference, ours, threshold=0.5)
    assert (both.flips, both.decisions) == (0.25, 8)
    assert both.max_change == pytest.approx(0.1)
    same = compare_embeddings(reference, 3 * reference)
    assert (same.tau, same.flips, same.decisions) == (1.0, 0.0, 4)


def test_budget_allows_one_flip_in_a_hundred_or_one() -> None:
    budget = Budget()
    assert budget.allows(Figures(0.98, 1 / 64, 64, 0.1)) and budget.allows(Figures(1.0, 2 / 200, 200, 0.1))
    assert not budget.allows(Figures(0.9799, 0.0, 64, 0.1))
    assert not budget.allows(Figures(1.0, 2 / 64, 64, 0.1)) and not budget.allows(Figures(1.0, 3 / 200, 200, 0.1))


def test_layer_damage_is_the_relative_error_of_each_layer() -> None:
    """Layers that double what they get, and twins that do so a little less."""

    class Scale:
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def __call__(self, hidden_states: torch.Tensor, batch: Any, workspace: Any, rows: Any, rows_out: Any) -> Any:
            return hidden_states.mul_(self.factor)

    class Backbone:
        def __init__(self, layers: tuple[Any, ...]) -> None:
            self.layers = layers

        def with_layers(self, layers: tuple[Any, ...]) -> Backbone:
            return Backbone(layers)

    def run(backbone: Any) -> None:
        hidden_states = torch.ones(2, 3)
        for layer in backbone.layers:
            layer(hidden_states, None, None, None, None)
        assert torch.equal(hidden_states, torch.full((2, 3), 4.0))

    backbone: Any = Backbone((Scale(2.0), Scale(2.0)))
    assert layer_damage(backbone, (Scale(1.8), Scale(1.0)), run) == pytest.approx([0.1, 0.5])


def test_verdict_says_what_runs() -> None:
    verdict = Verdict(6, (2,), Figures(0.99, 0.0, 64, 0.01))
    assert str(verdict).startswith("int8 in 5 of 6 layers: tau 0.9900, 0.00% of 64 decisions flipped")
