"""What `LLM(...)` is told of images, and what a vision-language model makes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ConfigError
from assay.image_reader import ImageReader
from assay.image_tokens import ImageMark
from assay.images import MediaAccess, require_packages
from assay.media import ImageRules
from assay.models.vision_language import VisionLanguageModel
from assay.pixels import ImageProcessor

if TYPE_CHECKING:
    from assay.models.pooling_model import PoolingModel
    from assay.models.vision_language import VisionLanguageShape
    from assay.tokenizer import Tokenizer

DEFAULT_LIMIT: Final = 999
"""Images of a prompt where nothing is said, as in vLLM."""
_START, _END = ("vision_start_token_id", 151652), ("vision_end_token_id", 151653)
"""Keys of config.json, and what transformers takes without them."""
_KINDS: Final = ("image", "video", "audio")
_TIMEOUT: Final = "VLLM_IMAGE_FETCH_TIMEOUT"


@dataclass(frozen=True, slots=True)
class MediaOptions:
    """Checked keywords of the caller. limit: images of one prompt; processor: settings that change the model's own."""

    access: MediaAccess = field(default_factory=MediaAccess)
    limit: int = DEFAULT_LIMIT
    processor: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, local_path: Any, domains: Any, limits: Any, processor: Any) -> MediaOptions:
        """Of allowed_local_media_path, allowed_media_domains, limit_mm_per_prompt and mm_processor_kwargs.

        Raises ConfigError for values that are none.
        """
        path = os.fspath(local_path or "") if isinstance(local_path or "", str | os.PathLike) else None
        if path is None or (path and not Path(path).is_dir()):
            raise ConfigError(f"allowed_local_media_path must be a folder, got {local_path!r}")
        is_list = isinstance(domains, list | tuple | set | frozenset)
        if domains is not None and not (is_list and all(isinstance(name, str) for name in domains)):
            raise ConfigError(f"allowed_media_domains must be a list of host names, got {domains!r}")
        if processor is not None and not isinstance(processor, Mapping):
            raise ConfigError(f"mm_processor_kwargs must be a dict, got {processor!r}")
        hosts = None if domains is None else tuple(domains)
        access = MediaAccess(local_path=path, domains=hosts, timeout_s=_timeout_s())
        return cls(access, _limit(limits), processor or None)


@dataclass(frozen=True, slots=True)
class ImageInput:
    """How a model's prompts hold images, and how those are read."""

    rules: ImageRules
    reader: ImageReader

    @classmethod
    def of(
        cls, model: PoolingModel, folder: Path, tokenizer: Tokenizer | None, options: MediaOptions
    ) -> ImageInput | None:
        """None for a text model, and without a tokenizer's placeholders; raises ConfigError where the parts of the
        folder do not fit each other.
        """
        if not isinstance(model.backbone, VisionLanguageModel):
            return None
        require_packages()
        shape = model.backbone.shape
        processor = ImageProcessor.from_folder(folder, options.processor)
        _check_sizes(processor, shape)
        placeholder, frame = "", None
        if tokenizer is not None:
            ids = [model.hf_config.get(*_START), shape.image_token_id, model.hf_config.get(*_END)]
            tokens = tokenizer.tokens(ids)
            missing = [str(token_id) for token_id, token in zip(ids, tokens, strict=True) if token is None]
            if missing:
                raise ConfigError(
                    f"the tokenizer has no token {', '.join(missing)}, which config.json names for images"
                )
            placeholder, frame = "".join(token for token in tokens if token is not None), (ids[0], ids[2])
        reader = ImageReader(ImageMark(shape.image_token_id, frame), processor, options.access)
        return cls(ImageRules(placeholder, options.limit), reader)


def _check_sizes(processor: ImageProcessor, shape: VisionLanguageShape) -> None:
    features = 3 * processor.temporal_patch_size * processor.patch_size**2
    found, wanted = (features, processor.merge_size), (shape.vision.patch_features, shape.vision.merge_size)
    if found != wanted:
        raise ConfigError(
            f"preprocessor_config.json makes patches of {found[0]} numbers, {found[1]} a token each way; config.json "
            f"has {wanted[0]} and {wanted[1]}"
        )


def _limit(limits: Any) -> int:
    """The count of images in limit_mm_per_prompt, a number or {"count": number}."""
    if limits is None:
        return DEFAULT_LIMIT
    if not isinstance(limits, Mapping):
        raise ConfigError(f"limit_mm_per_prompt must be a dict of counts by kind of media, got {limits!r}")
    unknown = sorted(str(kind) for kind in limits if kind not in _KINDS)
    if unknown:
        raise ConfigError(f"limit_mm_per_prompt: {', '.join(unknown)} is no kind of media: {', '.join(_KINDS)} are")
    value = limits.get("image", DEFAULT_LIMIT)
    value = value.get("count", DEFAULT_LIMIT) if isinstance(value, Mapping) else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"limit_mm_per_prompt: image must be a count, got {value!r}")
    return value


def _timeout_s() -> float:
    text = os.environ.get(_TIMEOUT, "")
    if not text:
        return MediaAccess().timeout_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{_TIMEOUT} must be a number of seconds above 0, got {text!r}")
    return seconds
