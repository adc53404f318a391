from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from vesalius.core.errors import UserError, VesaliusError
from vesalius.data import hub_dataset
from vesalius.data.documents import read_documents
from vesalius.data.hub_dataset import HubDataset, choose_files


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hf:me/poems", HubDataset("me/poems", "", "train", None)),
        ("hf:me/poems:test", HubDataset("me/poems", "", "test", None)),
        ("hf:me/poems:test:body", HubDataset("me/poems", "", "test", "body")),
        ("hf:me/poems/en/raw::body", HubDataset("me/poems", "en/raw", "train", "body")),
    ],
)
def test_a_spec_names_repository_folder_split_and_column(spec, expected):
    assert HubDataset.parse(spec) == expected


@pytest.mark.parametrize("spec", ["hf:", "hf:poems", "hf:/poems", "hf:me/"])
def test_a_spec_without_owner_and_name_is_refused(spec):
    with pytest.raises(UserError, match="expected hf:owner/name"):
        HubDataset.parse(spec)


def choose(*names: str, folder: str = "", split: str = "train") -> list[str]:
    return choose_files(list(names), folder, split, "me/poems")


def test_only_the_files_of_the_split_are_chosen():
    names = ["README.md", "data/train-1.parquet", "data/train-0.parquet", "data/test-0.parquet"]

    assert choose(*names) == ["data/train-0.parquet", "data/train-1.parquet"]


def test_without_split_names_everything_is_training_text():
    assert choose("constraints.jsonl", "b.jsonl") == ["b.jsonl", "constraints.jsonl"]


def test_one_format_is_chosen_where_the_same_data_stands_in_several():
    assert choose("train.csv", "train.parquet") == ["train.parquet"]


def test_a_dataset_of_several_parts_asks_for_one():
    names = ["en/train.parquet", "fr/train.parquet"]

    assert choose(*names, folder="fr") == ["fr/train.parquet"]
    with pytest.raises(UserError, match=r"several parts \(en, fr\): choose one, as in hf:me/poems/en"):
        choose(*names)


def test_an_unknown_split_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="no split 'tets', did you mean 'test'"):
        choose("train.parquet", "test.parquet", split="tets")


def test_a_dataset_without_readable_files_is_refused():
    with pytest.raises(UserError, match="has no file that can be read"):
        choose("README.md", "images.tar")


def test_documents_come_from_the_files_of_the_dataset(tmp_path, monkeypatch):
    (tmp_path / "train.jsonl").write_text('{"title": "no", "body": "from the hub"}')
    listing = SimpleNamespace(siblings=[SimpleNamespace(rfilename="train.jsonl")])
    monkeypatch.setattr(HfApi, "dataset_info", lambda self, repository, timeout: listing)
    monkeypatch.setattr(hub_dataset, "hf_hub_download", lambda repository, name, repo_type: str(tmp_path / name))

    assert [document.text for document in read_documents(["hf:me/poems:train:body"])] == ["from the hub"]


def test_without_network_or_cache_one_line_says_so(monkeypatch):
    def offline(self, repository, timeout):
        raise OfflineModeIsEnabled("Cannot reach the hub\nsecond line")

    monkeypatch.setattr(HfApi, "dataset_info", offline)

    with pytest.raises(
        VesaliusError, match=r"^cannot reach the Hugging Face hub for 'me/poems' .*corpus:python$"
    ) as caught:
        list(read_documents(["hf:me/poems"]))
    assert not isinstance(caught.value, UserError)
