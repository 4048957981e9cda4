"""A server in a process of its own on loopback: started, waited for, weighed and stopped."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

READY_TIMEOUT_S = 300.0
POLL_S = 0.1
STOP_TIMEOUT_S = 30.0
LOG_TAIL_LINES = 20


class StartError(Exception):
    """The server did not come up; the message ends with the last lines it wrote."""


def exit_on_sigterm() -> None:
    """Leave by way of the `finally` blocks when asked to end, so that no server is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def assay_command(model: str | Path, port: int, *flags: str) -> list[str]:
    """The command line of our own server."""
    return [sys.executable, "-m", "assay.server", str(model), "--host", "127.0.0.1", "--port", str(port), *flags]


class LiveServer:
    """A running server; a context manager. What it prints goes to the file `log`."""

    def __init__(
        self, command: list[str], port: int, log: Path, *, ready: str = "/ready", env: dict[str, str] | None = None
    ) -> None:
        self.port, self.log = port, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | (env or {})
            )
        try:
            self._wait(ready)
        except BaseException:
            self.stop()
            raise

    def _wait(self, path: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self.status(path) != 200:
            if not self.is_running:
                raise StartError(f"exit status {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"not ready after {READY_TIMEOUT_S:.0f} s:\n{self.log_tail()}")
            time.sleep(POLL_S)

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return self._memory_bytes("VmRSS:")

    @property
    def peak_rss_bytes(self) -> int:
        """The most it has ever had."""
        return self._memory_bytes("VmHWM:")

    def _memory_bytes(self, name: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        raise StartError(f"process {self.process.pid} has no memory any more")

    @property
    def cpu_s(self) -> float:
        """CPU seconds the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def get(self, path: str, timeout_s: float = 10.0) -> tuple[int, bytes]:
        """Status and body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def status(self, path: str) -> int | None:
        """Status of a GET, None while nobody answers."""
        try:
            return self.get(path)[0]
        except OSError:
            return None

    def log_tail(self) -> str:
        """The last lines the process wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def stop(self) -> int:
        """Ask it to end, insist after STOP_TIMEOUT_S; its exit status."""
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
