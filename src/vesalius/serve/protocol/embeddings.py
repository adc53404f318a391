"""POST /v1/embeddings: texts as vectors."""

from typing import Annotated, Literal

from pydantic import Field

from vesalius.serve.protocol.base import Body, Name
from vesalius.serve.protocol.completions import Texts


class EmbeddingRequest(Body):
    """`dimensions` may only be the model's own width: a part of its vector would be no embedding."""

    model: Name | None = None
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
