"""The documented members of a Python module: its classes, functions, methods and properties that have a docstring.

A module with source is read with `ast` and never imported: importing `this` prints a poem and `antigravity` opens a
browser. A module compiled from C is imported and read with `inspect`; the signature that CPython keeps for it
(`__text_signature__`, PEP 436) is parsed by `ast` too, so that both kinds tell their parameters in one form.

Left out: functions inside functions, attributes that are documented by comments, and what a class inherits.
"""

import ast
import inspect
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["module", "class", "function", "method", "property"]
Function = ast.FunctionDef | ast.AsyncFunctionDef

_PROPERTIES = {"property", "cached_property", "functools.cached_property", "abc.abstractproperty"}
_ATTRIBUTE_TYPES = (types.GetSetDescriptorType, types.MemberDescriptorType)
_METHOD_TYPES = (types.MethodDescriptorType, types.ClassMethodDescriptorType, staticmethod)
# Not WrapperDescriptorType: a thousand times "Return self==value.", which tells nothing of the class.


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as the signature writes it; `name` has its stars (`*args`), `self` and `cls` are left out."""

    name: str
    annotation: str | None = None
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """Something that has a docstring.

    module      the name by which people import it ("os.path", not "posixpath")
    qualname    the name inside the module ("JSONDecoder.decode"), "" for the module itself
    signature   "(a, *p)", with the arrow where the source has one; None for modules, properties and where it is unknown
    docstring   cleaned by `inspect.cleandoc`
    parameters  those of the signature; a class has those of its own `__init__` or `__new__`
    split_key   what decides whether it belongs to training or validation
    """

    module: str
    qualname: str
    kind: Kind
    signature: str | None
    docstring: str
    parameters: tuple[Parameter, ...]
    split_key: str

    @property
    def name(self) -> str:
        """The full dotted name: "json.JSONDecoder.decode"."""
        return f"{self.module}.{self.qualname}" if self.qualname else self.module


@dataclass(frozen=True, slots=True)
class ModuleName:
    """How the members of a module are called, and what splits them."""

    name: str
    split_key: str


def source_members(module: ModuleName, source: str | bytes) -> Iterator[Member]:
    """The documented members in a module's source, in its order; a name defined twice (`try`/`except`) counts once."""
    tree = ast.parse(source)
    yield from _member(module, "", "module", ast.get_docstring(tree), None)
    seen = set()
    for member in _scope_members(module, tree.body, owner=""):
        if member.qualname not in seen:
            seen.add(member.qualname)
            yield member


def extension_members(module: ModuleName, imported: types.ModuleType) -> Iterator[Member]:
    """The documented members that a module compiled from C defines itself, in alphabetical order."""
    yield from _member(module, "", "module", imported.__doc__, None)
    for name, value in sorted(vars(imported).items()):
        own = getattr(value, "__module__", None) in (imported.__name__, module.name)
        if not own or getattr(value, "__name__", None) != name:  # made elsewhere, or a second name of another member
            continue
        if inspect.isclass(value):
            yield from _member(module, name, "class", value.__doc__, _text_arguments(value))
            yield from _class_members(module, value)
        elif inspect.isbuiltin(value):
            yield from _member(module, name, "function", value.__doc__, _text_arguments(value))


def _member(
    module: ModuleName,
    qualname: str,
    kind: Kind,
    docstring: str | None,
    arguments: ast.arguments | None,
    returns: str = "",
) -> Iterator[Member]:
    """One member, or none where there is no docstring."""
    if not isinstance(docstring, str) or not docstring.strip():  # a C class may have any object for its __doc__
        return
    signature = f"({ast.unparse(arguments)}){returns}" if arguments is not None else None
    parameters = tuple(_parameters(arguments)) if arguments is not None else ()
    text = inspect.cleandoc(docstring).strip()
    yield Member(module.name, qualname, kind, signature, text, parameters, module.split_key)


def _scope_members(module: ModuleName, body: Sequence[ast.stmt], owner: str) -> Iterator[Member]:
    """What is defined in a module (owner "") or in a class (owner "JSONDecoder.")."""
    for node in body:
        match node:
            case ast.ClassDef():
                qualname = owner + node.name
                yield from _member(module, qualname, "class", ast.get_docstring(node), _constructor_arguments(node))
                yield from _scope_members(module, node.body, owner=qualname + ".")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _function_member(module, node, owner)
            case ast.If() | ast.Try():
                handlers = [statement for handler in getattr(node, "handlers", []) for statement in handler.body]
                nested = [*node.body, *handlers, *node.orelse, *getattr(node, "finalbody", [])]
                yield from _scope_members(module, nested, owner)


def _function_member(module: ModuleName, node: Function, owner: str) -> Iterator[Member]:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    docstring, qualname = ast.get_docstring(node), owner + node.name
    if decorators & _PROPERTIES:
        yield from _member(module, qualname, "property", docstring, None)
        return
    bound = owner != "" and "staticmethod" not in decorators
    arguments = _without_first(node.args) if bound else node.args
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    yield from _member(module, qualname, "method" if owner else "function", docstring, arguments, returns)


def _class_members(module: ModuleName, cls: type) -> Iterator[Member]:
    for name, value in sorted(vars(cls).items()):
        qualname = f"{cls.__name__}.{name}"
        if isinstance(value, _ATTRIBUTE_TYPES):
            yield from _member(module, qualname, "property", value.__doc__, None)
        elif isinstance(value, _METHOD_TYPES):
            yield from _member(module, qualname, "method", value.__doc__, _text_arguments(value))


def _constructor_arguments(node: ast.ClassDef) -> ast.arguments | None:
    methods = {item.name: item.args for item in node.body if isinstance(item, ast.FunctionDef)}
    arguments = methods.get("__init__", methods.get("__new__"))
    return _without_first(arguments) if arguments is not None else None


def _text_arguments(value: object) -> ast.arguments | None:
    """The parameters in `__text_signature__`, where `$` marks the argument that a call does not write."""
    text = getattr(value, "__text_signature__", None)
    if not text:
        return None
    try:
        tree = ast.parse(f"def f{text.replace('$', '')}: ...")
    except SyntaxError:  # a default that C cannot tell is written "<unrepresentable>"
        return None
    assert isinstance(tree.body[0], ast.FunctionDef)
    arguments = tree.body[0].args
    return _without_first(arguments) if "$" in text else arguments


def _without_first(arguments: ast.arguments) -> ast.arguments:
    """The same parameters without `self`."""
    positional, plain = arguments.posonlyargs, arguments.args
    positional, plain = (positional[1:], plain) if positional else (positional, plain[1:])
    defaults = arguments.defaults[-len(positional + plain) :] if positional + plain else []
    return ast.arguments(
        posonlyargs=positional,
        args=plain,
        vararg=arguments.vararg,
        kwonlyargs=arguments.kwonlyargs,
        kw_defaults=arguments.kw_defaults,
        kwarg=arguments.kwarg,
        defaults=defaults,
    )


def _parameters(arguments: ast.arguments) -> Iterator[Parameter]:
    plain = arguments.posonlyargs + arguments.args
    missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    yield from map(_parameter, plain, missing + list(arguments.defaults))
    if arguments.vararg:
        yield _parameter(arguments.vararg, None, stars="*")
    yield from map(_parameter, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg:
        yield _parameter(arguments.kwarg, None, stars="**")


def _parameter(argument: ast.arg, default: ast.expr | None, stars: str = "") -> Parameter:
    annotation = ast.unparse(argument.annotation) if argument.annotation else None
    return Parameter(stars + argument.arg, annotation, ast.unparse(default) if default is not None else None)
