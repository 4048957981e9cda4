"""Timing servers: one load after the other against whoever's turn it is, beside the library called directly."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from contender import FloatArray
from load_generator import Load, Times
from machine import ForeignLoad
from measure import CLEAN_CORES, wait_for_quiet
from ours import Assay
from server_contenders import ServerContender

GENERATOR = Path(__file__).resolve().parent / "load_generator.py"
GENERATOR_TIMEOUT_S = 1800
OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class ServerWorkload:
    """A query, the groups of documents that its requests carry, and how they are sent.

    concurrency clients in a closed loop, or rate_hz requests a second in an open one.
    """

    name: str
    title: str
    query: str
    groups: list[list[str]]
    num_requests: int
    concurrency: int = 1
    rate_hz: float = 0.0

    @property
    def is_about_latency(self) -> bool:
        """Whether people read milliseconds here, rather than pairs per second."""
        return self.concurrency == 1 or self.rate_hz > 0

    @property
    def documents(self) -> list[str]:
        """All of them, in order."""
        return [document for group in self.groups for document in group]


@dataclass(frozen=True, slots=True)
class ServerSample:
    """One load; foreign_cores: what processes other than server, generator and this one used meanwhile."""

    round_idx: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    pairs_per_s: float
    foreign_cores: float
    server_cpu_s: float
    generator_cpu_s: float


@dataclass(slots=True)
class ServerMeasurement:
    """All that was seen of one contender on one workload."""

    contender: str
    workload: str
    settings: str
    max_abs_error: float
    tuning: dict[str, float]
    samples: list[ServerSample] = field(default_factory=list)

    def median(self, name: str) -> float:
        """Median of a field over the rounds."""
        return statistics.median(getattr(sample, name) for sample in self.samples)

    @property
    def is_clean(self) -> bool:
        """Whether other processes left most rounds alone."""
        return self.median("foreign_cores") <= CLEAN_CORES

    def ends(self, name: str) -> tuple[float, float]:
        """Smallest and largest value of a field."""
        values = [getattr(sample, name) for sample in self.samples]
        return min(values), max(values)


def send(load: Load) -> Times:
    """Run the load generator in its own process; anything but 200 is an error."""
    result = subprocess.run(
        [sys.executable, str(GENERATOR)],
        input=json.dumps(dataclasses.asdict(load)),
        capture_output=True,
        text=True,
        timeout=GENERATOR_TIMEOUT_S,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"port {load.port}{load.path}: the load generator failed: {result.stderr[-2000:]}")
    times = Times(**json.loads(result.stdout))
    if set(times.statuses) != {"200"}:
        raise RuntimeError(f"port {load.port}{load.path}: statuses {times.statuses}")
    return times


def load_for(contender: ServerContender, workload: ServerWorkload, *, keep_replies: bool = False) -> Load:
    """The workload as this contender's requests."""
    return Load(
        port=contender.server.port,
        path=contender.path,
        bodies=[contender.rerank_body(workload.query, group) for group in workload.groups],
        num_requests=workload.num_requests,
        concurrency=workload.concurrency,
        rate_hz=workload.rate_hz,
        keep_replies=keep_replies,
    )


def logits_of(replies: list[Any], groups: list[list[str]]) -> FloatArray:
    """The scores of all documents, in order, from the replies to each group."""
    found = []
    for reply, group in zip(replies, groups, strict=True):
        scores = {result["index"]: result["relevance_score"] for result in reply["results"]}
        found += [scores[index] for index in range(len(group))]
    return np.array(found)


def percentiles_ms(seconds: list[float]) -> tuple[float, float, float]:
    """p50, p90 and p99 in milliseconds."""
    p50, p90, p99 = (1e3 * float(np.percentile(seconds, p)) for p in (50, 90, 99))
    return p50, p90, p99


def summarise(round_idx: int, latencies_s: list[float], num_pairs: int, wall_s: float, **cpu: float) -> ServerSample:
    """Percentiles and rate of one load."""
    return ServerSample(round_idx, *percentiles_ms(latencies_s), num_pairs / wall_s, **cpu)


def sample_server(
    contender: ServerContender, workload: ServerWorkload, round_idx: int, patience_s: float
) -> ServerSample:
    """One load against a server."""
    wait_for_quiet(patience_s)
    used = contender.server.cpu_s
    with ForeignLoad() as load:
        start = time.perf_counter()
        times = send(load_for(contender, workload))
        wall_s = time.perf_counter() - start
    server_cpu_s = contender.server.cpu_s - used
    # What the machine did, less this process (ForeignLoad leaves it out), the server and the generator.
    foreign = max(0.0, load.cores - (server_cpu_s + times.cpu_s) / wall_s)
    num_pairs = sum(len(workload.groups[i % len(workload.groups)]) for i in range(workload.num_requests))
    return summarise(
        round_idx,
        times.latencies_s,
        num_pairs,
        times.wall_s,
        foreign_cores=round(foreign, 3),
        server_cpu_s=server_cpu_s,
        generator_cpu_s=times.cpu_s,
    )


def sample_offline(library: Assay, workload: ServerWorkload, round_idx: int, patience_s: float) -> ServerSample:
    """The same work by calling the library: pair by pair where latency is the question, else in one call."""
    wait_for_quiet(patience_s)
    documents = workload.documents
    library.score(workload.query, documents[:1])
    calls = [documents] if not workload.is_about_latency else [documents] * workload.num_requests
    latencies = []
    cpu = time.process_time()
    with ForeignLoad() as load:
        start = time.perf_counter()
        for call in calls:
            begun = time.perf_counter()
            library.score(workload.query, call)
            latencies.append(time.perf_counter() - begun)
        wall_s = time.perf_counter() - start
    return summarise(
        round_idx,
        latencies,
        len(documents) * len(calls),
        wall_s,
        foreign_cores=round(load.cores, 3),
        server_cpu_s=time.process_time() - cpu,
        generator_cpu_s=0.0,
    )


def better(workload: ServerWorkload, sample: ServerSample) -> float:
    """What a setting is chosen by: less is better."""
    return sample.p50_ms if workload.is_about_latency else -sample.pairs_per_s
