"""PEFT adapters with random weights for tiny models, and what PEFT computes with them in float64."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import peft
import torch

import tiny_decoders
from assay import LLM, PoolingParams
from assay.lora.request import LoRARequest
from parity import float32_budget, max_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from assay.models import PoolingModel

SEQUENCE, TOKEN, BACKBONE = "ForSequenceClassification", "ForTokenClassification", "Model"
TASKS = {SEQUENCE: "SEQ_CLS", TOKEN: "TOKEN_CLS", BACKBONE: "FEATURE_EXTRACTION"}
"""What PEFT is told a class is for."""
VOCAB_SIZE = tiny_decoders.VOCAB_SIZE
LOGITS = PoolingParams(use_activation=False)
IDS = [[5], [6, 7], [9, 8, 7, 6, 5, 4, 150, 151, 152], [140 - 3 * place for place in range(40)], [4] * 17]
SPREAD = 0.15
"""Of A and B: what they add changes every logit, and does not drown the base."""

_SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 80}
_BERT = {**_SIZES, "max_position_embeddings": 64}
_ROBERTA = {**_SIZES, "max_position_embeddings": 66, "type_vocab_size": 1}
_DECODER = {**_SIZES, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
_NAMED = {"dim": 48, "n_layers": 2, "n_heads": 3, "hidden_dim": 80}
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": {**_BERT, "hidden_size": 64, "num_attention_heads": 2},
    "Roberta": _ROBERTA,
    "XLMRoberta": _ROBERTA,
    "Electra": {**_BERT, "embedding_size": 32},
    "DistilBert": {**_NAMED, "max_position_embeddings": 64},
    "ModernBert": {**_SIZES, "local_attention": 16, "max_position_embeddings": 64, "pad_token_id": 0},
    "GPT2": {"n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 64},
    "Llama": _DECODER,
    "Mistral": {**_DECODER, "sliding_window": 24},
    "Qwen2": _DECODER,
    "Qwen3": {**_DECODER, "head_dim": 24, "tie_word_embeddings": True},
    "Gemma": {**_DECODER, "hidden_act": "gelu_pytorch_tanh"},
}
"""Sizes of a checkpoint, by transformers' class name without its ending."""


def make_model(name: str, head: str = SEQUENCE, **config: Any) -> Any:
    """transformers' model with random weights; those of the backbone are the same whatever the head."""
    case = tiny_decoders.TinyDecoder(name, BACKBONE, {**CONFIGS[name], **config})
    backbone = tiny_decoders.make_model(case)
    if head == BACKBONE:
        return backbone
    model = tiny_decoders.make_model(tiny_decoders.TinyDecoder(name, head, case.config), config.get("num_labels", 3))
    model.base_model.load_state_dict(backbone.state_dict(), strict=False)  # not every class has a pooler
    return model


def save_model(model: Any, folder: Path) -> Path:
    """Write the checkpoint."""
    model.save_pretrained(folder)
    return folder


def save_adapter(model: Any, folder: Path, *, seed: int = 1, base: Path | None = None, **lora: Any) -> Any:
    """Write an adapter of a copy of the model, and return PEFT's model of both.

    base: the folder the adapter says it is of. is_bin: as a torch checkpoint.
    """
    settings = {"r": 4, "lora_alpha": 8, "base_model_name_or_path": base and str(base), **lora}
    is_bin = settings.pop("is_bin", False)
    settings.setdefault("task_type", TASKS.get(_ending(model)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns where it sets fan_in_fan_out, and where it saves a table
        adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**settings)).eval()
        fill(adapted, seed)
        adapted.peft_config["default"].base_model_name_or_path = settings["base_model_name_or_path"]
        adapted.save_pretrained(folder, safe_serialization=not is_bin)
    return adapted


def fill(adapted: Any, seed: int) -> None:
    """Random numbers for A, B and the modules saved whole."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * SPREAD)


def _ending(model: Any) -> str:
    name = type(model).__name__
    return next((ending for ending in TASKS if name.endswith(ending)), "")


def exact_results(model: Any, inputs: Sequence[Sequence[int]] = IDS, pooling: str = "cls") -> list[torch.Tensor]:
    """Logits in float64, one input at a time; of a class without a head the hidden states of one token."""
    place = {"cls": 0, "last_token": -1}[pooling]
    exact = copy.deepcopy(model).double()
    with torch.inference_mode():
        outputs = [exact(input_ids=torch.tensor([ids])) for ids in inputs]
        return [output.logits[0] if "logits" in output else output.last_hidden_state[0, place] for output in outputs]


def load(folder: Path, **settings: Any) -> LLM:
    """An LLM that takes adapters, and token ids only."""
    defaults = {"enable_lora": True, "skip_tokenizer_init": True, "max_batch_tokens": 256}
    return LLM(folder, **{**defaults, **settings})


def request(folder: Path, name: str = "a", **fields: Any) -> LoRARequest:
    """A request for an adapter."""
    return LoRARequest(name, 1, str(folder), **fields)


def results(llm: LLM, lora_request: Any = None, inputs: Sequence[Sequence[int]] = IDS) -> list[torch.Tensor]:
    """The active task's results without activation."""
    prompts = [{"prompt_token_ids": [*ids]} for ids in inputs]
    outputs = llm.encode(prompts, LOGITS, pooling_task=llm.pooling_task, use_tqdm=False, lora_request=lora_request)
    return [output.outputs.data for output in outputs]


def adapted_model(llm: LLM, lora_request: LoRARequest) -> PoolingModel:
    """The loaded model with an adapter."""
    assert llm.session.adapters is not None
    return llm.session.adapters.model(lora_request)


def are_close(ours: list[torch.Tensor], exact: list[torch.Tensor]) -> bool:
    """Whether results agree within the float32 budget."""
    return max_error(ours, exact) <= float32_budget(exact)


def are_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    """Whether results agree bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
