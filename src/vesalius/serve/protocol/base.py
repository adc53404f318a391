"""What all requests share: strict types, finite numbers, and no unknown fields.

A field that nobody knows is refused with the nearest known one, as OpenAI does: a misspelt `max_tokens` that is dropped
in silence costs more than an error. Fields of OpenAI's that change nothing here (`user`, `metadata`, `store`, …) are
known and have no effect; those that ask for what this server cannot do are refused. Inside of messages unknown fields
are left out instead: clients send answers back as they got them, with whatever their version of the API adds.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from vesalius.core.errors import nearest
from vesalius.serve.errors import SHOWN

MAX_STOPS = 32
MAX_STOP = 1000
"""Characters of a stop text."""

Name = Annotated[str, Field(max_length=500)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]
Stop = StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)]


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _know_all(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        if (unknown := next((name for name in value if name not in known), None)) is not None:
            shown = str(unknown)[:SHOWN]
            raise PydanticCustomError(
                "unknown_parameter",
                "unknown field {name}: {hint}",
                {"name": repr(shown), "hint": nearest(shown, known)},
            )
        return value


class Part(BaseModel):
    """A part of something that others may have added to: what is unknown is left out."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
