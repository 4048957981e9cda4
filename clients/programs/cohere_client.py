"""cohere: both generations of its client."""

from __future__ import annotations

from typing import Any

import cohere

from answer import Ask, serve


def v1_rerank(ask: Ask) -> list[dict[str, Any]]:
    """Client.rerank with the documents in the reply."""
    client = cohere.Client("key", base_url=ask.url)
    reply = client.rerank(model=ask.model, query=ask.query, documents=ask.documents, return_documents=True)
    return [{"index": r.index, "score": r.relevance_score, "text": r.document.text} for r in reply.results]


def v2_rerank(ask: Ask) -> list[dict[str, Any]]:
    """ClientV2.rerank, which sends top_n only because it is given."""
    client = cohere.ClientV2("key", base_url=ask.url)
    reply = client.rerank(model=ask.model, query=ask.query, documents=ask.documents, top_n=len(ask.documents))
    return [{"index": r.index, "score": r.relevance_score} for r in reply.results]


if __name__ == "__main__":
    serve({"v1_rerank": v1_rerank, "v2_rerank": v2_rerank}, ["cohere"])
