"""llama-index: the postprocessors for TEI and Cohere."""

from __future__ import annotations

from typing import Any

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from answer import Ask, serve


def ranked(ask: Ask, postprocessor: Any) -> list[dict[str, Any]]:
    """Run it on nodes whose ids are the places of the documents."""
    nodes = [NodeWithScore(node=TextNode(id_=str(i), text=text), score=0.0) for i, text in enumerate(ask.documents)]
    reply = postprocessor.postprocess_nodes(nodes, query_str=ask.query)
    return [{"index": int(n.node.node_id), "score": n.score, "text": n.node.get_content()} for n in reply]


def tei(ask: Ask) -> list[dict[str, Any]]:
    """TextEmbeddingInference on /rerank, with a token that has no scheme."""
    count = len(ask.documents)
    return ranked(ask, TextEmbeddingInference(model_name=ask.model, base_url=ask.url, top_n=count, auth_token="key"))


def cohere(ask: Ask) -> list[dict[str, Any]]:
    """CohereRerank on /v2/rerank."""
    count = len(ask.documents)
    return ranked(ask, CohereRerank(model=ask.model, base_url=ask.url, top_n=count, api_key="key"))


serve(
    {"tei": tei, "cohere": cohere}, ["llama-index-postprocessor-tei-rerank", "llama-index-postprocessor-cohere-rerank"]
)
