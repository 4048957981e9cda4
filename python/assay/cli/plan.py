"""`assay plan`: what memory will a model take, and how large may a batch be?"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.guard import FAILED, UsageError, guarded
from assay.cli.options import MODEL, OUTPUT, parse_objects
from assay.cli.show import print_facts, print_json, print_table

if TYPE_CHECKING:
    from assay.memory import MemoryPlan

MEMORY = "Memory"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DECIMAL_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_PARTS = {
    "embeddings": "embedding tables",
    "project": "embedding projection",
    "layers": "layers",
    "ropes": "rotary tables",
    "final_norm": "last norm",
    "head": "head",
    "checkpoint": "all numbers of the checkpoint",
}
_MIB = 1 << 20


@guarded
def plan(
    *,
    model: Annotated[
        str,
        typer.Option("--model", "-m", rich_help_panel=MODEL, help="A folder, a hub id, or 'demo'.", show_default=False),
    ],
    revision: Annotated[str | None, typer.Option(rich_help_panel=MODEL, help="Branch, tag or commit on the hub.")] = (
        None
    ),
    dtype: Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto, float32 or bfloat16.")] = "auto",
    quantization: Annotated[str | None, typer.Option(rich_help_panel=MODEL, help="int8.")] = None,
    runner: Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto or pooling.")] = "auto",
    convert: Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto, none, embed or classify.")] = "auto",
    model_impl: Annotated[
        str, typer.Option(rich_help_panel=MODEL, help="auto, vllm (own implementations) or transformers.")
    ] = "auto",
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", "--max-model-len", min=1, rich_help_panel=MODEL, help="Most tokens of one input."),
    ] = None,
    hf_overrides: Annotated[
        list[str] | None, typer.Option(rich_help_panel=MODEL, metavar="JSON", help="Keys to change in config.json.")
    ] = None,
    max_batch_tokens: Annotated[
        int | None, typer.Option("--max-batch-tokens", min=1, rich_help_panel=MEMORY, help="Most tokens of one batch.")
    ] = None,
    max_batch_size: Annotated[
        int | None, typer.Option("--max-batch-size", min=1, rich_help_panel=MEMORY, help="Most inputs of one batch.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, rich_help_panel=MEMORY, help="CPU threads of the kernels.")] = (
        None
    ),
    memory: Annotated[
        str | None,
        typer.Option(rich_help_panel=MEMORY, metavar="SIZE", help="A limit, such as 2GiB: does it fit, and what does?"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print one JSON object.")] = False,
) -> None:
    """Tell what memory a model will take, without loading it; exit code 1 where that is more than --memory."""
    from assay.adapt import adapt
    from assay.config import EngineConfig, PoolerConfig
    from assay.files import resolve_model
    from assay.hf_config import HFConfig
    from assay.llm.arguments import check_keywords, dtype_name
    from assay.memory import plan_memory

    check_keywords({"runner": runner, "convert": convert, "model_impl": model_impl, "quantization": quantization})
    limit = None if memory is None else parse_size(memory)
    budgets: dict[str, Any] = {"max_batch_tokens": max_batch_tokens, "max_batch_size": max_batch_size}
    config = EngineConfig(**{name: value for name, value in budgets.items() if value is not None}, num_threads=threads)
    files = resolve_model(model, revision=revision)
    hf_config = HFConfig.from_folder(files.folder, parse_objects("--hf-overrides", hf_overrides) or None)
    adapted = adapt(files, hf_config, PoolerConfig(), runner=runner, convert=convert)
    found = plan_memory(
        files,
        adapted.hf_config,
        adapted.pooler_config,
        config=config,
        dtype=dtype_name(dtype),
        quantization=quantization,
        max_model_len=max_length,
        model_impl=model_impl,
        limit_bytes=limit,
    )
    if as_json:
        derived = {"weights_bytes": found.weights_bytes, "peak_bytes": found.peak_bytes, "fits": found.fits}
        print_json({"model": model, **dataclasses.asdict(found), **derived})
    else:
        _show(model, found)
    if found.fits is False:
        raise typer.Exit(FAILED)


def parse_size(text: str) -> int:
    """Bytes of "2GiB", "500 MB", "1.5G" (which is GiB) or a plain number; raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--memory must be a size such as 2GiB, 500MB or a number of bytes, got {text!r}")
    units = _DECIMAL_UNITS if (match[3] or "").lower() == "b" else _UNITS
    return int(float(match[1]) * units[match[2].upper()])


def _show(model: str, plan: MemoryPlan) -> None:
    arithmetic = f"{plan.isa}, {plan.arithmetic}" + ("" if plan.quantization is None else f" ({plan.quantization})")
    facts: list[tuple[str, object]] = [
        ("architecture", plan.architecture),
        ("arithmetic", arithmetic),
        ("dtype", f"{plan.dtype} ({plan.dtype_reason})"),
        ("threads", plan.num_threads),
        ("largest batch", f"{plan.max_batch_tokens} tokens, {plan.max_batch_size} inputs"),
        ("longest input", f"{plan.max_model_len} tokens"),
    ]
    print_facts(facts, title=model)
    print_table(["memory", "MiB #"], [[name, _mib(size)] for name, size in _rows(plan)])
    for line in _verdict(plan):
        print(line)
    for note in plan.notes:
        print(f"note: {note}")


def _rows(plan: MemoryPlan) -> list[tuple[str, int | None]]:
    rows: list[tuple[str, int | None]] = [(_PARTS.get(name, name), size) for name, size in plan.weights.items()]
    tokens = "" if plan.arena_tokens is None else f" for {plan.arena_tokens} tokens"
    rows += [
        (f"activations{tokens} (the arena)", plan.arena_bytes),
        ("working memory of the threads", plan.scratch_bytes),
    ]
    if plan.guard_bytes:
        rows.append(("bfloat16 model that int8 is judged by, at the first start", plan.guard_bytes))
    rows.append(("the process around it (measured: Python, torch, tokenizer)", plan.base.resident_bytes))
    return [*rows, ("expected peak", plan.peak_bytes)]


def _verdict(plan: MemoryPlan) -> list[str]:
    if plan.limit_bytes is None or plan.fits is None:
        return []
    fits = "fits" if plan.fits else "does not fit"
    if plan.largest_batch_tokens is None:
        largest = "the longest input alone needs more: lower --max-length, --max-batch-size or --threads"
    else:
        largest = f"the largest --max-batch-tokens that does is {plan.largest_batch_tokens}"
    return [f"{fits} in {_mib(plan.limit_bytes)} MiB; {largest}"]


def _mib(size: int | None) -> str:
    return "not known" if size is None else f"{size / _MIB:.1f}"
