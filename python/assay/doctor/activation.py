"""The activation a checkpoint asks for, read from its config.json and applied in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.errors import ConfigError

if TYPE_CHECKING:
    from assay.doctor.trace import Array
    from assay.hf_config import HFConfig

TORCH_PREFIX = "torch.nn.modules."
BY_PROBLEM_TYPE = {"regression": "identity", "multi_label_classification": "sigmoid"}


def expected_activation(config: HFConfig, num_labels: int) -> str:
    """identity, sigmoid, softmax, or the path of a torch module."""
    usual = "sigmoid" if num_labels < 2 else "softmax"
    problem = config.problem_type
    if problem is not None:
        return BY_PROBLEM_TYPE.get(problem, usual)
    declared = (config.get("sentence_transformers") or {}).get("activation_fn")
    declared = declared or config.get("sbert_ce_default_activation_function")
    if declared is None:
        return usual
    name = str(declared).rsplit(".", 1)[-1]
    if name == "Identity":
        return "identity"
    return usual if name in ("Sigmoid", "Softmax") else str(declared)


def apply_activation(name: str, logits: Array) -> Array:
    """scores [..., num_labels] of logits [..., num_labels]."""
    import numpy as np

    if name == "identity":
        return logits
    if name == "sigmoid":
        return 0.5 * (1.0 + np.tanh(0.5 * logits))
    if name == "softmax":
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares: Array = shifted / shifted.sum(axis=-1, keepdims=True)
        return shares
    import torch

    scores: Array = torch_module(name)(torch.from_numpy(logits)).numpy()
    return scores


def torch_module(path: str) -> Any:
    """The activation module at `path`, below torch.nn.modules only; "None" is the identity."""
    import torch

    name = path.rsplit(".", 1)[-1]
    if path == "None":
        return torch.nn.Identity()
    kind = getattr(torch.nn, name, None)
    if not path.startswith(TORCH_PREFIX) or kind is None:
        raise ConfigError(f"activation {path!r} is not one of torch.nn.modules")
    return kind()
