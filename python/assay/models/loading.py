"""A plan and a checkpoint become a model: every tensor is used or on a list of known extras, none is made up."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assay.device import CPU, ON_CPU
from assay.errors import ConfigError, UnsupportedModelError
from assay.models import cuda_start
from assay.models.device_memory import ITEM_BYTES, DeviceMemory, MemoryMeter
from assay.models.family import Int8Loader, TowerLoader
from assay.models.forward_pass import pass_arena_size
from assay.models.heads import head_tensors, load_classifier, load_heads, taken_classifier
from assay.models.plan import make_plan
from assay.models.pooling_model import PoolingModel
from assay.models.transformers_class import Outline
from assay.models.transformers_loading import load_parts
from assay.weights import WeightMap

if TYPE_CHECKING:
    from assay.config import PoolerConfig
    from assay.device import Device, Placement
    from assay.files import ModelFiles
    from assay.hf_config import HFConfig
    from assay.models.adapted import Adaptation
    from assay.models.family import Backbone
    from assay.models.forward_pass import TaskHead
    from assay.models.plan import Plan
    from assay.weights import Parts

_BUFFERS = (
    r"(.*\.)?embeddings\.position_ids",
    r"(.*\.)?embeddings\.token_type_ids",
    r"(.*\.)?rotary_emb\.inv_freq",
)
"""Tables that old versions of transformers saved along with the weights."""
_POOLER = r"{}pooler\..*"

_DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16", "bfloat16")}
_AUTO = {
    "float32": ("float32", "the checkpoint is float32"),
    "float64": ("float32", "the checkpoint is float64"),
    "float16": ("float32", "the checkpoint is float16, whose every value float32 holds exactly"),
    "bfloat16": ("bfloat16", "the checkpoint is bfloat16"),
}


def resolve_dtype(dtype: str, stored: str, kind: str = "cpu") -> tuple[str, str]:
    """The dtype to run in and why, from what was asked for, what the checkpoint stores, and the kind of device."""
    if dtype == "auto":
        if stored == "float16" and "float16" in _DTYPES[kind]:
            return "float16", "the checkpoint is float16"
        if stored not in _AUTO:
            raise ConfigError(f"dtype='auto': the checkpoint's dtype {stored!r} is not supported")
        return _AUTO[stored]
    check_dtype(dtype, kind)
    return dtype, "as asked"


def product_arithmetic(asked: str, dtype: str, quantization: str | None, kind: str) -> str:
    """How the products of layers are computed, in the words of `ops.pack_weight`, or "int8".

    dtype="float32", in so many words, is exact on every CPU: its products are plain float32 multiply-adds. "auto" takes
    the fastest products that are float32-accurate, which with AMX tiles are not as close.
    """
    if quantization is not None:
        return quantization
    return "float32_fma" if asked == "float32" and kind == "cpu" else dtype


def check_dtype(dtype: str, kind: str, shown: str | None = None) -> None:
    """Raise ConfigError for a dtype other than "auto" that models do not run in on this kind of device.

    shown: how the caller wrote it, for the message.
    """
    if dtype != "auto" and dtype not in _DTYPES[kind]:
        *names, last = [repr(name) for name in ("auto", *_DTYPES[kind])]
        place = {"cpu": "the CPU", "cuda": "CUDA"}[kind]
        raise ConfigError(f"dtype={shown or repr(dtype)} is not supported on {place}: use {', '.join(names)} or {last}")


def load_model(
    files: ModelFiles,
    hf_config: HFConfig,
    *,
    dtype: str,
    pooler_config: PoolerConfig,
    max_batch_tokens: int,
    max_batch_size: int,
    max_model_len: int | None = None,
    model_impl: str = "auto",
    quantization: str | None = None,
    placement: Placement = ON_CPU,
    parts: Parts | None = None,
    adaptation: Adaptation | None = None,
) -> PoolingModel:
    """Load a model for batches of at most max_batch_tokens tokens and max_batch_size sequences.

    max_model_len: no sequence will be longer, which saves memory where the model could read longer ones. model_impl:
    see `registry.resolve`. quantization "int8": the layers' products are of whole numbers, the rest is bfloat16; what
    that costs is not judged here. parts: where to keep what adapters of the model may share. adaptation: load it as an
    adapter changes it; the other arguments are the base's. Raises UnsupportedModelError, ConfigError, WeightsError, or
    DeviceError where the placement's memory does not suffice.
    """
    device = placement.device
    meter = MemoryMeter(placement)
    plan = make_plan(files, hf_config, pooler_config, model_impl)
    if adaptation is not None:
        labelled = adaptation.config(plan)
        plan = plan if labelled is plan.hf_config else make_plan(files, labelled, pooler_config, model_impl)
    longest = longest_sequence(plan, max_model_len)
    max_batch_tokens = max(max_batch_tokens, longest)  # the longest sequence always fits
    with device.in_use(), meter.explaining():
        loaded = load_weights(
            plan,
            files,
            dtype=dtype,
            max_model_len=max_model_len,
            quantization=quantization,
            device=device,
            meter=meter,
            parts=parts,
            adaptation=adaptation,
        )
        memory = None
        if device.is_cuda:
            memory = _device_memory(loaded, max_batch_tokens, max_batch_size, placement, meter)
            if adaptation is not None:  # beside its base and other adapters, in their arena
                memory = replace(memory, arena=0)
            meter.check(memory, beside=0 if adaptation is None else meter.before)
        model = PoolingModel(
            architecture=plan.architecture,
            backbone=loaded.backbone,
            heads=loaded.heads,
            task=plan.task,
            hf_config=plan.hf_config,
            pooler_config=plan.pooler_config,
            dtype=loaded.dtype,
            dtype_reason=loaded.dtype_reason,
            max_model_len=plan.max_model_len,
            max_model_len_source=plan.max_model_len_source,
            embedding_size=plan.embedding_size,
            max_batch_tokens=max_batch_tokens,
            max_batch_size=max_batch_size,
            product_arithmetic=loaded.arithmetic,
            device=device,
            base=None if adaptation is None else adaptation.base,
        )
        if memory is not None:
            cuda_start.start(model, longest, placement, memory, meter)
    return model


def longest_sequence(plan: Plan, max_model_len: int | None) -> int:
    """Tokens of the longest sequence a model is loaded for: it always fits a batch."""
    return min(plan.shape.max_model_len, max_model_len or plan.shape.max_model_len)


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What a plan's checkpoint became.

    heads: by task. num_bytes: as the sizes in the checkpoint have it. arithmetic: of the products in the layers
    (`product_arithmetic`).
    """

    backbone: Backbone
    heads: dict[str, TaskHead]
    dtype: str
    dtype_reason: str
    num_bytes: int
    arithmetic: str


def load_weights(
    plan: Plan,
    files: ModelFiles,
    *,
    dtype: str,
    max_model_len: int | None = None,
    quantization: str | None = None,
    has_numbers: bool = True,
    device: Device = CPU,
    meter: MemoryMeter | None = None,
    parts: Parts | None = None,
    adaptation: Adaptation | None = None,
) -> LoadedWeights:
    """Take the tensors of a plan; the arguments are those of `load_model`.

    has_numbers False reads the headers of the files only: the parts have every size and cannot be run. That is for
    families of this package, not for what transformers loads. Raises ConfigError or WeightsError, or DeviceError where
    the meter's device has too little memory.
    """
    loader = plan.family.backbone
    if adaptation is None or isinstance(loader, Outline):
        weights = WeightMap(files.weight_files(), device, has_numbers=has_numbers, parts=parts)
    else:
        weights = adaptation.weights(files.weight_files(), device, plan)
    longest = longest_sequence(plan, max_model_len)
    backbone: Backbone
    if quantization is not None:
        dtype = _dtype_beside_int8(dtype, plan)
    asked = dtype
    if isinstance(loader, Outline):
        assert has_numbers
        dtype, reason = resolve_dtype(dtype, weights.dtype(weights.largest()), device.kind)
        num_bytes = _checked_size(weights, None, dtype, meter)
        arithmetic = product_arithmetic(asked, dtype, quantization, device.kind)
        adapter = None if adaptation is None else adaptation.adapter
        if adapter is not None and plan.head_plan is not None and plan.head_plan.source == "lm_head":
            raise UnsupportedModelError(
                f"{plan.architecture} runs through transformers' code, and an adapter could change the rows that its "
                f"head is made of: adapters of such heads need one of this package's own families"
            )
        taken = load_parts(files, loader, plan.hf_config.num_labels, dtype, arithmetic, device, adapter)
        backbone, classifier = taken.backbone, taken_classifier(plan, taken, weights)
    else:
        prefix = weights.prefix(plan.family.prefixes, loader.word_table)
        dtype, reason = resolve_dtype(dtype, weights.dtype(prefix + loader.word_table), device.kind)
        needed = [prefix + name for name in loader.tensor_names(plan.shape)] + head_tensors(plan, weights, prefix)
        if isinstance(loader, TowerLoader):
            needed += loader.tower_tensors(weights, plan.shape)
        weights.require(needed)
        num_bytes = _checked_size(weights, needed, dtype, meter)
        arithmetic = product_arithmetic(asked, dtype, quantization, device.kind)
        if quantization is not None:
            assert isinstance(loader, Int8Loader)  # _dtype_beside_int8
            reason = "beside int8"
            backbone = loader.load_int8(
                weights, prefix, plan.shape, max_model_len=longest, reads_one_token=plan.reads_one_token
            )
        else:
            backbone = loader.load(
                weights, prefix, plan.shape, arithmetic, max_model_len=longest, reads_one_token=plan.reads_one_token
            )
        classifier = load_classifier(plan, weights, prefix)
        patterns = _ignored(plan)
        if adaptation is not None:  # what the base's files hold beside the backbone may be of another class
            patterns += plan.family.other_heads
        weights.finish(ignore=[pattern.replace("{}", re.escape(prefix)) for pattern in patterns])
    heads = load_heads(plan, files, classifier, device, has_numbers=has_numbers)
    return LoadedWeights(backbone, heads, dtype, reason, num_bytes, arithmetic)


def _checked_size(weights: WeightMap, names: list[str] | None, dtype: str, meter: MemoryMeter | None) -> int:
    """Bytes of those tensors (None: all) in the dtype; what cannot fit is refused before any of it is read."""
    size = weights.total_numbers(names) * ITEM_BYTES[dtype]
    if meter is not None:
        meter.check(DeviceMemory(weights=size, arena=0))
    return size


def _device_memory(
    loaded: LoadedWeights, num_tokens: int, num_seqs: int, placement: Placement, meter: MemoryMeter
) -> DeviceMemory:
    """What is on the device now, and what will be beside graphs."""
    grown = meter.settled_growth()
    if grown is not None:  # by the workspace of the products too
        grown -= placement.device.kernels.workspace_bytes
    return DeviceMemory(
        weights=loaded.num_bytes if grown is None else grown,
        arena=pass_arena_size(loaded.backbone, num_tokens, num_seqs, placement.device),
        buffers=cuda_start.buffer_bytes(num_tokens, num_seqs, placement),
    )


def _dtype_beside_int8(dtype: str, plan: Plan) -> str:
    """The dtype of what int8 leaves alone; raises ConfigError for a model or a dtype that does not go with it."""
    if not isinstance(plan.family.backbone, Int8Loader):
        raise ConfigError(f"quantization='int8' is not supported for {plan.architecture}: use dtype='bfloat16'")
    if dtype not in ("auto", "bfloat16"):
        raise ConfigError(f"quantization='int8' and dtype={dtype!r} contradict each other: use 'bfloat16' or 'auto'")
    return "bfloat16"


def _ignored(plan: Plan) -> tuple[str, ...]:
    """Patterns of tensors this architecture may carry along unused."""
    patterns = _BUFFERS + plan.family.ignored
    if plan.head != "sequence":
        patterns += (_POOLER,)
    if plan.head in ("embedding", "probe"):
        patterns += plan.family.other_heads
    return patterns
