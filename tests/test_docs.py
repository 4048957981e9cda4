"""The documents say what is so: every variable, command, option and file they name exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
SOURCES = [*sorted((ROOT / "python").rglob("*.py")), *(p for p in sorted((ROOT / "csrc").rglob("*")) if p.is_file())]
OTHERS = {"HF_HOME", "HF_HUB_CACHE", "HF_TOKEN"}
"""Variables read by huggingface-hub."""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def environment_variables_in_code() -> set[str]:
    names: set[str] = set()
    for path in SOURCES:
        text = text_of(path)
        names |= set(re.findall(r"(?:environ(?:\.get\(|\[)|getenv\()\s*[\"']([A-Z][A-Z0-9_]+)[\"']", text))
        constants = dict(re.findall(r"^(_?[A-Z_]+)(?:: \w+)? = \"((?:ASSAY|VLLM|OMP|HF)_[A-Z_]+)\"", text, re.M))
        names |= {value for name, value in constants.items() if re.search(rf"environ.*\b{name}\b", text)}
        names |= (
            set(re.findall(r"\"((?:ASSAY|OMP)_NUM_THREADS|ASSAY_FORCE_ISA)\"", text)) if "csrc" in path.parts else set()
        )
    return names


def test_every_environment_variable_is_documented_and_exists() -> None:
    documented = set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", text_of(ROOT / "docs/environment-variables.md"), re.M))
    read = environment_variables_in_code()
    assert documented - read - OTHERS == set(), "documented, but nothing reads it"
    assert read - documented == set(), "read, but not in docs/environment-variables.md"


def commands() -> dict[str, Any]:
    """Every command of the program, with the names of its options."""
    from typer.main import get_command

    from assay.cli.app import app
    from assay.server.flags import parser

    group: Any = get_command(app)
    found = {}
    for name, command in group.commands.items():
        found[name] = {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
    found["serve"] = {option for action in parser("assay serve")._actions for option in action.option_strings}
    return found


def command_lines() -> Iterator[tuple[str, str]]:
    """Every `assay ...` line in a code block or between backticks, with its document."""
    for path in DOCUMENTS:
        text = text_of(path)
        blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
        lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
        for line in lines:
            for part in line.split("|"):
                match = re.match(r"(?:\S*/)?assay ([a-z]+.*)", part.strip())
                if match:
                    yield path.name, match.group(1)


def test_documented_commands_and_options_exist() -> None:
    known = commands()
    lines = list(command_lines())
    assert len(lines) > 10
    for document, line in lines:
        words = line.split()
        assert words[0] in known, f"{document}: assay {line}"
        for word in words[1:]:
            if word.startswith("--") and len(word) > 2:
                option = word.split("=")[0].split(".")[0]
                assert option in known[words[0]] | {"--help"}, f"{document}: assay {line}"


def test_every_command_and_option_is_in_the_command_line_page() -> None:
    cli = text_of(ROOT / "docs/cli.md")
    for name, options in commands().items():
        assert f"`assay {name}`" in cli, name
        page = text_of(ROOT / "docs/server.md") if name == "serve" else cli
        for option in options:
            if option.startswith("--") and not option.startswith("--no-"):  # each switch has its opposite
                assert re.search(rf"{re.escape(option)}\b", page), f"{option} of assay {name} is not documented"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path) -> None:
    text = text_of(document)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
    for name in re.findall(r"`((?:python|csrc|tests|bench|docs|demo|cmake)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), name


def test_named_tests_exist() -> None:
    """`tests/test_x.py::test_y` in a document is a test there is."""
    for path in DOCUMENTS:
        for name, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(path)):
            assert (ROOT / name).is_file(), f"{path.name}: {name}"
            assert re.search(rf"^(?:async )?def {test}\(", text_of(ROOT / name), re.M), f"{path.name}: {name}::{test}"


def test_python_in_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", text_of(ROOT / "README.md"), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].split()[0] != lines[1].split()[0]  # the two reviews are of different classes
    assert float(lines[2].split()[0]) > float(lines[3].split()[0])  # the right document scores higher


def test_demo_accuracy_is_the_measured_one() -> None:
    config = json.loads(text_of(ROOT / "python/assay/demo_model/config.json"))
    accuracy = next(value for key, value in config.items() if "accuracy" in key)
    assert f"{100 * accuracy:.1f} %" in text_of(ROOT / "README.md")


def test_version_is_stated_once() -> None:
    import assay

    assert 'input = "python/assay/__init__.py"' in text_of(ROOT / "pyproject.toml")
    assert not re.search(r"^version =", text_of(ROOT / "pyproject.toml"), re.M)
    assert re.fullmatch(r"\d+\.\d+\.\d+", assay.__version__)
