"""openai: the list of models, embeddings, and its raw post for routes it has no method for."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

from answer import Ask, serve


def models(ask: Ask) -> list[str]:
    """models.list: the served names."""
    return [model.id for model in OpenAI(api_key="key", base_url=f"{ask.url}/v1").models.list()]


def embeddings(ask: Ask) -> list[list[float]]:
    """embeddings.create; the client asks for base64 and decodes it."""
    client = OpenAI(api_key="key", base_url=f"{ask.url}/v1")
    return [item.embedding for item in client.embeddings.create(model=ask.model, input=ask.texts).data]


def post_classify(ask: Ask) -> list[list[float]]:
    """The raw post of the client on /classify: the probabilities of each text."""
    client = OpenAI(api_key="key", base_url=ask.url)
    reply: Any = client.post("/classify", body={"model": ask.model, "input": ask.texts}, cast_to=object)
    return [item["probs"] for item in reply["data"]]


def post_rerank(ask: Ask) -> list[dict[str, Any]]:
    """The raw post of the client on /rerank."""
    client = OpenAI(api_key="key", base_url=ask.url)
    body = {"model": ask.model, "query": ask.query, "documents": ask.documents}
    reply: Any = client.post("/rerank", body=body, cast_to=object)
    return [{"index": item["index"], "score": item["relevance_score"]} for item in reply["results"]]


CALLS = {"models": models, "embeddings": embeddings, "post_classify": post_classify, "post_rerank": post_rerank}

if __name__ == "__main__":
    serve(CALLS, ["openai"])
