"""What most tests of tuning begin with."""

import pytest
from align.talks import CONTEXT, encoded_talks
from align.tiny_models import make_tokenizer

from vesalius.align.sft.sft import PackedConversations
from vesalius.data.batch import Batch
from vesalius.tokenizers.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def batch(tokenizer: Tokenizer) -> Batch:
    """Two packed rows of small conversations."""
    return next(PackedConversations(encoded_talks(tokenizer), batch_rows=2, context=CONTEXT, seed=0))
