"""`assay info` and `assay check`: what this installation and a model can do, without loading weights."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from typing import Annotated, Any

import typer

from assay.cli.guard import FAILED, guarded
from assay.cli.options import OUTPUT, parse_objects
from assay.cli.show import print_facts, print_json

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
SETTINGS = ("ASSAY_FORCE_ISA", "ASSAY_NUM_THREADS", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")

JsonFlag = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print one JSON object.")]


@guarded
def info(*, as_json: JsonFlag = False) -> None:
    """Show versions, what the CPU and the GPUs offer and what is used of it, and the models in the local cache."""
    import assay

    kernels = _kernels()
    models = _cached_models()
    settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    record = {
        "version": assay.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        **kernels,
        "environment": settings,
        "cached_models": models,
    }
    if as_json:
        print_json(record)
        return
    packages = [f"{name} {version or 'missing'}" for name, version in record["packages"].items()]
    facts: list[tuple[str, object]] = [
        ("python", record["python"]),
        ("packages", packages),
        ("ISA found", kernels["isas"]),
        ("ISA in use", kernels["isa"]),
        ("threads", kernels["num_threads"]),
        ("CPU module", kernels["cpu_module"]),
        ("CUDA module", kernels["cuda_module"]),
        ("GPUs", kernels["cuda_devices"] or None),
        ("CUDA", "ready" if kernels["cuda_problem"] is None else kernels["cuda_problem"]),
        ("environment", "\n".join(f"{name}={value}" for name, value in settings.items())),
        ("cached models", "\n".join(f"{model['name']} ({model['size_mb']:.0f} MB)" for model in models) or "none"),
    ]
    print_facts(facts, title=f"assay {record['version']}")


@guarded
def check(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, or 'demo'.")],
    *,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    hf_overrides: Annotated[
        list[str] | None, typer.Option(metavar="JSON", help="Keys to change in config.json.")
    ] = None,
    runner: Annotated[str, typer.Option(help="auto or pooling.")] = "auto",
    convert: Annotated[str, typer.Option(help="auto, none, embed or classify.")] = "auto",
    model_impl: Annotated[str, typer.Option(help="auto, vllm (own implementations) or transformers.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Tell whether a model is supported and how it would be run; exit code 1 where it is not. Reads no weights."""
    from assay.files import resolve_model
    from assay.models import check_model

    overrides = parse_objects("--hf-overrides", hf_overrides) or None
    files = resolve_model(model, revision=revision, weights=False)
    settings: dict[str, Any] = {"runner": runner, "convert": convert, "model_impl": model_impl, "device": device}
    report = dataclasses.asdict(check_model(files, overrides, **settings))
    if as_json:
        print_json({"model": model, **report})
    else:
        verdict = "supported" if report["supported"] else f"not supported: {report['reason']}"
        hidden = ("supported", "reason")
        facts = [(name.replace("_", " "), _shown(value)) for name, value in report.items() if name not in hidden]
        print_facts(facts, title=f"{model}: {verdict}")
    if not report["supported"]:
        raise typer.Exit(FAILED)


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return [f"{key}: {item}" for key, item in value.items()]
    return value if value not in ([], ()) else None


def _kernels() -> dict[str, Any]:
    from assay import ops

    missing: dict[str, Any] = {
        "cpu_module": "not built",
        "isas": [],
        "isa": None,
        "num_threads": None,
        "cuda_module": "not built",
        **_cuda(),
    }
    try:
        module = ops.cpu_module()
    except ImportError:
        return missing
    cuda = ops.cuda_module()
    return {
        "cpu_module": os.path.basename(module.__file__ or "built in"),
        "isas": list(ops.available_isas()),
        "isa": ops.active_isa(),
        "num_threads": ops.num_threads(),
        "cuda_module": "not built" if cuda is None else os.path.basename(cuda.__file__ or "built in"),
        **_cuda(),
    }


def _cuda() -> dict[str, Any]:
    """The GPUs, and why the first one is not used where it is not."""
    from assay.device_choice import find_cuda

    facts = find_cuda()
    cards = [f"{card.name} (sm_{card.sm}, {card.memory_bytes / 1e9:.0f} GB)" for card in facts.cards]
    return {"cuda_devices": cards, "cuda_problem": facts.problem()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cached_models() -> list[dict[str, Any]]:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return []
    models = [repo for repo in repos if repo.repo_type == "model"]
    return [
        {"name": repo.repo_id, "size_mb": repo.size_on_disk / 1e6} for repo in sorted(models, key=lambda r: r.repo_id)
    ]
