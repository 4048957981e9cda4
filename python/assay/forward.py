"""One model call: a batch of requests in, a tensor or an error for each out."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from assay.batch import RaggedBatch, Sequence, pack
from assay.errors import AssayError, BatchMemoryError, DeviceFaultError, NonFiniteError, without_traceback

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Outcome: TypeAlias = "Tensor | Exception"

_OUT_OF_MEMORY: Final = ("can't allocate memory", "not enough memory", "out of memory")
"""How torch says it: its allocators raise RuntimeError."""
FEW_NUMBERS: Final = 64
"""Up to so many are looked at one by one, in less time than torch takes to begin."""


class Runnable(Protocol):
    """The part of a model the compute thread needs."""

    @property
    def position_offset(self) -> int:
        """What `pack` adds to every position."""
        ...

    @property
    def number(self) -> int:
        """Of this model alone in this process."""
        ...

    def run(
        self, batch: RaggedBatch, use_activation: list[bool], dimensions: list[int | None] | None = None
    ) -> list[Tensor]:
        """One float32 CPU tensor per sequence."""
        ...


class Sink(Protocol):
    """Who gets the outcomes; every method may be called from the compute thread."""

    def is_wanted(self) -> bool:
        """Whether a request that a batch has just taken shall run."""
        ...

    def deliver(self, requests: list[Request], outcomes: list[Outcome], compute_s: float) -> None:
        """The outcomes of this sink's requests in one batch, which took `compute_s` seconds."""
        ...

    def fail(self, error: Exception) -> None:
        """No outcome will come any more."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """One sequence on its way through the model; `index` is its place among the sink's.

    model: an adapted one, to run instead of the engine's.
    """

    sequence: Sequence
    use_activation: bool
    dimensions: int | None
    sink: Sink
    index: int = 0
    model: Runnable | None = None

    def key(self) -> Hashable:
        """Equal for requests that have the same result: bit for bit, whatever batch they run in."""
        ids, types = self.sequence.input_ids, self.sequence.token_type_ids
        number = 0 if self.model is None else self.model.number
        images = tuple(placed.image.digest for placed in self.sequence.images)
        return array("i", ids).tobytes(), types and bytes(types), images, self.use_activation, self.dimensions, number


def run_batch(model: Runnable, requests: list[Request]) -> list[Outcome]:
    """The outcome of every request; equal requests are computed once, those of one adapted model together.

    A batch that fails is tried one by one, so no input can fail another; one that runs out of memory is not. Raises
    DeviceFaultError only.
    """
    places_of: dict[Runnable, list[int]] = {}
    for place, request in enumerate(requests):
        places_of.setdefault(request.model or model, []).append(place)
    if len(places_of) == 1:
        return _run_distinct(next(iter(places_of)), requests)
    outcomes: dict[int, Outcome] = {}
    for adapted, places in places_of.items():
        outcomes.update(zip(places, _run_distinct(adapted, [requests[place] for place in places]), strict=True))
    return [outcomes[place] for place in range(len(requests))]


def _run_distinct(model: Runnable, requests: list[Request]) -> list[Outcome]:
    if len(requests) == 1:
        return _run(model, requests)
    try:
        keys = [request.key() for request in requests]
    except (OverflowError, TypeError, ValueError):  # ids or types that are none: `pack` refuses them one by one
        return _run(model, requests)
    unique: list[Request] = []
    places: dict[Hashable, int] = {}
    place_of: list[int] = []
    for request, key in zip(requests, keys, strict=True):
        place = places.setdefault(key, len(unique))
        place_of.append(place)
        if place == len(unique):
            unique.append(request)
    outcomes = _run(model, unique)
    if len(unique) == len(requests):
        return outcomes
    return _spread(outcomes, place_of)


def _spread(outcomes: list[Outcome], place_of: list[int]) -> list[Outcome]:
    """outcomes[place] for every place; a tensor given out again is a copy, since its owner may change it."""
    spread: list[Outcome] = []
    given: set[int] = set()
    for place in place_of:
        outcome = outcomes[place]
        spread.append(outcome if place not in given or isinstance(outcome, Exception) else outcome.clone())
        given.add(place)
    return spread


def _run(model: Runnable, requests: list[Request]) -> list[Outcome]:
    try:
        results = _forward(model, requests)
    except DeviceFaultError:  # of the whole engine: no later batch would do better
        raise
    except Exception as err:
        if _is_out_of_memory(err):
            num_tokens = sum(len(request.sequence.input_ids) for request in requests)
            logger.error("out of memory in a batch of %d sequences, %d tokens: %r", len(requests), num_tokens, err)
            error = BatchMemoryError(f"out of memory in a batch of {num_tokens} tokens: {err}")
            error.__cause__ = without_traceback(err)
            return [error] * len(requests)
        if len(requests) == 1:
            return [_as_request_error(without_traceback(err))]
        logger.warning("a batch of %d failed (%r): running its sequences one by one", len(requests), err)
        return [outcome for request in requests for outcome in _run(model, [request])]
    return [
        data if is_finite else NonFiniteError("the result contains NaN or infinity")
        for data, is_finite in zip(results, _finite(results), strict=True)
    ]


def _forward(model: Runnable, requests: list[Request]) -> list[Tensor]:
    import torch

    batch = pack([request.sequence for request in requests], model.position_offset)
    dimensions = [request.dimensions for request in requests]
    with torch.no_grad():
        results = model.run(batch, [request.use_activation for request in requests], dimensions)
    if len(results) != len(requests):
        raise RuntimeError(f"the model returned {len(results)} results for {len(requests)} sequences")
    return results


def _is_out_of_memory(err: Exception) -> bool:
    if isinstance(err, MemoryError):
        return True
    return isinstance(err, RuntimeError) and any(words in str(err) for words in _OUT_OF_MEMORY)


def _as_request_error(err: Exception) -> Exception:
    return err if isinstance(err, AssayError | ValueError) else RuntimeError(f"the model failed: {err!r}")


def _finite(results: list[Tensor]) -> list[bool]:
    """Which results hold neither NaN nor infinity; one pass over all of them where they are short vectors."""
    import torch

    if len(results) == 1 and results[0].numel() <= FEW_NUMBERS:
        return [all(map(math.isfinite, results[0].flatten().tolist()))]
    if len(results) > 1 and results[0].ndim == 1 and bool(torch.isfinite(torch.cat(results)).all()):
        return [True] * len(results)
    return [bool(torch.isfinite(data).all()) for data in results]
