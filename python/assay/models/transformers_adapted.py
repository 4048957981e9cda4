"""An adapter merged into a model that transformers built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.errors import WeightsError
from assay.lora.adapter import located

if TYPE_CHECKING:
    from assay.lora.adapter import Adapter


def replaced_names(model: Any, adapter: Adapter) -> set[str]:
    """Parameters of the model that the adapter holds whole: what the checkpoint has of them does not matter."""
    names, prefixes = dict(model.named_parameters()), _prefixes(model)
    places = [located(name, names, prefixes) for name in adapter.whole]
    return {place for place in places if place is not None}


def merge(model: Any, adapter: Adapter) -> None:
    """Change the weights of a float32 model in place; raises WeightsError for what has no place in it."""
    from transformers.pytorch_utils import Conv1D

    parameters, prefixes = dict(model.named_parameters()), _prefixes(model)
    for module, low_rank in adapter.low_rank.items():
        name = located(f"{module}.weight", parameters, prefixes)
        if name is None:
            raise WeightsError(f"{low_rank.source}: {type(model).__name__} has no such module")
        is_transposed = isinstance(model.get_submodule(name.removesuffix(".weight")), Conv1D)
        parameters[name].data = low_rank.added_to(parameters[name].data, is_transposed=is_transposed)
    for stated, stored in adapter.whole.items():
        name, tensor = located(stated, parameters, prefixes), adapter.file.get_tensor(stored)
        if name is None:
            raise WeightsError(f"adapter {adapter.name!r} changes {stated}, which {type(model).__name__} does not have")
        if tensor.shape != parameters[name].shape:
            raise WeightsError(
                f"adapter {adapter.name!r}: {stated} has shape {tuple(tensor.shape)}, the model asks for "
                f"{tuple(parameters[name].shape)}"
            )
        parameters[name].data = tensor.to(parameters[name].dtype)


def _prefixes(model: Any) -> list[str]:
    return [f"{model.base_model_prefix}."]
