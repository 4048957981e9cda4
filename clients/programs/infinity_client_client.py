"""infinity-client: its generated calls of /rerank and /classify; the second names no model."""

from __future__ import annotations

from typing import Any

from infinity_client import Client
from infinity_client.api.default import classify as classify_route
from infinity_client.api.default import rerank as rerank_route
from infinity_client.models import ClassifyInput, RerankInput

from answer import Ask, serve


def client_of(ask: Ask) -> Client:
    """A client that raises where a reply is no 200; by default it returns None."""
    return Client(base_url=ask.url, timeout=60.0, raise_on_unexpected_status=True)


def rerank(ask: Ask) -> list[dict[str, Any]]:
    """rerank.sync, for the documents too."""
    body = RerankInput(query=ask.query, documents=ask.documents, model=ask.model, return_documents=True)
    reply = rerank_route.sync(client=client_of(ask), body=body)
    for result in reply.results:
        assert result.document == ask.documents[result.index]
    return [{"index": result.index, "score": result.relevance_score} for result in reply.results]


def classify(ask: Ask) -> list[dict[str, float]]:
    """classify.sync: the scores of each text by label."""
    reply = classify_route.sync(client=client_of(ask), body=ClassifyInput(input_=ask.texts))
    return [{item.label: item.score for item in items} for items in reply.data]


if __name__ == "__main__":
    serve({"rerank": rerank, "classify": classify}, ["infinity-client"])
