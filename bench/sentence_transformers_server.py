"""What people write for themselves: FastAPI in front of a sentence-transformers CrossEncoder, with dynamic batching.

python bench/sentence_transformers_server.py CHECKPOINT --port 8001 [--threads 2] [--max-batch 32] [--max-delay-ms 0]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

MAX_PAIR_TOKENS = 512
Pair = tuple[str, str]


class Batcher:
    """Collects what is waiting, up to max_batch pairs, and scores it in one call on one thread.

    While a batch is computed the next one gathers, so a server under load fills its batches even with max_delay_s 0,
    which never makes a lone request wait.
    """

    def __init__(self, model: CrossEncoder, max_batch: int, max_delay_s: float) -> None:
        self._model, self._max_batch, self._max_delay_s = model, max_batch, max_delay_s
        self._queue: asyncio.Queue[tuple[Pair, asyncio.Future[float]]] = asyncio.Queue()
        self._executor = ThreadPoolExecutor(1)

    async def score(self, pairs: list[Pair]) -> list[float]:
        """Raw logits of the pairs."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[float]] = []
        for pair in pairs:
            futures.append(loop.create_future())
            self._queue.put_nowait((pair, futures[-1]))
        return list(await asyncio.gather(*futures))

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            deadline = loop.time() + self._max_delay_s
            while len(batch) < self._max_batch:
                try:
                    batch.append(self._queue.get_nowait())
                except asyncio.QueueEmpty:
                    if loop.time() >= deadline:
                        break
                    await asyncio.sleep(min(0.0005, self._max_delay_s))
            logits = await loop.run_in_executor(self._executor, self._predict, [pair for pair, _ in batch])
            for (_, future), logit in zip(batch, logits, strict=True):
                if not future.done():
                    future.set_result(logit)

    def _predict(self, pairs: list[Pair]) -> list[float]:
        scores = self._model.predict(
            pairs, batch_size=self._max_batch, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        return [float(score) for score in scores]


class RerankBody(BaseModel):
    """The body of /rerank."""

    query: str
    documents: list[str]


def make_app(batcher: Batcher) -> FastAPI:
    """/rerank and /ready."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/rerank")
    async def rerank(body: RerankBody) -> dict[str, Any]:
        scores = await batcher.score([(body.query, document) for document in body.documents])
        ranked = sorted(range(len(scores)), key=lambda index: -scores[index])
        return {"results": [{"index": index, "relevance_score": scores[index]} for index in ranked]}

    return app


def main() -> None:
    """Load and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--max-delay-ms", type=float, default=0.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = CrossEncoder(
        args.checkpoint,
        device="cpu",
        max_length=MAX_PAIR_TOKENS,
        model_kwargs={"dtype": torch.float32, "attn_implementation": "sdpa"},
    )
    batcher = Batcher(model, args.max_batch, args.max_delay_ms / 1000)
    uvicorn.run(make_app(batcher), host="127.0.0.1", port=args.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
