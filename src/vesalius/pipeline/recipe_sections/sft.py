"""[sft]: instruction tuning."""

from typing import Annotated

from pydantic import Field

from vesalius.train.config import NotNegative, TrainConfig


class SftSection(TrainConfig):
    """Tuning on data.conversations.

    neftune_alpha  how much noise is put on the embeddings (align/sft/neftune), usually 5; 0: none
    replay         the share of the tokens that are general text (align/sft/replay), so that less is forgotten
    replay_text    which text that is, of its training side: names as in data.text
    """

    neftune_alpha: NotNegative = 0.0
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    replay_text: list[str] = ["corpus:python"]
