"""What a command is to work on: words on the command line, files of lines, JSON lines, standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.cli.guard import UsageError

JSON_LINES_SUFFIXES = {".jsonl", ".ndjson"}
FILE_SUFFIXES = {*JSON_LINES_SUFFIXES, ".txt", ".text", ".json", ".csv", ".tsv", ".md"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of input: a JSON object, or a plain line under the key "text"; `place` names it in messages."""

    fields: dict[str, Any]
    place: str

    def text(self, *names: str) -> str:
        """The first of `names` that is there; it must be a string."""
        for name in names:
            if name in self.fields:
                value = self.fields[name]
                if not isinstance(value, str):
                    raise UsageError(f"{self.place}: field {name!r} must be a string, got {type(value).__name__}")
                return value
        wanted = " or ".join(repr(name) for name in names)
        raise UsageError(f"{self.place}: no field {wanted}, only {sorted(self.fields)}")

    @property
    def identity(self) -> dict[str, Any]:
        """The row's own `id`, carried over into the output."""
        return {"id": self.fields["id"]} if "id" in self.fields else {}


def read_rows(arguments: list[str], files: list[Path], *, is_literal: bool, is_json_lines: bool) -> list[Row]:
    """Rows of every argument and file, in the order given; standard input where there are neither.

    An argument is "-" (standard input), the name of a file, or a text; with `is_literal` always a text.
    """
    rows: list[Row] = []
    for argument in arguments:
        if is_literal:
            rows.append(Row({"text": argument}, "command line"))
        elif argument == "-":
            rows += _read_stdin(is_json_lines)
        elif _is_file(argument):
            rows += _read_file(Path(argument), is_json_lines)
        elif Path(argument).suffix.lower() in FILE_SUFFIXES and not any(c.isspace() for c in argument):
            raise UsageError(f"no such file: {argument} (to take it as a text, add --literal)")
        else:
            rows.append(Row({"text": argument}, "command line"))
    for file in files:
        rows += _read_stdin(is_json_lines) if str(file) == "-" else _read_file(file, is_json_lines)
    if not arguments and not files:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("nothing to work on: give texts, files, or '-' for standard input")
        rows += _read_stdin(is_json_lines)
    return rows


def _is_file(argument: str) -> bool:
    try:
        return Path(argument).is_file()
    except (OSError, ValueError):  # longer than a file name may be, or with a NUL in it: a text
        return False


def _read_file(path: Path, is_json_lines: bool) -> list[Row]:
    try:
        content = path.read_bytes()
    except OSError as err:
        raise UsageError(f"cannot read {path}: {err.strerror or err}") from err
    return list(_parse(content, str(path), is_json_lines or path.suffix.lower() in JSON_LINES_SUFFIXES))


def _read_stdin(is_json_lines: bool) -> list[Row]:
    buffer = getattr(sys.stdin, "buffer", None)
    content = buffer.read() if buffer is not None else sys.stdin.read().encode()
    return list(_parse(content, "standard input", is_json_lines))


def _parse(content: bytes, name: str, is_json_lines: bool) -> Iterator[Row]:
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as err:
        raise UsageError(f"{name} is not UTF-8 text: {err}") from err
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        yield Row(_parse_object(line, place) if is_json_lines else {"text": line.removesuffix("\r")}, place)


def _parse_object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as err:
        raise UsageError(f"{place}: not JSON: {err}") from err
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise UsageError(f"{place}: wanted a JSON object or string, got {type(value).__name__}")
    return value
