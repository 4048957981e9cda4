"""A real server on a socket: start, serve, drain on SIGTERM, a second one, a dead engine's exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import llms
from assay.niceness import HAS_THREAD_NICENESS, LOWEST_PRIORITY, niceness
from assay.server import launch
from assay.server.app import create_app
from assay.server.loop import StoppableServer, uvicorn_config
from assay.server.served import ServedModel
from assay.server.settings import Listen, ModelSpec, ServerSettings
from test_server_operation import held, until

START_S = 120.0
Connect = Callable[[], httpx.Client]


def client_of(socket: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://test", timeout=60)


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Clients of the server on the socket `s`, once it is ready; closed when the test ends."""
    clients: list[httpx.Client] = []

    def ready() -> httpx.Client:
        socket = tmp_path / "s"
        until(socket.exists, START_S)
        clients.append(client_of(socket))
        until(lambda: clients[-1].get("/ready").status_code == 200)
        return clients[-1]

    yield ready
    for client in clients:
        client.close()


@contextmanager
def running(socket: Path, llm: Any, **settings: Any) -> Iterator[tuple[StoppableServer, threading.Thread]]:
    """uvicorn in a thread of this process, on a unix socket."""
    made = ServerSettings(listen=Listen(uds=str(socket)), **settings)
    app = create_app([ServedModel(llm, ["m"])], made)
    server = StoppableServer(uvicorn_config(app, made), app.state.server.lifecycle)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server, thread
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
        assert not thread.is_alive()


def post(client: httpx.Client, body: dict[str, Any]) -> tuple[threading.Thread, list[httpx.Response]]:
    """A request in a thread of its own, and where its response will be."""
    responses: list[httpx.Response] = []

    def run() -> None:
        try:
            responses.append(client.post("/classify", json=body))
        except httpx.TransportError:
            pass

    thread = threading.Thread(target=run)
    thread.start()
    return thread, responses


def assert_compute_gives_way(pid: int) -> None:
    """The main thread, which answers, has the niceness of this process; others are nicer."""
    if not HAS_THREAD_NICENESS:
        return
    own = niceness()
    values = {int(task): os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir(f"/proc/{pid}/task")}
    assert values.pop(pid) == own
    assert min(own + ServerSettings().compute_niceness, LOWEST_PRIORITY) in values.values()


@pytest.mark.slow
def test_process_serves_and_drains_on_sigterm(tmp_path: Path, connect: Connect) -> None:
    socket, log = tmp_path / "s", tmp_path / "log"
    command = [sys.executable, "-m", "assay.server", str(llms.folder()), "--uds", str(socket), "--log-format", "json"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--served_model_name", "tiny", "--drain-timeout-s", "60"], stderr=out, stdout=out
        )
        try:
            client = connect()
            assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
            assert_compute_gives_way(process.pid)
            secret = "nobody may read this in a log"
            expected = llms.shared().classify(secret, use_tqdm=False)[0].outputs.probs
            assert client.post("/classify", json={"input": secret}).json()["data"][0]["probs"] == expected
            thread, responses = post(client, {"input": [f"text number {index}" for index in range(5_000)]})
            until(lambda: b"in_flight 1.0" in client.get("/metrics").content)
            process.send_signal(signal.SIGTERM)
            thread.join(60)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    assert responses[0].status_code == 200 and len(responses[0].json()["data"]) == 5_000
    text = log.read_text()
    assert secret not in text and '"path": "/classify"' in text and '"message": "stopped"' in text


def test_draining_server_finishes_what_it_has(tmp_path: Path, connect: Connect) -> None:
    with llms.load() as llm, running(tmp_path / "s", llm) as (server, thread):
        client = connect()
        with held(llm):
            sender, responses = post(client, {"input": "x"})
            until(lambda: llm.session.engine.stats().num_jobs == 1)
            server.handle_exit(signal.SIGTERM, None)
            time.sleep(0.3)
            assert thread.is_alive() and not responses
        sender.join(30)
        thread.join(30)
        assert responses[0].status_code == 200 and not thread.is_alive()


def test_second_signal_ends_the_waiting(tmp_path: Path, connect: Connect) -> None:
    with llms.load() as llm, running(tmp_path / "s", llm, drain_timeout_s=600.0) as (server, thread):
        client = connect()
        with held(llm):
            sender, _ = post(client, {"input": "x"})
            until(lambda: llm.session.engine.stats().num_jobs == 1)
            server.handle_exit(signal.SIGTERM, None)
            time.sleep(0.2)
            assert thread.is_alive()
            server.handle_exit(signal.SIGTERM, None)
            thread.join(10)
            assert not thread.is_alive()
        sender.join(30)


def test_a_client_that_hangs_up_stops_its_work(tmp_path: Path, connect: Connect) -> None:
    with llms.load(max_batch_size=2) as llm, running(tmp_path / "s", llm):
        client = connect()
        with held(llm):
            impatient = client_of(tmp_path / "s")
            with pytest.raises(httpx.ReadTimeout):
                impatient.post("/classify", json={"input": ["x y z"] * 500}, timeout=0.2)
            impatient.close()
            until(lambda: llm.session.engine.stats().num_jobs == 0)
        assert client.post("/classify", json={"input": "x"}).status_code == 200


def test_a_dead_engine_ends_the_process_with_a_failure(
    tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[ServedModel] = []
    load = launch.load_models

    def remembered(*args: Any) -> list[ServedModel]:
        loaded.extend(load(*args))
        return loaded

    monkeypatch.setattr(launch, "load_models", remembered)
    monkeypatch.setattr("assay.server.logs.set_up_logs", lambda *_: None)
    monkeypatch.setattr("sys.setswitchinterval", lambda _: None)
    settings = ServerSettings(
        models=(ModelSpec(names=("m",), source=os.fspath(llms.folder())),), listen=Listen(uds=str(tmp_path / "s"))
    )
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(launch.serve(settings)))
    thread.start()
    connect()
    loaded[0].engine._parts.worker.die(SystemError("the thread broke"))
    thread.join(30)
    assert statuses == [launch.FAILED]
