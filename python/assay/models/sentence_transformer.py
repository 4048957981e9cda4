"""sentence-transformers folders: `modules.json` names a chain Transformer -> Pooling -> Dense* -> Normalize."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.device import CPU
from assay.errors import ConfigError, UnsupportedModelError
from assay.hf_config import read_json
from assay.layers import HEAD_ARITHMETIC, Linear
from assay.weights import WeightMap

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from assay.device import Device
    from assay.files import ModelFiles
    from assay.hf_config import HFConfig

POOLING_MODES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean",
    "lasttoken": "last_token",
}
"""sentence-transformers' names in the order in which it lays several modes side by side, and ours."""

_LEGACY_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

_DENSE_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.linear.Identity": "none",
}


@dataclass(frozen=True, slots=True)
class DenseConfig:
    """One Dense module: where its tensors lie and what it computes."""

    folder: Path
    in_features: int
    out_features: int
    has_bias: bool
    activation: str
    use_residual: bool


@dataclass(frozen=True, slots=True)
class Modules:
    """The chain behind the Transformer. pooling: modes of `pooler.pool`."""

    pooling: tuple[str, ...]
    dense: tuple[DenseConfig, ...]
    normalize: bool

    def embedding_size(self, hidden_size: int) -> int:
        """Width of the embeddings; raises ConfigError where the chain does not fit together."""
        size = hidden_size * len(self.pooling)
        for dense in self.dense:
            if dense.in_features != size:
                raise ConfigError(f"{dense.folder}: in_features is {dense.in_features}, its input has {size}")
            size = dense.out_features
        return size


@dataclass(frozen=True, slots=True)
class Dense:
    """activation(linear(pooled)) [+ pooled], in float32."""

    linear: Linear
    activation: str
    use_residual: bool

    def __call__(self, pooled: Tensor) -> Tensor:
        return self.linear(pooled, activation=self.activation, residual=pooled if self.use_residual else None)


def read_modules(files: ModelFiles) -> Modules | None:
    """The embedding chain of a folder; None without modules.json or for a cross-encoder.

    A cross-encoder is a lone Transformer, or one with a LogitScore behind it (see assay.recipes).

    Raises UnsupportedModelError that names the module or setting it cannot honour.
    """
    path = files.folder / "modules.json"
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        chain = [(str(entry["type"]).rpartition(".")[2], _subfolder(files.folder, entry["path"])) for entry in entries]
    except (json.JSONDecodeError, KeyError, TypeError) as err:
        raise ConfigError(f"{path} is not a sentence-transformers module list: {err!r}") from err
    kinds = [kind for kind, _ in chain]
    if kinds[:1] != ["Transformer"] or chain[0][1] != files.folder:
        raise UnsupportedModelError(
            f"{path}: the first module must be a Transformer in the same folder, got {kinds[:1]}"
        )
    if len(chain) == 1 or kinds[1:] == ["LogitScore"]:
        return None
    if kinds[1] != "Pooling":
        raise UnsupportedModelError(f"{path}: module {kinds[1]!r} after Transformer is not supported; only Pooling is")
    dense: list[DenseConfig] = []
    for position, (kind, folder) in enumerate(chain[2:], start=2):
        if kind == "Dense":
            dense.append(_read_dense(folder))
        elif kind != "Dropout" and (kind != "Normalize" or position != len(chain) - 1):
            raise UnsupportedModelError(
                f"{path}: module {kind!r} at place {position} is not supported; only Dense and a last Normalize are"
            )
    return Modules(_read_pooling(chain[1][1]), tuple(dense), normalize=kinds[-1] == "Normalize")


def _subfolder(root: Path, path: str) -> Path:
    folder = root / path
    if not folder.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"modules.json names a folder outside the model: {path!r}")
    return folder


def _read_pooling(folder: Path) -> tuple[str, ...]:
    config = read_json(folder / "config.json")
    stated = config.get("pooling_mode")
    if stated is None:
        stated = [mode for key, mode in _LEGACY_KEYS.items() if config.get(key)] or ["mean"]
    names = [stated] if isinstance(stated, str) else list(stated)
    unknown = [name for name in names if name not in POOLING_MODES]
    if unknown:
        raise UnsupportedModelError(f"{folder}: pooling_mode {unknown} is not supported; {list(POOLING_MODES)} are")
    odd = [key for key in config if key.startswith("pooling_mode_") and config[key] and key not in _LEGACY_KEYS]
    if odd:
        raise UnsupportedModelError(f"{folder}: {odd} is not supported; {list(_LEGACY_KEYS)} are")
    return tuple(POOLING_MODES[name] for name in names)


def _read_dense(folder: Path) -> DenseConfig:
    config = read_json(folder / "config.json")
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if name not in _DENSE_ACTIVATIONS:
        raise UnsupportedModelError(
            f"{folder}: Dense activation {name!r} is not supported; {[*_DENSE_ACTIVATIONS]} are"
        )
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedModelError(f"{folder}: Dense with {key}={config[key]!r} is not supported")
    sizes: list[Any] = [config.get(key) for key in ("in_features", "out_features")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(f"{folder}: in_features and out_features must be counts, got {sizes}")
    if config.get("use_residual", False) and sizes[0] != sizes[1]:
        raise UnsupportedModelError(f"{folder}: Dense with use_residual and unequal sizes {sizes} is not supported")
    return DenseConfig(
        folder=folder,
        in_features=sizes[0],
        out_features=sizes[1],
        has_bias=bool(config.get("bias", True)),
        activation=_DENSE_ACTIVATIONS[name],
        use_residual=bool(config.get("use_residual", False)),
    )


def load_dense(
    files: ModelFiles, modules: Modules, device: Device = CPU, *, has_numbers: bool = True
) -> tuple[Dense, ...]:
    """The Dense layers' tensors, each from its own folder. has_numbers: see `WeightMap`."""
    layers = []
    for config in modules.dense:
        weights = WeightMap(files.weight_files(config.folder), device, has_numbers=has_numbers)
        sizes = (config.out_features, config.in_features)
        linear = Linear.load(weights, "linear", sizes, HEAD_ARITHMETIC, has_bias=config.has_bias)
        weights.finish()
        layers.append(Dense(linear, config.activation, config.use_residual))
    return tuple(layers)


def with_saved_activation(hf_config: HFConfig, folder: Path) -> HFConfig:
    """The config plus the activation that sentence-transformers >= 6 saves next to it; older keys win."""
    saved = read_json(folder / "config_sentence_transformers.json")
    name = saved.get("activation_fn")
    nested = hf_config.get("sentence_transformers")
    has_own = hf_config.get("sbert_ce_default_activation_function") is not None or (
        isinstance(nested, dict) and nested.get("activation_fn") is not None
    )
    if name is None or has_own or saved.get("model_type", "CrossEncoder") != "CrossEncoder":
        return hf_config
    config = hf_config.copy()
    config.update({"sentence_transformers": {**(nested if isinstance(nested, dict) else {}), "activation_fn": name}})
    return config


def default_prompt(folder: Path) -> str | None:
    """The prompt sentence-transformers would put before every text of its own accord."""
    saved = read_json(folder / "config_sentence_transformers.json")
    name = saved.get("default_prompt_name")
    prompts = saved.get("prompts")
    return None if name is None or not isinstance(prompts, dict) else prompts.get(name)
