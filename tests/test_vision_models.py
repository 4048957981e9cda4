"""Vision-language models against transformers: layout, positions, scores; the same bits in any batch."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import vision_utils

import tiny_vision
from assay import LLM, ops
from assay.batch import pack
from assay.errors import ConfigError, UnsupportedModelError, WeightsError
from assay.hf_config import HFConfig
from assay.models.kept_features import KeptFeatures
from assay.models.nested_config import lifted
from assay.models.section_rope import part_of_pair, section_positions
from assay.models.vision_layout import patch_places, resampled, windows
from assay.models.vision_tower import ImageFeatures
from tiny_vision import KINDS, MARK, PATCH, Reference, encode, image

_root = tempfile.TemporaryDirectory(prefix="assay-vision-")
CASES: list[tuple[str, list[tuple[int, int]]]] = [
    ("No picture here, only words.", []),
    (f"{MARK}What is this?", [(48, 32)]),
    (f"First {MARK} then {MARK} and {MARK}", [(16, 16), (70, 21), (33, 90)]),
    (f"An image at the end: {MARK}", [(24, 64)]),
    (MARK * 2, [(8, 8), (200, 30)]),
]
GRIDS = [(1, 2, 2), (1, 4, 6), (1, 10, 6), (1, 16, 2), (2, 8, 12), (3, 2, 14)]


@cache
def folder(kind: str, head: str = "score") -> Path:
    return tiny_vision.make(Path(_root.name) / f"{kind}-{head}", kind, head=head)


@cache
def llm(kind: str, dtype: str = "float32", head: str = "score") -> LLM:
    return LLM(folder(kind, head), dtype=dtype)


@cache
def reference(kind: str, dtype: torch.dtype = torch.float32, head: str = "score") -> Reference:
    return Reference(folder(kind, head), kind, dtype)


def images_of(case: tuple[str, list[tuple[int, int]]]) -> list[Any]:
    return [image(width, height, seed) for seed, (width, height) in enumerate(case[1])]


def prompt(case: tuple[str, list[tuple[int, int]]]) -> Any:
    images = images_of(case)
    return {"prompt": case[0], "multi_modal_data": {"image": images}} if images else case[0]


def logits(model: LLM, prompts: list[Any]) -> list[torch.Tensor]:
    from assay import PoolingParams

    outputs = model.encode(prompts, PoolingParams(use_activation=False), pooling_task="classify", use_tqdm=False)
    return [output.outputs.data for output in outputs]


def expected(kind: str, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [reference(kind, dtype).logits(encode(case[0], images_of(case))) for case in CASES]


@pytest.mark.parametrize("kind", KINDS)
def test_float32_logits_are_those_of_transformers(kind):
    for ours, theirs in zip(logits(llm(kind), [prompt(case) for case in CASES]), expected(kind), strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_no_further_off_than_transformers(kind):
    exact = torch.stack(expected(kind))
    theirs = torch.stack(expected(kind, torch.bfloat16))
    ours = torch.stack(logits(llm(kind, "bfloat16"), [prompt(case) for case in CASES]))
    assert (ours - exact).abs().max() <= 1.1 * (theirs - exact).abs().max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_alone_in_a_batch_in_any_order_and_on_one_thread_the_bits_are_the_same(kind, dtype):
    model = llm(kind, dtype)
    together = logits(model, [prompt(case) for case in CASES])
    backwards = logits(model, [prompt(case) for case in reversed(CASES)])[::-1]
    threads = ops.num_threads()
    ops.set_num_threads(1)
    try:
        backbone: Any = model._model.backbone
        backbone.features.clear()
        alone = [logits(model, [prompt(case)])[0] for case in CASES]
    finally:
        ops.set_num_threads(threads)
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_an_image_changes_the_score_and_where_it_stands_too():
    model = llm("Qwen3VL")
    picture, other = image(48, 32, 1), image(48, 32, 2)
    prompts = [
        {"prompt": f"{MARK}{MARK}Which?", "multi_modal_data": {"image": pair}}
        for pair in ([picture, other], [other, picture], [picture, picture])
    ]
    results = [tuple(row.tolist()) for row in logits(model, prompts)]
    assert len(set(results)) == 3


@pytest.mark.parametrize("kind", ["Qwen2VL", "Qwen2_5_VL"])
def test_files_with_other_names_give_the_same_bits(kind, tmp_path):
    older = LLM(tiny_vision.as_other_files(folder(kind), tmp_path / "other"), dtype="float32")
    prompts = [prompt(case) for case in CASES]
    for ours, theirs in zip(logits(older, prompts), logits(llm(kind), prompts), strict=True):
        assert torch.equal(ours, theirs)


def test_token_embeddings_read_every_token(tmp_path):
    model = LLM(folder("Qwen3VL", "lm_head"), runner="pooling", convert="embed", dtype="float32")
    case = CASES[2]
    (output,) = model.encode([prompt(case)], pooling_task="embed", use_tqdm=False)
    last = reference("Qwen3VL", head="lm_head").hidden_states(encode(case[0], images_of(case)))[-1]
    assert (output.outputs.data - last / last.norm()).abs().max() <= 1e-5


@pytest.mark.parametrize("grid", GRIDS)
def test_patch_places_windows_and_learned_positions_are_those_of_transformers(grid):
    as_tensor = torch.tensor([grid])
    places = patch_places(grid, 2)
    assert torch.equal(places, vision_utils.get_vision_position_ids(as_tensor, 2))
    merged = (grid[0], grid[1] // 2, grid[2] // 2)
    order, sizes = windows(merged, 2)
    theirs, cu_seqlens = vision_utils.get_vision_window_index(as_tensor, 2, 2 * 2 * PATCH, PATCH)
    assert torch.equal(order, theirs)
    assert torch.equal(4 * sizes, cu_seqlens.diff())
    rows, shares = resampled(places, grid, 6)
    their_rows, their_shares = vision_utils.get_vision_interpolation_indices_and_weights(
        as_tensor, 6, "bilinear", True, 2
    )
    table = torch.randn(36, 3, generator=torch.Generator().manual_seed(0))
    ours_at, theirs_at = ((table[r] * s[:, :, None]).sum(1) for r, s in ((rows, shares), (their_rows, their_shares)))
    assert (ours_at - theirs_at).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_those_of_transformers(kind):
    renderer = llm(kind).session.renderer
    from assay.inputs import plain_prompts
    from assay.tokenize_options import TokenizeOptions

    rules = llm(kind).session.prompts.image_rules
    sequences = renderer.render(plain_prompts([prompt(case) for case in CASES], "X", rules), TokenizeOptions(1024))
    batch = pack(sequences)
    ours = section_positions(batch).split(batch.seqlens(), dim=1)
    for case, positions in zip(CASES, ours, strict=True):
        encoded = encode(case[0], images_of(case))
        types = encoded.media.get("mm_token_type_ids", torch.zeros_like(encoded.input_ids).int())
        model = reference(kind).model.model
        theirs, _ = model.get_rope_index(encoded.input_ids, types, image_grid_thw=encoded.media.get("image_grid_thw"))
        assert torch.equal(positions.long(), theirs[:, 0])


@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize("sections", [(2, 3, 3), (4, 2, 2), (24, 20, 20), (8, 0, 0)])
def test_parts_of_pairs_are_those_of_transformers(sections, is_interleaved):
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

    module = (Qwen3VLTextRotaryEmbedding if is_interleaved else Qwen2VLRotaryEmbedding).__new__(
        Qwen3VLTextRotaryEmbedding if is_interleaved else Qwen2VLRotaryEmbedding
    )
    torch.nn.Module.__init__(module)
    module.mrope_section = list(sections)
    size = sum(sections)
    numbers = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 1, size).clone()
    theirs = module.recomposition_frequencies(numbers)[0, 0, :size].long().tolist()
    assert list(part_of_pair(sections, size, is_interleaved=is_interleaved)) == theirs


def test_kept_features_are_bounded_and_drop_what_was_not_asked_for_longest():
    def features() -> ImageFeatures:
        return ImageFeatures(torch.zeros(10, 10), (torch.zeros(10, 10),))

    kept = KeptFeatures(max_bytes=2000)
    kept.put(b"a", features())
    kept.put(b"b", features())
    assert kept.get(b"a") is not None and kept.num_bytes == 1600
    kept.put(b"c", features())
    assert kept.get(b"b") is None and kept.get(b"a") is not None and kept.num_bytes == 1600
    kept.put(b"d", ImageFeatures(torch.zeros(100, 10)))
    assert kept.get(b"d") is None and kept.num_bytes == 1600
    kept.clear()
    assert kept.get(b"a") is None and kept.num_bytes == 0


def test_an_image_goes_through_the_tower_once(monkeypatch):
    model = LLM(folder("Qwen2_5_VL"), dtype="float32")
    backbone: Any = model._model.backbone
    calls: list[bytes] = []
    tower_class = type(backbone.tower)
    plain = tower_class.__call__
    monkeypatch.setattr(tower_class, "__call__", lambda self, grid: calls.append(grid.digest) or plain(self, grid))
    picture = image(48, 32)
    prompts = [{"prompt": f"{MARK}{word}", "multi_modal_data": {"image": picture}} for word in ("one", "two", "three")]
    logits(model, prompts)
    assert len(calls) == 1


def edited(tmp_path: Path, kind: str, **changes: Any) -> Path:
    """A copy of the checkpoint's files with keys of config.json changed; vision: of vision_config."""
    target = tmp_path / "edited"
    target.mkdir()
    for path in folder(kind).iterdir():
        (target / path.name).symlink_to(path)
    values = json.loads((folder(kind) / "config.json").read_text())
    values["vision_config"] |= changes.pop("vision", {})
    values |= changes
    (target / "config.json").unlink()
    (target / "config.json").write_text(json.dumps(values))
    return target


@pytest.mark.parametrize(
    ("kind", "changes", "error", "message"),
    [
        ("Qwen2VL", {"vision_config": None}, ConfigError, "vision_config must be an object"),
        ("Qwen2VL", {"vision": {"hidden_size": 32}}, ConfigError, "tower gives tokens of 32"),
        ("Qwen2VL", {"vision": {"num_heads": 5}}, ConfigError, "no multiple of 5 heads"),
        ("Qwen2VL", {"vision": {"patch_size": [4, 2]}}, ConfigError, "patch_size must be one positive integer"),
        ("Qwen2VL", {"vision": {"hidden_act": "snake"}}, UnsupportedModelError, "hidden_act 'snake'"),
        ("Qwen2VL", {"vision": {"depth": 4}}, WeightsError, "missing tensors .*blocks.3"),
        ("Qwen2VL", {"vision": {"depth": 2}}, WeightsError, "no use for.*blocks.2"),
        ("Qwen2VL", {"vision": {"in_channels": 4}}, ConfigError, "patch"),
        ("Qwen2_5_VL", {"vision": {"window_size": 4}}, ConfigError, "window of 4 pixels"),
        ("Qwen2_5_VL", {"vision": {"fullatt_block_indexes": "all"}}, ConfigError, "fullatt_block_indexes"),
        ("Qwen3VL", {"vision": {"num_position_embeddings": 35}}, ConfigError, "must be a square"),
        ("Qwen3VL", {"vision": {"deepstack_visual_indexes": [2, 0]}}, UnsupportedModelError, "in order"),
        ("Qwen3VL", {"vision": {"deepstack_visual_indexes": [0, 9]}}, UnsupportedModelError, "some of 4 layers"),
        ("Qwen3VL", {"image_token_id": 10**6}, ConfigError, "image_token_id"),
    ],
)
def test_configs_that_do_not_fit_are_refused(tmp_path, kind, changes, error, message):
    with pytest.raises(error, match=message):
        LLM(edited(tmp_path, kind, **changes))


def test_a_processor_of_other_patches_is_refused(tmp_path):
    target = edited(tmp_path, "Qwen2VL")
    path = target / "preprocessor_config.json"
    values = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(values | {"patch_size": 14}))
    with pytest.raises(ConfigError, match=r"patches of 1176 numbers.*96"):
        LLM(target)


def test_a_lifted_config_has_the_text_keys_at_the_top():
    config = HFConfig(
        {
            "architectures": ["A"],
            "model_type": "qwen2_vl",
            "tie_word_embeddings": False,
            "text_config": {
                "model_type": "qwen2_vl_text",
                "hidden_size": 8,
                "num_labels": 5,
                "tie_word_embeddings": True,
                "pad_token_id": None,
                "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            },
            "pad_token_id": 3,
        }
    )
    top = lifted(config)
    assert (top.model_type, top.hidden_size, top.num_labels, top.pad_token_id) == ("qwen2_vl", 8, 5, 3)
    assert top.tie_word_embeddings is True
    assert top.rope_scaling == {"type": "default", "mrope_section": [1, 1, 2]}
    config.num_labels = 7
    assert lifted(config).num_labels == 7


def test_overrides_reach_into_the_text_config_and_name_the_architecture():
    config = HFConfig({"architectures": ["Old"], "text_config": {"hidden_size": 8, "vocab_size": 9}})
    config = config.overridden({"text_config": {"architectures": ["New"], "vocab_size": 10}})
    assert config.architectures == ["New"]
    assert config.text_config == {"hidden_size": 8, "vocab_size": 10, "architectures": ["New"]}


def test_without_images_a_language_model_of_the_same_weights_gives_the_same_bits(tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder("Qwen2VL") / "model.safetensors")
    text = {name.replace("model.language_model.", "model."): t for name, t in tensors.items() if "visual." not in name}
    save_file(text, tmp_path / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder("Qwen2VL") / "config.json").read_text())
    own = {**values["text_config"], "architectures": ["Qwen2ForSequenceClassification"], "num_labels": 3}
    (tmp_path / "config.json").write_text(json.dumps(own | {"model_type": "qwen2"}))
    tiny_vision.tokenizer().save_pretrained(tmp_path)
    texts = ["Only words.", "Many more words, and a number: 12."]
    for plain, ours in zip(logits(LLM(tmp_path, dtype="float32"), texts), logits(llm("Qwen2VL"), texts), strict=True):
        assert torch.equal(plain, ours)


@pytest.mark.parametrize("kind", ["Qwen2VL", "Qwen3VL"])
def test_an_adapter_of_decoder_and_tower_gives_the_scores_of_the_merged_model(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    from assay import PoolingParams
    from assay.lora.request import LoRARequest

    own = load_file(folder(kind) / "model.safetensors")
    generator = torch.Generator().manual_seed(5)
    stored, merged = {}, dict(own)
    for module in ("language_model.layers.1.self_attn.q_proj", "visual.blocks.0.attn.qkv", "visual.merger.mlp.0"):
        if kind == "Qwen3VL":
            module = module.replace("merger.mlp.0", "merger.linear_fc1")
        name = next(key for key in own if key.endswith(f"{module.removeprefix('language_model.')}.weight"))
        rows, columns = own[name].shape
        a, b = (torch.randn(shape, generator=generator) * 0.2 for shape in ((4, columns), (rows, 4)))
        stored |= {f"base_model.model.model.{module}.lora_{side}.weight": t for side, t in (("A", a), ("B", b))}
        merged[name] = own[name] + 2 * b @ a
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(stored, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "qkv"], "task_type": "SEQ_CLS"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    whole = tmp_path / "merged"
    whole.mkdir()
    for path in folder(kind).iterdir():
        if path.name != "model.safetensors":
            (whole / path.name).symlink_to(path)
    save_file(merged, whole / "model.safetensors", metadata={"format": "pt"})
    base = LLM(folder(kind), dtype="float32", enable_lora=True)
    request = LoRARequest("a", 1, str(adapter))
    prompts, raw = [prompt(case) for case in CASES], PoolingParams(use_activation=False)
    outputs = base.encode(prompts, raw, pooling_task="classify", use_tqdm=False, lora_request=request)
    for ours, theirs in zip(outputs, logits(LLM(whole, dtype="float32"), prompts), strict=True):
        assert (ours.outputs.data - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())
    for plain, ours in zip(logits(base, prompts), outputs, strict=True):
        assert not torch.equal(plain, ours.outputs.data)
