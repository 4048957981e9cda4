"""Capture and replay with stand-ins for torch's streams and graphs: what is captured, and what a replay reads."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from assay.device import Device
from assay.models.cuda_pass import CudaPass
from assay.models.forward_pass import PassInputs
from assay.models.graph_ladder import GraphBudget, Rung
from assay.models.staging import Limits, Staging
from cuda_inputs import DEVICE, inputs

LADDER = (Rung(16, 4), Rung(32, 8), Rung(64, 16))


class FakeGraph:
    """Keeps the work that is launched between begin and end, and does it at each replay."""

    capturing: FakeGraph | None = None

    def __init__(self) -> None:
        self.work: list[Any] = []
        self.pool: object = None
        self.num_replays = 0

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert FakeGraph.capturing is None and capture_error_mode == "thread_local"
        FakeGraph.capturing, self.pool = self, pool

    def capture_end(self) -> None:
        assert FakeGraph.capturing is self
        FakeGraph.capturing = None

    def replay(self) -> None:
        self.num_replays += 1
        for work in self.work:
            work()


class FakeCuda:
    """Counts free memory and waits; a graph costs `graph_bytes`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, graph_bytes: int) -> None:
        self.graphs: list[FakeGraph] = []
        self.graph_bytes = graph_bytes
        self.num_waits = 0
        event = SimpleNamespace(record=lambda: None, synchronize=self.wait)
        for name, value in {
            "device": lambda index: nullcontext(),
            "stream": lambda stream: nullcontext(),
            "Stream": lambda index: object(),
            "synchronize": lambda index=None: None,
            "graph_pool_handle": object,
            "mem_get_info": lambda: (10**9 - self.graph_bytes * len(self.graphs), 10**9),
            "CUDAGraph": self.new_graph,
            "Event": lambda: event,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **kwargs: empty(*size, **kwargs))

    def new_graph(self) -> FakeGraph:
        self.graphs.append(FakeGraph())
        return self.graphs[-1]

    def wait(self) -> None:
        self.num_waits += 1


def forward(staged: PassInputs) -> torch.Tensor:
    """The last token of every sequence, as kernels would: launched now, or when a graph is replayed."""
    assert staged.rows is not None
    rows, ids = staged.rows, staged.batch.input_ids
    out = torch.full((len(rows), 1), torch.nan)

    def launch() -> None:
        out[:, 0] = ids[rows.long()].float()

    if FakeGraph.capturing is None:
        launch()
    else:
        FakeGraph.capturing.work.append(launch)
    return out


def example(rung: Rung) -> PassInputs:
    return inputs([rung.num_tokens // 2, rung.num_tokens // 2])


def captured_pass(budget: GraphBudget) -> CudaPass:
    staging = Staging(Limits(LADDER[-1], 64, 100, 2), DEVICE, is_per_token=False)
    runner = CudaPass(forward, staging, Device("cuda", kernels=DEVICE.kernels), LADDER)
    runner.capture(example, budget)
    return runner


def test_every_rung_is_captured_once_and_replayed_on_what_is_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, graph_bytes=10)
    budget = GraphBudget(1000)
    runner = captured_pass(budget)
    assert runner.num_graphs == len(cuda.graphs) == len(LADDER)
    assert len({id(graph.pool) for graph in cuda.graphs}) == 1, "all graphs share one pool"
    assert budget.used_bytes == 30
    for lengths, place in (([3, 1, 4], 0), ([5] * 5, 1), ([2], 0), ([16] * 4, 2), ([7, 7], 0)):
        before = [graph.num_replays for graph in cuda.graphs]
        assert runner(inputs(lengths)).flatten().tolist() == lengths
        replays = [graph.num_replays - count for graph, count in zip(cuda.graphs, before, strict=True)]
        assert replays == [int(index == place) for index in range(len(LADDER))]
    assert cuda.num_waits == 5, "one wait a batch"
    assert len(cuda.graphs) == len(LADDER), "no shape is captured later"


def test_rungs_beyond_the_budget_are_launched_at_their_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, graph_bytes=400)
    budget = GraphBudget(1000)
    runner = captured_pass(budget)
    assert (runner.num_graphs, runner.top_rung, budget.used_bytes) == (2, LADDER[1], 800)
    assert runner(inputs([16] * 4)).flatten().tolist() == [16] * 4
    assert [graph.num_replays for graph in cuda.graphs] == [0, 0]


def test_what_voids_a_capture_is_what_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, graph_bytes=10)

    def failing(staged: PassInputs) -> torch.Tensor:
        if FakeGraph.capturing is not None:
            raise ValueError("hidden_states must be float32")
        return forward(staged)

    staging = Staging(Limits(LADDER[-1], 64, 100, 2), DEVICE, is_per_token=False)
    runner = CudaPass(failing, staging, Device("cuda", kernels=DEVICE.kernels), LADDER)
    with pytest.raises(ValueError, match="hidden_states must be float32"):
        runner.capture(example, GraphBudget(1000))
    assert FakeGraph.capturing is None
