"""Replies leave in one write: the transport between uvicorn and the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from assay.server.joined_writes import JoinedWrites, JoiningProtocol


class Recorder(asyncio.Transport):
    """A transport that keeps what each call would have sent."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.sent.append(bytes(data))

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def sent_by(act: Callable[[JoinedWrites], None]) -> list[bytes]:
    """What is sent of what `act` writes within one turn of the loop, and in the turn after it."""

    async def run() -> list[bytes]:
        recorder = Recorder()
        act(JoinedWrites(recorder, asyncio.get_running_loop()))
        await asyncio.sleep(0)
        return recorder.sent

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("writes", "sent"),
    [
        ([], []),
        ([b"a"], [b"a"]),
        ([b"a", b"b"], [b"ab"]),
        ([b"a", b""], [b"a"]),
        ([b"a", b"b", b"c"], [b"ab", b"c"]),
        ([b"a", b"b", b"c", b"d"], [b"ab", b"cd"]),
    ],
)
def test_two_writes_of_one_turn_are_one(writes: list[bytes], sent: list[bytes]) -> None:
    def act(transport: JoinedWrites) -> None:
        for data in writes:
            transport.write(data)

    assert sent_by(act) == sent


def test_second_write_is_not_held() -> None:
    async def run() -> list[bytes]:
        recorder = Recorder()
        transport = JoinedWrites(recorder, asyncio.get_running_loop())
        transport.write(b"head")
        assert recorder.sent == []
        transport.write(b"body")
        return recorder.sent

    assert asyncio.run(run()) == [b"headbody"]


def test_first_write_waits_for_one_turn_only() -> None:
    async def run() -> list[bytes]:
        recorder = Recorder()
        transport = JoinedWrites(recorder, asyncio.get_running_loop())
        transport.write(b"head")
        await asyncio.sleep(0)
        assert recorder.sent == [b"head"]
        transport.write(b"body")
        await asyncio.sleep(0)
        return recorder.sent

    assert asyncio.run(run()) == [b"head", b"body"]


def test_closing_sends_what_is_held_first() -> None:
    def act(transport: JoinedWrites) -> None:
        transport.write(b"head")
        transport.close()
        assert transport.is_closing()

    assert sent_by(act) == [b"head"]


def test_what_is_held_is_dropped_where_the_connection_is_gone() -> None:
    async def run() -> list[bytes]:
        recorder = Recorder()
        transport = JoinedWrites(recorder, asyncio.get_running_loop())
        transport.write(b"head")
        recorder.close()  # the client hung up: the recorder refuses writes from here on
        await asyncio.sleep(0)
        return recorder.sent

    assert asyncio.run(run()) == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reply_of_the_protocol_is_one_write(method: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    async def run() -> list[bytes]:
        config = Config(app, http=JoiningProtocol, log_config=None, server_header=False, date_header=False)
        config.load()
        protocol = JoiningProtocol(config, ServerState(), {})
        recorder = Recorder()
        protocol.connection_made(recorder)
        protocol.data_received(f"{method} / HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await asyncio.gather(*protocol.tasks)
        protocol.connection_lost(None)
        return recorder.sent

    body = b"" if method == "HEAD" else b"ok"
    assert asyncio.run(run()) == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" + body]
