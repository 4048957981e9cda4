"""langchain-cohere: its document compressor."""

from __future__ import annotations

from typing import Any

from langchain_cohere import CohereRerank

from answer import Ask, serve


def rerank(ask: Ask) -> list[dict[str, Any]]:
    """CohereRerank.rerank on /v2/rerank."""
    ranker = CohereRerank(model=ask.model, base_url=ask.url, cohere_api_key="key")
    reply = ranker.rerank(documents=ask.documents, query=ask.query, top_n=len(ask.documents))
    return [{"index": item["index"], "score": item["relevance_score"]} for item in reply]


if __name__ == "__main__":
    serve({"rerank": rerank}, ["langchain-cohere"])
