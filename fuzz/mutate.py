"""Turns recorded request bodies into hostile ones. Shot i depends on (seed, i) alone, so any can be fired again."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hostile

MAX_STEPS = 4
"""Most changes made to one body."""
BIG_TEXT_CHARS = 300_000
MAX_REPEAT = 400
MAX_REPEATED_CHARS = 1_000_000
NEST_DEPTHS = (10, 200, 2_000, 100_000)
NUM_DIGITS = (30, 5_000)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A body that a real client sent, and where to."""

    path: str
    body: Any


@dataclass(frozen=True, slots=True)
class Shot:
    """One request; `how` names the changes, for the report."""

    number: int
    path: str
    headers: dict[str, str]
    body: bytes
    how: tuple[str, ...]


class Mutator:
    """An endless magazine of shots, made from the recorded bodies."""

    def __init__(self, recorded: Sequence[Recorded], seed: int) -> None:
        if not recorded:
            raise ValueError("recorded is empty: there is nothing to mutate")
        self._recorded, self._seed = list(recorded), seed

    def shot(self, number: int) -> Shot:
        """Shot `number`: some change the tree, some the text, some the envelope, a few nothing."""
        rng = random.Random(f"{self._seed}/{number}")
        source = rng.choice(self._recorded)
        how: list[str] = []
        root = [copy.deepcopy(source.body)]  # in a list, so that the body itself has a parent
        for _ in range(rng.randint(0, MAX_STEPS)):
            change = rng.choice(TREE_CHANGES)
            change(root, rng, self._recorded)
            how.append(change.__name__)
        body = json.dumps(root[0]).encode() if root else b""
        if rng.random() < 0.35:
            rewrite = rng.choice(TEXT_CHANGES)
            body = rewrite(body, rng)
            how.append(rewrite.__name__)
        path, headers = _envelope(source.path, rng, how)
        return Shot(number, path, headers, body, tuple(how))


def _envelope(path: str, rng: random.Random, how: list[str]) -> tuple[str, dict[str, str]]:
    headers = {"Content-Type": "application/json"}
    if rng.random() < 0.1:
        path = rng.choice(hostile.ROUTES)
        how.append("other_route")
    if rng.random() < 0.05:
        headers["Content-Type"] = rng.choice(hostile.CONTENT_TYPES)
        how.append("content_type")
    if rng.random() < 0.05:
        name, value = rng.choice(hostile.HEADERS)
        headers[name] = value
        how.append("header")
    return path, headers


Tree = list[Any]
Place = tuple[Any, Any]
"""A container and the key or index of one thing in it."""


def places(tree: Tree) -> list[Place]:
    """Every place of a tree, depth first; a long list counts with its first and last few."""
    found: list[Place] = []
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        for key in keys if len(keys) <= 8 else keys[:4] + keys[-4:]:
            found.append((node, key))
            if isinstance(node[key], (dict, list)):
                waiting.append(node[key])
    return found


def pick(tree: Tree, rng: random.Random, kind: type | tuple[type, ...] = object) -> Place | None:
    """A random place whose thing is of that kind."""
    fitting = [place for place in places(tree) if isinstance(place[0][place[1]], kind)]
    return rng.choice(fitting) if fitting else None


def replace(tree: Tree, rng: random.Random, _: Sequence[Recorded]) -> None:
    """Something else stands there."""
    if place := pick(tree, rng):
        place[0][place[1]] = copy.deepcopy(rng.choice(hostile.VALUES))


def remove(tree: Tree, rng: random.Random, _: Sequence[Recorded]) -> None:
    """It is gone."""
    if place := pick(tree, rng):
        del place[0][place[1]]


def add_key(tree: Tree, rng: random.Random, _: Sequence[Recorded]) -> None:
    """A key that some route knows, with anything in it."""
    if place := pick(tree, rng, dict):
        place[0][place[1]][rng.choice(hostile.KEYS)] = copy.deepcopy(rng.choice(hostile.VALUES))


def rename_key(tree: Tree, rng: random.Random, _: Sequence[Recorded]) -> None:
    """The thing goes by another name."""
    if (place := pick(tree, rng, dict)) and place[0][place[1]]:
        owner = place[0][place[1]]
        owner[rng.choice(hostile.KEYS)] = owner.pop(rng.choice(list(owner)))


def graft(tree: Tree, rng: random.Random, recorded: Sequence[Recorded]) -> None:
    """A piece of another body stands there."""
    place, other = pick(tree, rng), pick([rng.choice(recorded).body], rng)
    if place and other:
        place[0][place[1]] = copy.deepcopy(other[0][other[1]])


def wrap(tree: Tree, rng: random.Random, _: Sequence[Recorded]) -> None:
    """One list or object more around it."""
    if place := pick(tree, rng):
        inner = place[0][place[1]]
        place[0][place[1]] = [inner] if rng.random() < 0.5 else {rng.choice(hostile.KEYS): inner}


def repeat(tree: Tree, rng: random.Random, _: Sequence[Recorded]) -> None:
    """A list is many times as long."""
    if (place := pick(tree, rng, list)) and 0 < len(place[0][place[1]]) <= 50:
        items = place[0][place[1]]
        most = min(MAX_REPEAT // len(items), MAX_REPEATED_CHARS // len(json.dumps(items)))
        place[0][place[1]] = items * rng.randint(1, max(1, most))


def odd_text(tree: Tree, rng: random.Random, _: Sequence[Recorded]) -> None:
    """Strange characters somewhere in a text."""
    if place := pick(tree, rng, str):
        text = place[0][place[1]]
        cut = rng.randint(0, len(text))
        place[0][place[1]] = text[:cut] + rng.choice(hostile.TEXTS) + text[cut:]


def big_text(tree: Tree, rng: random.Random, _: Sequence[Recorded]) -> None:
    """A very long text, now and then."""
    if rng.random() < 0.05 and (place := pick(tree, rng, str)):
        piece = place[0][place[1]] or "a"
        place[0][place[1]] = (piece * (BIG_TEXT_CHARS // len(piece) + 1))[:BIG_TEXT_CHARS]


def cut_short(body: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return body[: rng.randint(0, len(body))]


def flip_bytes(body: bytes, rng: random.Random) -> bytes:
    """A few bytes are others."""
    changed = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def insert_bytes(body: bytes, rng: random.Random) -> bytes:
    """Bytes that are no UTF-8, or no JSON."""
    cut = rng.randint(0, len(body))
    junk = rng.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x00", b'"', b"\\", b"//", b"\\ud800", b"]}", b"NaN"))
    return body[:cut] + junk + body[cut:]


def nest(body: bytes, rng: random.Random) -> bytes:
    """The body, or a value in it, lies very deep."""
    depth = rng.choice(NEST_DEPTHS)
    opening, closing = rng.choice(((b"[", b"]"), (b'{"input":', b"}")))
    tower = opening * depth + b"1" + closing * depth
    return tower if rng.random() < 0.5 else _in_place_of_a_value(body, tower, rng)


def huge_number(body: bytes, rng: random.Random) -> bytes:
    """A number of thousands of digits, or with an exponent to match."""
    digits = b"9" * rng.choice(NUM_DIGITS)
    return _in_place_of_a_value(body, rng.choice((digits, b"-" + digits, b"1e" + digits, b"0." + digits)), rng)


def bare_word(body: bytes, rng: random.Random) -> bytes:
    """A value that only some parsers take."""
    return _in_place_of_a_value(body, rng.choice((b"NaN", b"Infinity", b"-Infinity", b"undefined", b"'a'", b"01")), rng)


def twice(body: bytes, rng: random.Random) -> bytes:
    """Every key stands there twice, with different values, or the whole body does."""
    if rng.random() < 0.5 or not body.startswith(b"{") or len(body) < 3:
        return body + body
    return body[:-1] + b"," + rng.choice((body[1:], b'"input":1}', b'"documents":null,"query":[]}'))


def other_encoding(body: bytes, rng: random.Random) -> bytes:
    """UTF-16, UTF-32 or a byte order mark."""
    text = body.decode("utf-8", "replace")
    return rng.choice((text.encode("utf-16"), text.encode("utf-32-be"), b"\xef\xbb\xbf" + body))


def _in_place_of_a_value(body: bytes, value: bytes, rng: random.Random) -> bytes:
    """Put raw bytes where a value begins: after a random colon."""
    colons = [index for index, byte in enumerate(body[:2000]) if byte == ord(":")]
    if not colons:
        return value
    start = rng.choice(colons) + 1
    ends = [end for end in (body.find(b",", start), body.find(b"}", start)) if end >= 0]
    return body[:start] + value + body[min(ends, default=len(body)) :]


TREE_CHANGES: tuple[Callable[[Tree, random.Random, Sequence[Recorded]], None], ...] = (
    replace,
    remove,
    add_key,
    rename_key,
    graft,
    wrap,
    repeat,
    odd_text,
    big_text,
)
TEXT_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    cut_short,
    flip_bytes,
    insert_bytes,
    nest,
    huge_number,
    bare_word,
    twice,
    other_encoding,
)
