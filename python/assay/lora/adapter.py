"""An adapter's files: low-rank pairs by module, and whole tensors that take the place of the base model's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from assay.checkpoint_files import open_checkpoint
from assay.errors import ConfigError, WeightsError
from assay.files import ADAPTER_CONFIG
from assay.hf_config import read_json
from assay.lora.config import LoraConfig

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

    from assay.checkpoint_files import CheckpointFile

_WEIGHT_FILES: Final = ("adapter_model.safetensors", "adapter_model.bin")
_WRAPPED: Final = "base_model.model."
"""What PEFT's model puts before the names of the one it wraps."""
_PAIR: Final = re.compile(r"(?P<module>.+)\.lora_(?P<table>embedding_)?(?P<side>[AB])(\.default)?(\.weight)?")
_INNER: Final = re.compile(r"\.(modules_to_save(\.default)?|base_layer)\.")
"""What PEFT puts into the name of a module it saves whole, be it one with an adapter (a word table)."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A [rank, in_features] and B [out_features, rank]; the product is added to a weight as scale * B A.

    is_table: the weight is an embedding table, [in_features, out_features]. source: for messages.
    """

    a: Tensor
    b: Tensor
    scale: float
    is_table: bool
    source: str

    def added_to(self, weight: Tensor, *, is_transposed: bool = False) -> Tensor:
        """weight + scale * B A, in float32 and rounded once, by whoever stores it.

        is_transposed: the weight of a linear layer lies as [in_features, out_features]. Raises WeightsError for a
        weight of another shape.
        """
        import torch

        shape = self.b.shape[0], self.a.shape[1]
        is_transposed = is_transposed or self.is_table
        if weight.shape != (shape[::-1] if is_transposed else shape):
            raise WeightsError(f"{self.source} adds a matrix {shape} to one of {tuple(weight.shape)}")
        a, b = (side.to(weight.device, torch.float32) for side in (self.a, self.b))
        left, right = (a.T, b.T) if is_transposed else (b, a)
        return torch.addmm(weight.float(), left, right, alpha=self.scale)


@dataclass(frozen=True, slots=True)
class Adapter:
    """low_rank: by module, under the names of the model it was trained on. whole: names of tensors as that model has
    them, and as `file` stores them; `path` is where that lies. task_type: see `LoraConfig`.
    """

    name: str
    task_type: str
    low_rank: dict[str, LowRank]
    whole: dict[str, str]
    file: CheckpointFile
    path: Path

    @classmethod
    def read(cls, name: str, folder: Path, max_rank: int | None = None) -> Adapter:
        """The adapter in a folder, of at most that rank (None: any); raises ConfigError or WeightsError."""
        path = folder / ADAPTER_CONFIG
        if not path.is_file():
            raise ConfigError(f"No adapter found for {folder}")
        config = LoraConfig.read(read_json(path), path)
        if max_rank is not None and config.largest_rank > max_rank:
            raise ConfigError(f"LoRA rank {config.largest_rank} is greater than max_lora_rank {max_rank}.")
        files = [folder / file for file in _WEIGHT_FILES if (folder / file).is_file()]
        if not files:
            raise ConfigError(f"No adapter found for {folder}: it has none of {', '.join(_WEIGHT_FILES)}")
        file = open_checkpoint(files[0])
        pairs, whole = _sorted_names(file.keys())
        low_rank = {module: _low_rank(file, module, sides, config, files[0]) for module, sides in pairs.items()}
        return cls(name, config.task_type, low_rank, whole, file, files[0])

    def num_rows(self, name: str) -> int | None:
        """Rows of a whole tensor; None where the adapter has no such tensor."""
        stored = self.whole.get(name)
        shape = [] if stored is None else self.file.get_slice(stored).get_shape()
        return shape[0] if shape else None


def located(name: str, there: Container[str], prefixes: Sequence[str]) -> str | None:
    """The name under which an adapter's tensor is `there`, with or without one of the prefixes; None without one."""
    bare = [name.removeprefix(prefix) for prefix in prefixes]
    tried = [name, *bare, *(prefix + each for prefix in prefixes for each in (name, *bare))]
    return next((candidate for candidate in tried if candidate in there), None)


def _sorted_names(names: Iterable[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Stored names of pairs, by module and side ("A", "embedding_A", ...), and of whole tensors."""
    pairs: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for stored in sorted(names):
        name = stored.removeprefix(_WRAPPED)
        found = _PAIR.fullmatch(name)
        if found is None:
            whole[_INNER.sub(".", name)] = stored
        else:
            pairs.setdefault(found["module"], {})[(found["table"] or "") + found["side"]] = stored
    return pairs, whole


def _low_rank(file: CheckpointFile, module: str, sides: dict[str, str], config: LoraConfig, path: Path) -> LowRank:
    kinds = sorted(sides)
    is_table = kinds == ["embedding_A", "embedding_B"]
    if kinds != ["A", "B"] and not is_table:
        raise WeightsError(f"{path}: {module} must have lora_A and lora_B, it has {', '.join(sides.values())}")
    a, b = (file.get_tensor(sides[kind]) for kind in kinds)
    if not (a.dtype.is_floating_point and b.dtype.is_floating_point):
        raise WeightsError(f"{path}: {module} has A {a.dtype} and B {b.dtype}; only float adapters are supported")
    rank = config.rank_of(module)
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise WeightsError(
            f"{path}: {module} has A {tuple(a.shape)} and B {tuple(b.shape)}, rank {rank} asks for "
            f"({rank}, in_features) and (out_features, {rank})"
        )
    return LowRank(a, b, config.scale_of(module), is_table, f"{path}: {module}")
