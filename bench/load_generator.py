"""Sends requests to a server on loopback and times them; runs in a process of its own.

python bench/load_generator.py < load.json > times.json       (the fields of Load; what comes back is Times)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import selectors
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

TIMEOUT_S = 300.0
END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """What to send. bodies are taken in turn, or at random with a seed.

    Closed loop: `concurrency` clients that send again as soon as they have their reply. Open loop (rate_hz > 0):
    requests start at random times, `rate_hz` a second on average, however slow the server is; a latency counts from
    the time a request should have started.
    """

    port: int
    path: str
    bodies: list[Any]
    num_requests: int
    concurrency: int = 1
    rate_hz: float = 0.0
    shuffle_seed: int | None = None
    keep_replies: bool = False


@dataclass(slots=True)
class Times:
    """What was seen: seconds per request in the order of their ends, and CPU seconds since this process began."""

    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    replies: list[Any] = field(default_factory=list)


def parsed_head(head: bytes) -> tuple[int, int]:
    """Status and Content-Length of a reply's head."""
    head = head.lower()
    start = head.find(b"content-length:")
    if start < 0:
        raise ConnectionError(f"a reply without Content-Length: {head[:200]!r}")
    return int(head[9:12]), int(head[start + 15 : head.index(b"\r\n", start)])


class BlockingConnection:
    """A kept connection of a closed loop, without an event loop: little of the server's cores goes to its clients."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._data = b""

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the reply."""
        is_kept = self._socket is not None
        try:
            return self._exchange(request)
        except ConnectionError:
            self.close()
            if not is_kept:
                raise
            return self._exchange(request)

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        self.begin(request)
        while (reply := self.receive()) is None:
            pass
        return reply

    def begin(self, request: bytes) -> socket.socket:
        """Send a request; what can be read from the socket is for `receive`."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        self._socket.sendall(request)
        return self._socket

    def receive(self) -> tuple[int, bytes] | None:
        """Wait for more of the reply: its status and body, once they are there."""
        assert self._socket is not None
        more = self._socket.recv(1 << 16)
        if not more:
            # Where part of a reply is there, the request must not be sent again.
            error = EOFError if self._data else ConnectionResetError
            raise error(f"the server hung up after {len(self._data)} bytes of a reply")
        self._data += more
        if (end := self._data.find(END_OF_HEAD)) < 0:
            return None
        start = end + len(END_OF_HEAD)
        status, size = parsed_head(self._data[:start])
        return None if len(self._data) < start + size else (status, self._data[start:])

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Connection:
    """One keep-alive connection, opened at the first request, and again where the server has closed it meanwhile."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the reply."""
        is_kept = self._streams is not None
        try:
            return await self._exchange(request)
        except (asyncio.IncompleteReadError, ConnectionError) as err:
            # Servers close connections that were idle for a few seconds; only then is nothing of a reply there.
            if not is_kept or (isinstance(err, asyncio.IncompleteReadError) and err.partial):
                raise
            await self.close()
            return await self._exchange(request)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        writer.write(request)
        status, size = parsed_head(await reader.readuntil(END_OF_HEAD))
        return status, await reader.readexactly(size)

    async def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def encoded(load: Load) -> list[bytes]:
    """The whole requests as bytes, made before the clock runs."""
    requests = []
    for body in load.bodies:
        content = json.dumps(body).encode()
        head = (
            f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Accept-Encoding: identity\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        requests.append(head.encode() + content)
    return requests


def order(load: Load) -> list[int]:
    """Which body each request carries."""
    if load.shuffle_seed is None:
        return [number % len(load.bodies) for number in range(load.num_requests)]
    rng = random.Random(load.shuffle_seed)
    return [rng.randrange(len(load.bodies)) for _ in range(load.num_requests)]


@dataclass(slots=True)
class Client:
    """One of a closed loop, and the request it waits for."""

    connection: BlockingConnection
    body_idx: int
    start: float


class Run:
    """One load on its way."""

    def __init__(self, load: Load) -> None:
        self.load, self.requests, self.times = load, encoded(load), Times()
        self.statuses: Counter[str] = Counter()
        self.replies: dict[int, Any] = {}

    async def one(self, connection: Connection, body_idx: int, start: float) -> None:
        """Send a request whose clock began at `start`."""
        status, reply = await asyncio.wait_for(connection.send(self.requests[body_idx]), TIMEOUT_S)
        self.note(body_idx, start, status, reply)

    def note(self, body_idx: int, start: float, status: int, reply: bytes) -> None:
        """A reply that has just come."""
        self.times.latencies_s.append(time.perf_counter() - start)
        self.statuses[str(status)] += 1
        if self.load.keep_replies and body_idx not in self.replies:
            self.replies[body_idx] = json.loads(reply)

    def alone(self) -> None:
        """One client sends all requests, one after the other."""
        connection = BlockingConnection(self.load.port)
        for body_idx in order(self.load):
            start = time.perf_counter()
            self.note(body_idx, start, *connection.send(self.requests[body_idx]))
        connection.close()

    def closed(self) -> None:
        """`concurrency` clients share the requests; one thread waits for all of them."""
        waiting = iter(order(self.load))
        with selectors.DefaultSelector() as selector:
            for body_idx in itertools.islice(waiting, self.load.concurrency):
                client = Client(BlockingConnection(self.load.port), body_idx, time.perf_counter())
                selector.register(client.connection.begin(self.requests[body_idx]), selectors.EVENT_READ, client)
            while selector.get_map():
                ready = selector.select(TIMEOUT_S)
                if not ready:
                    raise TimeoutError(f"no reply for {TIMEOUT_S:.0f} s")
                for key, _ in ready:
                    client = key.data
                    reply = client.connection.receive()
                    if reply is None:
                        continue
                    self.note(client.body_idx, client.start, *reply)
                    following = next(waiting, None)
                    if following is None:
                        selector.unregister(key.fileobj)
                        client.connection.close()
                        continue
                    client.body_idx, client.start = following, time.perf_counter()
                    client.connection.begin(self.requests[following])

    async def open(self) -> None:
        """Requests start on a random clock; as many connections as are needed."""
        rng = random.Random(self.load.num_requests)
        idle: list[Connection] = []
        tasks = []

        async def client(body_idx: int, start: float) -> None:
            connection = idle.pop() if idle else Connection(self.load.port)
            await self.one(connection, body_idx, start)
            idle.append(connection)

        due = time.perf_counter()
        for body_idx in order(self.load):
            due += rng.expovariate(self.load.rate_hz)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(client(body_idx, due)))
        await asyncio.gather(*tasks)
        for connection in idle:
            await connection.close()

    def run(self) -> Times:
        """Everything, timed."""
        start = time.perf_counter()
        if self.load.rate_hz > 0:
            asyncio.run(self.open())
        elif self.load.concurrency > 1:
            self.closed()
        else:
            self.alone()
        self.times.wall_s, self.times.cpu_s = time.perf_counter() - start, time.process_time()
        self.times.statuses = dict(self.statuses)
        self.times.replies = [self.replies[body_idx] for body_idx in sorted(self.replies)]
        return self.times


def main() -> None:
    """From standard input to standard output."""
    load = Load(**json.load(sys.stdin))
    json.dump(asdict(Run(load).run()), sys.stdout)


if __name__ == "__main__":
    main()
