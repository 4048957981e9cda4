"""One write for a reply: uvicorn hands its head and its body to the transport one by one."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoinedWrites:
    """A transport that sends two writes of one turn of the loop as one.

    A client on this machine that is woken by a head takes the core from the loop, finds no body and sleeps again; the
    kernel may then prefer a thread that computes to the loop, until the next tick of its clock. One write is also one
    system call and one packet.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None

    def write(self, data: bytes) -> None:
        """Hold a first write until the second comes, at the latest until the loop's next turn."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
            return
        held, self._held = self._held, None
        self._transport.writelines((held, data) if data else (held,))

    def close(self) -> None:
        """Send what is held, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None and not self._transport.is_closing():
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's protocol on such a transport."""

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        # It is a transport by what it forwards, not by its class: asyncio's would hide what it has to forward.
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
