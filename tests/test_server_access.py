"""API keys, CORS, root path, request ids: who gets in, and what every reply carries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llms
from assay.errors import ConfigError
from assay.server.auth import KeyRing
from assay.server.settings import Access, Listen, ServerSettings
from served import Client, serving, shared_client

BODY = {"input": "x"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# ours\nfrom-file\n\n")
    access = Access(
        api_keys=("first", "second"),
        api_key_file=file,
        open_paths=("/version",),
        allowed_origins=("https://app.example",),
        allowed_headers=("Authorization", "Content-Type"),
    )
    with serving(llms.shared(), ServerSettings(access=access)) as client:
        yield client, file


def routes(client: Client) -> list[tuple[str, str]]:
    """Every route with a method it takes, the documentation included."""
    found = []
    for route in client.app.routes:
        found += [(method, route.path) for method in sorted(route.methods - {"HEAD", "OPTIONS"})]
    return found


def test_every_route_needs_a_key_but_health(guarded: tuple[Client, Path]) -> None:
    client, _ = guarded
    listed = routes(client)
    assert {"/classify", "/score", "/rerank", "/pooling", "/tokenize", "/invocations", "/metrics", "/docs"} <= {
        path for _, path in listed
    }
    open_paths = {"/health", "/ping", "/ready", "/version"}
    for method, path in [*listed, ("GET", "/nowhere"), ("POST", "/classify/"), ("POST", "/v1//classify")]:
        response = client.run(client.http.request(method, path, json={}))
        if path in open_paths:
            assert response.status_code == 200, path
        else:
            assert (response.status_code, response.json()) == (401, {"error": "Unauthorized"}), path


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first"},
        {"Authorization": "bearer second"},
        {"Authorization": "second"},
        {"Api-Key": "first"},
        {"Authorization": "Bearer from-file"},
        {"Authorization": "Bearer wrong", "Api-Key": "first"},
    ],
)
def test_keys_are_taken_however_they_are_sent(guarded: tuple[Client, Path], headers: dict[str, str]) -> None:
    guarded[0].ok("/classify", BODY, headers=headers)


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer firs", "Bearer first ,", "Basic first", "# ours"])
def test_other_keys_are_refused(guarded: tuple[Client, Path], value: str) -> None:
    assert guarded[0].post("/classify", BODY, headers={"Authorization": value}).status_code == 401


def test_key_file_is_read_again(guarded: tuple[Client, Path]) -> None:
    client, file = guarded
    file.write_text("rotated\n")
    assert client.post("/classify", BODY, headers={"Api-Key": "rotated"}).status_code == 401
    client.state.keys.reload()
    client.ok("/classify", BODY, headers={"Api-Key": "rotated"})
    client.ok("/classify", BODY, headers={"Api-Key": "first"})
    assert client.post("/classify", BODY, headers={"Api-Key": "from-file"}).status_code == 401
    file.unlink()
    client.state.keys.reload()  # the keys stay as they are
    client.ok("/classify", BODY, headers={"Api-Key": "rotated"})


def test_missing_key_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="api_key_file"):
        KeyRing(file=tmp_path / "nowhere")


def test_empty_key_file_locks_everyone_out(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    ring = KeyRing(file=tmp_path / "keys")
    assert ring.is_set and not ring.accepts(b"")


def test_cors_preflight_passes_without_a_key(guarded: tuple[Client, Path]) -> None:
    client, _ = guarded
    preflight = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    response = client.run(client.http.options("/classify", headers=preflight))
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in response.headers["access-control-allow-headers"].lower()
    assert client.run(client.http.options("/classify")).status_code == 401  # no preflight
    denied = client.post("/classify", BODY, headers={"Origin": "https://app.example"})
    assert denied.status_code == 401 and denied.headers["access-control-allow-origin"] == "https://app.example"
    foreign = client.run(client.http.options("/classify", headers={**preflight, "Origin": "https://evil.example"}))
    assert "access-control-allow-origin" not in foreign.headers


def test_root_path_is_not_part_of_what_is_guarded() -> None:
    import httpx

    settings = ServerSettings(access=Access(api_keys=("k",)), listen=Listen(root_path="/prefix"))
    with serving(llms.shared(), settings) as client:
        transport = httpx.ASGITransport(client.app, root_path="/prefix")
        http = httpx.AsyncClient(transport=transport, base_url="http://test")
        for path, status in (("/prefix/health", 200), ("/prefix/classify", 401), ("/classify", 401)):
            request: Any = http.get(path) if path.endswith("health") else http.post(path, json=BODY)
            assert client.run(request).status_code == status
        keyed = http.post("/prefix/classify", json=BODY, headers={"api-key": "k"})
        assert client.run(keyed).status_code == 200


class Stamping:
    """An ASGI middleware as `--middleware` takes them."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def stamped(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-stamp", b"class")]
            await send(message)

        await self.app(scope, receive, stamped)


async def marking(request: Any, call_next: Any) -> Any:
    """A function as `--middleware` takes them."""
    response = await call_next(request)
    response.headers["x-function"] = "yes"
    return response


def test_middleware_of_the_users_own() -> None:
    settings = ServerSettings(middleware=(f"{__name__}.Stamping", f"{__name__}.marking"))
    with serving(llms.shared(), settings) as client:
        response = client.post("/classify", BODY)
        assert (response.status_code, response.headers["x-stamp"], response.headers["x-function"]) == (
            200,
            "class",
            "yes",
        )
    for path in ("nowhere.at_all", f"{__name__}.missing", "nodot"):
        with (
            pytest.raises(ConfigError, match="cannot be imported"),
            serving(llms.shared(), ServerSettings(middleware=(path,))),
        ):
            pass


def test_without_keys_everything_is_open() -> None:
    shared_client().ok("/classify", BODY, headers={"Authorization": "Bearer whatever"})


def test_request_ids_are_echoed_and_part_of_the_reply() -> None:
    client = shared_client()
    response = client.post("/classify", {**BODY, "request_id": "body"}, headers={"X-Request-Id": "from-header"})
    assert response.json()["id"] == "classify-from-header"
    assert response.headers["x-request-id"] == "from-header"
    from_body = client.post("/classify", {**BODY, "request_id": "body"})
    assert from_body.json()["id"] == "classify-body" and "x-request-id" not in from_body.headers
    with serving(llms.shared(), ServerSettings(request_id_headers=True)) as always:
        ids = [always.get("/health").headers["x-request-id"] for _ in range(2)]
        assert all(len(value) == 32 for value in ids) and ids[0] != ids[1]
