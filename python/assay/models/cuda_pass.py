"""Forward passes on a CUDA device: staged in, replayed from a graph or launched, and brought back, with one wait."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.device import is_fault
from assay.errors import DeviceFaultError
from assay.models.forward_pass import PassInputs
from assay.models.graph_ladder import GraphBudget, Rung, find_rung
from assay.models.staging import Staging

if TYPE_CHECKING:
    from torch import Tensor

    from assay.device import Device

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Captured:
    """A graph, and where its result lies after a replay."""

    graph: Any
    out: Tensor


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage waits: a graph of another model, destroyed in the middle of a capture, would void it."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class CudaPass:
    """Owns a stream, the staging buffers and the graphs of one model. Not thread safe.

    forward: from inputs on the device to rows on the device, [num_rows, width] float32; it only launches kernels.
    ladder: the rungs to pad batches to; empty for none.
    """

    def __init__(
        self, forward: Callable[[PassInputs], Tensor], staging: Staging, device: Device, ladder: tuple[Rung, ...] = ()
    ) -> None:
        import torch

        self._forward = forward
        self._staging = staging
        self._device = device
        self._ladder = ladder
        self._graphs: dict[Rung, _Captured] = {}
        self._stream: Any = None
        if device.has_streams:
            torch.cuda.synchronize(device.index)  # weights were written on another stream
            self._stream = torch.cuda.Stream(device.index)  # type: ignore[no-untyped-call]
        self._results: Tensor | None = None

    @property
    def num_graphs(self) -> int:
        return len(self._graphs)

    @property
    def top_rung(self) -> Rung | None:
        """The highest one; larger batches are not padded."""
        return self._ladder[-1] if self._ladder else None

    def __call__(self, inputs: PassInputs) -> Tensor:
        """The result's rows on the CPU, a tensor of its own. Raises DeviceFaultError where the GPU has failed."""
        rung = find_rung(self._ladder, inputs.batch.num_tokens, inputs.batch.num_seqs)
        try:
            with self._device.in_use(self._stream):
                staged = self._staging.put(inputs, rung)
                captured = None if rung is None else self._graphs.get(rung)
                if captured is None:
                    out = self._forward(staged)
                else:
                    captured.graph.replay()
                    out = captured.out
                return self._fetched(out[: len(inputs.row_activations)])
        except RuntimeError as err:
            if is_fault(err):
                raise DeviceFaultError(f"{self._device}: {err}") from err
            raise

    def _fetched(self, rows: Tensor) -> Tensor:
        if not self._device.has_streams:
            return rows.clone()
        import torch

        if self._results is None or self._results.numel() < rows.numel():
            self._results = torch.empty(rows.numel(), dtype=rows.dtype, pin_memory=True)
        host = self._results[: rows.numel()].view(rows.shape)
        host.copy_(rows, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        done.synchronize()
        return host.clone()

    def capture(self, example: Callable[[Rung], PassInputs], budget: GraphBudget) -> None:
        """Capture a graph for every rung, from the lowest up, as far as the budget goes; rungs above it are dropped.

        example: inputs that fit a rung. Without streams there is nothing to capture, and rungs only pad.
        """
        if not self._device.has_streams:
            return
        import torch

        with self._device.in_use(self._stream), _no_collection():
            pool = torch.cuda.graph_pool_handle()
            for rung in (self._ladder[0], self._ladder[-1]):  # what is made on first use must not be made in a capture
                self._forward(self._staging.put(example(rung), rung))
                torch.cuda.synchronize()
            before = torch.cuda.mem_get_info()[0]
            for index, rung in enumerate(self._ladder):
                if not budget.has_room:
                    logger.info("graphs stop below %d tokens: %d MB are used", rung.num_tokens, budget.used_bytes >> 20)
                    self._ladder = self._ladder[:index]
                    break
                self._graphs[rung] = self._captured(self._staging.put(example(rung), rung), pool)
                budget.note(max(0, before - torch.cuda.mem_get_info()[0]))

    def _captured(self, staged: PassInputs, pool: Any) -> _Captured:
        import torch

        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: what they do is none of this capture's business.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            out = self._forward(staged)
        except BaseException:
            with suppress(RuntimeError):  # of a capture that is void: what voided it is being raised
                graph.capture_end()
            raise
        graph.capture_end()
        return _Captured(graph, out)
