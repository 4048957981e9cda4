"""A base model's checkpoint as an adapter changes it: weights with the low-rank products added, tensors replaced."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING

from assay.device import CPU
from assay.errors import WeightsError
from assay.lora.adapter import located
from assay.weights import Parts, WeightMap

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from assay.device import Device
    from assay.lora.adapter import Adapter, LowRank
    from assay.weights import Part


class AdaptedWeights(WeightMap):
    """Tensors are those of the base, in float32 where the adapter adds to them; what it leaves alone is shared.

    parts: what the base model made of its tensors. prefixes: what the checkpoint may have before a name that the
    adapter has without, or the other way round. transposed: weights of linear layers that lie as [in_features,
    out_features]. Raises WeightsError for a module the checkpoint does not have.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        device: Device = CPU,
        *,
        adapter: Adapter,
        parts: Parts,
        prefixes: Sequence[str],
        transposed: Container[str] = (),
    ) -> None:
        super().__init__(paths, device)
        self._adapter = adapter
        self._parts_of_base = parts
        self._transposed = transposed
        self._base = dict(self._tensors)
        self._added: dict[str, LowRank] = {}
        for module, low_rank in adapter.low_rank.items():
            name = located(f"{module}.weight", self._base, prefixes)
            if name is None:
                raise WeightsError(f"{low_rank.source}: the base model ({self.source}) has no such module")
            if name in self._added:
                raise WeightsError(f"{low_rank.source}: {name} is adapted twice")
            self._added[name] = low_rank
        self._whole = {located(name, self._base, prefixes) or name: stored for name, stored in adapter.whole.items()}
        self._tensors.update({name: (adapter.file, stored) for name, stored in self._whole.items()})

    def dtype(self, name: str) -> str:
        """The base's, also where the adapter replaces a tensor."""
        handle, stored = self._base.get(name, (None, name))
        return super().dtype(name) if handle is None else self._dtype_in(handle, stored)

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """As the base's, with what the adapter adds."""
        if name in self._whole and shape not in (None, self.shape(name)):
            raise WeightsError(
                f"adapter {self._adapter.name!r}: {name} has shape {self.shape(name)}, the base model asks for {shape}"
            )
        tensor = super().take(name, shape)
        if name in self._added:
            return self._added[name].added_to(tensor, is_transposed=name in self._transposed)
        # An adapter's files may be written anew while it is in use: nothing stays mapped.
        return tensor.clone() if name in self._whole else tensor

    def take_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """As the base's; raises WeightsError for a matrix that the adapter adds to."""
        if name in self._added:
            raise WeightsError(
                f"{self._added[name].source}: the head is made of rows of this matrix, and an adapter of it is not "
                f"supported"
            )
        return super().take_rows(name, rows)

    def part(self, tensors: Sequence[str], make: Callable[[], Part]) -> Part:
        """What the base made of these tensors, where the adapter changes none of them."""
        key = tuple(tensors)
        is_changed = any(name in self._added or name in self._whole for name in key)
        if is_changed or key not in self._parts_of_base:
            return make()
        self._used.update(key)
        made: Part = self._parts_of_base[key]
        return made

    def finish(self, ignore: Iterable[str] = ()) -> None:
        """As the base's. What the adapter changes must have been taken, but for what the base has and may ignore."""
        patterns = [re.compile(pattern) for pattern in ignore]
        unused = [
            name
            for name in sorted({*self._added, *self._whole} - self._used)
            if name not in self._base or not any(pattern.fullmatch(name) for pattern in patterns)
        ]
        if unused:
            raise WeightsError(
                f"adapter {self._adapter.name!r} changes tensors the architecture has no use for: {', '.join(unused)}"
            )
        super().finish(ignore)
