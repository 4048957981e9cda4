"""Command lines with keys in their options: `--pooler-config.task X` is `--pooler-config '{"task": "X"}'`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

_DOTTED = re.compile(r"--([A-Za-z][\w-]*)\.([A-Za-z_][\w-]*)(?:=(.*))?", re.S)


def fold_dotted_options(arguments: list[str], options: Iterable[str]) -> list[str]:
    """Rewrite dotted forms of `options` (names with dashes); values are JSON where they parse as it."""
    names = set(options)
    folded: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        match = _DOTTED.fullmatch(argument)
        if match is None or match.group(1).replace("_", "-") not in names:
            folded.append(argument)
            if argument == "--":
                break
            continue
        option, key, value = match.groups()
        value = next(rest, None) if value is None else value
        if value is None:  # nothing follows: let the parser say so
            folded.append(f"--{option}")
            break
        folded += [f"--{option}", json.dumps({key.replace("-", "_"): _json_or_text(value)})]
    return [*folded, *rest]


def _json_or_text(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value
