"""What a GPU's errors do to the engine: memory fails a batch, a fault ends the engine as a dead compute thread does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import engines
from assay.batch import RaggedBatch
from assay.engine.ticket import FEW_PROMPTS
from assay.errors import BatchMemoryError, DeviceFaultError, EngineDeadError
from fakes import FakeModel


class FailingModel(FakeModel):
    """Raises `error` for as long as it is set."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    def run(self, batch: RaggedBatch, use_activation: list[bool], dimensions: Any = None) -> list[torch.Tensor]:
        if self.error is not None:
            self.batch_sizes.append(batch.num_seqs)
            raise self.error
        return super().run(batch, use_activation, dimensions)


FAULT = DeviceFaultError("cuda:0: CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("count", [1, FEW_PROMPTS, 4 * FEW_PROMPTS], ids=["one", "few", "many"])
def test_a_fault_ends_the_engine_whichever_thread_computes(count: int) -> None:
    """Few prompts are computed by the caller's thread, many by the engine's own."""
    engine, model = engines.make_engine(FailingModel(FAULT))
    with engine:
        with pytest.raises(EngineDeadError, match="illegal memory access"):
            list(engine.run(engines.job(engines.ids(1, count))))
        assert len(model.batch_sizes) == 1, "a batch on a failed GPU is not tried again"
        stats = engine.stats()
        assert not stats.is_alive and stats.death is not None and "DeviceFaultError" in stats.death
        with pytest.raises(EngineDeadError, match="illegal memory access"):
            engine.start(engines.job(engines.ids(2, 1)))


def test_a_fault_fails_what_waits_too() -> None:
    engine, model = engines.make_engine(FailingModel(None))
    with engine:
        gate = engines.hold(engine, model)
        waiting = [engine.start(engines.job(engines.ids(kind, 8))) for kind in (1, 2)]
        assert isinstance(model, FailingModel)
        model.error = FAULT
        gate.set()
        for ticket in waiting:
            with pytest.raises(EngineDeadError, match="illegal memory access"):
                ticket.future.result(10)


@pytest.mark.parametrize("count", [1, 4 * FEW_PROMPTS])
def test_too_little_memory_fails_the_batch_and_the_engine_goes_on(count: int) -> None:
    engine, model = engines.make_engine(FailingModel(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")))
    with engine:
        with pytest.raises(BatchMemoryError, match="out of memory in a batch of"):
            list(engine.run(engines.job(engines.ids(1, count))))
        assert isinstance(model, FailingModel)
        model.error = None
        (prompt,) = engines.ids(2, 1)
        (result,) = engine.run(engines.job([prompt]))
        assert result.data is not None and result.data.tolist() == engines.expected(prompt)
        assert engine.stats().is_alive
