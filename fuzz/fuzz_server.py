"""Fire mutated client bodies at a live server, with a valid client beside them that must not notice.

python fuzz/fuzz_server.py [--bodies 100000] [--seed 0] [--only NUMBER]
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import tiny_models
from client_bodies import posts
from judge import complaint
from live_server import LiveServer, exit_on_sigterm
from mutate import Mutator, Recorded, Shot
from tiny_server import BUILD, NAME, tiny_server

TIMEOUT_S = 60.0
VALID_PAUSE_S = 0.02
REPORT_S = 30.0
SHOWN_FAILURES = 10
SETTLE_S = 7.0
"""After this long the server has given back what large bodies left."""


@dataclass(slots=True)
class Report:
    """What was seen; threads add to it under the lock."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    slowest: list[tuple[float, int]] = field(default_factory=list)
    num_valid: int = 0
    valid_errors: list[str] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    """The server's memory at the start, after every tenth of the bodies, and SETTLE_S after the last."""
    peak_rss_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Client:
    """A keep-alive connection that is opened again after an error."""

    def __init__(self, port: int) -> None:
        self.port, self.connection = port, self._connect(port)

    @staticmethod
    def _connect(port: int) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, bytes]:
        """Status, content type and body of the reply. A kept connection that the server has closed is tried anew."""
        for attempt in range(2):
            try:
                self.connection.request("POST", path, body=body, headers=headers)
                reply = self.connection.getresponse()
                return reply.status, reply.getheader("content-type", ""), reply.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._reopen()
                if attempt:
                    raise
            except OSError:
                self._reopen()
                raise
        raise AssertionError("unreachable")

    def _reopen(self) -> None:
        self.connection.close()
        self.connection = self._connect(self.port)


def fire(server: LiveServer, mutator: Mutator, numbers: Any, shots: range, report: Report) -> None:
    """One thread's share of the shots: the next number nobody has taken, until they are all fired."""
    client = Client(server.port)
    tenth = max(1, len(shots) // 10)
    while (number := next(numbers)) < shots.stop:
        shot = mutator.shot(number)
        start = time.monotonic()
        try:
            status, content_type, body = client.post(shot.path, shot.body, shot.headers)
            problem = complaint(status, content_type, body)
        except (OSError, http.client.HTTPException) as err:
            status, body, problem = 0, b"", f"no reply: {type(err).__name__}: {err}"
        with report.lock:
            report.statuses[status] += 1
            if report.statuses.total() % tenth == 0 and server.is_running:
                report.rss_bytes.append(server.rss_bytes)
            report.slowest = sorted([*report.slowest, (time.monotonic() - start, number)])[-SHOWN_FAILURES:]
            if problem:
                report.failures.append(describe(shot, problem, body))


def describe(shot: Shot, problem: str, reply: bytes) -> dict[str, Any]:
    """A failure as plain data; the number fires it again."""
    return {
        "number": shot.number,
        "problem": problem,
        "path": shot.path,
        "headers": shot.headers,
        "how": shot.how,
        "body": shot.body[:2000].decode("utf-8", "backslashreplace"),
        "reply": reply[:2000].decode("utf-8", "backslashreplace"),
    }


VALID: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/rerank", {"query": "Where is the library?", "documents": list(tiny_models.SENTENCES[:6])}),
    ("/score", {"queries": "Where is the library?", "documents": list(tiny_models.SENTENCES[6:12])}),
    ("/classify", {"input": list(tiny_models.SENTENCES[:4])}),
)


def answers(client: Client) -> list[Any]:
    """The parts of the valid replies that must never change."""
    found = []
    for path, body in VALID:
        status, _, reply = client.post(path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        if status != 200:
            raise OSError(f"{path}: status {status}: {reply[:300]!r}")
        content = json.loads(reply)
        found.append(content.get("results") or content["data"])
    return found


def valid_stream(port: int, expected: list[Any], done: threading.Event, report: Report) -> None:
    """A well-behaved client that goes on asking; every reply must be the first one, bit for bit."""
    client = Client(port)
    while not done.is_set():
        try:
            if answers(client) != expected:
                report.valid_errors.append("a score has changed")
        except (OSError, http.client.HTTPException, ValueError, KeyError) as err:
            report.valid_errors.append(f"{type(err).__name__}: {err}")
        report.num_valid += len(VALID)
        done.wait(VALID_PAUSE_S)


def run(server: LiveServer, mutator: Mutator, shots: range, num_threads: int) -> Report:
    """Fire the shots from several threads beside the valid stream."""
    report, done = Report(), threading.Event()
    expected = answers(Client(server.port))
    report.rss_bytes.append(server.rss_bytes)
    watcher = threading.Thread(target=valid_stream, args=(server.port, expected, done, report), daemon=True)
    watcher.start()
    numbers = itertools.count(shots.start)
    gunners = [
        threading.Thread(target=fire, args=(server, mutator, numbers, shots, report), daemon=True)
        for _ in range(num_threads)
    ]
    for gunner in gunners:
        gunner.start()
    start = time.monotonic()
    while alive := [gunner for gunner in gunners if gunner.is_alive()]:
        alive[0].join(timeout=REPORT_S)
        fired = report.statuses.total()
        rate = fired / (time.monotonic() - start)
        state = f"RSS {server.rss_bytes >> 20} MiB" if server.is_running else "the server is gone"
        print(f"{fired} bodies, {rate:.0f}/s, {len(report.failures)} failures, {state}", flush=True)
        if not server.is_running:
            break
    done.set()
    watcher.join(TIMEOUT_S)
    if server.is_running:
        time.sleep(SETTLE_S)
        report.rss_bytes.append(server.rss_bytes)
        report.peak_rss_bytes = server.peak_rss_bytes
    return report


def main() -> int:
    """Fire, report, say whether all went well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first shot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--only", type=int, help="fire this shot alone, and show it")
    args = parser.parse_args()
    exit_on_sigterm()
    mutator = Mutator([Recorded(post["path"], post["body"]) for post in posts(NAME)], args.seed)
    with tiny_server() as server:
        first, stop = (args.only, args.only + 1) if args.only is not None else (args.first, args.first + args.bodies)
        report = run(server, mutator, range(first, stop), 1 if args.only is not None else args.threads)
        is_running, pid = server.is_running, server.process.pid
    if args.only is not None:
        print(json.dumps(describe(mutator.shot(args.only), f"{dict(report.statuses)}", b""), indent=1))
    print(f"statuses: {dict(sorted(report.statuses.items()))}")
    slowest = ", ".join(f"{number} ({seconds:.1f} s)" for seconds, number in reversed(report.slowest))
    print(f"slowest: {slowest}")
    print(f"valid stream: {report.num_valid} requests, {len(report.valid_errors)} errors {report.valid_errors[:3]}")
    start, *tenths, end = (size >> 20 for size in report.rss_bytes or [0, 0])
    print(f"memory, MiB: {start}, after each tenth {tenths}, then {end}; peak {report.peak_rss_bytes >> 20}")
    print(f"server: process {pid} {'lived through it' if is_running else f'died, see {server.log}'}")
    if report.failures:
        path = BUILD / "failures.json"
        path.write_text(json.dumps(report.failures, indent=1) + "\n")
        print(f"{len(report.failures)} failures, all in {path}:")
        for failure in report.failures[:SHOWN_FAILURES]:
            print(f"  {failure['number']}: {failure['problem']} {failure['path']} {', '.join(failure['how'])}")
    return int(bool(report.failures or report.valid_errors or not is_running))


if __name__ == "__main__":
    sys.exit(main())
