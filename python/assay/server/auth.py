"""API keys: every route needs one but the health checks, however the client sends it."""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import TYPE_CHECKING, Final

from assay.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset(("/health", "/ping", "/ready"))
_BODY: Final = b'{"error":"Unauthorized"}'


class KeyRing:
    """Keys as digests: those given at the start, and those of a file that may be read again."""

    def __init__(self, keys: Sequence[str] = (), file: Path | None = None) -> None:
        self._given = [_digest(key.encode()) for key in keys if key]
        self._file = file
        self._from_file: list[bytes] = []
        if file is not None:
            self._from_file = self._read(file)

    @property
    def is_set(self) -> bool:
        """Whether a key is needed at all; a key file that has become empty locks everyone out."""
        return bool(self._given) or self._file is not None

    def reload(self) -> None:
        """Read the key file again; one that cannot be read leaves the keys as they are."""
        if self._file is None:
            return
        try:
            self._from_file = self._read(self._file)
        except ConfigError as err:
            logger.error("the API keys stay as they are: %s", err)
        else:
            logger.info("read %d API keys from the key file", len(self._from_file))

    @staticmethod
    def _read(file: Path) -> list[bytes]:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"api_key_file {file} cannot be read: {err}") from err
        keys = [line.strip() for line in lines]
        return [_digest(key.encode()) for key in keys if key and not key.startswith("#")]

    def accepts(self, key: bytes) -> bool:
        """Whether `key` is one of ours, in a time that tells nothing of how much of it is right."""
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in (*self._given, *self._from_file)]
        return any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class AuthMiddleware:
    """Answers 401 to a request without a key; a real CORS preflight carries none and passes."""

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: Sequence[str] = ()) -> None:
        self._app = app
        self._keys = keys
        self._open = OPEN_PATHS | frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _BODY})

    def _is_allowed(self, scope: Scope) -> bool:
        if route_path(scope) in self._open or not self._keys.is_set:
            return True
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if scope["method"] == "OPTIONS" and _is_preflight(headers):
            return True
        return any(self._keys.accepts(key) for key in _keys_sent(headers))


def route_path(scope: Scope) -> str:
    """The path below the root path, as routes see it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :] or "/"
    return path


def _is_preflight(headers: list[tuple[bytes, bytes]]) -> bool:
    names = {name for name, _ in headers}
    return b"origin" in names and b"access-control-request-method" in names


def _keys_sent(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """`Authorization: Bearer K` (the scheme in any case), `Authorization: K` and `Api-Key: K`."""
    keys = []
    for name, value in headers:
        if name == b"api-key":
            keys.append(value.strip())
        elif name == b"authorization":
            scheme, _, rest = value.strip().partition(b" ")
            keys.append(rest.strip() if scheme.lower() == b"bearer" and rest else value.strip())
    return keys
