"""Qwen-VL's image preprocessing: an RGB image to normalised patches.

The numbers are those of transformers' `Qwen2VLImageProcessorPil`, bit for bit; transformers itself is not imported.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ConfigError, UnsupportedModelError, ValidationError
from assay.hf_config import read_json
from assay.image_patches import PixelGrid

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

NUM_CHANNELS: Final = 3
MAX_ASPECT_RATIO: Final = 200
"""Longer side to shorter side; the models were never shown anything narrower."""

_PROCESSOR_TYPES: Final = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil")
_INTS: Final = ("patch_size", "temporal_patch_size", "merge_size", "min_pixels", "max_pixels")
_SWITCHES: Final = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
_OTHERS: Final = ("image_mean", "image_std", "rescale_factor", "resample", "size")
_SETTINGS: Final = (*_INTS, *_SWITCHES, *_OTHERS)
_EDGE_OF: Final = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
"""Under which names `size` holds the two limits: numbers of pixels, in spite of what the names say."""
_MAX_INT: Final = 2**31 - 1
_NUM_FILTERS: Final = 6
"""PIL's resampling filters are numbered from 0 (nearest) to 5 (Hamming)."""


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """The settings of preprocessor_config.json, and what they do to an image. Defaults are transformers'.

    min_pixels, max_pixels: bounds of the resized image's area. image_mean, image_std: one value per channel, in units
    of the rescaled image. resample: the number of PIL's filter. do_convert_rgb is read for completeness: images come
    in mode RGB, and there is nothing to convert.
    """

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    rescale_factor: float = 1 / 255
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    do_convert_rgb: bool = True
    resample: int = 3

    @classmethod
    def from_folder(cls, folder: Path, overrides: Mapping[str, Any] | None = None) -> ImageProcessor:
        """The settings in a model's folder, with `overrides` (the keys of preprocessor_config.json) in their place.

        processor_config.json's "image_processor" goes before preprocessor_config.json, and of the files' limits
        min_pixels and max_pixels before `size`, as in transformers. An override of `size` may give one limit of two.
        Raises ConfigError for missing files, wrong values and unknown overrides, UnsupportedModelError for the
        preprocessing of another family.
        """
        saved, name = _saved_settings(folder)
        kind = saved.get("image_processor_type")
        if kind not in _PROCESSOR_TYPES:
            raise UnsupportedModelError(
                f"{name}: image_processor_type must be one of {', '.join(_PROCESSOR_TYPES)}, got {kind!r}"
            )
        settings = _checked({key: saved[key] for key in _SETTINGS if key in saved}, name)
        if (size := saved.get("size")) is not None and (lacking := set(_EDGE_OF) - set(settings)):
            edges = " and ".join(sorted(_EDGE_OF[limit] for limit in lacking))
            raise ConfigError(f"{name}: size must give {edges}, got {size!r}")
        processor = cls(**settings | _checked_overrides(overrides))
        if not all(map(math.isfinite, processor._levels().flat)):
            raise ConfigError(f"{name}: rescale_factor, image_mean and image_std give no finite pixels: {processor}")
        return processor

    def grid_of(self, width: int, height: int) -> tuple[int, int, int]:
        """(t, h, w) in patches for an image of that many pixels; raises ValidationError where there is none."""
        columns, rows = self._resized(width, height)
        return 1, rows // self.patch_size, columns // self.patch_size

    def __call__(self, image: Image.Image) -> PixelGrid:
        """An image in mode RGB, resized; raises ValidationError for other modes and hopeless proportions."""
        import numpy as np

        if image.mode != "RGB":
            raise ValidationError(f"an image must be in mode RGB, got {image.mode}", parameter="image_url")
        size = self._resized(*image.size)
        if size != image.size:
            image = image.resize(size, self.resample)
        pixels: NDArray[np.uint8] = np.asarray(image)
        grid = (1, size[1] // self.patch_size, size[0] // self.patch_size)
        return PixelGrid(pixels, grid, self.merge_size, self._digest(pixels), self.patches)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that the patches are cut from: multiples of a merged patch's side."""
        if width < 1 or height < 1:
            raise ValidationError(f"an image must have pixels, got {width}x{height}", parameter="image_url")
        side = self.patch_size * self.merge_size
        if not self.do_resize:
            if width % side or height % side:
                raise ValidationError(
                    f"do_resize is off: an image's sides must be multiples of {side} pixels, got {width}x{height}",
                    parameter="image_url",
                )
            return width, height
        ratio = max(width, height) / min(width, height)
        if ratio > MAX_ASPECT_RATIO:
            raise ValidationError(
                f"an image's sides must not differ more than {MAX_ASPECT_RATIO} times, got {width}x{height}",
                parameter="image_url",
            )
        # The order of the divisions is transformers': another one rounds to other sizes now and then.
        columns, rows = round(width / side), round(height / side)
        area = columns * side * rows * side
        if area > self.max_pixels:
            shrink = math.sqrt((height * width) / self.max_pixels)
            columns = max(1, math.floor(width / shrink / side))
            rows = max(1, math.floor(height / shrink / side))
        elif area < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            columns, rows = math.ceil(width * grow / side), math.ceil(height * grow / side)
        return columns * side, rows * side

    def _levels(self) -> NDArray[np.float32]:
        """float32 [channels, 256]: what every value of a pixel becomes.

        The steps and their dtypes are transformers' on whole images; a pixel's result depends on its value alone.
        """
        import numpy as np

        with np.errstate(all="ignore"):  # from_folder tells of what is not finite
            levels = np.arange(256, dtype=np.float64)
            if self.do_rescale:
                levels = levels * self.rescale_factor
            table = np.repeat(levels.astype(np.float32)[None], NUM_CHANNELS, axis=0)
            if self.do_normalize:
                table -= np.array(self.image_mean, dtype=np.float32)[:, None]
                table /= np.array(self.image_std, dtype=np.float32)[:, None]
        return table

    def patches(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """pixels [height, width, channels] -> float32 [t * h * w, channels * temporal_patch_size * patch_size ** 2].

        Rows are ordered by blocks of merge_size x merge_size patches, so that the rows of one token are neighbours.
        """
        import numpy as np

        levels = self._levels()
        side, merge = self.patch_size, self.merge_size
        block_rows, block_columns = pixels.shape[0] // (side * merge), pixels.shape[1] // (side * merge)
        blocks = pixels.reshape(block_rows, merge, side, block_columns, merge, side, NUM_CHANNELS)
        blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)
        channel_starts = (256 * np.arange(NUM_CHANNELS)).reshape(NUM_CHANNELS, 1, 1)
        flat_levels = levels.reshape(-1)
        out = np.empty((*blocks.shape[:5], self.temporal_patch_size, side, side), dtype=np.float32)
        # One row of blocks at a time: the positions are eight times as large as the pixels, and stay in the cache so.
        positions = np.empty(blocks.shape[1:], dtype=np.intp)
        values = np.empty(blocks.shape[1:], dtype=np.float32)
        for row in range(block_rows):
            np.add(blocks[row], channel_starts, out=positions)
            flat_levels.take(positions, out=values, mode="clip")  # "raise" would write to a buffer first
            out[row] = values[:, :, :, :, None]
        return out.reshape(-1, NUM_CHANNELS * self.temporal_patch_size * side**2)

    def _digest(self, pixels: NDArray[np.uint8]) -> bytes:
        """A digest of all that the patches are made of, which is an eighth of their size."""
        shape = (*pixels.shape, self.patch_size, self.temporal_patch_size, self.merge_size)
        digest = hashlib.blake2b(repr(shape).encode(), digest_size=16)
        digest.update(self._levels().data)
        digest.update(pixels.data)
        return digest.digest()


def _saved_settings(folder: Path) -> tuple[dict[str, Any], str]:
    """The image processor's settings as they were saved, and where, for messages."""
    nested = read_json(folder / "processor_config.json").get("image_processor")
    if nested is not None:
        name = f"{folder / 'processor_config.json'}: image_processor"
        if not isinstance(nested, dict):
            raise ConfigError(f"{name} must be an object, got {nested!r}")
        return nested, name
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise ConfigError(f"{folder} says nowhere how images are prepared: it has no preprocessor_config.json")
    return read_json(path), str(path)


def _checked_overrides(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    name = "mm_processor_kwargs"
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping):
        raise ConfigError(f"{name} must be a dict, got {overrides!r}")
    if unknown := [key for key in overrides if key not in _SETTINGS]:
        raise ConfigError(f"{name} has unknown keys {unknown}: choose from {', '.join(sorted(_SETTINGS))}")
    return _checked(overrides, name)


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of an `ImageProcessor` from settings of any type, `size` taken apart; None means: as if not given."""
    given = {key: value for key, value in values.items() if value is not None}
    size = given.pop("size", None)
    limits = {} if size is None else _limits(size, given, where)
    return limits | {key: _checked_value(key, value, where) for key, value in given.items()}


def _limits(size: Any, given: Mapping[str, Any], where: str) -> dict[str, int]:
    """min_pixels and max_pixels, or one of them, of a `size`; older files say there too what is `given` beside it."""
    edges = _EDGE_OF.values()
    if not isinstance(size, Mapping) or any(key not in edges and key not in _EDGE_OF.keys() & given for key in size):
        raise ConfigError(f"{where}: size must be a dict of {' and '.join(edges)}, got {size!r}")
    found = {limit: edge for limit, edge in _EDGE_OF.items() if size.get(edge) is not None}
    return {limit: _integer(f"size's {edge}", size[edge], where) for limit, edge in found.items()}


def _checked_value(key: str, value: Any, where: str) -> Any:
    if key in _SWITCHES:
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: {key} must be true or false, got {value!r}")
        return value
    if key in _INTS:
        return _integer(key, value, where)
    if key == "resample":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _NUM_FILTERS:
            raise ConfigError(f"{where}: resample must be an integer from 0 to {_NUM_FILTERS - 1}, got {value!r}")
        return int(value)
    if key == "rescale_factor":
        return _number(key, value, where)
    values = value if isinstance(value, list | tuple) else [value] * NUM_CHANNELS
    if len(values) != NUM_CHANNELS:
        raise ConfigError(f"{where}: {key} must be a number or {NUM_CHANNELS} of them, got {value!r}")
    channels = tuple(_number(key, each, where) for each in values)
    if key == "image_std" and 0.0 in channels:
        raise ConfigError(f"{where}: image_std must not be 0, got {value!r}")
    return channels


def _integer(key: str, value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_INT:
        raise ConfigError(f"{where}: {key} must be an integer from 1 to {_MAX_INT}, got {value!r}")
    return value


def _number(key: str, value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: {key} must be made of numbers, got {value!r}")
    try:
        return float(value)
    except OverflowError as err:  # JSON's integers have no end
        raise ConfigError(f"{where}: {key} must be made of numbers a float can hold") from err
