"""Load a model through transformers, strictly: every tensor of the checkpoint is used, every parameter is filled."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from assay.device import CPU
from assay.errors import WeightsError
from assay.models.packed_relative import attention_name, is_relative
from assay.models.transformers_adapted import merge, replaced_names
from assay.models.transformers_backbone import TransformersBackbone
from assay.models.transformers_check import Expected, check_packing
from assay.models.transformers_head import drop_pooler, head_modules, take_head
from assay.models.transformers_parts import LoadedParts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.device import Device
    from assay.files import ModelFiles
    from assay.lora.adapter import Adapter
    from assay.models.transformers_class import Outline


def load_parts(
    files: ModelFiles,
    outline: Outline,
    num_labels: int,
    dtype: str,
    arithmetic: str,
    device: Device = CPU,
    adapter: Adapter | None = None,
) -> LoadedParts:
    """Read the weights, take the model apart, and check it against transformers. arithmetic: of the products.

    adapter: merged into it first, whole as it is. Raises WeightsError or UnsupportedModelError.
    """
    model = _from_pretrained(files, outline, dtype, adapter).to(device.torch_device)
    with _quiet():  # what transformers says of its own speed is not about ours
        expected = Expected.measure(model, outline)
    has_head, has_pooler = outline.head != "embedding", outline.head == "sequence"
    modules = list(head_modules(model, has_pooler=has_pooler).values())
    drop_pooler(model.base_model)
    backbone = TransformersBackbone.prepare(model.base_model, outline.shape, arithmetic, device)
    parts = LoadedParts(backbone)
    if has_head:
        before, classifier = take_head(modules, outline.architecture, num_labels, device)
        if outline.is_late:
            backbone, before = replace(backbone, late_head=before), None
        parts = LoadedParts(backbone, before, classifier)
    check_packing(parts, outline, expected, dtype)
    return parts


def _from_pretrained(files: ModelFiles, outline: Outline, dtype: str, adapter: Adapter | None) -> Any:
    import torch

    with _quiet():
        model, info = outline.model_class.from_pretrained(
            files.folder,
            config=outline.config,
            dtype=getattr(torch, dtype) if adapter is None else torch.float32,
            attn_implementation=attention_name(outline.config),
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to be told of all of them; none is accepted
        )
    replaced = set() if adapter is None else replaced_names(model, adapter)
    missing = [name for name in info["missing_keys"] if not _is_of_unused_head(name, model, outline)]
    extra = info["unexpected_keys"]
    if adapter is not None:  # the files may be of another class than the adapter's, with a head of its own
        extra = [name for name in extra if name.startswith(f"{model.base_model_prefix}.")]
    for problem, names in (("lacks tensors", missing), ("has no use for", extra)):
        names = [name for name in names if name not in replaced and not _is_of_no_use(name, model, outline)]
        if names:
            raise WeightsError(f"{files.folder}: {outline.architecture} {problem} {', '.join(sorted(names))}")
    for name, found, wanted in sorted(key for key in info["mismatched_keys"] if key[0] not in replaced):
        raise WeightsError(f"{files.folder}: {name} has shape {tuple(found)}, config.json asks for {tuple(wanted)}")
    if info["error_msgs"]:
        raise WeightsError(f"{files.folder}: {'; '.join(info['error_msgs'])}")
    if adapter is not None:
        merge(model, adapter)
    if adapter is not None or is_relative(outline.config):
        # Merging is in float32; DeBERTa v1 keeps some biases in it, and then cannot run in transformers.
        model = model.to(getattr(torch, dtype))
    return model.eval()


def _is_of_no_use(name: str, model: Any, outline: Outline) -> bool:
    """Whether a tensor may be extra or lacking: a pooler nobody reads, the head a causal model is trained with, or a
    table the model computes (old versions of transformers saved some).
    """
    if "pooler" in name.split("."):
        return outline.head != "sequence"
    if outline.shape.is_causal and name.startswith("lm_head."):
        return True
    return any(f".{buffer}".endswith(f".{name}") for buffer, _ in model.named_non_persistent_buffers())


def _is_of_unused_head(name: str, model: Any, outline: Outline) -> bool:
    """Whether a tensor belongs to the head of a class of which only the backbone runs: sentence-transformers saves the
    backbone under the name of the class it came from.
    """
    has_head = model.base_model is not model
    return outline.head == "embedding" and has_head and not name.startswith(f"{model.base_model_prefix}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' reports and progress bar stay out of the log: what is wrong is raised."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
