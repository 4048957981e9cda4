"""What an adapter's files say: the keys of its config, its tensors, and what of both is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

import lora_adapters
from assay.errors import ConfigError, WeightsError
from assay.files import resolve_adapter
from assay.lora.adapter import Adapter
from assay.lora.config import LoraConfig

VALUES = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
PATH = Path("/adapters/a/adapter_config.json")
MODULE = "bert.encoder.layer.0.attention.self.query"
STORED = f"base_model.model.{MODULE}"
PAIR = {f"{STORED}.lora_A.weight": torch.ones(4, 6), f"{STORED}.lora_B.weight": torch.ones(8, 4)}


def config(**changes: Any) -> LoraConfig:
    return LoraConfig.read({**VALUES, **changes}, PATH)


def write(folder: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**VALUES, **changes}), encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def read(folder: Path, max_rank: int = 16) -> Adapter:
    return Adapter.read("a", folder, max_rank)


# ---- the config ----------------------------------------------------------------------------------------------------


def test_a_config_of_peft_is_read(tmp_path: Path) -> None:
    lora: dict[str, Any] = {"rank_pattern": {"query": 2}, "alpha_pattern": {"key": 5}, "use_rslora": True}
    lora_adapters.save_adapter(lora_adapters.make_model("Bert"), tmp_path, target_modules=["query", "key"], **lora)
    values = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert LoraConfig.read(values, PATH) == LoraConfig(
        rank=4,
        alpha=8,
        rank_pattern={"query": 2},
        alpha_pattern={"key": 5},
        is_rank_stabilized=True,
        task_type="SEQ_CLS",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "assay does not yet support DoRA."),
        ({"lora_bias": True}, "assay does not support LoRA bias (lora_bias)."),
        ({"alora_invocation_tokens": [1]}, "assay does not support Activated LoRA (aLoRA)."),
        ({"layer_replication": [[0, 2]]}, "assay does not support layer_replication."),
        ({"use_qalora": True}, "assay does not support QALoRA (use_qalora)."),
        ({"use_bdlora": {"nblocks": 2}}, "assay does not support BD-LoRA (use_bdlora)."),
        ({"trainable_token_indices": [3]}, "assay does not support trainable_token_indices."),
        ({"target_parameters": ["experts"]}, "assay does not support LoRA on parameters (target_parameters)."),
        ({"arrow_config": {"top_k": 2}}, "assay does not support Arrow (arrow_config)."),
        ({"kasa_config": {"beta": 1}}, "assay does not support KaSA (kasa_config)."),
        ({"monteclora_config": {"n": 4}}, "assay does not support MonteCLoRA (monteclora_config)."),
        ({"bias": "all"}, "Adapter bias is not supported."),
        ({"bias": "lora_only"}, "Adapter bias is not supported."),
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported; 'LORA' is"),
        ({"peft_type": None}, "peft_type None is not supported; 'LORA' is"),
        ({"r": 0}, "r must be a positive integer, got 0"),
        ({"r": True}, "r must be a positive integer, got True"),
        ({"r": None}, "r must be a positive integer, got None"),
        ({"lora_alpha": "8"}, "lora_alpha must be a number, got '8'"),
        ({"lora_alpha": None}, "lora_alpha must be a number, got None"),
        ({"rank_pattern": ["query"]}, "rank_pattern must map names of modules to numbers, got ['query']"),
        ({"rank_pattern": {"query": 0}}, "rank_pattern['query'] must be a positive integer, got 0"),
        ({"alpha_pattern": {"query": None}}, "alpha_pattern['query'] must be a number, got None"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern: '(' is not a regular expression: missing )"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert str(caught.value).startswith(f"{PATH}: {message}")


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"])
def test_inits_that_change_the_base_are_refused(init: str) -> None:
    with pytest.raises(ConfigError, match=f"init_lora_weights='{init}'. Inits such as PiSSA, OLoRA, CorDA and LoftQ"):
        config(init_lora_weights=init)


def test_keys_that_change_nothing_here_are_accepted() -> None:
    inert: dict[str, Any] = {
        "lora_dropout": 0.1,
        "target_modules": ["query"],
        "modules_to_save": ["classifier"],
        "layers_to_transform": [0],
        "exclude_modules": "x",
        "inference_mode": True,
        "use_dora": False,
        "layer_replication": None,
        "rank_pattern": None,
        "key_of_another_version": {"a": 1},
    }
    assert config(**inert) == config()
    for init in (True, False, "gaussian", "eva", "orthogonal"):
        assert config(init_lora_weights=init) == config()


def test_scales() -> None:
    assert config().scale_of(MODULE) == 2.0
    assert config(use_rslora=True).scale_of(MODULE) == 4.0
    assert config(lora_alpha=0.5).scale_of(MODULE) == 0.125
    patterns = {"rank_pattern": {"query": 16}, "alpha_pattern": {r"layer\.0\..*": 2}}
    assert config(**patterns).scale_of(MODULE) == 2 / 16
    assert config(**patterns, use_rslora=True).scale_of(MODULE) == 2 / 4
    assert config(**patterns).largest_rank == 16


PATTERNS = [
    {"query": 1, "layer.0.attention.self.query": 2},
    {"layer.0.attention.self.query": 2, "query": 1},
    {r"layer\.[01]\..*": 1, r".*": 2},
    {"self.query|self.key": 1, "dense": 2},
    {"uery": 1, "ery$": 2},
    {"bert.encoder.layer.0.attention.self.query": 1, "^bert.*key": 2},
    {"layer.1.output.dense": 1, "output.dense": 2, "dense": 3},
    {},
]
NAMES = [
    MODULE,
    MODULE.replace("query", "key"),
    MODULE.replace("layer.0", "layer.10"),
    "bert.encoder.layer.1.output.dense",
    "bert.encoder.layer.11.output.dense",
    "bert.encoder.layer.1.attention.output.dense",
    "bert.pooler.dense",
    "query",
    "subquery",
    "classifier",
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_patterns_are_looked_up_as_peft_does(pattern: dict[str, int]) -> None:
    ranked, scaled = config(rank_pattern=pattern), config(alpha_pattern=pattern, r=1)
    for name in NAMES:
        key = get_pattern_key(list(pattern), name)
        assert ranked.rank_of(name) == pattern.get(key, 4), name
        assert scaled.scale_of(name) == pattern.get(key, 8), name


# ---- the tensors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".weight", ".default.weight", ""])
@pytest.mark.parametrize("wrapped", ["base_model.model.", ""])
def test_pairs_are_found_under_every_name_they_have_had(tmp_path: Path, wrapped: str, ending: str) -> None:
    a, b = torch.randn(4, 6), torch.randn(8, 4)
    adapter = read(write(tmp_path, {f"{wrapped}{MODULE}.lora_{side}{ending}": t for side, t in (("A", a), ("B", b))}))
    low_rank = adapter.low_rank[MODULE]
    assert (list(adapter.low_rank), adapter.whole) == ([MODULE], {})
    weight = torch.randn(8, 6)
    assert torch.allclose(low_rank.added_to(weight), weight + 2.0 * (b @ a), atol=1e-5)


def test_tables_and_conv1d_are_transposed(tmp_path: Path) -> None:
    a, b = torch.randn(4, 6), torch.randn(8, 4)
    table = {"x.lora_embedding_A": a, "x.lora_embedding_B": b}
    conv1d = {"x.lora_A.weight": a, "x.lora_B.weight": b}
    for tensors, is_transposed in ((table, False), (conv1d, True)):
        low_rank = read(write(tmp_path, tensors)).low_rank["x"]
        added = low_rank.added_to(torch.zeros(6, 8), is_transposed=is_transposed)
        assert torch.allclose(added, 2.0 * (b @ a).T, atol=1e-5)
        with pytest.raises(WeightsError, match=r"x adds a matrix \(8, 6\) to one of \(7, 8\)"):
            low_rank.added_to(torch.zeros(7, 8), is_transposed=is_transposed)


def test_halves_are_added_in_float32(tmp_path: Path) -> None:
    tensors = {name: torch.randn(tensor.shape).bfloat16() for name, tensor in PAIR.items()}
    low_rank, weight = read(write(tmp_path, tensors)).low_rank[MODULE], torch.randn(8, 6).bfloat16()
    a, b = (tensors[f"{STORED}.lora_{side}.weight"].double() for side in "AB")
    added = low_rank.added_to(weight)
    assert added.dtype == torch.float32
    assert torch.allclose(added.double(), weight.double() + 2.0 * (b @ a), atol=1e-5)


@pytest.mark.parametrize("inner", [".", ".modules_to_save.", ".modules_to_save.default.", ".base_layer."])
def test_whole_modules_are_found_under_every_name_they_have_had(tmp_path: Path, inner: str) -> None:
    stored = f"base_model.model.classifier{inner}weight"
    adapter = read(write(tmp_path, {**PAIR, stored: torch.ones(3, 6)}))
    assert adapter.whole == {"classifier.weight": stored}
    assert (adapter.num_rows("classifier.weight"), adapter.num_rows("score.weight")) == (3, None)


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        ({f"{STORED}.lora_A.weight": torch.ones(4, 6)}, {}, f"{MODULE} must have lora_A and lora_B, it has {STORED}."),
        ({f"{STORED}.lora_B.weight": torch.ones(8, 4)}, {}, f"{MODULE} must have lora_A and lora_B, it has {STORED}."),
        (
            {f"{STORED}.lora_A.weight": torch.ones(4, 6), f"{STORED}.lora_embedding_B": torch.ones(8, 4)},
            {},
            f"{MODULE} must have lora_A and lora_B, it has ",
        ),
        (PAIR, {"r": 8}, f"{MODULE} has A (4, 6) and B (8, 4), rank 8 asks for (8, in_features) and (out_features, 8)"),
        (PAIR, {"rank_pattern": {"query": 2}}, f"{MODULE} has A (4, 6) and B (8, 4), rank 2 asks for "),
        ({**PAIR, f"{STORED}.lora_A.weight": torch.ones(24)}, {}, f"{MODULE} has A (24,) and B (8, 4), rank 4 asks"),
        ({**PAIR, f"{STORED}.lora_B.weight": torch.ones(4, 8)}, {}, f"{MODULE} has A (4, 6) and B (4, 8), rank 4"),
        (
            {**PAIR, f"{STORED}.lora_A.weight": torch.ones(4, 6, dtype=torch.int8)},
            {},
            f"{MODULE} has A torch.int8 and B torch.float32; only float adapters are supported",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError) as caught:
        read(write(tmp_path, tensors, **changes))
    assert f"adapter_model.safetensors: {message}" in str(caught.value)


@pytest.mark.parametrize("changes", [{"r": 32}, {"rank_pattern": {"query": 32}}])
def test_a_rank_above_the_limit_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write(tmp_path, PAIR, **changes)
    with pytest.raises(ConfigError, match=r"^LoRA rank 32 is greater than max_lora_rank 16\.$"):
        read(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^No adapter found for {tmp_path}$"):
        read(tmp_path)
    folder = write(tmp_path / "a", PAIR)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=rf"^No adapter found for {folder}: it has none of adapter_model.safetensors"):
        read(folder)
    (folder / "adapter_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="must hold a JSON object"):
        read(folder)
    with pytest.raises(ConfigError, match=rf"^No adapter found for {tmp_path}/b$"):
        resolve_adapter(tmp_path / "b")


# ---- together with a base ------------------------------------------------------------------------------------------


def extra_tensor(name: str, shape: tuple[int, ...]) -> Any:
    return lambda tensors: tensors.update({f"base_model.model.{name}": torch.ones(shape)})


def renamed_layer(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if ".layer.1." in name]:
        tensors[name.replace(".layer.1.", ".layer.7.")] = tensors.pop(name)


def second_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if ".layer.1." in name]:
        tensors[name.replace(".bert.", ".")] = tensors[name].clone()


def narrow_pair(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("query.lora_A.weight"))
    tensors[name] = tensors[name][:, :-1].contiguous()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (renamed_layer, r"adapter_model\.safetensors: bert\.encoder\.layer\.7\..*query: the base model .*no such mod"),
        (second_prefix, r"adapter_model\.safetensors: .*layer\.1\..*: bert\.encoder.* is adapted twice"),
        (narrow_pair, r"adapter_model\.safetensors: bert\..*query adds a matrix \(64, 63\) to one of \(64, 64\)"),
        (extra_tensor("bert.extra.weight", (3, 3)), r"adapter.* no use for: bert\.extra\.weight"),
        (extra_tensor(f"{MODULE}.lora_diag", (4,)), r"adapter.* no use for: bert\..*query\.lora_diag"),
        (extra_tensor("cls.predictions.bias", (3,)), r"adapter.* no use for: cls\.predictions\.bias"),
        (extra_tensor("classifier.bias", (5,)), r"adapter.*classifier\.bias has shape \(5,\)"),
        (extra_tensor("bert.encoder.layer.0.output.dense.weight", (3, 3)), r"adapter.*output\.dense\.weight has shape"),
    ],
    ids=[
        "no such module",
        "under two names",
        "another shape",
        "unknown",
        "variant of LoRA",
        "of an ignored head",
        "bias",
        "whole matrix",
    ],
)
def test_what_does_not_fit_the_base_is_named_with_the_adapter(tmp_path: Path, edit: Any, message: str) -> None:
    model = lora_adapters.make_model("Bert")
    base, folder = lora_adapters.save_model(model, tmp_path / "base"), tmp_path / "adapter"
    lora_adapters.save_adapter(model, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    with lora_adapters.load(base) as llm, pytest.raises(WeightsError) as caught:
        lora_adapters.results(llm, lora_adapters.request(folder, "adapter"))
    assert caught.match(message)
