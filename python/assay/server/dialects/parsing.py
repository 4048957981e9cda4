"""Bodies to checked models, with null read as "not given"."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic import ValidationError as SchemaError

from assay.server.errors import Refused, refuse, schema_failure
from assay.tasks import REMOVED_PARAMETER, REMOVED_TASKS

Model = TypeVar("Model", bound=BaseModel)


def parsed(schema: type[Model], body: Any) -> Model:
    """The body as `schema`; Refused with every entry that does not fit."""
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if value is not None}
    try:
        return schema.model_validate(body)
    except SchemaError as err:
        entries = [
            {**entry, "loc": ("body", *entry["loc"])} for entry in err.errors(include_url=False, include_context=True)
        ]
        raise Refused(schema_failure(entries)) from None


def check_removed(body: Any) -> None:
    """Refuse keys and tasks that existed once, with what to use instead."""
    if not isinstance(body, dict):
        return
    for name in ("softmax", "activation"):
        if body.get(name) is not None:
            raise refuse(REMOVED_PARAMETER.format(name), param=name)
    if "normalize" in body:  # null too, as vLLM does
        raise refuse(REMOVED_PARAMETER.format("normalize"), param="normalize")
    task = body.get("task")
    if isinstance(task, str) and task in REMOVED_TASKS:
        raise refuse(REMOVED_TASKS[task], param="task")
