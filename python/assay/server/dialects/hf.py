"""The dialect of Hugging Face's inference API: POST / with `parameters`, as a text-classification pipeline answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from assay.server.dialects.base import Dialect, Operation, Reply, Stamp
from assay.server.dialects.fields import FirstError
from assay.server.dialects.parsing import parsed
from assay.server.errors import refuse
from assay.server.request import Call, Encode, Scale

if TYPE_CHECKING:
    from assay.server.errors import Failure
    from assay.server.result import Answer
    from assay.server.served import ServedModel
    from assay.server.settings import RequestPolicy


def fail(failure: Failure) -> tuple[int, dict[str, Any]]:
    """The API's form of an error."""
    return failure.status, {"error": failure.message}


DIALECT = Dialect("hf", fail, ignores_model=True)

_SCALES: Final[dict[str | None, Scale]] = {
    None: "pipeline",
    "default": "pipeline",
    "none": "logit",
    "sigmoid": "sigmoid",
    "softmax": "softmax",
}


class Pair(BaseModel):
    """Two texts that are classified together."""

    text: str
    text_pair: str | None = None


class Parameters(BaseModel):
    """Keys of `parameters`."""

    model_config = ConfigDict(extra="allow")

    top_k: int | None = Field(None, ge=1, description="The best labels, at most this many; null: all.")
    function_to_apply: Literal["default", "sigmoid", "softmax", "none"] | None = None
    truncation: bool | str | None = Field(None, description="false refuses texts that are too long.")


class TextClassification(BaseModel):
    """POST / with `parameters`, be they empty: one text, one pair, or a list of either."""

    inputs: str | Pair | Annotated[list[str | Pair], FirstError()]
    parameters: Parameters = Field(default_factory=lambda: Parameters.model_validate({}))


def check_classifier(model: ServedModel) -> None:
    """Only classifiers of texts."""
    if model.task != "classify":
        raise refuse(f"The model `{model.name}` is not a text classifier.")


def parse_text_classification(body: Any, policy: RequestPolicy) -> Call:
    """POST / with `parameters`."""
    form = parsed(TextClassification, body)
    parameters = form.parameters
    if "candidate_labels" in (parameters.model_extra or {}):
        raise refuse("candidate_labels: zero-shot classification is not served", param="parameters.candidate_labels")
    prompts = form.inputs if isinstance(form.inputs, list) else [form.inputs]
    return Call(
        work=Encode([_prompt(item) for item in prompts], "classify"),
        scale=_SCALES[parameters.function_to_apply],
        cut_long=parameters.truncation not in (False, "do_not_truncate"),
        reply=form,
    )


def _prompt(item: str | Pair) -> str | dict[str, str]:
    if isinstance(item, str):
        return item
    return item.text if item.text_pair is None else {"text": item.text, "text_pair": item.text_pair}


def format_text_classification(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """A list of labels per text, best first, ties by the lower index; a single text has a list of one list too."""
    labels, top_k = answer.model.labels, call.reply.parameters.top_k
    rows = []
    for item in answer.items:
        scores: list[float] = item.data.tolist()
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_k]
        rows.append([{"label": labels[index], "score": scores[index]} for index in order])
    return rows


TEXT_CLASSIFICATION = Operation(
    "text_classification", DIALECT, parse_text_classification, format_text_classification, check_classifier
)
