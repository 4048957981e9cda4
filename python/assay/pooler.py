"""From hidden states to results: which task, which pooling, which activation, and the classification head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay import ops
from assay.device import CPU
from assay.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from assay.batch import RaggedBatch
    from assay.config import PoolerConfig
    from assay.device import Device
    from assay.hf_config import HFConfig
    from assay.layers import LayerNorm, Linear

TASK_ORDER = ("embed&token_classify", "embed", "classify", "token_embed", "token_classify", "plugin")
"""The first supported one is active unless PoolerConfig.task or a token-classification architecture says otherwise."""

SEQ_POOLING = {"CLS": "cls", "LAST": "last_token", "MEAN": "mean"}
"""PoolerConfig's names of what `ops.pool` calls a pooling."""
_SEQ_NAMES = {mode: name for name, mode in SEQ_POOLING.items()}

_DECLARED_BY_PROBLEM_TYPE = {"regression": "identity", "multi_label_classification": "sigmoid"}
_TORCH_MODULES = "torch.nn.modules."
_KERNEL_MODULES = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Softmax": "softmax",
}
"""Classes the head kernel computes itself, named by path so that reading a config needs no torch."""
_OVER_LABELS = ("softmax", "LogSoftmax", "Softmin")
"""Activations that weigh a text's labels against each other: of a single label they make the same number always."""
_RESTRICTED = "Loading of activation functions is restricted to torch.nn.modules for security reasons"


def active_task(config: PoolerConfig, supported: tuple[str, ...], architecture: str) -> str:
    """The one task the model runs; raises RuntimeError where PoolerConfig.task is not among `supported`."""
    if config.task is not None:
        if config.task not in supported:
            raise RuntimeError(f"Unsupported task: {config.task!r} Supported tasks: {supported}")
        return config.task
    if "token_classify" in supported and "ForTokenClassification" in architecture:
        return "token_classify"
    return next(task for task in TASK_ORDER if task in supported)


def with_step_default(config: PoolerConfig, step_tag_id: int | None, tasks: Iterable[str]) -> PoolerConfig:
    """The config with what a process reward model pools by default: STEP, at the rows of its own tag.

    Raises ConfigError where STEP pooling is asked of a model that does not classify tokens.
    """
    if step_tag_id is not None and config.tok_pooling_type is None:
        config = config.replace(tok_pooling_type="STEP")
    if config.tok_pooling_type != "STEP":
        return config
    if "token_classify" not in tasks:
        raise ConfigError("tok_pooling_type='STEP' needs a model that classifies tokens; this one has no such head")
    return config if config.step_tag_id is not None else config.replace(step_tag_id=step_tag_id)


def with_pooling_in_use(config: PoolerConfig, tasks: Mapping[str, tuple[str, ...]]) -> PoolerConfig:
    """The config with the pooling types of these tasks written out, where PoolerConfig has names for them."""
    modes = tasks.get("classify") or tasks.get("embed") or ()
    sequence = _SEQ_NAMES.get(modes[0]) if len(modes) == 1 else None
    token = config.tok_pooling_type or ("ALL" if {"token_classify", "token_embed"} & tasks.keys() else None)
    return config.replace(seq_pooling_type=sequence, tok_pooling_type=token)


def seq_pooling(config: PoolerConfig, default: tuple[str, ...]) -> tuple[str, ...]:
    """The pooling modes of a sequence task: PoolerConfig's, else `default`."""
    return default if config.seq_pooling_type is None else (SEQ_POOLING[config.seq_pooling_type],)


@dataclass(frozen=True, slots=True)
class Activation:
    """What turns logits into scores. `kernel` is a name of ops.HEAD_ACTIVATIONS; `module` follows it where set."""

    name: str
    source: str
    kernel: str
    module: Any = None


def resolve_activation(hf_config: HFConfig, config: PoolerConfig, num_labels: int) -> Activation:
    """PoolerConfig.activation, else problem_type, else what sentence-transformers declared, else by the label count.

    Raises ConfigError for a class outside torch.nn.modules, or one that makes a constant of a single label.
    """
    if config.activation is not None:
        return _telling(_named(config.activation, "PoolerConfig.activation"), num_labels)
    problem_type = hf_config.problem_type
    by_count = "sigmoid" if num_labels < 2 else "softmax"
    if problem_type in _DECLARED_BY_PROBLEM_TYPE:
        name = _DECLARED_BY_PROBLEM_TYPE[problem_type]
        return Activation(name, f"problem_type {problem_type!r}", name)
    if problem_type == "single_label_classification":
        return Activation(by_count, f"problem_type {problem_type!r}", by_count)
    declared, source = declared_activation(hf_config)
    if declared is None:
        return Activation(by_count, f"default for {num_labels} label{'s' if num_labels != 1 else ''}", by_count)
    activation = _named(declared, source)
    if activation.name not in ("sigmoid", "softmax"):
        return _telling(activation, num_labels)
    if activation.name != by_count:
        source += f" declares {activation.name}, read as {by_count} for {num_labels} labels"
    return Activation(by_count, source, by_count)


def declared_activation(hf_config: HFConfig) -> tuple[str | None, str]:
    """The class path sentence-transformers wrote into the config, and the key it stood under."""
    nested = hf_config.get("sentence_transformers")
    if isinstance(nested, dict) and nested.get("activation_fn") is not None:
        return str(nested["activation_fn"]), "sentence_transformers.activation_fn"
    old = hf_config.get("sbert_ce_default_activation_function")
    return (None if old is None else str(old)), "sbert_ce_default_activation_function"


def _named(name: str, source: str) -> Activation:
    if name in ops.HEAD_ACTIVATIONS:
        return Activation(name, source, name)
    if name in _KERNEL_MODULES:
        return Activation(_KERNEL_MODULES[name], source, _KERNEL_MODULES[name])
    if not name.startswith(_TORCH_MODULES):
        raise ConfigError(_RESTRICTED)
    from torch import nn

    path, _, kind = name.rpartition(".")
    module_class = getattr(nn, kind, None)
    if not isinstance(module_class, type) or not issubclass(module_class, nn.Module) or module_class.__module__ != path:
        raise ConfigError(f"{source}: torch.nn has no module {name}")
    try:
        return Activation(kind, source, "identity", module_class().eval())
    except TypeError as err:
        raise ConfigError(f"{source}: {name} cannot be made without arguments: {err}") from err


def _telling(activation: Activation, num_labels: int) -> Activation:
    """The activation; raises ConfigError where every score would be the same number."""
    if num_labels < 2 and activation.name in _OVER_LABELS:
        raise ConfigError(
            f"{activation.source}: {activation.name} over one label gives every text the same score; "
            f"use 'sigmoid' or 'identity'"
        )
    return activation


@dataclass(frozen=True, slots=True)
class ClassifierHead:
    """[dense + activation [+ norm]] -> classifier -> (logits - mean) / sigma -> activation where a row asks for it."""

    dense: Linear | None
    dense_activation: str
    classifier: Linear
    activation: Activation
    norm: LayerNorm | None = None
    logit_mean: float | None = None
    logit_sigma: float | None = None
    before: Callable[[Tensor], Tensor] | None = None
    """Computed ahead of everything else, row by row: modules that came with the model."""

    @property
    def activation_code(self) -> int:
        """What `row_activations` holds for a row that asks for its activation; 0 for the others."""
        return ops.HEAD_ACTIVATIONS[self.activation.kernel]

    def __call__(self, pooled: Tensor, row_activations: Tensor) -> Tensor:
        """Scores [num_rows, num_labels] of pooled [num_rows, hidden_size], as far as the kernel computes them.

        row_activations uint8 [num_rows], 0 or `activation_code`, on the device of pooled.
        """
        if self.before is not None:
            pooled = self.before(pooled)
        dense = self.dense
        if self.norm is not None:  # between the two products, which the kernel would run as one
            pooled = pooled if dense is None else dense(pooled, activation=self.dense_activation)
            pooled, dense = self.norm(pooled), None
        return ops.classifier_head(
            pooled,
            self.classifier.packed,
            row_activations,
            dense=None if dense is None else dense.packed,
            dense_activation=self.dense_activation,
            logit_mean=self.logit_mean,
            logit_sigma=self.logit_sigma,
            device=self.classifier.device,
        )

    def finish(self, scores: Tensor, use_activation: Tensor) -> Tensor:
        """Scores [num_rows, num_labels] on the CPU after an activation that is a module of torch, where one was named.

        use_activation: uint8 [num_rows], which rows ask for it.
        """
        import torch

        if self.activation.module is None:
            return scores
        with torch.inference_mode():
            return torch.where(use_activation.bool().unsqueeze(1), self.activation.module(scores), scores)


ONE_TOKEN_MODES = ("cls", "last_token")
"""Pooling modes that read one token of each sequence."""
KERNEL_MODES = (*ONE_TOKEN_MODES, "mean")
"""Those `ops.pool` computes; the lengths of the sequences need not be known on the host."""


def reads_one_token(modes: tuple[str, ...]) -> bool:
    """Whether pooling in these modes, side by side, reads the hidden states of one token of each sequence only."""
    return len(modes) == 1 and modes[0] in ONE_TOKEN_MODES


def pool(hidden_states: Tensor, batch: RaggedBatch, modes: tuple[str, ...], device: Device = CPU) -> Tensor:
    """hidden_states [num_tokens, hidden_size] -> [num_seqs, len(modes) * hidden_size], modes side by side."""
    import torch

    parts = [_pool_one(hidden_states, batch, mode, device) for mode in modes]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _pool_one(hidden_states: Tensor, batch: RaggedBatch, mode: str, device: Device) -> Tensor:
    import torch

    if mode in KERNEL_MODES:
        return ops.pool(hidden_states, batch.cu_seqlens, mode, device=device)
    lengths = batch.cu_seqlens.diff().to(torch.float32).unsqueeze(1)
    if mode == "mean_sqrt_len_tokens":
        return ops.pool(hidden_states, batch.cu_seqlens, "mean", device=device) * lengths.sqrt()
    if mode == "max":
        return torch.stack([rows.amax(dim=0) for rows in hidden_states.split_with_sizes(batch.seqlens())])
    if mode == "weightedmean":  # token i weighs i + 1; the mean of weighted rows lacks the factor n / (1 + ... + n)
        weights = torch.cat([torch.arange(1, n + 1, dtype=torch.float32) for n in batch.seqlens()])
        weighted = hidden_states * weights.to(hidden_states.device).unsqueeze(1)
        return ops.pool(weighted, batch.cu_seqlens, "mean", device=device) * (2.0 / (lengths + 1.0))
    raise ConfigError(f"unknown pooling mode {mode!r}")


def normalized(rows: Tensor) -> Tensor:
    """A new tensor: rows [num_rows, size] divided by their L2 norms."""
    import numpy as np
    import torch

    wide = rows.numpy().astype(np.float64)
    # float64 in numpy's fixed pairwise order: the same bits in any batch and at any thread count
    norms = np.sqrt(np.add.reduce(wide * wide, axis=1, keepdims=True))
    return torch.from_numpy((wide / np.maximum(norms, 1e-12)).astype(np.float32))
