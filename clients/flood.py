"""Requests so big that the server's queue is full for a few seconds."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

from texts import QUERY

FULL_TIMEOUT_S = 20.0
PROBE_PAUSE_S = 0.02
CALIBRATION_ITEMS = 8
NUM_REQUESTS = 2
"""One request, however long, fills half of the queue at most, so two of them fill it."""
PASSAGE = "The committee met on the second floor and went through the minutes of the meeting before the last. " * 12


class FloodError(Exception):
    """The server refused the flood itself, or never became full."""


class Flood:
    """A context in which the server is full when it is entered; leaving it waits for the end of the flood."""

    def __init__(self, port: int, kind: str, seconds: float) -> None:
        self._port, self._kind, self._seconds = port, kind, seconds
        self._statuses: list[int] = []
        self._threads: list[threading.Thread] = []

    def body(self, count: int, salt: str = "") -> dict[str, Any]:
        """A request with that many passages, no two alike."""
        passages = [f"{salt}{number}. {PASSAGE}" for number in range(count)]
        return {"query": QUERY, "documents": passages} if self._kind == "rerank" else {"input": passages}

    @property
    def path(self) -> str:
        """Where it is sent."""
        return {"rerank": "/rerank", "classify": "/classify", "embed": "/v1/embeddings"}[self._kind]

    def post(self, body: dict[str, Any]) -> int:
        """The status of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", self.path, body=json.dumps(body).encode(), headers=headers)
            reply = connection.getresponse()
            reply.read()
            return reply.status
        finally:
            connection.close()

    def _count(self) -> int:
        """Passages that keep the server busy for as long as is wanted."""
        self.post(self.body(CALIBRATION_ITEMS, "warm "))
        start = time.perf_counter()
        self.post(self.body(CALIBRATION_ITEMS, "measured "))
        return max(CALIBRATION_ITEMS, int(CALIBRATION_ITEMS * self._seconds / (time.perf_counter() - start)))

    def _run(self, body: dict[str, Any]) -> None:
        """Send one request; where a probe is in its way, again."""
        status, deadline = self.post(body), time.monotonic() + FULL_TIMEOUT_S
        while status == 429 and time.monotonic() < deadline:
            time.sleep(PROBE_PAUSE_S)
            status = self.post(body)
        self._statuses.append(status)

    def __enter__(self) -> Flood:
        count = self._count() // NUM_REQUESTS
        for number in range(NUM_REQUESTS):
            body = self.body(count, f"flood {number} ")
            self._threads.append(threading.Thread(target=self._run, args=(body,), name="flood", daemon=True))
            self._threads[-1].start()
        deadline = time.monotonic() + FULL_TIMEOUT_S
        while self.post({"query": "q", "documents": ["probe"], "input": ["probe"]}) != 429:
            if time.monotonic() > deadline or self._statuses:
                self._join()
                raise FloodError(f"the server was never full; the flood ended with {self._statuses}")
            time.sleep(PROBE_PAUSE_S)
        return self

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def __exit__(self, *_: object) -> None:
        self._join()
        if self._statuses != [200] * NUM_REQUESTS:
            raise FloodError(f"the flood, sent to an idle server, ended with {self._statuses}")
