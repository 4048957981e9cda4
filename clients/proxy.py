"""A proxy on loopback that passes calls on to the server and keeps what went by: clients watched from outside."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}
TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its reply; header names are lower case."""

    method: str
    path: str
    request_headers: dict[str, str]
    request_body: bytes
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Log:
    """The exchanges since it was last taken."""

    _exchanges: list[Exchange] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, exchange: Exchange) -> None:
        """Append one."""
        with self._lock:
            self._exchanges.append(exchange)

    def take(self) -> list[Exchange]:
        """All of them, in the order of their ends; the log is empty afterwards."""
        with self._lock:
            taken, self._exchanges = self._exchanges, []
        return taken


class Proxy:
    """Serves on a free loopback port until it is left."""

    def __init__(self, upstream_port: int) -> None:
        self.log = Log()
        handler = type("Handler", (_Handler,), {"upstream_port": upstream_port, "log": self.log})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where clients are pointed."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream_port: int
    log: Log

    def do(self) -> None:
        """Pass one request on, whatever its method."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream_port, timeout=TIMEOUT_S)
        try:
            passed = {name: value for name, value in headers.items() if name not in HOP_BY_HOP}
            upstream.request(self.command, self.path, body=body or None, headers=passed)
            reply = upstream.getresponse()
            content = reply.read()
        finally:
            upstream.close()
        reply_headers = {name.lower(): value for name, value in reply.getheaders()}
        self.log.add(Exchange(self.command, self.path, headers, body, reply.status, reply_headers, content))
        self.send_response(reply.status)
        for name, value in reply_headers.items():
            if name not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_OPTIONS = do

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the log is what counts."""
