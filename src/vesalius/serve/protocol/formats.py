"""`response_format` of chats and `text.format` of responses: text, any JSON object, or JSON of a schema."""

from typing import Annotated, Any, Literal

from pydantic import Field

from vesalius.serve.protocol.base import Body, Name


class TextFormat(Body):
    """No form."""

    type: Literal["text"]


class ObjectFormat(Body):
    """A JSON object."""

    type: Literal["json_object"]


class Schema(Body):
    """A named JSON schema. It is always followed: `strict` changes nothing."""

    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class SchemaFormat(Body):
    """JSON of a schema, as chats write it."""

    type: Literal["json_schema"]
    json_schema: Schema


class FlatSchemaFormat(Schema):
    """JSON of a schema, as responses write it."""

    type: Literal["json_schema"]


ChatFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]
ResponseFormat = Annotated[TextFormat | ObjectFormat | FlatSchemaFormat, Field(discriminator="type")]


def form_of(asked: TextFormat | ObjectFormat | SchemaFormat | FlatSchemaFormat | None) -> dict[str, Any]:
    """A form as settings of `SamplingParams`; none where the text is free."""
    match asked:
        case SchemaFormat(json_schema=schema) | (FlatSchemaFormat() as schema):
            return {"json_schema": schema.schema_}
        case ObjectFormat():
            return {"json_object": True}
    return {}
