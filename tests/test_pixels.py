"""Qwen-VL's preprocessing against transformers' own, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from assay.errors import ConfigError, UnsupportedModelError, ValidationError
from assay.images import MediaAccess, open_image
from assay.pixels import ImageProcessor

CLIP = {"min_pixels": 56 * 56, "max_pixels": 200_000}
QWEN3 = {
    "size": {"shortest_edge": 4096, "longest_edge": 150_000},
    "patch_size": 16,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
SIZES = [
    (1, 1),
    (1, 200),
    (200, 1),
    (2, 399),
    (28, 28),
    (27, 29),
    (56, 56),
    (41, 43),
    (32, 640),
    (224, 224),
    (300, 199),
    (447, 448),
    (640, 480),
    (481, 999),
]


def noise(width, height, mode="RGB"):
    rng = np.random.default_rng(width * 10_007 + height)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    pixels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


def saved(folder, **settings):
    Qwen2VLImageProcessorPil(**settings).save_pretrained(folder)
    return folder


def written(folder, name="preprocessor_config.json", **settings):
    settings.setdefault("image_processor_type", "Qwen2VLImageProcessor")
    (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    return folder


def theirs(settings, image, **call):
    result = Qwen2VLImageProcessorPil(**settings)(image, return_tensors="np", **call)
    return result["pixel_values"], tuple(result["image_grid_thw"][0].tolist())


def assert_same(processor, image, settings):
    want, grid = theirs(settings, image)
    got = processor(open_image(image, MediaAccess()))
    assert got.grid == grid == processor.grid_of(*image.size)
    patches = got.patches()
    assert patches.dtype == want.dtype == np.float32 and patches.shape == want.shape
    assert patches.tobytes() == want.tobytes()
    assert got.num_tokens * processor.merge_size**2 == len(want)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("settings", [CLIP, QWEN3], ids=["patch14", "patch16"])
def test_patches_equal_transformers(tmp_path, settings, size):
    processor = ImageProcessor.from_folder(saved(tmp_path, **settings))
    assert_same(processor, noise(*size), settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"merge_size": 1},
        {"merge_size": 3, "patch_size": 8},
        {"temporal_patch_size": 1},
        {"temporal_patch_size": 3, "patch_size": 7, "merge_size": 1},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 0.3},
        {"image_mean": [1, 0, 0.1], "image_std": [1, 2, 3]},
        {"min_pixels": 100_000},
        {"max_pixels": 10_000},
        {"min_pixels": 100_000, "max_pixels": 50_000},
        *({"resample": number} for number in range(6)),
    ],
    ids=str,
)
def test_settings_equal_transformers(tmp_path, settings):
    processor = ImageProcessor.from_folder(saved(tmp_path, **settings))
    for size in [(113, 87), (336, 168), (30, 400)]:
        assert_same(processor, noise(*size), settings)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr", "HSV"])
def test_modes_equal_transformers(mode):
    image = noise(70, 90, mode) if mode in ("L", "LA", "RGBA") else noise(70, 90).convert(mode)
    assert_same(ImageProcessor(), image, {})


def test_palettes_with_transparency_equal_transformers():
    image = noise(70, 90).quantize(16)
    image.info["transparency"] = bytes(range(0, 256, 16))
    assert_same(ImageProcessor(), image, {})


def test_images_that_are_not_resized(tmp_path):
    settings = {"do_resize": False}
    processor = ImageProcessor.from_folder(saved(tmp_path, **settings))
    assert_same(processor, noise(28, 28 * 201), settings)
    for size in [(28, 29), (14, 28), (1, 1)]:
        with pytest.raises(ValidationError, match=r"multiples of 28 pixels, got \d+x\d+"):
            processor(noise(*size))


def test_grids_equal_transformers_for_many_sizes():
    rng = np.random.default_rng(5)
    pil = Qwen2VLImageProcessorPil()
    sizes = rng.integers(1, 3000, (3000, 2)).tolist()
    for width, height in sizes:
        if max(width, height) / min(width, height) > 200:
            continue
        for patch_size, merge_size, low, high in [(14, 2, 3136, 1_003_520), (16, 2, 65536, 602_112), (14, 1, 1, 5000)]:
            processor = ImageProcessor(patch_size=patch_size, merge_size=merge_size, min_pixels=low, max_pixels=high)
            t, rows, columns = processor.grid_of(width, height)
            kwargs = {"patch_size": patch_size, "merge_size": merge_size, "min_pixels": low, "max_pixels": high}
            assert t * rows * columns == pil.get_number_of_image_patches(height, width, kwargs)


def test_patches_of_an_image_that_only_views_its_pixels():
    wide = noise(120, 60)
    processor = ImageProcessor(do_resize=False)
    part = wide.crop((3, 2, 59, 58))
    assert processor(part).patches().tobytes() == theirs({"do_resize": False}, part)[0].tobytes()


@pytest.mark.parametrize("size", [(1, 201), (6030, 30), (100_000, 1)])
def test_proportions_beyond_the_models_are_refused(size):
    with pytest.raises(ValidationError, match=f"200 times, got {size[0]}x{size[1]}") as caught:
        ImageProcessor().grid_of(*size)
    assert caught.value.parameter == "image_url"
    with pytest.raises(ValidationError, match="200 times"):
        ImageProcessor()(Image.new("RGB", size))


def test_sizes_and_modes_that_are_none():
    with pytest.raises(ValidationError, match="must have pixels, got 0x5"):
        ImageProcessor().grid_of(0, 5)
    with pytest.raises(ValidationError, match="must have pixels"):
        ImageProcessor()(Image.new("RGB", (0, 5)))
    with pytest.raises(ValidationError, match="must be in mode RGB, got RGBA"):
        ImageProcessor()(Image.new("RGBA", (50, 50)))


def test_digests_tell_images_and_settings_apart():
    image = noise(60, 60)
    changed = image.copy()
    changed.putpixel((30, 30), (1, 2, 3))
    processors = [ImageProcessor(), ImageProcessor(merge_size=1), ImageProcessor(do_normalize=False)]
    digests = [processor(each).digest for processor in processors for each in (image, changed, noise(60, 88))]
    assert len(set(digests)) == len(digests) and {len(digest) for digest in digests} == {16}
    assert ImageProcessor()(image.copy()).digest == digests[0]


# Settings


def test_both_formats_of_transformers_are_read(tmp_path):
    settings = {"patch_size": 16, "merge_size": 1, "min_pixels": 100, "max_pixels": 9000, "image_mean": [0.5] * 3}
    want = ImageProcessor(patch_size=16, merge_size=1, min_pixels=100, max_pixels=9000, image_mean=(0.5, 0.5, 0.5))
    old, new = tmp_path / "old", tmp_path / "new"
    assert ImageProcessor.from_folder(saved(old, **settings)) == want
    assert set(json.loads((old / "preprocessor_config.json").read_text())["size"]) == {"shortest_edge", "longest_edge"}
    new.mkdir()
    nested = json.loads((old / "preprocessor_config.json").read_text())
    written(new, "processor_config.json", image_processor=nested, processor_class="Qwen2VLProcessor")
    assert ImageProcessor.from_folder(new) == want
    written(new, patch_size=99)
    assert ImageProcessor.from_folder(new) == want


def test_a_processor_config_without_images_leaves_the_older_file(tmp_path):
    written(tmp_path, "processor_config.json", processor_class="Qwen2VLProcessor")
    assert ImageProcessor.from_folder(written(tmp_path, patch_size=16)).patch_size == 16


def test_defaults_equal_transformers(tmp_path):
    assert ImageProcessor.from_folder(saved(tmp_path)) == ImageProcessor()
    nothing = dict.fromkeys(("size", "image_mean", "do_resize", "patch_size", "resample"))
    assert ImageProcessor.from_folder(written(tmp_path, **nothing)) == ImageProcessor()


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"min_pixels": 5, "max_pixels": 7}, 5, 7),
        ({"max_pixels": 7}, 3136, 7),
        ({"size": {"shortest_edge": 5, "longest_edge": 7}}, 5, 7),
        ({"size": {"shortest_edge": 5, "longest_edge": 7}, "min_pixels": 6}, 6, 7),
        ({"size": {"shortest_edge": 5}, "max_pixels": 9}, 5, 9),
        ({"size": {"min_pixels": 1, "max_pixels": 2}, "min_pixels": 5, "max_pixels": 7}, 5, 7),
    ],
)
def test_the_precedence_of_the_limits_is_that_of_transformers(tmp_path, settings, low, high):
    processor = ImageProcessor.from_folder(written(tmp_path, **settings))
    assert (processor.min_pixels, processor.max_pixels) == (low, high)
    size = Qwen2VLImageProcessorPil.from_pretrained(tmp_path).size
    assert (size.shortest_edge, size.longest_edge) == (low, high)


@pytest.mark.parametrize(
    ("overrides", "low", "high"),
    [
        (None, 50, 70),
        ({}, 50, 70),
        ({"max_pixels": 60}, 50, 60),
        ({"size": {"longest_edge": 60}}, 50, 60),
        ({"size": {"shortest_edge": 1, "longest_edge": 2}, "min_pixels": 3}, 3, 2),
        ({"min_pixels": None, "size": None}, 50, 70),
    ],
)
def test_overrides_go_before_the_files(tmp_path, overrides, low, high):
    processor = ImageProcessor.from_folder(written(tmp_path, min_pixels=50, max_pixels=70), overrides)
    assert (processor.min_pixels, processor.max_pixels) == (low, high)


def test_overrides_reach_every_setting(tmp_path):
    overrides = {"do_normalize": False, "image_std": 0.5, "resample": 2, "patch_size": 16, "rescale_factor": 1}
    processor = ImageProcessor.from_folder(written(tmp_path), overrides)
    assert processor == ImageProcessor(
        do_normalize=False, image_std=(0.5, 0.5, 0.5), resample=2, patch_size=16, rescale_factor=1.0
    )


@pytest.mark.parametrize("name", ["Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"])
def test_names_of_the_processor(tmp_path, name):
    assert ImageProcessor.from_folder(written(tmp_path, image_processor_type=name)) == ImageProcessor()


@pytest.mark.parametrize("name", [None, "CLIPImageProcessor", 5, ["Qwen2VLImageProcessor"]])
def test_preprocessing_of_other_families_is_refused(tmp_path, name):
    with pytest.raises(UnsupportedModelError, match=r"image_processor_type must be one of Qwen2VL.*, got"):
        ImageProcessor.from_folder(written(tmp_path, image_processor_type=name))


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": 14.0},
        {"patch_size": "14"},
        {"patch_size": True},
        {"patch_size": 0},
        {"patch_size": {"height": 14, "width": 14}},
        {"merge_size": -1},
        {"temporal_patch_size": [2]},
        {"min_pixels": 1e5},
        {"max_pixels": 10**30},
        {"size": 224},
        {"size": {"height": 224, "width": 224}},
        {"size": {"shortest_edge": 5}},
        {"size": {"min_pixels": 5, "max_pixels": 7}},
        {"size": {"shortest_edge": 0, "longest_edge": 7}},
        {"size": {"shortest_edge": "5", "longest_edge": 7}},
        {"do_resize": 1},
        {"do_rescale": "yes"},
        {"image_mean": [0.5]},
        {"image_mean": "0.5"},
        {"image_mean": [0.5, 0.5, None]},
        {"image_mean": [10**400, 0, 0]},
        {"image_mean": [1e300, 0, 0]},
        {"image_mean": float("nan")},
        {"image_std": [0.5, 0, 0.5]},
        {"image_std": 1e-300},
        {"rescale_factor": "1/255"},
        {"rescale_factor": 1e300},
        {"rescale_factor": float("inf")},
        {"rescale_factor": True},
        {"resample": 6},
        {"resample": -1},
        {"resample": "bicubic"},
        {"resample": True},
    ],
    ids=lambda settings: str(settings)[:50],
)
def test_wrong_values_are_named(tmp_path, settings):
    key = next(iter(settings))
    with pytest.raises(ConfigError, match=key):
        ImageProcessor.from_folder(written(tmp_path, **settings))
    if settings != {"size": {"shortest_edge": 5}}:  # which leaves the file's other limit as it is
        with pytest.raises(ConfigError, match=key):
            ImageProcessor.from_folder(written(tmp_path), settings)


def test_unknown_overrides_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"mm_processor_kwargs has unknown keys \['max_pixel', 'fps'\]: choose from"):
        ImageProcessor.from_folder(written(tmp_path), {"max_pixel": 5, "fps": 2, "min_pixels": 5})
    with pytest.raises(ConfigError, match="mm_processor_kwargs must be a dict, got 5"):
        ImageProcessor.from_folder(written(tmp_path), 5)


def test_files_that_are_missing_or_no_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        ImageProcessor.from_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="must hold a JSON object"):
        ImageProcessor.from_folder(tmp_path)
    written(tmp_path, "processor_config.json", image_processor=[])
    with pytest.raises(ConfigError, match=r"image_processor must be an object, got \[\]"):
        ImageProcessor.from_folder(tmp_path)


def test_importing_the_modules_brings_in_nothing_heavy():
    code = (
        "import sys, assay.pixels, assay.images\n"
        "print([name for name in ('PIL', 'httpx', 'numpy', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
