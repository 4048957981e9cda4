"""The head of a transformers classifier, taken off its class: the last linear layer becomes ours, the rest stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.device import CPU
from assay.errors import UnsupportedModelError, WeightsError
from assay.layers import HEAD_ARITHMETIC, Linear, float32
from assay.models.packed_products import lanes, one_thread, pack_products

if TYPE_CHECKING:
    from torch import Tensor

    from assay.device import Device


@dataclass(frozen=True, slots=True)
class HeadModules:
    """What a transformers class puts between the pooled hidden state and its last linear layer, in float32."""

    modules: tuple[Any, ...]

    def __call__(self, pooled: Tensor) -> Tensor:
        """pooled [num_rows, hidden_size] -> [num_rows, out_features], each row as a sequence of one token."""
        import torch
        from torch.nn.functional import pad

        num_rows, width = pooled.shape
        multiple = lanes(pooled.dtype, is_cuda=pooled.is_cuda)
        if width % multiple or pooled.is_cuda:
            pooled = pad(pooled, (0, 0, 0, -num_rows % multiple))
        with torch.inference_mode(), one_thread():
            hidden_states = pooled.unsqueeze(1)
            for module in self.modules:
                hidden_states = module(hidden_states)
            return hidden_states.reshape(len(pooled), -1)[:num_rows]


def head_modules(model: Any, *, has_pooler: bool) -> dict[str, Any]:
    """The modules of a class's head by name: the backbone's pooler, then its own in the order in which it makes them.

    What this assumes about the class's forward is checked when the model starts.
    """
    from torch import nn

    backbone = model.base_model
    named = [part for part in backbone.named_children() if part[0].startswith("pooler")] if has_pooler else []
    named += [part for part in model.named_children() if part[1] is not backbone]
    return {name: module for name, module in named if not isinstance(module, nn.Dropout)}


def with_stated_bias(model_class: Any, config: Any) -> Any:
    """The class itself, or one whose `score` layer has a bias, where config.json says so (Jamba's score_bias).

    transformers' own class has none and would not know the tensor.
    """
    from torch import nn

    if not getattr(config, "score_bias", False) or not model_class.__name__.endswith("ForSequenceClassification"):
        return model_class

    class Biased(model_class):  # type: ignore[misc]
        score: Any

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.score = nn.Linear(self.score.in_features, self.score.out_features)

    Biased.__name__ = Biased.__qualname__ = model_class.__name__
    return Biased


def drop_pooler(backbone: Any) -> None:
    """Let the backbone run without its pooler, which reads the first token of a batch only."""
    from torch import nn

    for name, _ in list(backbone.named_children()):
        if name.startswith("pooler"):
            setattr(backbone, name, nn.Identity())


def take_head(
    modules: list[Any], architecture: str, num_labels: int, device: Device = CPU
) -> tuple[HeadModules | None, Linear]:
    """The modules before the last linear layer (None where there are none), and that layer.

    Raises UnsupportedModelError or WeightsError.
    """
    from torch import nn

    last = modules[-1] if modules else nn.Identity()
    linears = [(name, part) for name, part in last.named_modules() if type(part) is nn.Linear]
    if not linears:
        raise UnsupportedModelError(f"{architecture}: its head does not end in a linear layer")
    name, classifier = linears[-1]
    if name:
        last.set_submodule(name, nn.Identity())
    else:
        modules.pop()
    if classifier.out_features != num_labels:
        raise WeightsError(
            f"config.json names {num_labels} labels (id2label or num_labels), but the classifier has "
            f"{classifier.out_features} rows"
        )
    head = None
    if modules:
        for module in modules:
            module.float()
            pack_products(module, HEAD_ARITHMETIC, device)
        head = HeadModules(tuple(modules))
    bias = None if classifier.bias is None else float32(classifier.bias.detach())
    return head, Linear.pack(float32(classifier.weight.detach()), bias, HEAD_ARITHMETIC, device)
