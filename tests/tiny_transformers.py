"""Small random checkpoints of architectures that run through transformers, and token ids to run them on."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
import transformers

from assay.batch import Sequence
from tiny_models import randomize

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

VOCAB_SIZE = 211
MAX_LENGTH = 320
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": MAX_LENGTH,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_DECODER: dict[str, Any] = {**_SIZES, "num_key_value_heads": 2, "head_dim": 16}
_MIXTURE: dict[str, Any] = {**_DECODER, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
_JAMBA: dict[str, Any] = {
    **_DECODER,
    "num_hidden_layers": 4,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "mamba_expand": 3,
    "mamba_dt_rank": 6,
    "mamba_d_conv": 3,
}
_ROBERTA: dict[str, Any] = {**_SIZES, "max_position_embeddings": MAX_LENGTH + 2, "type_vocab_size": 1}
_DISENTANGLED: dict[str, Any] = {**_SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_DEBERTA_V3: dict[str, Any] = {
    **_DISENTANGLED,
    "position_buckets": 32,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
_UNSHARED: dict[str, Any] = {**_DISENTANGLED, "max_relative_positions": 60, "embedding_size": 32, "type_vocab_size": 2}

PACKABLE: dict[str, dict[str, Any]] = {
    "Albert": {**_SIZES, "embedding_size": 32},
    "XLMRobertaXL": _ROBERTA,
    "JinaEmbeddingsV3": _SIZES,
    "NomicBert": _SIZES,
    "EuroBert": {**_DECODER, "classifier_pooling": "mean"},
    "Phi": {**_DECODER, "partial_rotary_factor": 0.5},
    "Phi3": _DECODER,
    "GPTNeoX": _SIZES,
    "OPT": {**_SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "SmolLM3": {**_DECODER, "no_rope_layers": [1, 0]},
    "Starcoder2": {**_DECODER, "sliding_window": 70},
    "ModernBertDecoder": {**_SIZES, "sliding_window": 40, "layer_types": ["sliding_attention", "full_attention"]},
    "Ministral": {**_DECODER, "sliding_window": 33, "layer_types": ["full_attention", "sliding_attention"]},
    "Gemma2": {**_DECODER, "sliding_window": 50, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 20},
    "Mixtral": {**_DECODER, "num_local_experts": 4},
    "Qwen2Moe": {**_MIXTURE, "shared_expert_intermediate_size": 48},
    "Qwen3Moe": {**_MIXTURE, "norm_topk_prob": True},
    "Olmo2": _DECODER,
    "Cohere2": {**_DECODER, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
    "Granite": {**_DECODER, "attention_multiplier": 0.2, "residual_multiplier": 0.5},
    "Jamba": {**_JAMBA, "num_experts": 4},
    "Jamba dense": {**_JAMBA, "num_experts": 1, "mamba_conv_bias": False, "mamba_proj_bias": True, "mamba_d_state": 5},
    "DebertaV2": _DEBERTA_V3,
    "DebertaV2 unshared": _UNSHARED,
    "DebertaV2 convolution": {**_DEBERTA_V3, "conv_kernel_size": 3, "conv_act": "gelu"},
    "DebertaV2 absolute": {**_SIZES, "relative_attention": False},
    "Deberta": {**_DISENTANGLED, "max_relative_positions": 70, "position_biased_input": False},
    "MPNet": {**_SIZES, "max_position_embeddings": MAX_LENGTH + 2},
}
"""By transformers' class name without its ending; words behind it tell kinds of one class apart."""
WITHOUT_CLASSIFIER = ("Olmo2", "Cohere2", "Granite")


def head_of(name: str) -> str:
    """The ending of the class a checkpoint is made with."""
    return "Model" if name in WITHOUT_CLASSIFIER else "ForSequenceClassification"


def class_name(name: str, head: str | None = None) -> str:
    """The transformers class of a checkpoint."""
    return name.partition(" ")[0] + (head or head_of(name))


def make(folder: Path, name: str, head: str | None = None, **config: Any) -> Path:
    """Write a random checkpoint of class `name` + `head`, without a tokenizer."""
    model_class = getattr(transformers, class_name(name, head))
    values = {**PACKABLE.get(name, _DECODER), "num_labels": 3, **config}
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**values)).eval()
    randomize(model)
    model.save_pretrained(folder)
    return folder


_folders: dict[tuple[str, str], Path] = {}


def checkpoint(tmp_path_factory: pytest.TempPathFactory, name: str, head: str | None = None) -> Path:
    """The same, made once per session."""
    head = head or head_of(name)
    if (name, head) not in _folders:
        _folders[name, head] = make(tmp_path_factory.mktemp(name) / "model", name, head)
    return _folders[name, head]


def sequences(count: int, longest: int = MAX_LENGTH) -> list[Sequence]:
    """Token ids without special ones: lengths 1, `longest`, and `count` - 2 between."""
    rng = random.Random(5)
    lengths = [1, longest, *(rng.randint(1, longest) for _ in range(count - 2))]
    return [Sequence([rng.randrange(3, VOCAB_SIZE) for _ in range(length)]) for length in lengths]


def logits(folder: Path, name: str, inputs: list[Sequence]) -> list[torch.Tensor]:
    """transformers' own in float32, one input at a time, eager attention; hidden states of a class without head."""
    outputs = _outputs(_load(folder, name, "float32"), inputs)
    return [(output.logits if "logits" in output else output.last_hidden_state)[0] for output in outputs]


def hidden_states(folder: Path, name: str, inputs: list[Sequence], dtype: str) -> list[torch.Tensor]:
    """The same of the backbone alone, [num_tokens, hidden_size] float32."""
    return [output.last_hidden_state[0].float() for output in _outputs(_load(folder, name, dtype).base_model, inputs)]


def _load(folder: Path, name: str, dtype: str) -> Any:
    model_class, torch_dtype = getattr(transformers, name), getattr(torch, dtype)
    model = model_class.from_pretrained(folder, attn_implementation="eager", dtype=torch_dtype)
    return model.to(torch_dtype).eval()  # DeBERTa v1 makes some of its biases float32


def _outputs(model: Any, inputs: list[Sequence]) -> list[Any]:
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([sequence.input_ids])) for sequence in inputs]
