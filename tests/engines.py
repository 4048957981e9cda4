"""Engines over the fake model, and jobs of token ids, for tests of scheduling and failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from assay.batch import Sequence
from assay.config import EngineConfig
from assay.engine import Engine, Job
from assay.rendering import Renderer
from assay.tokenize_options import TokenizeOptions
from fakes import FakeModel, FakeTokenizer

MAX_MODEL_LEN = 64


def make_engine(
    model: FakeModel | None = None, tokenizer: FakeTokenizer | None = None, **settings: Any
) -> tuple[Engine, FakeModel]:
    """An engine with batches of 128 tokens and 16 sequences unless told otherwise, and its model."""
    model = model or FakeModel()
    config = EngineConfig(**{"max_batch_tokens": 128, "max_batch_size": 16, **settings})
    renderer = Renderer(tokenizer or FakeTokenizer(), vocab_size=1000, type_vocab_size=2)  # type: ignore[arg-type]
    return Engine(model, renderer, config), model


def job(prompts: Iterable[object], use_activation: bool = False, **settings: Any) -> Job:
    """A job of token ids or texts."""
    listed: list[Any] = list(prompts)
    return Job(listed, TokenizeOptions(MAX_MODEL_LEN), [use_activation] * len(listed), **settings)


def ids(kind: int, count: int, length: int = 8) -> list[list[int]]:
    """`count` different prompts of `length` tokens; the first token names the job they belong to."""
    return [[kind, 1 + index % 600, 1 + index // 600, *[7] * (length - 3)] for index in range(count)]


def expected(prompt: list[int]) -> list[float]:
    """What the fake model answers."""
    return [float(sum(prompt)), float(len(prompt))]


def hold(engine: Engine, model: FakeModel) -> threading.Event:
    """Keep the compute thread busy with one sequence until the returned event is set."""
    model.gate = threading.Event()
    model.started.clear()
    engine.submit(Sequence([1]))
    assert model.started.wait(10)
    return model.gate


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Poll a condition that another thread brings about."""
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.002)
