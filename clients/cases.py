"""Which calls of which clients are made, and what each must see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """One call of one client.

    kind: what is asked for, and so which model is served. reads: the fields of the reply that the client cannot do
    without, as paths with a type. too_long: what becomes of an input longer than the model. retries: the client comes
    back by itself after a 429. dialect: what the client speaks, "vllm" also where it is Cohere's, Jina's or OpenAI's.
    """

    name: str
    environment: str
    program: str
    call: str
    kind: str
    reads: tuple[str, ...]
    too_long: str = "refused"
    retries: bool = True
    dialect: str = "vllm"

    @property
    def wants_probabilities(self) -> bool:
        """Whether its scores are 0..1, whatever the model's own activation is."""
        return self.dialect != "vllm"

    @property
    def slug(self) -> str:
        """File name of its recorded bodies."""
        return f"{self.program.removesuffix('_client')}-{self.call}".replace("_", "-")


SECOND_LOOK = "openai-1"
"""An environment whose calls are those of another, made with an older client; they are not recorded twice."""

RESULTS = ("results[].index int", "results[].relevance_score float")
RANKS = ("[].index int", "[].score float")
PAID_RESULTS = (*RESULTS, "model str", "usage.total_tokens int")
FULL_RESULTS = (*RESULTS, "results[].document.text str")

CASES = (
    Case("cohere Client.rerank", "direct", "cohere_client", "v1_rerank", "rerank", FULL_RESULTS),
    Case("cohere ClientV2.rerank", "direct", "cohere_client", "v2_rerank", "rerank", RESULTS),
    Case("openai models.list", "direct", "openai_client", "models", "models", ("object str", "data[].id str")),
    Case("openai embeddings.create", "direct", "openai_client", "embeddings", "embed", ("data[].embedding str",)),
    Case("openai post /classify", "direct", "openai_client", "post_classify", "classify", ("data[].probs list",)),
    Case("openai post /rerank", "direct", "openai_client", "post_rerank", "rerank", RESULTS),
    Case("openai 1 models.list", "openai-1", "openai_client", "models", "models", ("object str", "data[].id str")),
    Case("openai 1 embeddings.create", "openai-1", "openai_client", "embeddings", "embed", ("data[].embedding str",)),
    Case("openai 1 post /classify", "openai-1", "openai_client", "post_classify", "classify", ("data[].probs list",)),
    Case("openai 1 post /rerank", "openai-1", "openai_client", "post_rerank", "rerank", RESULTS),
    Case("tei-client rerank", "direct", "tei_client_client", "rerank", "rerank", RANKS, retries=False, dialect="tei"),
    Case(
        "tei-client classify",
        "direct",
        "tei_client_client",
        "classify",
        "classify",
        ("[][].label str", "[][].score float"),
        retries=False,
        dialect="tei",
    ),
    Case(
        "infinity-client rerank",
        "infinity",
        "infinity_client_client",
        "rerank",
        "rerank",
        (*PAID_RESULTS, "usage.prompt_tokens int"),
        too_long="cut",
        retries=False,
        dialect="infinity",
    ),
    Case(
        "infinity-client classify",
        "infinity",
        "infinity_client_client",
        "classify",
        "classify",
        ("data[][].label str", "data[][].score float", "model str", "usage.prompt_tokens int"),
        too_long="cut",
        retries=False,
        dialect="infinity",
    ),
    Case(
        "voyageai Client.rerank",
        "voyage",
        "voyage_client",
        "rerank",
        "rerank",
        ("data[].index int", "data[].relevance_score float", "usage.total_tokens int"),
        too_long="cut",
        retries=False,
        dialect="voyage",
    ),
    Case(
        "vllm-haystack VLLMRanker",
        "haystack",
        "haystack_client",
        "vllm",
        "rerank",
        PAID_RESULTS,
        retries=False,
    ),
    Case(
        "jina-haystack JinaRanker",
        "haystack",
        "haystack_client",
        "jina",
        "rerank",
        PAID_RESULTS,
        retries=False,
    ),
    Case("cohere-haystack CohereRanker", "haystack", "haystack_client", "cohere", "rerank", RESULTS),
    Case("langchain-cohere CohereRerank", "chains", "langchain_client", "rerank", "rerank", RESULTS),
    Case(
        "llama-index TextEmbeddingInference",
        "chains",
        "llama_index_client",
        "tei",
        "rerank",
        RANKS,
        too_long="cut",
        retries=False,
        dialect="tei",
    ),
    Case("llama-index CohereRerank", "chains", "llama_index_client", "cohere", "rerank", RESULTS),
)
