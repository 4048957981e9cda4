"""The dialect of text-embeddings-inference: /predict, /rerank with `texts`, /tokenize with `inputs`, /decode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from assay.server.dialects.base import Dialect, Operation, Reply, Stamp
from assay.server.dialects.fields import Count, FirstError, Texts
from assay.server.dialects.parsing import parsed
from assay.server.errors import refuse
from assay.server.request import Call, Encode, Score

if TYPE_CHECKING:
    from assay.server.errors import Failure
    from assay.server.result import Answer
    from assay.server.served import ServedModel
    from assay.server.settings import RequestPolicy

_TYPES: Final = {400: "Validation", 424: "Backend", 429: "Overloaded", 500: "Backend", 503: "Unhealthy"}
_STATUSES: Final = {400: 422, 404: 422, 408: 503}
"""Where TEI answers with another status than vLLM does."""


def fail(failure: Failure) -> tuple[int, dict[str, Any]]:
    """TEI's form of an error."""
    status = _STATUSES.get(failure.status, failure.status)
    kind = "Overloaded" if failure.kind == "OverloadedError" else _TYPES.get(failure.status, "Validation")
    return status, {"error": failure.message, "error_type": kind}


DIALECT = Dialect("tei", fail, ignores_model=True)


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")

    truncate: bool | None = Field(None, description="Cut what is too long; null: yes.")
    truncation_direction: Literal["Left", "left", "Right", "right"] = "Right"
    raw_scores: bool = Field(False, description="Logits instead of probabilities.")


class Predict(_Body):
    """POST /predict: one text, one pair (a list of one or two texts), or a batch of both (a list of such lists)."""

    inputs: str | Texts | Annotated[list[Texts], FirstError()]


class RerankTexts(_Body):
    """POST /rerank with `texts`."""

    query: str
    texts: Texts
    return_text: bool = False
    top_n: int = Field(0, ge=0, description="Ours: only the best few.")


class TokenizeTexts(BaseModel):
    """POST /tokenize with `inputs`."""

    inputs: str | Texts
    add_special_tokens: bool = True
    prompt_name: str | None = Field(None, description="Refused: models here have no named prompts.")


class Decode(BaseModel):
    """POST /decode."""

    ids: Annotated[list[Count], FirstError()] | Annotated[list[Annotated[list[Count], FirstError()]], FirstError()]
    skip_special_tokens: bool = True


def _conditions(form: _Body) -> dict[str, Any]:
    """TEI cuts what is too long unless it is told not to, with special tokens kept."""
    return {
        "scale": "logit" if form.raw_scores else "probability",
        "cut_long": form.truncate is not False,
        "cut_side": form.truncation_direction.lower(),
        "reply": form,
    }


def check_predict(model: ServedModel) -> None:
    """Only classifiers predict; TEI's word for another model is 424."""
    if model.task != "classify":
        raise refuse(f"model `{model.name}` is not a classifier", status=424, kind="Backend")


def check_rerank(model: ServedModel) -> None:
    """Only models that score pairs rerank."""
    if not model.can_score:
        raise refuse(f"model `{model.name}` is not a reranker", status=424, kind="Backend")


def parse_predict(body: Any, policy: RequestPolicy) -> Call:
    """POST /predict."""
    if isinstance(body, dict) and body.get("parameters"):
        raise refuse("`parameters` are read by POST / and POST /invocations")
    form = parsed(Predict, body)
    inputs = form.inputs
    if not isinstance(inputs, str) and not inputs:
        raise refuse("`inputs` cannot be empty")
    rows: list[Any] = inputs if isinstance(inputs, list) and isinstance(inputs[0], list) else [inputs]
    return Call(work=Encode([_prompt(row) for row in rows], "classify"), **_conditions(form))


def _prompt(row: str | list[str]) -> str | dict[str, str]:
    if isinstance(row, str):
        return row
    if len(row) not in (1, 2):
        raise refuse("`inputs` must hold texts, or lists of one or two texts")
    return row[0] if len(row) == 1 else {"text": row[0], "text_pair": row[1]}


def format_predict(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """Labels with their scores, best first, ties by the lower index: a list, or a list of lists for a batch."""
    labels = answer.model.labels
    rows = []
    for item in answer.items:
        scores: list[float] = item.data.tolist()
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        rows.append([{"score": scores[index], "label": labels[index]} for index in order])
    inputs = call.reply.inputs
    is_batch = isinstance(inputs, list) and isinstance(inputs[0], list)
    return rows if is_batch else rows[0]


def parse_rerank(body: Any, policy: RequestPolicy) -> Call:
    """POST /rerank with `texts`."""
    form = parsed(RerankTexts, body)
    if not form.texts:
        raise refuse("`texts` cannot be empty")
    return Call(work=Score(queries=form.query, documents=form.texts), **_conditions(form))


def format_rerank(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """A list, best first, ties in the order of the texts."""
    form = call.reply
    scores = [item.data.item() for item in answer.items]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: form.top_n or None]
    if form.return_text:
        return [{"index": index, "text": form.texts[index], "score": scores[index]} for index in order]
    return [{"index": index, "score": scores[index]} for index in order]


PREDICT = Operation("predict", DIALECT, parse_predict, format_predict, check_predict)
RERANK = Operation("rerank", DIALECT, parse_rerank, format_rerank, check_rerank)
