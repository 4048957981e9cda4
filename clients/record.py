"""What a client sent on its happy path, as a file that tests replay where no client is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cases import Case
from proxy import Exchange

BODIES = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "client_bodies"
KEPT_HEADERS = ("accept", "accept-encoding", "api-key", "authorization", "content-type")
"""What a server may act on; names and versions of the client's libraries are left out."""


def request_json(exchange: Exchange) -> dict[str, Any]:
    """One request as plain data."""
    headers = {name: exchange.request_headers[name] for name in KEPT_HEADERS if name in exchange.request_headers}
    body = json.loads(exchange.request_body) if exchange.request_body else None
    return {"method": exchange.method, "path": exchange.path, "headers": headers, "body": body}


def write(case: Case, versions: dict[str, str], exchanges: list[Exchange]) -> Path:
    """tests/fixtures/client_bodies/<slug>.json."""
    document = {
        "case": case.name,
        "recorded_from": " ".join(f"{name} {version}" for name, version in versions.items()),
        "kind": case.kind,
        "dialect": case.dialect,
        "too_long": case.too_long,
        "reads": list(case.reads),
        "requests": [request_json(exchange) for exchange in exchanges],
    }
    BODIES.mkdir(parents=True, exist_ok=True)
    path = BODIES / f"{case.slug}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
