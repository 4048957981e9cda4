"""Who may import whom: a module imports only modules of a lower rank, or its own package.

Every import counts: at the top, inside a function, and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "python" / "assay"

RANKS = {
    "errors": 0,
    "head_methods": 0,
    "device": 0,
    "tasks": 0,
    "niceness": 0,
    "tensor_checks": 0,
    "arena": 1,
    "batch": 1,
    "bounded_cache": 0,
    "checkpoint_files": 1,
    "config": 1,
    "content": 1,
    "cuda_kernels": 1,
    "dotted_options": 1,
    "hf_config": 1,
    "image_patches": 0,
    "image_reader": 3,
    "image_tokens": 2,
    "images": 1,
    "inputs": 2,
    "lora": 3,
    "media": 1,
    "outputs": 1,
    "params": 1,
    "pixels": 2,
    "special_layout": 1,
    "throughput": 1,
    "tokenize_options": 1,
    "admission": 2,
    "files": 2,
    "forward": 2,
    "ops": 2,
    "result_cache": 2,
    "scheduler": 2,
    "saved_reranker": 2,
    "scoring": 2,
    "templates": 2,
    "vocabulary": 2,
    "truncation": 2,
    "weights": 2,
    "chat": 3,
    "device_choice": 3,
    "convert": 3,
    "layers": 3,
    "recipes": 3,
    "tokenizer": 3,
    "tokenizer_facts": 1,
    "tokenizer_files": 2,
    "tokenizer_forms": 1,
    "worker": 3,
    "adapt": 4,
    "pooler": 4,
    "rendering": 4,
    "text_limits": 4,
    "models": 5,
    "steps": 5,
    "templated": 5,
    "engine": 6,
    "quantization": 6,
    "doctor": 7,
    "llm": 7,
    "memory": 8,
    "server": 8,
    "cli": 9,
    "__main__": 10,
}
"""Lowest first. A package (folder) is one entry; inside it modules may import each other, without cycles."""

COMPILED = {"_cpu": 1, "_cuda": 1}
"""Compiled modules import nothing of ours; only `ops` may import them (see below)."""

PUBLIC = "__init__"
"""assay/__init__.py re-exports names from anywhere; only `cli` and `server` may read it (for the version)."""


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    """The entry of RANKS a file belongs to."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name of everything a file imports from this package ("assay" itself included)."""
    names: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                pytest.fail(f"{path.name}:{node.lineno}: relative import; write the full name")
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            known = [name for name in submodules if is_module(name)]
            names += [(node.lineno, name) for name in known]
            if len(known) < len(submodules):
                names.append((node.lineno, module))
    return [(line, name) for line, name in names if name == "assay" or name.startswith("assay.")]


def is_module(name: str) -> bool:
    parts = name.split(".")
    if parts[0] != "assay" or len(parts) < 2:
        return False
    if parts[1] in COMPILED:
        return True
    target = PACKAGE.joinpath(*parts[1:])
    return target.with_suffix(".py").is_file() or (target / "__init__.py").is_file()


def test_every_module_has_a_rank() -> None:
    found = {unit_of(path) for path in source_files()} - {PUBLIC}
    assert found - set(RANKS) == set(), "give the new module a rank in RANKS and in docs/architecture.md"
    assert set(RANKS) - found == set(), "RANKS names modules that do not exist"


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    unit = unit_of(path)
    if unit == PUBLIC:
        return
    wrong = []
    for line, name in imports_of(path):
        target = name.split(".")[1] if name != "assay" else PUBLIC
        if target == unit and unit in RANKS and (PACKAGE / unit).is_dir():
            continue
        if target == PUBLIC:
            allowed = unit in ("cli", "server")
        elif target in COMPILED:
            allowed = unit == "ops"
        else:
            allowed = RANKS[target] < RANKS[unit]
        if not allowed:
            wrong.append(f"{path.relative_to(PACKAGE)}:{line} ({unit}) imports {name}")
    assert wrong == []


def test_packages_have_no_cycles() -> None:
    edges: dict[str, set[str]] = {}
    for path in source_files():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(("assay", *(parts[:-1] if parts[-1] == PUBLIC else parts)))
        edges[name] = {target for _, target in imports_of(path)} - {name}
    for entry in list(edges):
        assert not reaches(entry, entry, edges), f"{entry} imports itself by way of others"


def reaches(start: str, goal: str, edges: dict[str, set[str]]) -> bool:
    waiting, seen = list(edges.get(start, ())), set()
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            waiting += edges.get(name, ())
    return False


def test_documented_ranks_are_these() -> None:
    """docs/architecture.md lists the same ranks."""
    text = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    for unit, rank in RANKS.items():
        rows = [line for line in text.splitlines() if line.startswith(f"| {rank} |")]
        assert any(f"`{unit}`" in row for row in rows), f"docs/architecture.md: rank {rank} must list `{unit}`"
