"""Reading a request's body: its type, its size, its JSON."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.requests import ClientDisconnect

from assay.server.errors import ClientGone, Failure, Refused, schema_failure

if TYPE_CHECKING:
    from starlette.requests import Request

LARGE_BODY: Final = 128 * 1024
"""Bodies from here on are parsed in a thread: the event loop answers /health meanwhile."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; Refused for another media type than JSON (400) or one that is too large (413)."""
    media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if media_type != "application/json":
        entry = {
            "type": "value_error",
            "loc": ("header", "content-type"),
            "msg": "Unsupported Media Type: Only 'application/json' is allowed",
            "input": media_type,
        }
        raise Refused(schema_failure([entry]))
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
    except ClientDisconnect:
        raise ClientGone from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(max_bytes: int) -> Refused:
    message = f"The request body is larger than {max_bytes} bytes, the limit of this server."
    return Refused(Failure(413, "RequestTooLargeError", message))


async def parse_json(raw: bytes) -> Any:
    """The value of a JSON body; Refused with a 400 for anything else, NaN and lone surrogates included."""
    try:
        return await decoded(raw)
    except orjson.JSONDecodeError as err:
        entry = {
            "type": "json_invalid",
            "loc": ("body", err.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": err.msg},
        }
        raise Refused(schema_failure([entry])) from None


async def decoded(raw: bytes) -> Any:
    """The value of a JSON body; raises orjson.JSONDecodeError."""
    if len(raw) < LARGE_BODY:
        return orjson.loads(raw)
    return await asyncio.to_thread(orjson.loads, raw)
