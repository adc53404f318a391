import errno
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.errors import UserError, VesaliusError
from vesalius.data import shard_writing
from vesalius.data.document import Document
from vesalius.data.shard_writing import encode_texts, write_held_out, write_shards
from vesalius.data.shards import TokenShards
from vesalius.data.split import is_validation
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.tokenizer import Tokenizer

TEXTS = [f"document {i}" for i in range(40)]


@cache
def trained_tokenizer() -> Tokenizer:
    """The package's own, a real one: its pre-tokenizer decides where slices may end."""
    return Tokenizer.from_bpe(train_bpe(["line indented more word word1 word23 's x\n"] * 20, vocab_size=275))


def documents_of(texts: list[str]) -> list[Document]:
    return [Document(text, f"file {i}", split_key=text) for i, text in enumerate(texts)]


def decoded(shards: TokenShards) -> list[str]:
    return [bytes((shards[i][1:] - 1).tolist()).decode() for i in range(len(shards))]


def test_every_document_is_on_the_side_that_its_key_says(tmp_path, encoder):
    index = write_shards(documents_of(TEXTS), encoder, tmp_path / "data", validation_fraction=0.3)

    for split, wanted in (("train", False), ("validation", True)):
        shards = TokenShards(tmp_path / "data", split)
        assert decoded(shards) == [text for text in TEXTS if is_validation(text, 0.3) == wanted]
    assert index.train.documents + index.validation.documents == len(TEXTS)


def test_the_index_tells_what_was_written(tmp_path, encoder):
    index = write_shards(documents_of(TEXTS), encoder, tmp_path / "data", validation_fraction=0.3, specs=["a.txt"])

    assert json.loads((tmp_path / "data" / "index.json").read_text()) == index.to_dict()
    assert (index.specs, index.tokenizer, index.vocab_size, index.boundary) == (["a.txt"], "bytes", 257, 0)
    assert index.train.bytes + index.validation.bytes == sum(map(len, TEXTS))


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, "uint16"), (65537, "uint32")])
def test_tokens_take_two_bytes_where_the_vocabulary_allows(tmp_path, encoder, vocab_size, dtype):
    encoder.vocab_size = vocab_size

    write_shards(documents_of(TEXTS), encoder, tmp_path / "data", validation_fraction=0.3)

    assert TokenShards(tmp_path / "data", "train")[0].dtype == dtype


def test_a_new_shard_begins_after_so_many_tokens(tmp_path, encoder):
    index = write_shards(documents_of(TEXTS), encoder, tmp_path / "data", validation_fraction=0.3, shard_tokens=50)

    assert len(index.train.files) > 3
    assert all(50 <= tokens < 50 + 12 for tokens in index.train.files[:-1])
    assert len(list((tmp_path / "data").glob("train-0*.bin"))) == len(index.train.files)


def test_exact_copies_are_left_out_and_counted(tmp_path, encoder):
    index = write_shards(documents_of(TEXTS + TEXTS[:7]), encoder, tmp_path / "data", validation_fraction=0.3)

    assert index.duplicates == 7
    assert index.train.documents + index.validation.documents == len(TEXTS)


def test_progress_tells_the_bytes_read(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(shard_writing, "_CHUNK", 200)
    done: list[int] = []

    write_shards(documents_of(TEXTS), encoder, tmp_path / "data", validation_fraction=0.3, on_progress=done.append)

    assert len(done) > 3
    assert done == sorted(done)
    assert done[-1] == sum(map(len, TEXTS))


@given(
    st.lists(st.sampled_from(["", " ", "\n\n", "\n    indented\n  more", " é🦴", "\t.", "\r\n", "'s  x "]), max_size=30)
)
def test_encoding_in_slices_gives_the_ids_of_the_whole(endings):
    tokenizer = trained_tokenizer()
    text = "".join(f"line{ending}\n" for ending in endings)  # so a slice can end where a line begins with a letter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writing, "_SLICE", 60)
        patch.setattr(shard_writing, "_CHUNK", 100)
        (ids,) = encode_texts([text], tokenizer, np.dtype(np.uint16))

    assert ids.tolist() == tokenizer.encode(text)


def test_a_long_line_is_cut_without_loss(encoder, monkeypatch):
    monkeypatch.setattr(shard_writing, "_SLICE", 10)

    (ids,) = encode_texts(["a" * 35], encoder, np.dtype(np.uint16))

    assert ids.tolist() == [98] * 35
    assert [len(text) for batch in encoder.batches for text in batch] == [10, 10, 10, 5]


@pytest.mark.parametrize("texts", [["a"], [" "], []])
def test_a_side_without_documents_is_refused_and_nothing_is_left(tmp_path, encoder, texts):
    with pytest.raises(
        UserError, match=r"validation_fraction = 0\.5 gives . documents to training and . to validation"
    ):
        write_shards(documents_of(texts), encoder, tmp_path / "data", validation_fraction=0.5)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_the_old_directory(tmp_path, encoder):
    index = write_shards(documents_of(TEXTS), encoder, tmp_path / "data", validation_fraction=0.3)

    def interrupted():
        yield from documents_of(["new", "newer", "newest"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(interrupted(), encoder, tmp_path / "data", validation_fraction=0.5)
    assert TokenShards(tmp_path / "data", "train").index == index
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_full_disk_is_told_and_leaves_the_old_directory(tmp_path, encoder, monkeypatch):
    index = write_shards(documents_of(TEXTS), encoder, tmp_path / "data", validation_fraction=0.3)

    def full(self, ids, n_bytes):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_writing._SplitWriter, "write", full)

    with pytest.raises(VesaliusError, match=r"no space left to write .*data"):
        write_shards(documents_of(TEXTS), encoder, tmp_path / "data", validation_fraction=0.3)
    assert TokenShards(tmp_path / "data", "train").index == index


def test_a_tokenizer_without_a_boundary_is_refused(tmp_path, encoder):
    encoder.document_boundary = None

    with pytest.raises(UserError, match="no token for the document boundary"):
        write_shards(documents_of(TEXTS), encoder, tmp_path / "data", validation_fraction=0.3)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    small, large = (peak_mebibytes(tmp_path, megabytes) for megabytes in (6, 24))

    assert large < small + 30
    assert large < 600


def peak_mebibytes(folder: Path, megabytes: int) -> float:
    """Peak memory of a process that reads and encodes a text file and JSON lines, half of the size each."""
    words = ["word", "more", "indented", "line", "word23"] * 40
    with (folder / "a.txt").open("w") as text, (folder / "a.jsonl").open("w") as rows:
        for i in range(megabytes * 1000):
            line = f"{i} {' '.join(words[i % 50 : i % 50 + 110])}"[:499]
            text.write(line + "\n")
            rows.write(json.dumps({"text": f"row {line}"[:485]}) + "\n")
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_shard_writing import trained_tokenizer
from vesalius.core.hardware import peak_bytes
from vesalius.data.documents import read_documents
from vesalius.data.shard_writing import write_held_out, write_shards
specs = ["a.txt", "a.jsonl"]
index = write_shards(read_documents(specs), trained_tokenizer(), "data", validation_fraction=0.1)
assert index.train.bytes + index.validation.bytes > {megabytes} * 900_000, index
print(peak_bytes() / 2**20)
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return float(run.stdout)


def test_text_to_measure_on_is_all_on_the_validation_side(tmp_path, encoder):
    index = write_held_out(documents_of(TEXTS), encoder, tmp_path / "data")
    assert (index.train.documents, index.validation.documents) == (0, len(TEXTS))
    shards = TokenShards(tmp_path / "data", "validation", encoder)
    assert shards.n_bytes == sum(len(text.encode()) for text in TEXTS)
