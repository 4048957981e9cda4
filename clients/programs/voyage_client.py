"""voyageai: Client.rerank, which always sends `top_k` and `truncation`."""

from __future__ import annotations

from typing import Any

import voyageai

from answer import Ask, serve


def rerank(ask: Ask) -> list[dict[str, Any]]:
    """Client.rerank."""
    client = voyageai.Client(api_key="key", base_url=f"{ask.url}/v1")
    reply = client.rerank(ask.query, ask.documents, model=ask.model)
    assert reply.total_tokens > 0
    return [{"index": result.index, "score": result.relevance_score} for result in reply.results]


if __name__ == "__main__":
    serve({"rerank": rerank}, ["voyageai"])
