"""Haystack's rankers for vLLM, Jina and Cohere."""

from __future__ import annotations

from typing import Any

from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker

from answer import Ask, serve

KEY = Secret.from_token("key")


def ranked(ask: Ask, ranker: Any) -> list[dict[str, Any]]:
    """Run it; Haystack gives documents back, whose ids are the places they had."""
    documents = [Document(id=str(index), content=text) for index, text in enumerate(ask.documents)]
    reply = ranker.run(query=ask.query, documents=documents)
    return [{"index": int(d.id), "score": d.score, "text": d.content} for d in reply["documents"]]


def vllm(ask: Ask) -> list[dict[str, Any]]:
    """VLLMRanker on /v1/rerank."""
    return ranked(ask, VLLMRanker(model=ask.model, api_key=KEY, api_base_url=f"{ask.url}/v1"))


def jina(ask: Ask) -> list[dict[str, Any]]:
    """JinaRanker on /v1/rerank, which sends top_n as null."""
    return ranked(ask, JinaRanker(model=ask.model, api_key=KEY, base_url=f"{ask.url}/v1/rerank"))


def cohere(ask: Ask) -> list[dict[str, Any]]:
    """CohereRanker on /v2/rerank, which always sends max_tokens_per_doc."""
    return ranked(ask, CohereRanker(model=ask.model, api_key=KEY, api_base_url=ask.url))


if __name__ == "__main__":
    serve({"vllm": vllm, "jina": jina, "cohere": cohere}, ["vllm-haystack", "jina-haystack", "cohere-haystack"])
