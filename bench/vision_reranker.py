"""A reranker of Qwen3-VL-2B's widths with fewer layers and random weights: folder, prompts, pictures, answers, work."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

import decoder_reranker
from checkpoints import SEED, built, minilm_folder
from contender import FloatArray
from workload import Workload, make_text, read_words

TEXT_SHAPE = {
    **decoder_reranker.SHAPE,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}
VISION_SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "num_position_embeddings": 2304,
}
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MARK = "<|vision_start|><|image_pad|><|vision_end|>"
PATCH, MERGE = 16, 2
PIXELS = {"min_pixels": 64 * 64, "max_pixels": 512 * 512}
TEMPLATE = "qwen3_vl_reranker.jinja"
SIDES = ((384, 288), (288, 384), (512, 256), (224, 224), (448, 448), (640, 480), (320, 320), (160, 352))
"""Width and height of the pictures, over and over."""


def processor() -> Any:
    """transformers' image processor on PIL."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, **PIXELS)


def build(folder: Path, num_layers: int) -> None:
    """Save the model in bfloat16, with its tokenizer and its image processor."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = decoder_reranker.train_tokenizer()
    tokenizer.add_tokens(list(VISION_TOKENS), special_tokens=True)
    names = ("vision_start", "vision_end", "image", "video")
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in zip(names, VISION_TOKENS, strict=True)
    }
    text = TEXT_SHAPE | {"num_hidden_layers": num_layers, "vocab_size": len(tokenizer)}
    text |= {"initializer_range": decoder_reranker.INIT_STD}
    vision = VISION_SHAPE | {"depth": num_layers, "patch_size": PATCH, "deepstack_visual_indexes": [0, num_layers // 2]}
    vision |= {"initializer_range": decoder_reranker.INIT_STD}
    torch.manual_seed(SEED)
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    model: Any = Qwen3VLForConditionalGeneration(config)
    tokenizer.save_pretrained(folder)
    processor().save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)


def folder_of(cache: Path, num_layers: int) -> Path:
    """The checkpoint under cache, built on first use; its name is how assay knows the reranker."""
    folder = cache / f"vision-{num_layers}-layers" / "qwen3-vl-reranker-shape"
    return built(folder, lambda folder: build(folder, num_layers))


def picture(seed: int) -> str:
    """A data URL of a picture with smooth random colours."""
    from PIL import Image

    width, height = SIDES[seed % len(SIDES)]
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def opened(url: str) -> Any:
    """The picture of a data URL."""
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def is_picture(side: str) -> bool:
    """Whether one side of a pair is one."""
    return side.startswith("data:")


class Encoder:
    """What a program on transformers writes to encode pairs: the prompt, the tokens of pictures, and their patches."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoTokenizer

        from assay.templates import Template, template_source

        self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        self.tokenizer.padding_side = "left"
        self.processor = processor()
        self.template = Template(template_source(TEMPLATE))

    def __call__(self, query: str, documents: list[str]) -> dict[str, Any]:
        """A padded batch."""
        texts, pictures = [], []
        for document in documents:
            sides = []
            for side in (query, document):
                if is_picture(side):
                    pictures.append(opened(side))
                sides.append(MARK if is_picture(side) else side)
            roles = zip(("query", "document"), sides, strict=True)
            texts.append(self.template.render([{"role": role, "content": side} for role, side in roles]))
        media = dict(self.processor(pictures, return_tensors="pt")) if pictures else {}
        counts = iter(media["image_grid_thw"].prod(dim=1).tolist() if pictures else [])
        for index, text in enumerate(texts):
            parts = text.split("<|image_pad|>")
            texts[index] = parts[0] + "".join("<|image_pad|>" * (next(counts) // MERGE**2) + part for part in parts[1:])
        batch = self.tokenizer(texts, padding=True, return_tensors="pt")
        types = (batch["input_ids"] == self.tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
        return {**batch, **media, **({"mm_token_type_ids": types} if pictures else {})}


def compute_logits(checkpoint: Path, workload: Workload) -> FloatArray:
    """logit("yes") - logit("no") behind each prompt: float64, eager attention, one pair at a time."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    encode = Encoder(checkpoint)
    no, yes = decoder_reranker.answer_ids(encode.tokenizer)
    model: Any = Qwen3VLForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float64, attn_implementation="eager"
    )
    model.eval()
    found = []
    with torch.inference_mode():
        for document in workload.documents:
            inputs = encode(workload.query, [document])
            if "pixel_values" in inputs:
                inputs["pixel_values"] = inputs["pixel_values"].double()
            last = model(**inputs, logits_to_keep=1).logits[0, -1]
            found.append((last[yes] - last[no]).item())
    return np.array(found)


def make_workloads(checkpoint: Path, num_documents: int) -> list[Workload]:
    """Pictures for a text, and texts for a picture."""
    rng = np.random.default_rng(20)
    words = read_words(minilm_folder() / "vocab.txt")
    query, pictures = make_text(words, 9, rng), [picture(seed) for seed in range(num_documents)]
    texts = [make_text(words, int(size), rng) for size in rng.integers(20, 120, num_documents)]
    encode = Encoder(checkpoint)

    def workload(name: str, query: str, documents: list[str]) -> Workload:
        lengths = [encode(query, [document])["input_ids"].shape[1] for document in documents]
        return Workload(name, query, documents, lengths)

    return [workload("pictures for a text", query, pictures), workload("texts for a picture", picture(4), texts)]


def useful_flops(config: Any, workload: Workload) -> float:
    """Multiply-adds x 2 that the scores depend on: pictures through the tower once, then the decoder."""
    vision = config.vision_config
    hidden, inner, depth = vision.hidden_size, vision.intermediate_size, vision.depth
    merged, num_mergers = hidden * MERGE**2, 1 + len(vision.deepstack_visual_indexes)
    sides = {side for side in (workload.query, *workload.documents) if is_picture(side)}
    total = decoder_reranker.useful_flops(config.text_config, workload.pair_seqlens)
    for side in sides:
        _, rows, columns = processor()(opened(side), return_tensors="np")["image_grid_thw"][0].tolist()
        count = rows * columns
        layer = (8.0 * hidden * hidden + 4.0 * hidden * inner) * count + 4.0 * hidden * count * count
        merger = (2.0 * merged * merged + 2.0 * merged * vision.out_hidden_size) * count / MERGE**2
        total += depth * layer + num_mergers * merger + 2.0 * 3 * 2 * PATCH**2 * hidden * count
    return float(total)
