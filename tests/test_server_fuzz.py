"""Mutated client bodies: never a 5xx, and a valid client beside them notices nothing. `make fuzz` fires 100,000."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import llms
from client_bodies import posts
from judge import complaint
from mutate import Mutator, Recorded, Shot
from served import Client, serving

NUM_SHOTS, STORM_SHOTS, NUM_CLIENTS, SEED = 2000, 500, 4, 20


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    llm = llms.load(num_labels=1)
    with serving({"reranker": llm}) as served:
        yield served
    llm.close()


def bodies() -> list[Recorded]:
    """All recorded bodies, aimed at the one model there is."""
    return [Recorded(post["path"], post["body"]) for post in posts("reranker")]


async def fire(client: Client, shot: Shot) -> tuple[int, str | None]:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in shot.headers.items()]
    reply = await client.http.post(shot.path, content=shot.body, headers=headers)
    return reply.status_code, complaint(reply.status_code, reply.headers.get("content-type", ""), reply.content)


async def storm(client: Client, first: int) -> tuple[Counter[int], list[Any], list[Any]]:
    """Statuses, failures, and the distinct answers that the valid client got meanwhile."""
    mutator = Mutator(bodies(), SEED)
    numbers = iter(range(first, first + STORM_SHOTS))
    statuses: Counter[int] = Counter()
    failures: list[Any] = []
    answers: list[Any] = []
    is_over = False

    async def gunner() -> None:
        for number in numbers:
            shot = mutator.shot(number)
            status, problem = await fire(client, shot)
            statuses[status] += 1
            if problem:
                failures.append((number, problem, shot.path, shot.how, shot.body[:300]))

    async def valid() -> None:
        while not is_over:
            reply = await client.http.post("/rerank", json={"query": "cats", "documents": ["dogs", "a cat", "cats"]})
            answer = (reply.status_code, reply.json().get("results"))
            if answer not in answers:
                answers.append(answer)
            await asyncio.sleep(0.005)

    beside = asyncio.create_task(valid())
    await asyncio.gather(*(gunner() for _ in range(NUM_CLIENTS)))
    is_over = True
    await beside
    return statuses, failures, answers


def test_no_body_breaks_the_server_or_its_other_clients(client: Client) -> None:
    statuses: Counter[int] = Counter()
    answers: list[Any] = []
    for first in range(0, NUM_SHOTS, STORM_SHOTS):
        seen, failures, got = client.run(storm(client, first))
        assert failures == []
        statuses += seen
        answers += [answer for answer in got if answer not in answers]
    assert statuses.total() == NUM_SHOTS
    assert statuses[200] > NUM_SHOTS // 20 and statuses[400] > NUM_SHOTS // 4  # both kinds of body were among them
    assert [status for status, _ in answers] == [200]  # one answer all the time
    assert client.get("/health").status_code == 200


def test_a_shot_is_the_same_every_time_and_others_differ() -> None:
    first, second = Mutator(bodies(), 1), Mutator(bodies(), 1)
    assert [first.shot(n) for n in range(50)] == [second.shot(n) for n in reversed(range(50))][::-1]
    assert first.shot(3) != Mutator(bodies(), 2).shot(3)


@pytest.mark.parametrize(
    ("status", "content_type", "body", "is_fine"),
    [
        (200, "application/json", b'{"a": 1}', True),
        (400, "application/json", b'{"error": {"message": "no"}}', True),
        (404, "application/json", b'{"detail": "Not Found"}', True),
        (200, "application/octet-stream", b"\x00\xff", True),
        (413, "text/plain", b"too large", True),
        (500, "application/json", b'{"error": {"message": "oh"}}', False),
        (503, "application/json", b'{"error": {"message": "oh"}}', False),
        (200, "application/json", b'{"a": NaN}', False),
        (200, "application/json", b'{"a": 1', False),
        (400, "application/json", b"{}", False),
        (400, "application/json", b'["error"]', False),
        (405, "text/plain", b"", False),
    ],
)
def test_the_judge_knows_a_bad_reply(status: int, content_type: str, body: bytes, is_fine: bool) -> None:
    assert (complaint(status, content_type, body) is None) == is_fine


def test_mutations_reach_every_kind_of_body() -> None:
    shots = [Mutator(bodies(), SEED).shot(number) for number in range(400)]
    changes = {change for shot in shots for change in shot.how}
    assert {"replace", "remove", "add_key", "graft", "nest", "huge_number", "other_route", "header"} <= changes
    parsed = 0
    for shot in shots:
        try:
            json.loads(shot.body)
        except (ValueError, RecursionError):
            continue
        parsed += 1
    assert 0.3 * len(shots) < parsed < 0.95 * len(shots)
