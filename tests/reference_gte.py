"""GTE's encoder in plain torch, which transformers does not have: written from its description, not for speed."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import gelu, layer_norm, linear

if TYPE_CHECKING:
    from pathlib import Path

CLASS_NAMES = ("GteNew", "New")
NUM_LABELS = 3


def save(folder: Path, architecture: str, config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Write a random checkpoint and return its tensors."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"new.embeddings.word_embeddings.weight": (config["vocab_size"], hidden)}
    if config["type_vocab_size"]:
        shapes["new.embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], hidden)
    linears = {"new.pooler.dense": (hidden, hidden), "classifier": (NUM_LABELS, hidden)}
    norms = ["new.embeddings.LayerNorm"]
    for layer in (f"new.encoder.layer.{i}" for i in range(config["num_hidden_layers"])):
        linears[f"{layer}.attention.qkv_proj"] = (3 * hidden, hidden)
        linears[f"{layer}.attention.o_proj"] = (hidden, hidden)
        linears[f"{layer}.mlp.down_proj"] = (hidden, inner)
        shapes[f"{layer}.mlp.up_gate_proj.weight"] = (2 * inner, hidden)
        norms += [f"{layer}.attn_ln", f"{layer}.mlp_ln"]
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        scale = 0.1 if len(shape) == 1 else 0.5 if "embeddings" in name else 1.6 / shape[1] ** 0.5
        is_norm = len(shape) == 1 and name.endswith("weight")
        weights[name] = torch.randn(shape, generator=generator) * scale + (1.0 if is_norm else 0.0)
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    labels = {str(i): f"LABEL_{i}" for i in range(NUM_LABELS)}
    values = {"architectures": [architecture], "model_type": "new", "id2label": labels, **config}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return weights


def frequencies(config: dict[str, Any]) -> torch.Tensor:
    """Angle per position of each rotated pair, float64."""
    dim = config.get("rotary_emb_dim") or config["hidden_size"] // config["num_attention_heads"]
    scaling = config.get("rope_scaling") or {}
    factor, mixed_b, base = scaling.get("factor", 1.0), scaling.get("mixed_b"), config["rope_theta"]
    angles = []
    for i in range(dim // 2):
        if mixed_b is None:
            angles.append((base * factor) ** (-2 * i / dim) / factor ** (2 / dim))
        else:
            angles.append(base ** (-2 * i / dim) / math.exp(math.log(factor) * ((i + 1) / (dim / 2)) ** mixed_b))
    return torch.tensor(angles, dtype=torch.float64)


def logits(
    weights: dict[str, torch.Tensor], config: dict[str, Any], ids: list[int], dtype: torch.dtype
) -> torch.Tensor:
    """Logits [num_labels] float32 of one input, everything in `dtype`."""
    w = {name: tensor.to(dtype) for name, tensor in weights.items()}
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], epsilon)

    angles = torch.outer(torch.arange(len(ids), dtype=torch.float64), frequencies(config))
    cos, sin = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]
    half = cos.shape[-1]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)

    x = w["new.embeddings.word_embeddings.weight"][torch.tensor(ids)]
    if config["type_vocab_size"]:
        x = x + w["new.embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "new.embeddings.LayerNorm")
    for layer in (f"new.encoder.layer.{i}" for i in range(config["num_hidden_layers"])):
        qkv = dense(x, f"{layer}.attention.qkv_proj").view(len(ids), 3, heads, -1)
        q, k, v = rotate(qkv[:, 0]), rotate(qkv[:, 1]), qkv[:, 2]
        scores = torch.einsum("ihd,jhd->hij", q, k) * q.shape[-1] ** -0.5
        context = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(len(ids), -1)
        x = norm(x + dense(context, f"{layer}.attention.o_proj"), f"{layer}.attn_ln")
        up, gate = dense(x, f"{layer}.mlp.up_gate_proj").chunk(2, dim=-1)
        x = norm(x + dense(gelu(gate) * up, f"{layer}.mlp.down_proj"), f"{layer}.mlp_ln")
    return dense(torch.tanh(dense(x[0], "new.pooler.dense")), "classifier").float()
