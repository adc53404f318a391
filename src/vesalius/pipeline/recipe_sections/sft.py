"""[sft]: instruction tuning."""

from vesalius.train.config import NotNegative, TrainConfig


class SftSection(TrainConfig):
    """Tuning on data.conversations.

    neftune_alpha  how much noise is put on the embeddings (align/sft/neftune), usually 5; 0: none
    """

    neftune_alpha: NotNegative = 0.0
