"""Types of fields that several schemas share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import FailFast, Field, WithJsonSchema


class FirstError(FailFast):
    """A list that is wrong throughout is reported by its first wrong entry; hashable, so that unions may hold it."""

    def __hash__(self) -> int:
        return hash(self.fail_fast)


Texts = Annotated[list[str], FirstError()]
TokenIds = Annotated[list[int], FirstError()]
Count = Annotated[int, Field(ge=0)]
Salt = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string", "maxLength": 128}, {"type": "null"}]})]
"""Checked by hand, for the exact messages."""
