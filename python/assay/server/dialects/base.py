"""What a dialect is: operations that read a body and write a reply, and its way of reporting a failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from assay.server.request import Call

if TYPE_CHECKING:
    from assay.server.errors import Failure
    from assay.server.result import Answer
    from assay.server.served import ServedModel
    from assay.server.settings import RequestPolicy


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a reply carries beside the answer. request_id: of the header, else of the body, else a new one."""

    request_id: str
    created: int


@dataclass(frozen=True, slots=True)
class Payload:
    """A reply's body as bytes of `media_type`, with headers of its own."""

    body: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] | None = None


Reply: TypeAlias = "dict[str, Any] | list[Any] | Payload"
"""JSON to be written, or finished bytes."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A name for `X-Assay-Dialect`, how failures are told (status, JSON), and whether `model` in a body is read."""

    name: str
    fail: Callable[[Failure], tuple[int, dict[str, Any]]]
    ignores_model: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that one dialect asks for.

    parse(body, policy) makes the internal request; format(call, answer, stamp) the reply. check(model) raises where
    a model cannot do it; None where every model can.
    """

    name: str
    dialect: Dialect
    parse: Callable[[Any, RequestPolicy], Call]
    format: Callable[[Call, Answer, Stamp], Reply]
    check: Callable[[ServedModel], None] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the discriminator: the operation, where the body and the headers are its dialect's."""

    matches: Callable[[Any, Mapping[str, str]], bool]
    operation: Operation


def has_key(*names: str) -> Callable[[Any, Mapping[str, str]], bool]:
    """Matches a body that has all of these keys, whatever their values: null counts."""

    def matches(body: Any, headers: Mapping[str, str]) -> bool:
        return isinstance(body, dict) and all(name in body for name in names)

    return matches


def always(body: Any, headers: Mapping[str, str]) -> bool:
    """Matches everything."""
    return True
