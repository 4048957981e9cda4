"""Request bodies of the vLLM dialect: what they may hold, for validation and for the OpenAPI page.

Unknown keys are ignored, and null stands for "not given" wherever a key is optional.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from assay.server.dialects.fields import Count, FirstError, Salt, Texts, TokenIds

INT64 = 2**63


class Body(BaseModel):
    """Keys of every request."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = Field(None, description="A served name; without one the default model answers.")
    user: str | None = Field(None, description="Accepted and not used.")
    truncate_prompt_tokens: int | None = Field(None, ge=-1, description="Keep that many tokens; -1 keeps the maximum.")
    truncation_side: Literal["left", "right"] | None = Field(None, description="The side that is cut off.")
    padding: Literal["max_length", "do_not_pad"] | None = None
    request_id: str | None = Field(None, description="Part of the reply's id; a random one without it.")
    priority: int = Field(0, ge=-INT64, le=INT64 - 1, description="Lower is earlier; needs priority scheduling.")
    mm_processor_kwargs: dict[str, Any] | None = None
    cache_salt: Salt = None
    timeout_ms: int | None = Field(None, ge=1, description="Ours: give up after this long (408).")
    return_details: bool = Field(False, description="Ours: score_kind, and per item truncated and token counts.")


class Activated(Body):
    """Keys of requests whose scores pass through an activation."""

    use_activation: bool | None = Field(None, description="false gives logits; null follows the model.")


class Rescaled(Activated):
    """Keys of requests whose scores may also be put on another scale than the model's."""

    raw_scores: bool | None = Field(None, description="Infinity's: true gives logits, false probabilities.")


class Window(BaseModel):
    """Ours: read a long text in windows and combine their scores."""

    mode: Literal["window"] = "window"
    stride: int | None = Field(None, ge=1, description="Tokens between the starts of two windows; null: end to end.")
    agg: Literal["max", "mean", "first"] = "max"


class Completion(BaseModel):
    """Keys of the form with plain inputs."""

    input: str | Texts | TokenIds | Annotated[list[TokenIds], FirstError()]
    add_special_tokens: bool = True


class ChatForm(BaseModel):
    """Keys of the form with a conversation; it yields one item."""

    messages: Annotated[list[dict[str, Any]], FirstError()]
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, Any] | None = None


class Labelled(Rescaled):
    """Keys of classify requests. Ours: the last three, which add `labels` and `scores` to every item."""

    long_input: Window | None = None
    top_k: int | None = Field(None, ge=1, description="Ours: the best labels with their scores, at most this many.")
    threshold: float | None = Field(None, description="Ours: only labels with at least this score.")
    return_scores: bool = Field(False, description="Ours: all labels with their scores, best first.")


class ClassifyCompletion(Completion, Labelled):
    """POST /classify with `input`."""


class ClassifyChat(ChatForm, Labelled):
    """POST /classify with `messages`."""


class Packed(Activated):
    """Keys of requests whose numbers may be answered as bytes."""

    embed_dtype: Literal["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"] = "float32"
    endianness: Literal["native", "little", "big"] = "native"


class Encoded(Packed):
    """Keys of pooling requests."""

    task: str | None = Field(None, description="A pooling task; null is the model's active one.")
    dimensions: int | None = None
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] = "float"


class PoolingCompletion(Completion, Encoded):
    """POST /pooling with `input`."""


class PoolingChat(ChatForm, Encoded):
    """POST /pooling with `messages`."""


class Embeddings(Completion, Packed):
    """POST /v1/embeddings. OpenAI's clients read little-endian numbers and send no `endianness`."""

    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float", "base64"] = "float"
    endianness: Literal["native", "little", "big"] = "little"


class TextPart(BaseModel):
    """A part of a content list."""

    model_config = ConfigDict(extra="allow")

    type: str = "text"


class Content(BaseModel):
    """A side of a pair given as parts, or a document with fields of which `text` and `image` are read.

    `image` is a URL, as in Jina's requests.
    """

    model_config = ConfigDict(extra="ignore")

    content: str | list[str | TextPart] | None = None
    text: str | None = None
    image: Any = None


Side = str | Content | Annotated[list[str | Content], FirstError()]


class Scored(Rescaled):
    """Keys of score and rerank requests."""

    max_tokens_per_query: int = 0
    max_tokens_per_doc: int = 0
    instruction: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ScoreDocuments(Scored):
    """POST /score with `queries` and `documents`."""

    queries: Side
    documents: Side


class ScoreItems(Scored):
    """POST /score with `queries` and `items`."""

    queries: Side
    items: Side


class ScoreData(Scored):
    """POST /score with `data_1` and `data_2`."""

    data_1: Side
    data_2: Side


class ScoreText(Scored):
    """POST /score with `text_1` and `text_2`."""

    text_1: Side
    text_2: Side


class Rerank(Scored):
    """POST /rerank, also as Jina, Cohere, Xinference, Dify and Open WebUI send it."""

    query: str | Content
    documents: Side
    top_n: int = Field(0, ge=0, description="How many results; 0 or null gives all.")
    top_k: int = Field(0, ge=0, description="The same, as Voyage's clients call it.")
    truncation: bool | None = Field(None, description="Voyage's: cut what is too long; null: as the dialect does.")
    return_documents: bool | None = Field(
        None, description="Read where `raw_scores`, or Voyage's keys, ask for another reply; else all are returned."
    )
    long_input: Window | None = None


class TokenizeCompletion(BaseModel):
    """POST /tokenize with `prompt`."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChat(ChatForm):
    """POST /tokenize with `messages`."""

    model: str | None = None
    add_generation_prompt: bool = True
    tools: Annotated[list[dict[str, Any]], FirstError()] | None = Field(
        None, description="What the template shows as `tools`."
    )
    return_token_strs: bool = False


class Detokenize(BaseModel):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[list[Count], FirstError()]


class LoadAdapter(BaseModel):
    """POST /v1/load_lora_adapter."""

    lora_name: str | None = None
    lora_path: str | None = None
    load_inplace: bool = False
    base_model_name: str | None = Field(None, description="Which model it is of; null: the first that takes adapters.")


class UnloadAdapter(BaseModel):
    """POST /v1/unload_lora_adapter."""

    lora_name: str | None = None
