"""Calls that real clients made, recorded by `make clients`: what they sent, and what they cannot do without."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "fixtures" / "client_bodies"
TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float,), "str": (str,), "list": (list,)}


@dataclass(frozen=True, slots=True)
class ClientCall:
    """One call of one client; the last of its requests is the one that asks for work."""

    name: str
    kind: str
    dialect: str
    is_cut: bool
    reads: tuple[str, ...]
    requests: tuple[dict[str, Any], ...]

    @property
    def is_tei(self) -> bool:
        """Whether failures come in TEI's form."""
        return self.dialect == "tei"

    @property
    def wants_probabilities(self) -> bool:
        """Whether its scores are 0..1, whatever the model's own activation is."""
        return self.dialect != "vllm"

    @property
    def body(self) -> Any:
        """What the last request carries."""
        return self.requests[-1]["body"]

    @property
    def texts(self) -> list[str]:
        """The documents or texts in it, as plain strings."""
        found = next(self.body[key] for key in ("documents", "texts", "input", "inputs") if key in self.body)
        return [item[0] if isinstance(item, list) else item for item in found]

    def with_text(self, text: str) -> dict[str, Any]:
        """The last body with one text more, in the form of the others."""
        key = next(key for key in ("documents", "texts", "input", "inputs") if key in self.body)
        item = [text] if isinstance(self.body[key][0], list) else text
        return self.body | {key: [*self.body[key], item]}


@cache
def recorded_calls() -> tuple[ClientCall, ...]:
    """All of them, by file name."""
    calls = []
    for path in sorted(FOLDER.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        calls.append(
            ClientCall(
                path.stem,
                data["kind"],
                data["dialect"],
                data["too_long"] == "cut",
                tuple(data["reads"]),
                tuple(data["requests"]),
            )
        )
    return tuple(calls)


def missing(reply: Any, read: str) -> str | None:
    """Why the reply does not have what is read ("results[].index int"), None if it has."""
    path, kind = read.split()
    values = [reply]
    for step in re.findall(r"\[\]|[^.\[\]]+", path):
        try:
            values = [item for value in values for item in (value if step == "[]" else [value[step]])]
        except (KeyError, TypeError, IndexError):
            return f"{read}: no {step!r} in {str(values)[:200]}"
    if not values:
        return f"{read}: nothing there"
    wrong = [value for value in values if not isinstance(value, TYPES[kind])]
    return f"{read}: got {wrong[:3]}" if wrong else None


def posts(model: str) -> list[dict[str, Any]]:
    """Every recorded POST, aimed at the model of that name."""
    requests = [request for call in recorded_calls() for request in call.requests if request["method"] == "POST"]
    return [r | {"body": r["body"] | ({"model": model} if "model" in r["body"] else {})} for r in requests]
