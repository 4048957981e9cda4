"""What happens when a model starts: files to a loaded model, its context length, a self-check, and the log line."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from assay import ops
from assay.adapt import adapt
from assay.batch import Sequence
from assay.convert import asks_for_rows
from assay.device import ON_CPU
from assay.errors import ConfigError, NonFiniteError, SelfCheckError, ValidationError
from assay.files import resolve_adapter, resolve_model
from assay.hf_config import HFConfig
from assay.llm.media_options import ImageInput, MediaOptions
from assay.llm.view import EngineView, ModelView, VllmView
from assay.lora.adapter import Adapter
from assay.models import load_model
from assay.models.adapted import Adaptation, as_trained
from assay.models.sentence_transformer import default_prompt
from assay.rendering import Renderer
from assay.tokenize_options import TokenizeOptions
from assay.tokenizer import Tokenizer

if TYPE_CHECKING:
    from concurrent.futures import Future

    from torch import Tensor

    from assay.config import EngineConfig, PoolerConfig
    from assay.device import Placement
    from assay.files import ModelFiles
    from assay.llm.adapters import AdapterLimits
    from assay.lora.request import LoRARequest
    from assay.models import PoolingModel
    from assay.recipes import Match
    from assay.weights import Parts

logger = logging.getLogger(__name__)

_CHECK_TEXTS: Final = ("A calm and pleasant day.", "Nothing works, and nobody answered the two letters we sent!")
_HEAD_DTYPES: Final = ("model", "float16", "bfloat16", "half", "float", "double", "float64")
_ALLOW_LONG: Final = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with everything around it that its files decide.

    match: the recipe that fits it. weight_files: what its weights were read from. parts: what adapters may share of it,
    None where it takes none. adapt: makes the model as an `Adaptation` of it. images: of a vision-language model.
    """

    name: str
    model: PoolingModel
    tokenizer: Tokenizer | None
    max_model_len: int
    match: Match | None = None
    weight_files: tuple[Path, ...] = ()
    parts: Parts | None = None
    adapt: Callable[[Adaptation], PoolingModel] | None = None
    images: ImageInput | None = None

    @property
    def is_converted(self) -> bool:
        """Whether the head is made of rows of a language-model head."""
        return asks_for_rows(self.model.hf_config)

    def renderer(self) -> Renderer:
        """What makes sequences of prompts for it; it knows the token that transformers' score heads do not read."""
        model = self.model
        reads_last = model.is_causal and model.task == "classify" and model.pooling == "last_token"
        pad = model.hf_config.get("pad_token_id") if reads_last and not self.is_converted else None
        reader = None if self.images is None else self.images.reader
        return Renderer(self.tokenizer, model.vocab_size, model.type_vocab_size, pad_read_at_end=pad, images=reader)

    def view(self, config: EngineConfig) -> EngineView:
        """What `llm.llm_engine` shows of it."""
        model = ModelView(
            model=self.name,
            architecture=self.model.architecture,
            hf_config=self.model.hf_config,
            pooler_config=self.model.pooler_config,
            dtype=self.model.dtype,
            max_model_len=self.max_model_len,
            supported_tasks=tuple(self.model.supported_tasks),
            attn_type="decoder" if self.model.is_causal else "encoder_only",
        )
        return EngineView(VllmView(model, config))

    def describe(self) -> str:
        """The start-up line: what runs, on what, in which arithmetic and why."""
        model, threads = self.model, ops.num_threads()
        way = " through transformers" if model.is_run_by_transformers else ""
        recipe = "" if self.match is None else f", recipe {self.match.recipe.name} (by {self.match.reason})"
        place = f"{ops.active_isa()} with {threads} thread{'' if threads == 1 else 's'}"
        if model.device.is_cuda:
            place = f"{model.device}"
        memory = "" if model.device_memory is None else f", memory: {model.device_memory}"
        return (
            f"{self.name}: {model.architecture}{way}, task {model.task}, {place}, "
            f"dtype {model.dtype} ({model.dtype_reason}), "
            f"arithmetic {model.arithmetic}, up to {self.max_model_len} tokens{recipe}{memory}"
        )


def load(
    name: str | os.PathLike[str],
    *,
    revision: str | None,
    token: str | bool | None,
    offline: bool | None,
    hf_overrides: Any,
    dtype: str,
    pooler_config: PoolerConfig,
    runner: str,
    convert: str,
    config: EngineConfig,
    tokenizer: str | None,
    tokenizer_revision: str | None,
    skip_tokenizer_init: bool,
    max_model_len: int | None,
    model_impl: str,
    quantization: str | None = None,
    placement: Placement = ON_CPU,
    enable_lora: bool = False,
    media: MediaOptions | None = None,
) -> Loaded:
    """Find, check and load a model and its tokenizer. Raises ConfigError, UnsupportedModelError or WeightsError."""
    if max_model_len is not None and (type(max_model_len) is not int or max_model_len < 1):
        raise ConfigError(f"max_model_len must be a positive integer, got {max_model_len!r}")
    files = resolve_model(name, revision=revision, token=token, offline=offline, adapters=True)
    if tokenizer is not None and Path(tokenizer).is_dir():
        files = replace(files, tokenizer_folder=Path(tokenizer))
    hf_config, adaptation = HFConfig.from_folder(files.folder), None
    if files.adapter_folder is not None:
        if enable_lora:
            raise ConfigError(f"model={files.name!r} is an adapter itself: with enable_lora=True name its base model")
        adaptation = Adaptation(Adapter.read(files.name, files.adapter_folder))
        hf_config = as_trained(hf_config, adaptation.adapter)
    hf_config = hf_config.overridden(hf_overrides)
    adapted = adapt(files, hf_config, pooler_config, runner=runner, convert=convert)
    hf_config = adapted.hf_config
    _check_head_dtype(hf_config.get("head_dtype"))
    if config.num_threads is not None:
        ops.set_num_threads(config.num_threads)
    parts: Parts | None = {} if enable_lora else None
    make_model = functools.partial(
        load_model,
        files,
        hf_config,
        dtype=dtype,
        pooler_config=adapted.pooler_config,
        max_batch_tokens=max(config.max_batch_tokens, max_model_len or 0),
        max_batch_size=config.max_batch_size,
        max_model_len=max_model_len,
        model_impl=model_impl,
        quantization=quantization,
        placement=placement,
        parts=parts,
    )
    model = make_model(adaptation=adaptation)
    _check_convert(convert, model)
    if model.task == "embed":
        _warn_of_prompt(os.fspath(name), files)
    text_tokenizer = None
    if not skip_tokenizer_init:
        text_tokenizer = Tokenizer.from_files(files, model.hf_config, tokenizer, tokenizer_revision, token)
    ops.release_free_memory()  # what was needed to lay out the weights and to read the tokenizer
    length = _max_model_len(max_model_len, model)
    return Loaded(
        name=os.fspath(name),
        model=model,
        tokenizer=text_tokenizer,
        max_model_len=length,
        match=adapted.match,
        weight_files=_weight_files(files, adaptation),
        parts=parts,
        adapt=lambda adaptation: make_model(adaptation=adaptation),
        images=ImageInput.of(model, files.folder, text_tokenizer, media or MediaOptions()),
    )


def load_adapter(
    request: LoRARequest,
    *,
    loaded: Loaded,
    limits: AdapterLimits,
    token: str | bool | None,
    offline: bool | None,
    check: Callable[[PoolingModel], None] | None,
) -> PoolingModel:
    """The model with an adapter. Raises ConfigError or WeightsError, and whatever check raises."""
    assert loaded.parts is not None and loaded.adapt is not None
    folder = resolve_adapter(request.lora_path, token=token, offline=offline)
    adapter = Adapter.read(request.lora_name, folder, limits.max_lora_rank)
    max_labels = limits.max_lora_cls_labels or loaded.model.num_labels
    model = loaded.adapt(Adaptation(adapter, loaded.model, loaded.parts, max_labels))
    ops.release_free_memory()
    if check is not None:
        check(model)
    logger.info(
        "%s: adapter %s changes %d matrices and replaces %d tensors",
        loaded.name,
        request.lora_name,
        len(adapter.low_rank),
        len(adapter.whole),
    )
    return model


def _weight_files(files: ModelFiles, adaptation: Adaptation | None) -> tuple[Path, ...]:
    """The checkpoint, an adapter's, and the weights of heads that lie in folders of their own."""
    adapter = [] if adaptation is None else [adaptation.adapter.path]
    heads = [] if files.head_folder is None else sorted(files.head_folder.glob("*.safetensors"))
    modules = sorted(
        path for name in ("model.safetensors", "pytorch_model.bin") for path in files.folder.glob(f"*/{name}")
    )
    return (*files.weight_files(), *adapter, *heads, *modules)


def _check_head_dtype(head_dtype: Any) -> None:
    """The head runs in float32 always; a known wish for less is not followed, an unknown name is refused."""
    name = str(head_dtype).removeprefix("torch.")
    if head_dtype is None or name == "float32":
        return
    if name not in _HEAD_DTYPES:
        raise ConfigError(f"Unknown dtype: {head_dtype!r}")
    logger.warning("head_dtype=%r has no effect: the head always runs in float32", head_dtype)


def _warn_of_prompt(name: str, files: ModelFiles) -> None:
    """Without its default prompt a model's embeddings are others than sentence-transformers gives."""
    prompt = default_prompt(files.folder)
    if prompt:
        logger.warning(
            "%s: sentence-transformers puts the default prompt %r before every text; here, as in vLLM, a text is "
            "embedded as it is: pass prompt + text",
            name,
            prompt,
        )


def _check_convert(convert: str, model: PoolingModel) -> None:
    """A conversion must be one the checkpoint has the weights for."""
    tasks = {"embed": ("embed", "token_embed"), "classify": ("classify", "token_classify")}.get(convert)
    if tasks is not None and not set(tasks) & set(model.supported_tasks):
        raise ConfigError(
            f"convert={convert!r}: {model.architecture} has no such head, and none is invented "
            f"(its tasks: {', '.join(model.supported_tasks)})"
        )


def _max_model_len(asked: int | None, model: PoolingModel) -> int:
    """The context length in use: what was asked for, never above what the model can do."""
    derived = model.max_model_len
    if asked is None or asked <= derived:
        return asked or derived
    message = (
        f"User-specified max_model_len ({asked}) is greater than the derived max_model_len "
        f"({model.max_model_len_source} in model's config.json)."
    )
    num_positions = model.num_positions
    if asked <= num_positions and os.environ.get(_ALLOW_LONG, "").lower() in ("1", "true"):
        logger.warning("%s %s is set: scores of inputs that long are on the caller.", message, _ALLOW_LONG)
        return asked
    raise ConfigError(
        f"{message} To allow overriding this maximum, set the env var {_ALLOW_LONG}=1. "
        f"Even then the model has embeddings for {num_positions} positions only."
    )


def self_check(renderer: Renderer, submit: Callable[..., Future[Tensor]], max_model_len: int, vocab_size: int) -> None:
    """Run two built-in inputs without activation; raises SelfCheckError where the results cannot be right.

    A model whose logits are NaN, or which answers two different inputs with exactly the same numbers, has lost its
    weights on the way. Raw logits are compared: after a sigmoid two saturated scores may rightly be equal.
    """
    sequences = _check_inputs(renderer, max_model_len, vocab_size)
    futures = [submit(sequence, use_activation=False) for sequence in sequences]
    try:
        first, second = (future.result().flatten() for future in futures)
    except NonFiniteError as err:
        raise SelfCheckError("start-up self-check: the model's logits contain NaN or infinity") from err
    if sequences[0].input_ids == sequences[1].input_ids:
        return
    shared = min(len(first), len(second))
    if bool((first[:shared] == second[:shared]).all()):
        raise SelfCheckError(
            f"start-up self-check: two different inputs gave exactly the same logits ({first[:shared].tolist()[:8]}): "
            f"the weights do not belong to this architecture, or are all zero"
        )


def _check_inputs(renderer: Renderer, max_model_len: int, vocab_size: int) -> list[Sequence]:
    """The built-in texts, or token ids where there is no tokenizer or it tells the texts apart by nothing."""
    if renderer.tokenizer is not None:
        try:
            sequences = renderer.render(list(_CHECK_TEXTS), TokenizeOptions(max_model_len, truncate_to=max_model_len))
        except ValidationError:
            sequences = []
        if len({tuple(sequence.input_ids) for sequence in sequences}) == 2:
            return sequences
    length = min(8, max_model_len)
    return [Sequence([(start + index) % vocab_size for index in range(length)]) for start in (1, vocab_size // 2)]
