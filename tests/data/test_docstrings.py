import _collections
import array
import decimal
import inspect
import itertools
import json.decoder
import math
import statistics
import textwrap
import zlib

import pytest

from vesalius.data.docstrings import Member, ModuleName, Parameter, extension_members, source_members

HERE = ModuleName("here", "here")
BOX = '''
"""The module.

    Indented below.
"""
raise SystemExit("a module is read, not imported")

class Box(dict):
    """Holds things."""

    def __init__(self, size: int, *, name="box", **rest):
        self.size = size

    def put(self, *things, at=None) -> bool:
        """Puts."""
        def inner():
            """Not a member."""

    @property
    def full(self):
        """Whether it is."""

    @full.setter
    def full(self, value):
        """Fills it."""

    @staticmethod
    def measure(first, /, second=(1, 2)):
        """Measures."""

    def undocumented(self): ...

    class Lid:
        """Closes."""

try:
    from fast import close
except ImportError:
    async def close(box):
        """Closes slowly."""
else:
    def close(box):
        """Closes twice."""
'''


def members_of(source: str) -> dict[str, Member]:
    return {member.qualname: member for member in source_members(HERE, source)}


def test_a_module_is_read_without_importing_it():
    members = members_of(BOX)

    assert list(members) == ["", "Box", "Box.put", "Box.full", "Box.measure", "Box.Lid", "close"]
    assert [member.kind for member in members.values()] == [
        "module", "class", "method", "property", "method", "class", "function",
    ]  # fmt: skip


def test_names_are_dotted_from_the_module():
    assert [members_of(BOX)[name].name for name in ("", "Box.Lid")] == ["here", "here.Box.Lid"]


def test_docstrings_are_cleaned():
    assert members_of(BOX)[""].docstring == "The module.\n\nIndented below."


def test_a_class_has_the_parameters_of_its_constructor_without_self():
    box = members_of(BOX)["Box"]

    assert box.signature == "(size: int, *, name='box', **rest)"
    assert box.parameters == (Parameter("size", "int"), Parameter("name", None, "'box'"), Parameter("**rest"))


@pytest.mark.parametrize(
    ("qualname", "signature"),
    [
        ("Box.put", "(*things, at=None) -> bool"),
        ("Box.measure", "(first, /, second=(1, 2))"),
        ("Box.full", None),
        ("", None),
    ],
)
def test_signatures_are_as_a_call_is_written(qualname, signature):
    assert members_of(BOX)[qualname].signature == signature


def test_the_first_of_two_definitions_of_a_name_counts():
    assert members_of(BOX)["close"].docstring == "Closes slowly."


@pytest.mark.parametrize("module", [json.decoder, textwrap, statistics, decimal])
def test_source_members_agree_with_inspect(module):
    source = inspect.getsource(module)
    functions = [member for member in source_members(HERE, source) if member.kind == "function"]

    for member in functions:
        function = getattr(module, member.qualname)
        assert member.docstring == inspect.getdoc(function).strip()
        if inspect.isfunction(function):  # not wrapped by a decorator
            assert_same_parameters(member, inspect.signature(inspect.unwrap(function)))


@pytest.mark.parametrize("module", [math, zlib, itertools, array])
def test_extension_members_agree_with_inspect(module):
    members = list(extension_members(ModuleName(module.__name__, "key"), module))
    checked = 0

    assert members[0].docstring == inspect.getdoc(module)
    for member in members[1:]:
        value = module
        for name in member.qualname.split("."):
            value = getattr(value, name)
        assert member.docstring == inspect.cleandoc(value.__doc__)
        if member.signature is not None:
            assert_same_parameters(member, inspect.signature(value), without_self=member.kind == "method")
            checked += 1
    assert checked > 1


def assert_same_parameters(member: Member, signature: inspect.Signature, without_self: bool = False) -> None:
    expected = [
        parameter for parameter in signature.parameters.values() if not (without_self and parameter.name == "self")
    ]
    assert [p.name.lstrip("*") for p in member.parameters] == [p.name for p in expected]
    assert [p.default is not None for p in member.parameters] == [p.default is not p.empty for p in expected]


def test_extension_members_are_those_that_the_module_defines():
    names = {member.qualname for member in extension_members(ModuleName("collections", "collections"), _collections)}

    assert {"deque", "deque.append", "OrderedDict", "defaultdict.default_factory"} <= names
    assert "deque.__eq__" not in names  # "Return self==value." tells nothing
