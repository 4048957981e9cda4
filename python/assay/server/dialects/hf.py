"""The dialect of Hugging Face: `inputs` with `parameters`, as keywords of a text-classification pipeline.

POST / answers as the inference API does, POST /invocations as a container of SageMaker: with what the pipeline returns.
"""

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
    """Keys of `parameters`. Others are refused: a pipeline would hand them to its tokenizer, or raise."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(None, ge=1, description="The best labels, at most this many; null: all.")
    function_to_apply: Literal["default", "sigmoid", "softmax", "none"] | None = None
    truncation: bool | Literal["longest_first", "do_not_truncate"] | None = Field(
        None, description="false refuses texts that are too long."
    )
    max_length: int | None = Field(None, ge=1, description="Tokens a text is cut to, unless truncation is false.")
    add_special_tokens: bool | None = None
    padding: bool | str | None = Field(None, description="Accepted: padding changes no score.")
    batch_size: int | None = Field(None, description="Accepted: batches change no score.")
    num_workers: int | None = Field(None, description="Accepted: workers change no score.")


class TextClassification(BaseModel):
    """`inputs` with `parameters`, be they empty: one text, one pair, or a list of either."""

    inputs: str | Pair | Annotated[list[str | Pair], FirstError()]
    parameters: Parameters = Field(default_factory=lambda: Parameters.model_validate({}))


def check_classifier(model: ServedModel) -> None:
    """Only classifiers of texts."""
    if model.task != "classify":
        raise refuse(f"The model `{model.name}` is not a text classifier.")


_ELSEWHERE: Final = {
    "candidate_labels": "candidate_labels: zero-shot classification is not served",
    "return_all_scores": "return_all_scores was removed from pipelines: pass top_k, null for all labels",
}
"""Parameters that are refused in words of their own."""


def parse_text_classification(body: Any, policy: RequestPolicy) -> Call:
    """`inputs` with `parameters`."""
    form = parsed(TextClassification, _with_given_parameters(body))
    parameters = form.parameters
    cuts = parameters.truncation not in (False, "do_not_truncate")
    tokenization = {
        "max_length": parameters.max_length if cuts else None,
        "add_special_tokens": parameters.add_special_tokens,
    }
    prompts = form.inputs if isinstance(form.inputs, list) else [form.inputs]
    return Call(
        work=Encode([_prompt(item) for item in prompts], "classify"),
        scale=_SCALES[parameters.function_to_apply],
        tokenization={name: value for name, value in tokenization.items() if value is not None},
        cut_long=cuts,
        reply=form,
    )


def _with_given_parameters(body: Any) -> Any:
    """The body, its parameters without those that are null; null is a number of labels, though."""
    parameters = body.get("parameters") if isinstance(body, dict) else None
    if not isinstance(parameters, dict):
        return body
    for name, message in _ELSEWHERE.items():
        if parameters.get(name) is not None:
            raise refuse(message, param=f"parameters.{name}")
    given = {name: value for name, value in parameters.items() if value is not None or name == "top_k"}
    return {**body, "parameters": given}


def _prompt(item: str | Pair) -> str | dict[str, str]:
    if isinstance(item, str):
        return item
    return item.text if item.text_pair is None else {"text": item.text, "text_pair": item.text_pair}


def format_text_classification(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """A list of labels per text; a single text has a list of one list too."""
    return _labels_of(call, answer)


def _labels_of(call: Call, answer: Answer) -> list[list[dict[str, Any]]]:
    """The labels of each text, best first, ties by the lower index."""
    labels, top_k = answer.model.labels, call.reply.parameters.top_k
    rows = []
    for item in answer.items:
        scores: list[float] = item.data.tolist()
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_k]
        rows.append([{"label": labels[index], "score": scores[index]} for index in order])
    return rows


def format_invocation(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """What the pipeline returns: the labels of each text where top_k was given, else the best one of each."""
    rows: list[Any] = _labels_of(call, answer)
    inputs = call.reply.inputs
    if "top_k" not in call.reply.parameters.model_fields_set:
        rows = [row[0] for row in rows]  # in a list for one text too, though not for one pair
        return rows[0] if isinstance(inputs, Pair) else rows
    return rows if isinstance(inputs, list) else rows[0]


TEXT_CLASSIFICATION = Operation(
    "text_classification", DIALECT, parse_text_classification, format_text_classification, check_classifier
)
INVOCATION = Operation("text_classification", DIALECT, parse_text_classification, format_invocation, check_classifier)
