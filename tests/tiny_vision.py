"""Small random vision-language checkpoints, images for them, and what transformers makes of both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import reranker_tokenizers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MARK = "<|vision_start|><|image_pad|><|vision_end|>"
PATCH, MERGE = 4, 2
PIXELS = {"min_pixels": 64, "max_pixels": 4096}
CHAT = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}" + MARK + "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)
_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}
_TOWERS: dict[str, dict[str, Any]] = {
    "Qwen2VL": {"depth": 3, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2},
    "Qwen2_5_VL": {
        "depth": 4,
        "hidden_size": 64,
        "out_hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1, 3],
    },
    "Qwen3VL": {
        "depth": 4,
        "hidden_size": 64,
        "out_hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 2],
    },
}
KINDS = tuple(_TOWERS)


@cache
def tokenizer() -> Any:
    """Qwen's, with the tokens around images."""
    made = reranker_tokenizers.qwen3.__wrapped__()
    made.add_tokens(list(VISION_TOKENS), special_tokens=True)
    made.chat_template = CHAT
    return made


def token_id(token: str) -> int:
    """The id of a token."""
    return int(tokenizer().convert_tokens_to_ids(token))


def _config(kind: str) -> Any:
    text = {**_TEXT, "vocab_size": len(tokenizer()) + 5}
    if kind == "Qwen3VL":
        text |= {"head_dim": 16, "rope_parameters": {**_TEXT["rope_parameters"], "mrope_interleaved": True}}
    ids = {
        f"{name}_token_id": token_id(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    config_class = getattr(transformers, f"{kind}Config")
    vision = {**_TOWERS[kind], "patch_size": PATCH, "spatial_merge_size": MERGE}
    return config_class(text_config=text, vision_config=vision, **ids)


def _randomise(model: Any, seed: int) -> None:
    """Weights large enough that every part of the model matters to the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_norm = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(1 + 0.1 * noise if is_norm else noise * (0.15 if weight.ndim > 1 else 0.05))


def make(folder: Path, kind: str, *, num_labels: int = 3, head: str = "score", seed: int = 0, **config: Any) -> Path:
    """Write a checkpoint. head: "score", "lm_head" (a language model as it is saved), or "jina" on Qwen2-VL.

    config: keys of config.json to set beside what transformers writes.
    """
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(_config(kind)).eval()
    _randomise(model, seed)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    transformers.models.qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, **PIXELS
    ).save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    if head != "lm_head":
        values["architectures"] = ["JinaVLForRanking" if head == "jina" else f"{kind}ForSequenceClassification"]
        values["num_labels"] = 1 if head == "jina" else num_labels
        _add_head(folder, head, num_labels)
    (folder / "config.json").write_text(json.dumps(values | config))
    return folder


def _add_head(folder: Path, head: str, num_labels: int) -> None:
    from safetensors.torch import load_file, save_file

    path, generator = folder / "model.safetensors", torch.Generator().manual_seed(7)
    tensors = load_file(path)
    size = _TEXT["hidden_size"]
    shapes = {"score.weight": (num_labels, size)}
    if head == "jina":
        shapes = {
            "score.0.weight": (size, size),
            "score.0.bias": (size,),
            "score.2.weight": (1, size),
            "score.2.bias": (1,),
        }
    tensors |= {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def as_other_files(folder: Path, target: Path) -> Path:
    """The same checkpoint with the prefixes of transformers' modules, and the text's keys at the top as before 4.52."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("model.", "model.language_model.").replace("visual.", "model.visual."): tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    text = values.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    own = {key: value for key, value in text.items() if key not in values and value is not None}
    (target / "config.json").write_text(json.dumps(values | own))
    return target


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Encoded:
    """What transformers reads for a text with images."""

    input_ids: torch.Tensor
    media: dict[str, torch.Tensor]


def encode(text: str, images: list[Image.Image], suffix_ids: tuple[int, ...] = ()) -> Encoded:
    """The text with every image's tokens in place of its mark, and the images' patches."""
    media: dict[str, torch.Tensor] = {}
    if images:
        processor = transformers.models.qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(
            patch_size=PATCH, merge_size=MERGE, **PIXELS
        )
        media = dict(processor(images, return_tensors="pt"))
        for grid in media["image_grid_thw"].tolist():
            count = grid[0] * grid[1] * grid[2] // MERGE**2
            text = text.replace("<|image_pad|>", "<|placeholder|>" * count, 1)
        text = text.replace("<|placeholder|>", "<|image_pad|>")
    ids = torch.tensor([tokenizer()(text)["input_ids"] + list(suffix_ids)])
    if images:
        media["mm_token_type_ids"] = (ids == token_id("<|image_pad|>")).int()
    return Encoded(ids, media)


class Reference:
    """transformers' model of a folder, with the head that lies beside it."""

    def __init__(self, folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> None:
        from safetensors.torch import load_file

        model_class = getattr(transformers, f"{kind}ForConditionalGeneration")
        self.model = model_class.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
        self.dtype = dtype
        tensors = load_file(folder / "model.safetensors")
        self.head = {name: tensor for name, tensor in tensors.items() if name.startswith("score.")}

    def hidden_states(self, encoded: Encoded) -> torch.Tensor:
        """[num_tokens, hidden_size] float32."""
        mask = torch.ones_like(encoded.input_ids)
        media = {
            name: value.to(self.dtype) if value.is_floating_point() else value for name, value in encoded.media.items()
        }
        with torch.inference_mode():
            output = self.model.model(input_ids=encoded.input_ids, attention_mask=mask, **media)
        return output.last_hidden_state[0].float()

    def logits(self, encoded: Encoded) -> torch.Tensor:
        """[num_labels] of the last token, in float32."""
        last = self.hidden_states(encoded)[-1]
        if "score.weight" in self.head:
            return self.head["score.weight"] @ last
        dense = (self.head["score.0.weight"] @ last + self.head["score.0.bias"]).relu()
        return self.head["score.2.weight"] @ dense + self.head["score.2.bias"]

    def lm_logits(self, encoded: Encoded) -> torch.Tensor:
        """The last token's logits over the vocabulary."""
        with torch.inference_mode():
            return self.model.lm_head(self.hidden_states(encoded)[-1].to(self.dtype)).float()
