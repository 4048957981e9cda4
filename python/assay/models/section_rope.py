"""Rotary positions of three parts: the frame, row and column of an image's tokens, three times the same of a text's.

Each pair of values of a head is turned by one of the three (Qwen2-VL, arXiv:2409.12191, section 2.1: M-RoPE).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.errors import ConfigError
from assay.models.decoder import RopeTables

if TYPE_CHECKING:
    from torch import Tensor

    from assay.batch import RaggedBatch

NUM_PARTS = 3


def part_of_pair(sections: tuple[int, ...], num_pairs: int, *, is_interleaved: bool) -> tuple[int, ...]:
    """Which part turns each pair: 0 the frame, 1 the row, 2 the column.

    sections: how many pairs each part has; one after the other, or in turns as far as there are rows and columns, the
    rest the frame's. Raises ConfigError where they do not add up.
    """
    if len(sections) != NUM_PARTS or sum(sections) != num_pairs:
        raise ConfigError(f"config.json: mrope_section must be 3 counts that add up to {num_pairs}, got {sections}")
    if not is_interleaved:
        return tuple(part for part, count in enumerate(sections) for _ in range(count))
    return tuple(pair % NUM_PARTS if pair < NUM_PARTS * sections[pair % NUM_PARTS] else 0 for pair in range(num_pairs))


def section_positions(batch: RaggedBatch) -> Tensor:
    """int32 [3, num_tokens] of a batch with images.

    An image's tokens count rows and columns from the position before them on; what follows it goes on after the larger
    of the two.
    """
    import torch

    positions = batch.position_ids.expand(NUM_PARTS, -1).clone()
    ends = batch.cu_seqlens.tolist()
    seq = 0
    for placed in batch.images:
        while ends[seq + 1] <= placed.start:
            seq += 1
        image = placed.image
        frames, rows, columns = (image.grid[0], image.grid[1] // image.merge_size, image.grid[2] // image.merge_size)
        stop = placed.start + image.num_tokens
        first = int(positions[0, placed.start])
        parts = torch.meshgrid(*map(torch.arange, (frames, rows, columns)), indexing="ij")
        positions[:, placed.start : stop] = torch.stack(parts).reshape(NUM_PARTS, -1) + first
        positions[:, stop : ends[seq + 1]] -= image.num_tokens - max(rows, columns)
    return positions


def section_angles(rope: RopeTables, positions: Tensor, parts: Tensor) -> RopeTables:
    """The angles of every token: rows of the tables [num_positions, num_pairs], each pair from its part's position.

    positions int32 [3, num_tokens], parts int64 [num_pairs] -> tables [num_tokens, num_pairs], a row for each token.
    """
    rows = positions.long()[parts].T
    return RopeTables(rope.cos.gather(0, rows).contiguous(), rope.sin.gather(0, rows).contiguous())
