import json
from itertools import combinations_with_replacement

import numpy as np
import pytest

from vesalius.core.errors import UserError, VesaliusError
from vesalius.data.shards import ShardIndex, TokenShards, read_index

TEXTS = ["one", "two, longer", "é", "x" * 30]
IDS = [[0] + [byte + 1 for byte in text.encode()] for text in TEXTS]


def test_documents_come_back_with_their_boundary(make_shards):
    shards = make_shards(TEXTS)

    assert [shards[i].tolist() for i in range(len(shards))] == IDS
    assert shards[-1].tolist() == IDS[-1]


def test_there_is_no_document_beyond_the_last(make_shards):
    with pytest.raises(IndexError, match="document 4 of 4"):
        make_shards(TEXTS)[4]


def test_tokens_and_bytes_are_counted(make_shards):
    shards = make_shards(TEXTS)

    assert shards.n_tokens == sum(map(len, IDS))
    assert shards.document_bytes.tolist() == [3, 11, 2, 30]
    assert shards.n_bytes == 46


@pytest.mark.parametrize(("shard_tokens", "files"), [(1, 4), (4, 3), (16, 2), (60, 1)])
def test_reading_is_the_same_however_many_files_there_are(make_shards, shard_tokens, files):
    shards = make_shards(TEXTS, shard_tokens=shard_tokens)
    everything = [token for ids in IDS for token in ids]

    assert len(shards.index.train.files) == files
    for start, stop in combinations_with_replacement(range(len(everything) + 1), 2):
        assert shards.read(start, stop).tolist() == everything[start:stop]


def test_reading_inside_one_file_copies_nothing(make_shards):
    tokens = make_shards(TEXTS).read(2, 20)

    assert isinstance(tokens.base, np.ndarray)
    assert not tokens.flags.writeable


def test_the_index_goes_through_json_unchanged(make_shards):
    index = make_shards(TEXTS).index

    assert ShardIndex.from_dict(json.loads(json.dumps(index.to_dict()))) == index


def test_an_index_that_calls_the_boundary_bos_id_opens_as_well(make_shards):
    shards = make_shards(TEXTS)
    path = shards.directory / "index.json"
    values = json.loads(path.read_text())
    values["bos_id"] = values.pop("boundary")
    path.write_text(json.dumps(values))
    assert read_index(shards.directory) == shards.index


def test_shards_of_another_tokenizer_are_refused(make_shards, encoder):
    shards = make_shards(TEXTS)
    encoder.fingerprint = "another"

    with pytest.raises(UserError, match=r"made with another tokenizer \(bytes, got another\)"):
        TokenShards(shards.directory, "train", encoder)


def test_a_directory_without_an_index_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no token shards"):
        read_index(tmp_path)


def test_an_index_of_another_format_is_refused(make_shards):
    directory = make_shards(TEXTS).directory
    (directory / "index.json").write_text('{"format": 0}')

    with pytest.raises(VesaliusError, match="has format 0, expected 1"):
        read_index(directory)


@pytest.mark.parametrize("name", ["00000", "offsets", "bytes"])
def test_a_file_that_was_cut_off_is_refused(make_shards, name):
    path = make_shards(TEXTS).directory / f"train-{name}.bin"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(VesaliusError, match=rf"train-{name}\.bin is missing or cut off"):
        TokenShards(path.parent, "train")
