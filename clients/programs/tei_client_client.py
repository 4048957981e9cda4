"""tei-client: reads /info first, then talks to /rerank or /predict, never asking for a cut."""

from __future__ import annotations

from typing import Any

from tei_client import HttpClient

from answer import Ask, serve


def rerank(ask: Ask) -> list[dict[str, Any]]:
    """HttpClient.rerank."""
    reply = HttpClient(ask.url).rerank(query=ask.query, texts=ask.documents)
    return [{"index": rank.index, "score": rank.score} for rank in reply.ranks]


def classify(ask: Ask) -> list[dict[str, float]]:
    """HttpClient.classify: the scores of each text by label."""
    reply = HttpClient(ask.url).classify(ask.texts)
    return [{score.label: score.score for score in result.scores} for result in reply]


if __name__ == "__main__":
    serve({"rerank": rerank, "classify": classify}, ["tei-client"])
