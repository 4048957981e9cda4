"""Bytes of the numbers a model is made of, by walking over its parts: they need not hold any numbers yet."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def weight_bytes(part: Any) -> int:
    """Bytes of all tensors and packed weights of `part`, each once: dataclasses, tuples and dicts are looked into."""
    found = {id(leaf): leaf for leaf in _leaves(part)}
    return sum(int(leaf.nbytes if hasattr(leaf, "nbytes") else leaf.size_bytes) for leaf in found.values())


def backbone_bytes(backbone: Any) -> dict[str, int]:
    """The same of each field of a `models.family.Backbone`, without those that hold nothing."""
    sizes = {field.name: weight_bytes(getattr(backbone, field.name)) for field in dataclasses.fields(backbone)}
    return {name: size for name, size in sizes.items() if size}


def _leaves(part: Any) -> Iterator[Any]:
    if hasattr(part, "nbytes") or hasattr(part, "size_bytes"):  # a tensor; a packed weight or a layer of them
        yield part
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            yield from _leaves(getattr(part, field.name))
    elif isinstance(part, dict):
        for item in part.values():
            yield from _leaves(item)
    elif isinstance(part, tuple | list):
        for item in part:
            yield from _leaves(item)
