"""The virtual environments the clients live in: groups of packages that can be installed side by side."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
INSTALL_TIMEOUT_S = 1800

PACKAGES: dict[str, tuple[str, ...]] = {
    "direct": ("cohere", "openai", "tei-client"),
    "openai-1": ("openai<2",),
    "infinity": ("infinity-client",),
    "voyage": ("voyageai",),
    "haystack": ("haystack-ai", "vllm-haystack", "jina-haystack", "cohere-haystack"),
    "chains": (
        "langchain-cohere",
        "llama-index-core",
        "llama-index-postprocessor-tei-rerank",
        "llama-index-postprocessor-cohere-rerank",
    ),
    "schemathesis": ("schemathesis",),
}
"""Environment to packages, the newest release of each; openai is called in its first generation, too."""


class InstallError(Exception):
    """The packages of an environment could not be installed; the message is the end of pip's output."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One virtual environment under build/."""

    name: str

    @property
    def packages(self) -> tuple[str, ...]:
        """What is installed into it."""
        return PACKAGES[self.name]

    @property
    def folder(self) -> Path:
        """build/clients-venv-<name>."""
        return BUILD / f"clients-venv-{self.name}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def _stamp(self) -> Path:
        digest = hashlib.sha256("\n".join(self.packages).encode()).hexdigest()[:12]
        return self.folder / f".installed-{digest}"

    def prepare(self, *, upgrade: bool = False) -> None:
        """Create it and install its packages, once; raises InstallError."""
        if self._stamp.exists() and not upgrade:
            return
        print(f"installing {', '.join(self.packages)}", flush=True)
        _run([sys.executable, "-m", "venv", str(self.folder)])
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        _run([*pip, *(["--upgrade"] if upgrade else []), *self.packages])
        self._stamp.touch()


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as err:
        raise InstallError(f"took more than {INSTALL_TIMEOUT_S} s") from err
    if result.returncode:
        lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        raise InstallError("\n".join(lines[-3:]) or f"exit status {result.returncode}")
