"""Jamba: its mixers in packed sequences beside attention and experts, and the head of its reward model.

That scores match transformers' and are the same bits in any batch is in test_transformers_path.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import lora_adapters
import reranker_tokenizers
import tiny_transformers
from assay import LLM
from assay.batch import Sequence, pack
from assay.config import PoolerConfig
from assay.doctor import Example, examine
from assay.errors import UnsupportedModelError, WeightsError
from assay.files import resolve_model
from assay.hf_config import HFConfig
from assay.models import PoolingModel, check_model, load_model
from parity import float32_budget, max_error
from tiny_transformers import MAX_LENGTH, make, sequences

if TYPE_CHECKING:
    from pathlib import Path

NAME = "JambaForSequenceClassification"


def load(folder: Path, dtype: str = "float32", config: PoolerConfig | None = None, **overrides: Any) -> PoolingModel:
    files = resolve_model(folder)
    return load_model(
        files,
        HFConfig.from_folder(files.folder, overrides or None),
        dtype=dtype,
        pooler_config=config or PoolerConfig(),
        max_batch_tokens=2048,
        max_batch_size=32,
    )


def run(model: PoolingModel, inputs: list[Sequence]) -> list[torch.Tensor]:
    return [result.clone() for result in model.run(pack(inputs, model.position_offset), [False] * len(inputs))]


def check(folder: Path, inputs: list[Sequence]) -> None:
    """Logits are transformers', and those of an input alone."""
    model, exact = load(folder), tiny_transformers.logits(folder, NAME, inputs)
    results = run(model, inputs)
    assert max_error(results, exact) <= float32_budget(exact)
    for sequence, result in zip(inputs, results, strict=True):
        assert torch.equal(run(model, [sequence])[0], result)


LAYERS = {
    "one attention layer": {"attn_layer_period": 4, "attn_layer_offset": 3, "num_experts": 1},
    "every other layer": {"attn_layer_period": 2, "attn_layer_offset": 0, "expert_layer_offset": 0},
    "attention only": {"attn_layer_period": 1, "attn_layer_offset": 0, "num_experts": 1},
    "another activation": {"hidden_act": "quick_gelu", "num_experts": 3, "num_experts_per_tok": 1},
    "automatic rank": {"mamba_dt_rank": "auto", "mamba_d_conv": 6, "mamba_d_state": 33, "num_experts": 1},
}


@pytest.mark.parametrize("changes", LAYERS.values(), ids=LAYERS)
def test_layers_of_every_kind_match_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    check(make(tmp_path / "model", "Jamba", **changes), sequences(5, longest=90))


def test_a_state_lasts_over_a_whole_sequence_and_ends_with_it(tmp_path: Path) -> None:
    """From states that never decay to some that are gone at once: the first token counts at the last, and nowhere else.

    The one layer with attention is the last one.
    """
    folder = make(tmp_path / "model", "Jamba", attn_layer_period=4, attn_layer_offset=3, num_experts=1)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("A_log"):
            tensor.copy_(torch.linspace(-9, 1, tensor.numel()).view_as(tensor))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    first, *rest = sequences(3, longest=MAX_LENGTH)[1:]
    changed = Sequence([first.input_ids[0] + 1, *first.input_ids[1:]])
    check(folder, [first, changed, *rest])
    model = load(folder)
    before, after = run(model, [first, *rest]), run(model, [changed, *rest])
    assert (before[0] - after[0]).abs().max() > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(before[1:], after[1:], strict=True))


def language_model(folder: Path, *, is_tied: bool) -> transformers.PreTrainedTokenizerBase:
    """A JambaForCausalLM with a tokenizer, which is returned."""
    tokenizer = reranker_tokenizers.qwen2()
    sizes = {"vocab_size": len(tokenizer), "num_experts": 1, "tie_word_embeddings": is_tied}
    make(folder, "Jamba", "ForCausalLM", pad_token_id=tokenizer.pad_token_id, **sizes)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("method", "tokens"), [("from_2_way_softmax", ["no", "yes"]), ("no_post_processing", ["0", "yes", "1"])]
)
def test_a_language_model_becomes_a_classifier_of_its_heads_rows(
    is_tied: bool, method: str, tokens: list[str], tmp_path: Path
) -> None:
    tokenizer = language_model(tmp_path / "model", is_tied=is_tied)
    overrides = {"architectures": [NAME], "method": method, "classifier_from_token": tokens}
    model, inputs = load(tmp_path / "model", **overrides), sequences(4)
    exact = tiny_transformers.logits(tmp_path / "model", "JambaForCausalLM", inputs)
    rows = [row[-1][tokenizer.convert_tokens_to_ids(tokens)] for row in exact]
    if method == "from_2_way_softmax":
        rows = [row[1:] - row[:1] for row in rows]
    assert model.default_use_activation
    assert max_error(run(model, inputs), rows) <= float32_budget(rows)
    report = check_model(resolve_model(tmp_path / "model"), overrides)
    assert report.head == f"{method} of {len(tokens)} rows of the language-model head"


def test_adapters_of_a_head_made_of_rows_are_refused(tmp_path: Path) -> None:
    language_model(tmp_path / "base", is_tied=True)
    trained = transformers.JambaForCausalLM.from_pretrained(tmp_path / "base")
    lora_adapters.save_adapter(trained, tmp_path / "adapter", target_modules=["in_proj"])
    overrides = {"architectures": [NAME], "method": "no_post_processing", "classifier_from_token": ["yes"]}
    with (
        lora_adapters.load(tmp_path / "base", hf_overrides=overrides) as llm,
        pytest.raises(UnsupportedModelError, match="adapters of such heads need one of this package's own families"),
    ):
        lora_adapters.results(llm, lora_adapters.request(tmp_path / "adapter"))


@pytest.mark.parametrize("head", ["Model", "ForCausalLM"])
def test_embeddings_are_the_last_token_of_the_backbone(head: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Jamba", head)
    exact = tiny_transformers.hidden_states(folder, f"Jamba{head}", sequences(4), "float32")
    model = load(folder, architectures=["JambaModel"])
    assert model.task == "embed"
    assert max_error(run(model, sequences(4)), [rows[-1] for rows in exact]) <= float32_budget(exact)


def test_a_request_that_does_not_say_gets_the_raw_reward(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Jamba", num_labels=1)
    inputs = [{"prompt_token_ids": sequence.input_ids} for sequence in sequences(3)]
    exact = tiny_transformers.logits(folder, NAME, sequences(3))
    with LLM(folder, skip_tokenizer_init=True, dtype="float32") as llm:
        raw = [output.outputs.probs for output in llm.classify(inputs, use_tqdm=False)]
    assert max_error([torch.tensor(row) for row in raw], exact) <= float32_budget(exact)
    assert not load(folder).default_use_activation
    assert load(folder, config=PoolerConfig(use_activation=True)).default_use_activation


def biased(folder: Path) -> torch.Tensor:
    """Give the head of a checkpoint a bias, and say so in its config; returns it."""
    tensors = load_file(folder / "model.safetensors")
    tensors["score.bias"] = torch.tensor([0.5, -1.25, 3.0])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors["score.bias"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_score_bias_adds_the_bias_transformers_does_not_know(dtype: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Jamba", score_bias=True)
    plain = [logits.float() for logits in run(load(folder, dtype, score_bias=False), sequences(3))]
    bias = biased(folder)
    for a, b in zip(run(load(folder, dtype), sequences(3)), plain, strict=True):
        assert torch.allclose(a, b + bias, atol=1e-5)


def test_the_doctor_knows_score_bias(tmp_path: Path) -> None:
    """The other side is transformers' class with that bias; without it every logit would be off by it."""
    folder = tmp_path / "model"
    tokenizer = reranker_tokenizers.qwen2()
    make(folder, "Jamba", score_bias=True, num_experts=1, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)
    biased(folder)
    report = examine(str(folder), examples=[Example("short", "a calm day"), Example("one", "nothing works")])
    assert report.agrees


def test_a_bias_that_is_not_there_or_not_stated_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Jamba", score_bias=True)
    with pytest.raises(WeightsError, match=f"{NAME} lacks tensors score.bias"):
        load(folder)
    biased(folder)
    with pytest.raises(WeightsError, match=f"{NAME} has no use for score.bias"):
        load(folder, score_bias=False)


def test_a_mixer_without_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Jamba")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mamba.A_log"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks tensors model\.layers\.0\.mamba\.A_log"):
        load(folder)


def test_a_state_the_kernel_does_not_hold_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Jamba", num_experts=1, mamba_d_state=65)
    with pytest.raises(UnsupportedModelError, match="on packed sequences: state_size must be 1 to 64, got 65"):
        load(folder)


def test_the_convolution_and_the_states_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is loaded, nothing calls the mixer's own code: that would mix the sequences of a batch."""
    from transformers.models.jamba import modeling_jamba

    model = load(make(tmp_path / "model", "Jamba"))

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("transformers' own mixer ran")

    for name in ("causal_conv1d_fn", "mamba_selective_scan"):
        monkeypatch.setattr(modeling_jamba, name, never)
    monkeypatch.setattr(modeling_jamba.JambaMambaMixer, "forward", never)
    run(model, sequences(3))
    with pytest.raises(AssertionError, match="own mixer ran"), torch.inference_mode():
        transformers.JambaModel(load_config(model)).eval()(torch.tensor([[5, 6, 7]]))


def load_config(model: PoolingModel) -> Any:
    return transformers.JambaConfig.from_dict(model.hf_config.to_dict())
