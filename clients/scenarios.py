"""The three things every client goes through: the happy path, an input that is too long, a server that is full."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from cases import Case
from flood import Flood, FloodError
from program import Program
from proxy import Exchange, Proxy
from served import NAMES, Expected, difference, value_wanted
from texts import DOCUMENTS, LONG_TEXT, QUERY, TEXTS

MAX_TRIES = 4
"""Calls that a client without retries of its own may need, each after the wait it was told."""
FLOODS_S = (3.0, 6.0, 12.0)
"""How long the server is kept busy; longer where the flood was over before the client had even called."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen; problem is None where all was as it must be."""

    case: Case
    scenario: str
    problem: str | None
    seen: str
    exchanges: list[Exchange] = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a case is played: its program, the way to the server, and what the library answers."""

    program: Program
    proxy: Proxy
    server_port: int
    truth: Expected


def ask(case: Case, stage: Stage, *, is_long: bool = False) -> dict[str, Any]:
    """The fields of the call."""
    long = [LONG_TEXT] if is_long else []
    fields = {"query": QUERY, "documents": DOCUMENTS + long, "texts": TEXTS + long}
    return {"call": case.call, "url": stage.proxy.url, "model": NAMES[case.kind], **fields}


def posts(exchanges: list[Exchange]) -> list[Exchange]:
    """Those that ask for work; tei-client reads /info before them."""
    return [exchange for exchange in exchanges if exchange.method == "POST"]


def on_the_wire(exchange: Exchange) -> str:
    """The status, with the wait that was asked for."""
    after = exchange.headers.get("retry-after")
    return str(exchange.status) if after is None else f"{exchange.status}({after} s)"


def summary(answer: dict[str, Any], exchanges: list[Exchange]) -> str:
    """What went over the wire, and what the client made of it."""
    wire = " ".join(on_the_wire(exchange) for exchange in posts(exchanges) or exchanges)
    if "ok" in answer:
        return f"{wire}: answered"
    return f"{wire}: raised {answer['error']['type']}"


def happy(case: Case, stage: Stage) -> Outcome:
    """The client gets what the library says."""
    answer = stage.program.ask(**ask(case, stage))
    exchanges = stage.proxy.log.take()
    problem = wrong_answer(answer, value_wanted(case, stage.truth))
    return Outcome(case, "happy", problem, summary(answer, exchanges), exchanges)


def wrong_answer(answer: dict[str, Any], wanted: Any) -> str | None:
    """Why an answer is not the wanted one."""
    if "error" in answer:
        return f"the client raised {answer['error']['type']}: {answer['error']['message'][:300]}"
    return difference(answer["ok"], wanted)


def too_long(case: Case, stage: Stage) -> Outcome:
    """A document that does not fit is refused once and for all, with the reason, or cut where the dialect cuts."""
    answer = stage.program.ask(**ask(case, stage, is_long=True))
    exchanges = stage.proxy.log.take()
    if case.too_long == "cut":
        problem = wrong_answer(answer, value_wanted(case, stage.truth, is_long=True))
    else:
        problem = not_refused(case, answer, posts(exchanges))
    return Outcome(case, "too long", problem, summary(answer, exchanges), exchanges)


def not_refused(case: Case, answer: dict[str, Any], calls: list[Exchange]) -> str | None:
    """Why this is not one clear refusal."""
    if "ok" in answer:
        return "the client got an answer"
    if len(calls) != 1:
        return f"{len(calls)} requests, where asking again is no use"
    text = calls[0].body.decode()
    status, reason = (422, "Validation") if case.dialect == "tei" else (400, "reduce the length of the input")
    if calls[0].status != status:
        return f"status {calls[0].status}, wanted {status}: {text[:200]}"
    return None if reason in text else f"the reply does not say {reason!r}: {text[:200]}"


def overloaded(case: Case, stage: Stage) -> Outcome:
    """A full server says 429 and when to come back; who does gets the answer."""
    problem: str | None = None
    for seconds in FLOODS_S:
        try:
            with Flood(stage.server_port, case.kind, seconds):
                answer, exchanges = persistent_call(case, stage)
        except FloodError as err:
            problem = str(err)
            continue
        calls = posts(exchanges)
        if not calls:
            return Outcome(case, "overloaded", "the client asked for nothing", summary(answer, exchanges), exchanges)
        problem = bad_refusal(calls[0]) or wrong_answer(answer, value_wanted(case, stage.truth))
        if calls[0].status != 200:
            return Outcome(case, "overloaded", problem, summary(answer, exchanges), exchanges)
    return Outcome(case, "overloaded", problem, "never met a full server")


def persistent_call(case: Case, stage: Stage) -> tuple[dict[str, Any], list[Exchange]]:
    """The client's call; one without retries of its own is made again after the wait that the server asks for."""
    exchanges: list[Exchange] = []
    for _ in range(1 if case.retries else MAX_TRIES):
        answer = stage.program.ask(**ask(case, stage))
        exchanges += stage.proxy.log.take()
        if "ok" in answer or not posts(exchanges):
            break
        time.sleep(float(posts(exchanges)[-1].headers.get("retry-after", "1")))
    return answer, exchanges


def bad_refusal(exchange: Exchange) -> str | None:
    """Why this is not the refusal of a full server."""
    if exchange.status != 429:
        return f"the first request got {exchange.status}, wanted 429"
    after = exchange.headers.get("retry-after")
    if after is None or not after.isascii() or not after.isdigit() or int(after) < 1:
        return f"Retry-After is {after!r}, wanted whole seconds"
    try:
        error = json.loads(exchange.body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"no error in the body: {exchange.body[:200]!r}"
    return None if error else "an empty error"


def scenarios_of(case: Case) -> list[Any]:
    """What the case goes through; a list of models is never too long, and is there for a full server, too."""
    return [happy] if case.kind == "models" else [happy, too_long, overloaded]
