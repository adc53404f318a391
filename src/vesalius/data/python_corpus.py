"""`corpus:python`: the standard library of the running interpreter, a corpus that needs no download.

About 11 MB of code, half a megabyte of the language reference (`pydoc_data.topics`) and the help of the modules that
are compiled from C. The docstrings of modules with source are in the sources already and are not put in twice.

What tells about one module shares one split key, however many files it stands in: the C half `_json` counts as `json`,
the two implementations of `os.path` are one, and so are the hundred codec tables of `encodings`, which are near copies
of each other. So a validation module is unseen, and unseen too by the questions that are made from it.

Left out: tests, IDLE, machine-made tables of build settings, and Python's own test extensions.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import tokenize
import types
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from pydoc_data.topics import topics
from textwrap import indent

from vesalius.data.docstrings import Member, ModuleName, extension_members, source_members
from vesalius.data.document import Document

_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "idle_test", "__pycache__"}
_SKIPPED_FILES = {"pydoc_data/topics.py"}  # each topic is a document of its own
_SKIPPED_EXTENSIONS = {"readline"}  # importing it changes how `input` behaves

_PUBLIC_NAMES = {
    "posixpath": "os.path", "genericpath": "os.path", "posix": "os", "nt": "os",
    "_sre": "re", "_strptime": "time", "_weakrefset": "weakref", "_collections_abc": "collections.abc",
    "_elementtree": "xml.etree.ElementTree", "pyexpat": "xml.parsers.expat", "_lsprof": "cProfile",
    "_pydecimal": "decimal", "_pyio": "io", "_pydatetime": "datetime", "_curses_panel": "curses.panel",
    "_md5": "hashlib", "_sha1": "hashlib", "_sha2": "hashlib", "_sha256": "hashlib", "_sha512": "hashlib",
    "_sha3": "hashlib", "_blake2": "hashlib",
    "_posixsubprocess": "subprocess", "_posixshmem": "multiprocessing.shared_memory",
}  # fmt: skip
_PUBLIC_NAMES_OF_NEAR_COPIES = {"ntpath": "os.path"}


def python_documents() -> Iterator[Document]:
    """Source files, then the help of compiled modules, then the topics of the language reference, each sorted."""
    for module, path in _source_files():
        with tokenize.open(path) as file:
            text = file.read()
        if text.strip():
            yield Document(text, path.relative_to(_library()).as_posix(), module.split_key)
    sources = _sources_by_name()
    for name, members in _compiled_modules():
        told = {member.qualname for path in sources.get(name, []) for member in _read_members(*path)}
        if fresh := [member for member in members if member.qualname not in told]:
            yield Document(_help_text(name, fresh), f"help/{name}", fresh[0].split_key)
    for topic, text in sorted(topics.items()):
        yield Document(text, f"topics/{topic}", f"topic:{topic}")


def python_members() -> Iterator[Member]:
    """Everything in the library that has a docstring: modules with source first, then compiled ones; each name once.

    Reads and parses the whole library, which takes some seconds.
    """
    seen = set()
    for module, path in _source_files():
        for member in _read_members(module, path):
            if member.name not in seen:
                seen.add(member.name)
                yield member
    for _, members in _compiled_modules():
        yield from (member for member in members if member.name not in seen)


def module_name(internal: str) -> ModuleName:
    """The name by which people know a module, and its split key.

    >>> module_name("_json")
    ModuleName(name='json', split_key='json')
    >>> module_name("encodings.cp1252")
    ModuleName(name='encodings.cp1252', split_key='encodings')
    """
    public = _PUBLIC_NAMES.get(internal, internal)
    if public.startswith("_") and public[1:] in sys.stdlib_module_names:
        public = public[1:]
    family = "encodings" if public.startswith("encodings.") else _PUBLIC_NAMES_OF_NEAR_COPIES.get(public, public)
    return ModuleName(public, family)


@cache
def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _source_files() -> Iterator[tuple[ModuleName, Path]]:
    """The library's files, sorted. Folders such as `site-packages` and `lib-dynload` are no names of packages."""
    for path in sorted(_files_below(_library())):
        relative = path.relative_to(_library())
        names = [*relative.parts[:-1], *([] if path.stem == "__init__" else [path.stem])]
        if path.stem.isidentifier() and relative.as_posix() not in _SKIPPED_FILES:
            yield module_name(".".join(names)), path


def _files_below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name.isidentifier() and name not in _SKIPPED_FOLDERS]
        yield from (
            Path(root, name) for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata")
        )


def _read_members(module: ModuleName, path: Path) -> Iterator[Member]:
    return source_members(module, path.read_bytes())


def _sources_by_name() -> dict[str, list[tuple[ModuleName, Path]]]:
    by_name: dict[str, list[tuple[ModuleName, Path]]] = {}
    for module, path in _source_files():
        by_name.setdefault(module.name, []).append((module, path))
    return by_name


def _compiled_modules() -> Iterator[tuple[str, list[Member]]]:
    """Public names with the members that compiled modules give them, sorted; each name once."""
    modules = sorted((module_name(internal).name, internal) for internal in _extension_names())
    for public, group in groupby(modules, key=lambda pair: pair[0]):
        members: dict[str, Member] = {}
        for _, internal in group:
            if (imported := _import_quietly(internal)) is not None:
                found = extension_members(module_name(internal), imported)
                members |= {member.qualname: member for member in found if member.qualname not in members}
        if members:
            yield public, list(members.values())


def _extension_names() -> Iterator[str]:
    """The modules of the library that have no source, whether built in or in files of their own."""
    for name in sorted(sys.stdlib_module_names - _SKIPPED_EXTENSIONS):
        spec = importlib.util.find_spec(name)
        loader = spec.loader if spec is not None else None
        compiled = isinstance(loader, importlib.machinery.ExtensionFileLoader)
        if compiled or loader is importlib.machinery.BuiltinImporter:
            yield name


def _import_quietly(name: str) -> types.ModuleType | None:
    """The module, or None where a library that it needs is not installed (`_tkinter` without Tk)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


def _help_text(name: str, members: list[Member]) -> str:
    """The members much as `help(module)` prints them: "acos(x, /)" and the docstring indented below it."""
    blocks = [f"Help on module {name}:"]
    for member in members:
        heading = ("class " if member.kind == "class" else "") + member.qualname + (member.signature or "")
        blocks.append(f"{heading}\n{indent(member.docstring, '    ')}" if member.qualname else member.docstring)
    return "\n\n".join(blocks) + "\n"
