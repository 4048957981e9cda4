"""Where the patches of an image lie: their order, the windows some layers see, and the learned position of each.

Patches come block by block, merge_size of them each way: the patches of one token of the language model are neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Grid = tuple[int, int, int]
"""Frames, rows and columns of patches."""


def patch_places(grid: Grid, merge_size: int) -> Tensor:
    """Row and column of every patch in its frame, int64 [num_patches, 2]."""
    import torch

    frames, rows, columns = grid
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    blocks = places.view(rows // merge_size, merge_size, columns // merge_size, merge_size, 2)
    return blocks.transpose(1, 2).reshape(1, rows * columns, 2).expand(frames, -1, -1).reshape(-1, 2)


def windows(grid: Grid, window_size: int) -> tuple[Tensor, Tensor]:
    """The places of a grid of tokens sorted by windows of window_size each way, and how many are in each.

    order int64 [num_tokens], sizes int64 [num_windows]. Windows are counted from the top left corner of every frame;
    those at the right and lower edge may be smaller.
    """
    import torch

    frames, rows, columns = grid
    frame, row, column = (axis.reshape(-1) for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    down, across = -(-rows // window_size), -(-columns // window_size)
    window = (frame * down + row // window_size) * across + column // window_size
    return window.argsort(stable=True), window.bincount(minlength=frames * down * across)


def resampled(places: Tensor, grid: Grid, side: int) -> tuple[Tensor, Tensor]:
    """Which four rows of a table [side * side] of learned positions a patch takes, and how much of each.

    places as `patch_places` gives them -> indices int64 [num_patches, 4], shares float32 [num_patches, 4]. The corners
    of the image lie on the corners of the table (align_corners in the words of torch's interpolate, bilinear).
    """
    import torch

    axes = []
    for axis, length in enumerate(grid[1:]):
        at = places[:, axis].float() * (side - 1) / max(length - 1, 1)
        low = at.floor()
        share = at - low
        taps = torch.stack([low, low + 1], dim=1).long().clamp(max=side - 1)
        axes.append((taps, torch.stack([1 - share, share], dim=1)))
    (down, down_shares), (across, across_shares) = axes
    indices = down[:, :, None] * side + across[:, None, :]
    return indices.flatten(1), (down_shares[:, :, None] * across_shares[:, None, :]).flatten(1)
