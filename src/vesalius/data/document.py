"""What a corpus is made of: readers yield documents; tokenizer training, shards and baselines eat them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """One text that stands for itself: tokens never attend across its ends.

    text        the whole text, as it was written
    name        where it comes from, in words that help a person to find it ("json/decoder.py", "notes.jsonl:17")
    split_key   what decides between training and validation (see split.py): documents with one key stay together
    """

    text: str
    name: str
    split_key: str
