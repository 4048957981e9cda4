"""Timing: the fastest setting of each contender is chosen once, then all contenders take turns, round after round."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field, replace

from contender import Clock, Contender, FloatArray
from machine import ForeignLoad
from reference import kendall_tau, max_abs_error
from workload import Workload

# Thread pools keep spinning for a moment after a call; let the last contender's come to rest.
SETTLE_S = 0.1
# A sample is clean while other processes use at most this many cores.
CLEAN_CORES = 0.2
QUIET_PROBE_S = 0.5
MIN_CLEAN_ROUNDS = 3
TUNING_CALLS = 2
HOPELESS_RATIO = 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One call; foreign_cores is what other processes used of the machine during its round's turn."""

    round_idx: int
    seconds: float
    tokenize_s: float | None
    foreign_cores: float


@dataclass(slots=True)
class Measurement:
    """All that was seen of one contender on one workload."""

    contender: str
    workload: str
    settings: str
    max_abs_error: float
    kendall_tau: float | None
    tuning_s: dict[str, float]
    samples: list[Sample] = field(default_factory=list)

    @property
    def num_clean_rounds(self) -> int:
        """Rounds in which other processes stayed below CLEAN_CORES."""
        return len({sample.round_idx for sample in self.clean_samples})

    @property
    def clean_samples(self) -> list[Sample]:
        """The samples that nobody disturbed: chosen by foreign load, never by time."""
        return [sample for sample in self.samples if sample.foreign_cores <= CLEAN_CORES]

    @property
    def is_clean(self) -> bool:
        """Whether enough undisturbed rounds exist to report only those."""
        return self.num_clean_rounds >= MIN_CLEAN_ROUNDS

    @property
    def reported(self) -> list[Sample]:
        """The samples behind the printed numbers: the clean ones, or all where too few are clean."""
        return self.clean_samples if self.is_clean else self.samples

    @property
    def seconds(self) -> list[float]:
        """Seconds per call of the reported samples."""
        return [sample.seconds for sample in self.reported]

    @property
    def median_s(self) -> float:
        """Median seconds per call."""
        return statistics.median(self.seconds)

    def shown_range(self, num_documents: int) -> tuple[float, float]:
        """Smallest and largest reported value in the unit of shown()."""
        ends = sorted(shown(seconds, num_documents) for seconds in (min(self.seconds), max(self.seconds)))
        return ends[0], ends[1]

    @property
    def median_without_tokenization_s(self) -> float | None:
        """Median seconds per call less its tokenization, where the contender can tell them apart."""
        rest = [s.seconds - s.tokenize_s for s in self.reported if s.tokenize_s is not None]
        return statistics.median(rest) if rest else None


def shown(seconds: float, num_documents: int) -> float:
    """The number people read: documents per second of a batch, milliseconds of a single pair."""
    return num_documents / seconds if num_documents > 1 else 1e3 * seconds


def timed(contender: Contender, workload: Workload, clock: Clock) -> tuple[float, FloatArray]:
    """Seconds and logits of one call."""
    start = clock()
    logits = contender.score(workload.query, workload.documents)
    return clock() - start, logits


@dataclass(frozen=True, slots=True)
class Choice:
    """The setting that enters, its logits, and the seconds of every setting tried."""

    contender: Contender
    logits: FloatArray
    tuning_s: dict[str, float]


def wait_for_quiet(patience_s: float) -> None:
    """Wait until other processes leave the machine alone, at most patience_s."""
    deadline = time.perf_counter() + patience_s
    while True:
        time.sleep(SETTLE_S)
        with ForeignLoad() as load:
            time.sleep(QUIET_PROBE_S if patience_s > 0 else 0)
        if load.cores <= CLEAN_CORES or time.perf_counter() >= deadline:
            return


def pick_fastest(candidates: list[Contender], workload: Workload, clock: Clock, patience_s: float) -> Choice:
    """The candidate with the shortest call after its first; one alone or hopeless after its first gets no more."""
    times: dict[str, float] = {}
    logits: dict[str, FloatArray] = {}
    for candidate in candidates:
        first_s, logits[candidate.settings] = timed(candidate, workload, clock)
        calls_s = [first_s]
        if len(candidates) > 1 and not (times and first_s > HOPELESS_RATIO * min(times.values())):
            wait_for_quiet(patience_s)
            calls_s = [timed(candidate, workload, clock)[0] for _ in range(TUNING_CALLS)]
        times[candidate.settings] = min(calls_s)
    best = min(candidates, key=lambda candidate: times[candidate.settings])
    return Choice(best, logits[best.settings], times)


@dataclass(frozen=True, slots=True)
class Entrant:
    """A chosen contender, what it runs, how often per round, and where its samples go."""

    contender: Contender
    workload: Workload
    calls_per_round: int
    clock: Clock
    measurement: Measurement


def enter(
    name: str,
    candidates: list[Contender],
    workload: Workload,
    reference: FloatArray,
    calls_per_round: int,
    clock: Clock,
    patience_s: float,
) -> Entrant:
    """Tune on the workload (which also warms up); errors are those of the documents that reference has, the first."""
    whole = workload
    if len(candidates) == 1:  # nothing to choose: the documents with a reference warm it up
        workload = replace(workload, documents=workload.documents[: len(reference)])
    choice = pick_fastest(candidates, workload, clock, patience_s)
    compared = choice.logits[: len(reference)]
    error, tau = max_abs_error(compared, reference), kendall_tau(compared, reference)
    measurement = Measurement(name, workload.name, choice.contender.settings, error, tau, choice.tuning_s)
    return Entrant(choice.contender, whole, calls_per_round, clock, measurement)


def run_round(entrants: list[Entrant], round_idx: int, patience_s: float) -> None:
    """Everybody once, starting one place further each round; the first call of several is not counted."""
    shift = round_idx % len(entrants)
    for entrant in entrants[shift:] + entrants[:shift]:
        wait_for_quiet(patience_s)
        if entrant.calls_per_round > 1:
            timed(entrant.contender, entrant.workload, entrant.clock)
        calls: list[tuple[float, float | None]] = []
        with ForeignLoad() as load:
            for _ in range(entrant.calls_per_round):
                seconds, _ = timed(entrant.contender, entrant.workload, entrant.clock)
                calls.append((seconds, entrant.contender.tokenize_s))
        cores = round(load.cores, 3)
        entrant.measurement.samples += [Sample(round_idx, seconds, part, cores) for seconds, part in calls]


def run_rounds(entrants: list[Entrant], num_rounds: int, max_rounds: int, patience_s: float) -> int:
    """Rounds until everybody has num_rounds clean ones, at most max_rounds; returns how many were run."""
    for round_idx in range(max_rounds):
        start = time.perf_counter()
        run_round(entrants, round_idx, patience_s)
        clean = min(entrant.measurement.num_clean_rounds for entrant in entrants)
        print(f"round {round_idx + 1}: {time.perf_counter() - start:.0f} s, clean so far {clean}", flush=True)
        if round_idx + 1 >= num_rounds and clean >= num_rounds:
            break
    return round_idx + 1
