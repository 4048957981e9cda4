"""Adapters that PEFT wrote, by family: results of PEFT's model in float64, and what is shared with the base."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import cuda_devices
from assay import ConfigError, WeightsError, ops
from assay.cuda_kernels import CudaKernels
from assay.device import Device
from lora_adapters import (
    BACKBONE,
    IDS,
    SEQUENCE,
    TOKEN,
    adapted_model,
    are_close,
    are_equal,
    exact_results,
    load,
    make_model,
    request,
    results,
    save_adapter,
    save_model,
)
from parity import float32_budget, max_error

if TYPE_CHECKING:
    from pathlib import Path

LABELS = {0: "negative", 1: "neutral", 2: "positive"}
_ALL = {"target_modules": "all-linear"}


@dataclass(frozen=True)
class Case:
    """A base model and what its adapter is made with."""

    name: str
    head: str = SEQUENCE
    lora: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


CASES = {
    "bert": Case("Bert"),
    "bert-all-linear-rslora": Case("Bert", lora={**_ALL, "use_rslora": True}),
    "bert-tables": Case("Bert", lora={"target_modules": ["word_embeddings", "position_embeddings", "key"]}),
    "bert-pooler": Case("Bert", lora={"modules_to_save": ["pooler"]}),
    "bert-token": Case("Bert", TOKEN),
    "roberta": Case("Roberta", lora=_ALL),
    "roberta-token": Case("Roberta", TOKEN, {"target_modules": r".*\.layer\..*\.(key|dense)"}),
    "xlm-roberta": Case("XLMRoberta", lora={"target_modules": ["query", "word_embeddings"]}),
    "distilbert": Case("DistilBert", lora={"target_modules": ["q_lin", "v_lin", "out_lin", "lin1", "lin2"]}),
    "electra": Case("Electra", lora=_ALL),
    "modernbert": Case("ModernBert", lora=_ALL),
    "modernbert-mean": Case(
        "ModernBert",
        lora={"target_modules": ["Wqkv", "dense"]},
        config={"classifier_pooling": "mean", "attention_bias": True},
    ),
    "gpt2": Case("GPT2"),
    "gpt2-all-linear": Case("GPT2", lora=_ALL),
    "gpt2-score": Case("GPT2", lora={"target_modules": ["c_attn", "score"], "task_type": None}),
    "gpt2-square-score": Case("GPT2", lora={"target_modules": ["attn.c_proj", "score"], "task_type": None}),
    "llama": Case(
        "Llama",
        lora={
            **_ALL,
            "rank_pattern": {"q_proj": 6, r"layers\.1\.mlp\.down_proj": 2},
            "alpha_pattern": {r"layers\.1\..*": 3, "up_proj": 20},
        },
    ),
    "llama-rslora": Case("Llama", lora={"use_rslora": True, "r": 9}, config={"attention_bias": True, "mlp_bias": True}),
    "mistral": Case("Mistral", lora={"target_modules": ["k_proj", "gate_proj"]}),
    "qwen2": Case("Qwen2", lora=_ALL),
    "qwen3": Case("Qwen3"),
    "qwen3-score": Case("Qwen3", lora={"target_modules": ["o_proj", "score"], "task_type": None}),
    "qwen3-table": Case("Qwen3", lora={"target_modules": ["v_proj", "embed_tokens"]}),
    "qwen3-whole-table": Case("Qwen3", lora={"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]}),
    "qwen3-token": Case("Qwen3", TOKEN),
    "gemma": Case("Gemma", lora=_ALL),
    "gemma-table": Case("Gemma", lora={"target_modules": ["q_proj", "embed_tokens"]}),
    "gemma-whole-table": Case("Gemma", lora={"modules_to_save": ["embed_tokens"]}),
}


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_peft(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    model = make_model(case.name, case.head, **case.config)
    base = save_model(model, tmp_path / "base")
    exact = exact_results(save_adapter(model, tmp_path / "adapter", **case.lora))
    plain = exact_results(model)
    assert max_error(exact, plain) > 100 * float32_budget(exact)
    with load(base, enable_lora=False) as llm:
        alone = results(llm)
    with load(base) as llm:
        before = results(llm)
        ours = results(llm, request(tmp_path / "adapter"))
        after = results(llm)
    assert are_close(alone, plain)
    assert are_equal(before, alone) and are_equal(after, alone)
    assert are_close(ours, exact)


def test_a_torch_checkpoint_is_read_like_safetensors(tmp_path: Path) -> None:
    model = make_model("Bert")
    base = save_model(model, tmp_path / "base")
    for name in ("safetensors", "bin"):
        save_adapter(model, tmp_path / name, is_bin=name == "bin", target_modules=["query", "word_embeddings"])
    assert [path.name for path in (tmp_path / "bin").glob("adapter_model.*")] == ["adapter_model.bin"]
    with load(base, max_loras=2) as llm:
        first, second = (results(llm, request(tmp_path / name, name)) for name in ("safetensors", "bin"))
        assert are_equal(first, second) and not are_equal(first, results(llm))


# ---- names of another class ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "base_head", "adapted_head", "pooling"),
    [
        ("Bert", SEQUENCE, BACKBONE, ""),
        ("Qwen3", SEQUENCE, BACKBONE, ""),
        ("Bert", BACKBONE, BACKBONE, "cls"),
        ("Bert", BACKBONE, "ForMaskedLM", "cls"),
        ("Qwen3", BACKBONE, "ForCausalLM", "last_token"),
        ("GPT2", BACKBONE, "LMHeadModel", "last_token"),
    ],
)
def test_an_adapter_fits_whatever_prefix_its_class_has(
    tmp_path: Path, name: str, base_head: str, adapted_head: str, pooling: str
) -> None:
    model, trained = make_model(name, base_head), make_model(name, adapted_head)
    base = save_model(model, tmp_path / "base")
    merged = save_adapter(trained, tmp_path / "adapter").double().merge_and_unload()
    expected = model.double()
    expected.base_model.load_state_dict(merged.base_model.state_dict(), strict=False)
    with load(base) as llm:
        ours, plain = results(llm, request(tmp_path / "adapter")), results(llm)
    exact = exact_results(expected, pooling=pooling or "cls")
    assert are_close(ours, exact) and not are_close(plain, exact)


def test_embeddings_of_an_adapter_trained_on_the_whole_bare_model(tmp_path: Path) -> None:
    """all-linear reaches BERT's pooler, which an embedding does not read and which thus is never trained."""
    model = make_model("Bert", BACKBONE)
    base = save_model(model, tmp_path / "base")
    exact = exact_results(save_adapter(model, tmp_path / "adapter", **_ALL))
    with load(base) as llm:
        assert are_close(results(llm, request(tmp_path / "adapter")), exact)


def test_a_head_made_of_rows_of_a_language_model_takes_adapters(tmp_path: Path) -> None:
    """The rows are the base's, or those of a word table saved whole, which is the language model's head too."""
    model = make_model("Qwen3", "ForCausalLM")
    base = save_model(model, tmp_path / "base")
    (base / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"no": 20, "yes": 30}}, "added_tokens": []}))
    settings = {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "method": "from_2_way_softmax",
    }
    whole = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    with load(base, hf_overrides=settings, max_loras=2) as llm:
        for name, lora in (("layers", {"target_modules": ["v_proj", "up_proj"]}), ("table", whole)):
            rows = exact_results(save_adapter(model, tmp_path / name, **lora))
            exact = [(row[-1, 30] - row[-1, 20]).reshape(1) for row in rows]
            assert are_close(results(llm, request(tmp_path / name, name)), exact), name
        save_adapter(model, tmp_path / "low-rank", target_modules=["embed_tokens"])
        with pytest.raises(WeightsError, match="the head is made of rows of this matrix"):
            results(llm, request(tmp_path / "low-rank", "low-rank"))


# ---- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Bert", "Roberta", "Qwen3"])
def test_an_adapter_may_have_other_labels(tmp_path: Path, name: str) -> None:
    base = save_model(make_model(name, id2label=LABELS), tmp_path / "base")
    counts = (1, 2, 3, 5)
    models = {count: make_model(name, num_labels=count) for count in counts}
    exact = {
        count: exact_results(save_adapter(model, tmp_path / str(count), seed=count)) for count, model in models.items()
    }
    with load(base, max_lora_cls_labels=5, max_loras=4) as llm:
        prompts: list[Any] = [{"prompt_token_ids": ids} for ids in IDS]
        for count in counts:
            lora_request = request(tmp_path / str(count), str(count))
            assert are_close(results(llm, lora_request), exact[count])
            for output in llm.classify(prompts, lora_request=lora_request, use_tqdm=False):
                probs = output.outputs.probs
                assert len(probs) == output.outputs.num_classes == count
                assert count == 1 or sum(probs) == pytest.approx(1)
                names = list(LABELS.values()) if count == 3 else [f"LABEL_{index}" for index in range(count)]
                assert output.outputs.label == names[probs.index(max(probs))]
    with load(base) as llm:
        assert len(results(llm, request(tmp_path / "2"))[0]) == 2
        with pytest.raises(ConfigError, match=r"has 5 rows, at most 3 are allowed: raise max_lora_cls_labels"):
            results(llm, request(tmp_path / "5"))


# ---- one rounding --------------------------------------------------------------------------------------------------


def _on_grid(model: Any, step: float, limit: float) -> None:
    """So few bits that neither a product of A and B nor its sum with a weight is rounded, in any order."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter / step).round().clamp(-limit / step, limit / step) * step)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("Bert", ["query", "value", "intermediate.dense", "word_embeddings"]),
        ("ModernBert", ["Wqkv", "Wi"]),
        ("GPT2", ["c_attn", "c_proj"]),
        ("Qwen3", ["q_proj", "down_proj"]),
        ("Gemma", ["v_proj", "gate_proj"]),
    ],
)
def test_results_have_the_bits_of_the_merged_model(
    tmp_path: Path, name: str, targets: list[str], stored: torch.dtype
) -> None:
    model = make_model(name)
    _on_grid(model, 2**-7, 2 - 2**-7)
    base = save_model(model.to(stored), tmp_path / "base")
    adapted = save_adapter(model.float(), tmp_path / "adapter", target_modules=targets)
    _on_grid(adapted, 2**-7, 2 - 2**-7)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.copy_((parameter * 8).round() / 8)
    adapted.save_pretrained(tmp_path / "adapter")
    if stored == torch.bfloat16:  # the half an adapter of a half model is saved in
        path = tmp_path / "adapter" / "adapter_model.safetensors"
        save_file({key: tensor.to(stored) for key, tensor in load_file(path).items()}, path)
    merged = save_model(adapted.merge_and_unload(), tmp_path / "merged")
    for dtype in ("float32", "bfloat16"):
        with load(base, dtype=dtype) as llm, load(merged, dtype=dtype, enable_lora=False) as whole:
            ours = results(llm, request(tmp_path / "adapter"))
            assert are_equal(ours, results(whole)) and not are_equal(ours, results(llm))
    if stored == torch.bfloat16:
        with load(base) as llm:
            assert adapted_model(llm, request(tmp_path / "adapter")).dtype == "bfloat16"
            assert are_equal(results(llm, request(tmp_path / "adapter")), ours)


# ---- what is shared ------------------------------------------------------------------------------------------------


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The packed parts of every layer that is loaded from now on."""
    made: list[dict[str, Any]] = []
    fuse = ops.fused_layer

    def recorded(device: Device, **parts: Any) -> Any:
        made.append(parts)
        return fuse(device, **parts)

    monkeypatch.setattr(ops, "fused_layer", recorded)
    return made


PARTS = ("qkv", "attn_out", "mlp_up", "mlp_down", "row_keys")


@pytest.mark.parametrize(
    ("name", "targets", "changed"),
    [
        ("Bert", "query", {"qkv"}),
        ("Bert", "key", {"qkv", "row_keys"}),
        ("Bert", "word_embeddings", {"word"}),
        ("DistilBert", "lin2", {"mlp_down"}),
        ("Qwen2", "o_proj", {"attn_out"}),
        ("Qwen2", "up_proj", {"mlp_up"}),
        ("ModernBert", "Wqkv", {"qkv"}),
        ("GPT2", "c_attn", {"qkv"}),
        ("Gemma", "gate_proj", {"mlp_up"}),
    ],
)
def test_what_an_adapter_leaves_alone_is_the_bases_own(
    tmp_path: Path, layers: list[dict[str, Any]], name: str, targets: str, changed: set[str]
) -> None:
    """Only the last layer is adapted."""
    model = make_model(name)
    base = save_model(model, tmp_path / "base")
    where = rf".*\.{targets}" if targets == "word_embeddings" else rf".*\.1\.(.*\.)?{targets}"
    save_adapter(model, tmp_path / "adapter", target_modules=where)
    with load(base) as llm:
        adapted = adapted_model(llm, request(tmp_path / "adapter"))
        backbones: list[Any] = [llm.session.model.backbone, adapted.backbone]
        words = [backbone.embeddings.word for backbone in backbones]
    assert (words[0] is words[1]) == ("word" not in changed)
    first, last, adapted_first, adapted_last = layers
    assert (last["row_keys"] is not None) == (name == "Bert")
    for part in PARTS:
        assert adapted_first[part] is first[part], part
        is_same = adapted_last[part] is last[part]
        assert is_same == (part not in changed or last[part] is None), part


# ---- on a GPU ------------------------------------------------------------------------------------------------------


@cuda_devices.needs_emulation
def test_results_on_cuda_are_those_of_peft(tmp_path: Path) -> None:
    device = Device("cuda", 0, CudaKernels(cuda_devices.EMULATION, "cpu"), "emulation", 80, 0, is_emulated=True)
    model = make_model("Qwen3")
    base = save_model(model, tmp_path / "base")
    exact = exact_results(save_adapter(model, tmp_path / "adapter"), IDS[:3])
    plain = exact_results(model, IDS[:3])
    lora_request = request(tmp_path / "adapter")
    with load(base, device=device, self_check=False, max_batch_size=8) as llm:
        before = results(llm, None, IDS[:3])
        assert are_close(results(llm, lora_request, IDS[:3]), exact)
        mixed = results(llm, [None, lora_request, None], IDS[:3])
    assert are_close(before, plain)
    assert are_close(mixed, [plain[0], exact[1], plain[2]])
