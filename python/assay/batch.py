"""The ragged batch: sequences laid end to end, never padded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from assay.device import Device
    from assay.image_patches import PlacedImage


@dataclass(frozen=True, slots=True)
class Sequence:
    """Token ids of one input; token_type_ids None means all zero.

    num_original: tokens before truncation and padding; None is the length of input_ids, or unknown where is_truncated.
    images: in the order of their tokens, as many of them in a row as an image takes.
    """

    input_ids: list[int]
    token_type_ids: list[int] | None = None
    is_truncated: bool = False
    num_original: int | None = None
    images: tuple[PlacedImage, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_tokens_before_truncation(self) -> int | None:
        """Tokens of the whole input, without padding; None where it was truncated without counting them."""
        if self.num_original is None and not self.is_truncated:
            return len(self.input_ids)
        return self.num_original


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """What a model runs on; every tensor is int32, on the CPU or where the model runs.

    known_seqlens: the lengths, as `pack` knows them: a device that has cu_seqlens would have to be waited for.
    schedule: on CUDA the order of attention's work, which all layers share (`ops.attention_schedule`).
    images: of all sequences, by their first tokens in the batch. section_positions: int32 [3, num_tokens], of models
    whose tokens have a frame, a row and a column; None where the three are position_ids.
    """

    input_ids: Tensor
    """[num_tokens]"""
    position_ids: Tensor
    """[num_tokens]"""
    token_type_ids: Tensor | None
    """[num_tokens], or None where every type is 0"""
    cu_seqlens: Tensor
    """[num_seqs + 1], starts at 0, ends at num_tokens"""
    max_seqlen: int
    num_tokens: int
    num_seqs: int
    known_seqlens: list[int] | None = None
    schedule: Tensor | None = None
    images: tuple[PlacedImage, ...] = ()
    section_positions: Tensor | None = None

    def seqlens(self) -> list[int]:
        """The length of every sequence."""
        if self.known_seqlens is not None:
            return self.known_seqlens
        lengths: list[int] = self.cu_seqlens.diff().tolist()
        return lengths

    def on(self, device: Device) -> RaggedBatch:
        """The same batch where `device` computes; this one where it is there already."""
        if not device.has_streams:
            return self
        place, types = device.torch_device, self.token_type_ids
        return replace(
            self,
            input_ids=self.input_ids.to(place),
            position_ids=self.position_ids.to(place),
            token_type_ids=None if types is None else types.to(place),
            cu_seqlens=self.cu_seqlens.to(place),
            known_seqlens=self.seqlens(),
        )


def pack(sequences: list[Sequence], position_offset: int = 0) -> RaggedBatch:
    """Lay `sequences` end to end; the position of a token is its index in the sequence + position_offset.

    A position_offset of pad_token_id + 1 is RoBERTa's rule, and with it comes the rest of that rule (transformers,
    `create_position_ids_from_input_ids`): a pad token inside a text has position pad_token_id and is not counted.
    """
    import numpy as np
    import torch

    num_seqs = len(sequences)
    seqlens = [len(s.input_ids) for s in sequences]
    cu_seqlens = np.array([0, *accumulate(seqlens)], dtype=np.int32)
    num_tokens = sum(seqlens)

    def flat(rows: Iterator[Iterable[int]]) -> npt.NDArray[np.int32]:
        numbers = next(rows) if num_seqs == 1 else chain.from_iterable(rows)
        return np.fromiter(numbers, dtype=np.int32, count=num_tokens)

    input_ids = flat(s.input_ids for s in sequences)
    position_ids = np.arange(position_offset, position_offset + num_tokens, dtype=np.int32)
    if num_seqs > 1:
        position_ids -= np.repeat(cu_seqlens[:-1], seqlens)
    if position_offset > 0 and (is_pad := input_ids == position_offset - 1).any():
        num_pads = np.cumsum(is_pad, dtype=np.int32)
        before = np.concatenate([np.zeros(1, dtype=np.int32), num_pads])[cu_seqlens[:-1]]
        position_ids -= num_pads - np.repeat(before, seqlens)
        position_ids[is_pad] = position_offset - 1
    types = [s.token_type_ids for s in sequences]
    token_type_ids = None
    if any(types):
        rows = (t if t is not None else bytes(n) for t, n in zip(types, seqlens, strict=True))
        token_type_ids = torch.from_numpy(flat(rows))
    return RaggedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        token_type_ids=token_type_ids,
        cu_seqlens=torch.from_numpy(cu_seqlens),
        max_seqlen=max(seqlens, default=0),
        num_tokens=num_tokens,
        num_seqs=num_seqs,
        known_seqlens=seqlens,
        images=_placed_in_batch(sequences),
    )


def _placed_in_batch(sequences: list[Sequence]) -> tuple[PlacedImage, ...]:
    """The images of all sequences, counted from the first token of the batch."""
    placed, first = [], 0
    for sequence in sequences:
        placed += [replace(image, start=image.start + first) for image in sequence.images]
        first += len(sequence.input_ids)
    return tuple(placed)
