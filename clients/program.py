"""A client program at work in its own environment, spoken to in JSON lines."""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path
from typing import IO, Any

PROGRAMS = Path(__file__).resolve().parent / "programs"
START_TIMEOUT_S, CALL_TIMEOUT_S = 180.0, 120.0
ENVIRONMENT = {
    # Nothing may leave this machine: no usage reports, no hub.
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1",
    "PYTHONWARNINGS": "ignore",
}


class ProgramError(Exception):
    """The program did not start, or said nothing in time."""


class Program:
    """One process for all calls of a client; a context manager."""

    def __init__(self, python: Path, name: str, log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process: subprocess.Popen[str] = subprocess.Popen(
                [str(python), str(PROGRAMS / f"{name}.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | ENVIRONMENT,
                text=True,
            )
        try:
            self.versions: dict[str, str] = self._read(START_TIMEOUT_S)["versions"]
        except BaseException:
            self._process.kill()
            raise

    def ask(self, call: str, **fields: Any) -> dict[str, Any]:
        """The answer of the call: {"ok": ...} or {"error": ...}."""
        self.start(call, **fields)
        return self.finish()

    def start(self, call: str, **fields: Any) -> None:
        """Begin a call."""
        _pipe(self._process.stdin).write(json.dumps({"call": call, **fields}) + "\n")
        _pipe(self._process.stdin).flush()

    def finish(self) -> dict[str, Any]:
        """The answer of the call that was begun."""
        return self._read(CALL_TIMEOUT_S)

    def _read(self, timeout_s: float) -> dict[str, Any]:
        out = _pipe(self._process.stdout)
        line = out.readline() if select.select([out], [], [], timeout_s)[0] else None
        if not line:
            end = "ended" if line == "" else f"was silent for {timeout_s:.0f} s"
            tail = self._log.read_text(errors="replace").strip().splitlines()[-3:]
            raise ProgramError(f"the client program {end}: {' | '.join(tail)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ProgramError("the client program has no pipe")
    return stream
