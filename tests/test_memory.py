"""`assay plan`: sizes are those of the loaded model, and a real process takes what was planned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_decoders
import tiny_models
import tiny_rerankers
import tiny_transformers
from assay import ops
from assay.adapt import adapt
from assay.config import EngineConfig, PoolerConfig
from assay.errors import ConfigError
from assay.files import resolve_model
from assay.hf_config import HFConfig
from assay.memory import Base, MemoryPlan, measure_base, own_memory, plan_memory
from assay.memory.weigh import backbone_bytes, weight_bytes
from assay.models import PoolingModel, load_model

MIB = 1 << 20
NO_BASE = Base(0, 0)
PROGRAM = Path(__file__).with_name("memory_program.py")
ENCODER = {"hidden_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8, "intermediate_size": 2048}
DECODER = {**ENCODER, "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 1536}


def planned(folder: Path | str, *, base: Base | None = NO_BASE, **settings: Any) -> MemoryPlan:
    files = resolve_model(folder)
    adapted = adapt(files, HFConfig.from_folder(files.folder, None), PoolerConfig())
    budgets = {
        name: settings.pop(name) for name in ("max_batch_tokens", "max_batch_size", "num_threads") if name in settings
    }
    return plan_memory(
        files, adapted.hf_config, adapted.pooler_config, config=EngineConfig(**budgets), base=base, **settings
    )


def loaded(folder: Path, **settings: Any) -> PoolingModel:
    files = resolve_model(folder)
    adapted = adapt(files, HFConfig.from_folder(files.folder, None), PoolerConfig())
    return load_model(files, adapted.hf_config, pooler_config=adapted.pooler_config, **settings)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints of every way to a backbone and a head."""
    root = tmp_path_factory.mktemp("models")
    made = {
        name: tiny_decoders.save(tiny_decoders.make_model(case), root / name, case.reads)
        for name, case in tiny_decoders.CASES.items()
        if name in ("llama-longrope", "qwen3", "gemma3", "gpt2", "gpt2-padded", "modernbert-mean")
    }
    made["bert"] = tiny_models.make(root / "bert", "Bert", "ForSequenceClassification")
    sizes = {"hidden_size": 104, "num_attention_heads": 4}
    made["bert-padded"] = tiny_models.make(root / "padded", "Bert", "ForSequenceClassification", **sizes)
    made["electra"] = tiny_models.make(root / "electra", "Electra", "ForTokenClassification", dtype=torch.bfloat16)
    made["roberta-embeds"] = tiny_models.make(root / "roberta", "Roberta", "Model")
    made["reranker"] = tiny_rerankers.make(root, "qwen3-reranker")
    return made


NAMES = (
    *("bert", "bert-padded", "electra", "roberta-embeds", "reranker"),
    *("llama-longrope", "qwen3", "gemma3", "gpt2", "gpt2-padded", "modernbert-mean"),
)


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_loaded_model(
    folders: dict[str, Path], name: str, quantization: str | None, isa: str
) -> None:
    budgets: dict[str, int] = {"max_batch_tokens": 1024, "max_batch_size": 16}
    settings: dict[str, Any] = {"dtype": "auto", "quantization": quantization, "max_model_len": 100}
    plan = planned(folders[name], **settings, **budgets, num_threads=3)
    model = loaded(folders[name], **settings, **budgets)
    heads = [task.head for task in model.heads.values()]
    expected = {**backbone_bytes(model.backbone), "head": weight_bytes(heads)}
    assert plan.weights == {part: size for part, size in expected.items() if size}
    assert plan.weights["layers"] > 0 and plan.weights["embeddings"] > 0
    assert (plan.isa, plan.arithmetic, plan.dtype) == (isa, model.arithmetic, model.dtype)
    assert plan.arena_tokens == model.max_batch_tokens
    assert plan.arena_bytes == model.arena_size(model.max_batch_tokens, model.max_batch_size)
    assert (plan.guard_bytes > 0) == (quantization is not None)


def test_packed_weights_without_numbers_have_their_sizes_and_are_not_run(isa: str) -> None:
    for arithmetic in ("float32", "float32_fma", "bfloat16", "int8"):
        weight, bias = torch.zeros(37, 50), torch.zeros(37)
        real = ops.pack_weight(weight, bias, arithmetic)
        sized = ops.pack_weight(weight.to("meta"), bias, arithmetic)
        assert (sized.size_bytes, sized.out_features, sized.in_features) == (real.size_bytes, 37, 50)
        assert sized.size_bytes > ops.pack_weight(weight.to("meta"), None, arithmetic).size_bytes
        real, sized = (ops.pack_gated_weight(w, w, None, bias, arithmetic) for w in (weight, weight.to("meta")))
        assert (sized.size_bytes, sized.is_gated) == (real.size_bytes, True)
        with pytest.raises(ValueError, match="must be a PackedWeight with numbers"):
            ops.linear(torch.zeros(2, 50), sized)


def test_scratch_grows_with_the_longest_input_and_counts_every_thread(folders: dict[str, Path], tmp_path: Path) -> None:
    # So long that attention needs more than the block of inputs that a product keeps in the cache.
    folder = tmp_path / "long"
    shutil.copytree(folders["reranker"], folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32768}), encoding="utf-8")
    short, long = (planned(folder, max_model_len=length, num_threads=1) for length in (32, 32768))
    assert short.scratch_bytes is not None and long.scratch_bytes is not None
    assert 0 < short.scratch_bytes < long.scratch_bytes
    assert planned(folder, max_model_len=32768, num_threads=3).scratch_bytes == 3 * long.scratch_bytes


@pytest.mark.parametrize(("name", "quantization"), [("bert", None), ("qwen3", None), ("bert", "int8")])
def test_the_largest_batch_is_the_largest_that_fits(
    folders: dict[str, Path], name: str, quantization: str | None
) -> None:
    base = Base(64 * MIB, 70 * MIB)
    limit = 200 * MIB
    settings: dict[str, Any] = {"base": base, "limit_bytes": limit, "quantization": quantization}
    most = planned(folders[name], **settings).largest_batch_tokens
    assert most is not None and most > 1000
    at, above = (planned(folders[name], **settings, max_batch_tokens=most + n) for n in (0, 1))
    assert at.fits is True and above.fits is False
    tight = planned(folders[name], base=base, limit_bytes=64 * MIB + 1)
    assert tight.fits is False and tight.largest_batch_tokens is None


def test_the_arena_has_room_for_the_longest_input(folders: dict[str, Path]) -> None:
    plan = planned(folders["qwen3"], max_batch_tokens=16)
    assert plan.arena_tokens == plan.max_model_len == 320
    assert any("inputs of up to 320 tokens" in note for note in plan.notes)
    assert planned(folders["qwen3"], max_batch_tokens=16, max_model_len=20).arena_tokens == 20


def test_a_plan_reads_headers_only_and_takes_no_memory_of_the_size_of_the_model(tmp_path: Path) -> None:
    """32 GiB of weights in a file with holes; a mapping that counts as memory would be refused on most machines."""
    case = tiny_decoders.CASES["qwen3"]
    folder = tiny_decoders.save(tiny_decoders.make_model(case), tmp_path / "m", {"intermediate_size": 1 << 24})
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if "mlp" in name:
            entry["shape"] = [1 << 24 if size == 80 else size for size in entry["shape"]]
        size = 4 * int(torch.tensor(entry["shape"]).prod())
        entry["data_offsets"] = [end, end + size]
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    before = own_memory()
    plan = planned(folder)
    assert plan.weights["layers"] >= 3 * 3 * 48 * (1 << 24) * 4
    assert own_memory().peak_bytes - before.peak_bytes < 64 * MIB


def test_a_model_run_by_transformers_is_said_to_be_unknown(tmp_path: Path) -> None:
    folder = tiny_transformers.make(tmp_path / "m", "Phi3")
    plan = planned(folder, limit_bytes=MIB)
    numbers = sum(value.numel() for value in load_file(folder / "model.safetensors").values())
    assert plan.weights == {"checkpoint": 4 * numbers}
    assert (plan.arena_bytes, plan.scratch_bytes, plan.peak_bytes, plan.fits) == (None, None, None, None)
    assert any("not known beforehand" in note for note in plan.notes)


def test_what_would_not_load_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="contradict each other"):
        planned(folders["bert"], quantization="int8", dtype="float32")
    with pytest.raises(ConfigError, match="dtype='float8' is not supported"):
        planned(folders["bert"], dtype="float8")


def test_a_base_without_a_tokenizer_says_why(folders: dict[str, Path]) -> None:
    base = measure_base(resolve_model(folders["gpt2"]), 1)
    assert "has no vocabulary" in str(base.tokenizer_error)
    assert 30 * MIB < base.resident_bytes <= base.peak_bytes


# ---- real processes ------------------------------------------------------------------------------------------------


def big_encoder(folder: Path) -> Path:
    """About 90 MB in float32."""
    return tiny_models.make(
        folder, "Bert", "ForSequenceClassification", vocab_size=24000, max_position_embeddings=512, **ENCODER
    )


def big_decoder(folder: Path) -> Path:
    """About 60 MB in bfloat16, run in float32: 120 MB, none of it as it is stored."""
    case = tiny_decoders.TinyDecoder("Qwen3", config={**DECODER, "vocab_size": 30000, "max_position_embeddings": 512})
    return tiny_decoders.save(tiny_decoders.make_model(case).to(torch.bfloat16), folder, {})


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are read from /proc")
@pytest.mark.parametrize(("kind", "dtype"), [("demo", "auto"), ("encoder", "bfloat16"), ("decoder", "float32")])
def test_a_process_takes_what_was_planned_and_no_more_with_time(tmp_path: Path, kind: str, dtype: str) -> None:
    folder = {"demo": lambda _: "demo", "encoder": big_encoder, "decoder": big_decoder}[kind](tmp_path / kind)
    settings = {"dtype": dtype, "max_batch_tokens": 1024, "num_threads": 1}
    base = measure_base(None, 1) if kind == "decoder" else None
    plan = planned(folder, base=base, **settings)
    asked = {"model": str(folder), "skip_tokenizer_init": kind == "decoder", **settings}
    argument = json.dumps({"llm": asked, "num_batches": 12})
    finished = subprocess.run(
        [sys.executable, PROGRAM, argument], capture_output=True, text=True, timeout=900, check=False
    )
    assert finished.returncode == 0, finished.stderr
    seen = json.loads(finished.stdout.splitlines()[-1])
    assert plan.peak_bytes is not None
    assert seen["peak_bytes"] == pytest.approx(plan.peak_bytes, rel=0.15)
    # Most of that is Python and torch: what the model itself takes is held to the same, or to what a start varies by.
    own = plan.peak_bytes - plan.base.resident_bytes
    assert seen["peak_bytes"] - plan.base.resident_bytes == pytest.approx(own, rel=0.15, abs=12 * MIB)
    # A batch's hidden states alone are 2 MiB: kept by each of the six batches they would be 12.
    assert seen["end_bytes"] - seen["half_bytes"] < 4 * MIB
