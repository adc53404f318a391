import ast
import subprocess
import sys
from collections import Counter

import pytest

from vesalius.data.docstrings import Member
from vesalius.data.document import Document
from vesalius.data.python_corpus import module_name, python_documents, python_members


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    return {document.name: document for document in python_documents()}


@pytest.fixture(scope="module")
def all_members() -> list[Member]:
    return list(python_members())


@pytest.fixture
def members(all_members) -> dict[str, Member]:
    return {member.name: member for member in all_members}


def test_there_is_enough_text_to_train_on(documents):
    kinds = Counter(name.split("/")[0] if name.startswith(("help/", "topics/")) else "source" for name in documents)

    assert kinds["source"] > 500
    assert kinds["help"] > 50
    assert kinds["topics"] > 70
    assert sum(len(document.text) for document in documents.values()) > 9_000_000


def test_source_files_are_whole_and_named_by_their_path(documents):
    decoder = documents["json/decoder.py"]

    assert decoder.split_key == "json.decoder"
    assert ast.get_docstring(ast.parse(decoder.text)) == "Implementation of JSONDecoder"


def test_tests_and_idle_and_tables_are_left_out(documents):
    folders = {part for name in documents for part in name.split("/")[:-1]}

    assert folders.isdisjoint({"test", "tests", "idlelib", "idle_test", "site-packages", "lib-dynload", "__pycache__"})
    assert not any("_sysconfigdata" in name or name == "pydoc_data/topics.py" for name in documents)
    assert "turtledemo/__main__.py" in documents


def test_compiled_modules_have_their_help(documents):
    text = documents["help/math"].text

    assert text.startswith("Help on module math:\n\nThis module provides access to the mathematical functions")
    assert "\n\nacos(x, /)\n    Return the arc cosine (measured in radians) of x.\n\n    The result is" in text


def test_what_stands_in_a_source_is_not_told_again_in_the_help(documents):
    docstring = "Push item onto heap, maintaining the heap invariant."

    assert docstring in documents["heapq.py"].text
    assert not any(docstring in document.text for name, document in documents.items() if name.startswith("help/"))


def test_topics_of_the_reference_are_documents(documents):
    assert documents["topics/lambda"].split_key == "topic:lambda"
    assert "anonymous functions" in documents["topics/lambda"].text


def test_both_halves_of_a_module_share_a_split_key(documents):
    assert documents["help/functools"].split_key == documents["functools.py"].split_key == "functools"


def test_near_copies_share_a_split_key(documents):
    assert {documents[name].split_key for name in ("posixpath.py", "ntpath.py", "genericpath.py")} == {"os.path"}
    assert {document.split_key for name, document in documents.items() if name.startswith("encodings/")} == {
        "encodings"
    }


@pytest.mark.parametrize(
    ("internal", "public"),
    [
        ("posixpath", "os.path"),
        ("_socket", "socket"),
        ("_md5", "hashlib"),
        ("_thread", "_thread"),
        ("json.tool", "json.tool"),
    ],
)
def test_modules_are_called_what_people_import(internal, public):
    assert module_name(internal).name == public


def test_members_are_found_under_their_public_names(members):
    assert members["os.path.join"].signature == "(a, *p)"
    assert members["os.getcwd"].docstring.startswith("Return a unicode string representing")
    assert members["math.acos"].kind == "function"
    assert members["json.decoder.JSONDecoder"].split_key == "json.decoder"
    assert members["builtins.str.split"].signature == "(sep=None, maxsplit=-1)"


def test_there_are_thousands_of_members_and_each_name_comes_once(all_members):
    names = Counter(member.name for member in all_members)

    assert len(names) > 7_500
    assert names.most_common(1)[0][1] == 1
    assert all(member.docstring.strip() for member in all_members)


def test_members_and_documents_share_their_split_keys(members, documents):
    keys = {document.split_key for document in documents.values()}

    assert {member.split_key for member in members.values()} <= keys


@pytest.mark.slow
def test_order_and_text_are_the_same_in_every_process():
    program = (
        "import hashlib; from vesalius.data.python_corpus import python_documents, python_members;"
        "print(hashlib.sha256(repr([*python_documents(), *python_members()]).encode()).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }

    assert len(runs) == 1
