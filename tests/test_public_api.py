"""The public names and signatures, which users build on, are those in `public_api.txt`.

`python -m tests.test_public_api` writes the file. A change of it affects users.
"""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).with_name("public_api.txt")
MODULES = [
    "ptn_api.client",
    "ptn_api.client.tables",
    "ptn_api.client.testing",
    "ptn_api.websocket_client",
    "ptn_api.api_manager",
    "ptn_api.errors",
]


def described() -> str:
    return "".join(f"{line}\n" for module in MODULES for line in _module(module))


def _module(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    for public in sorted(module.__all__):
        yield from _thing(f"{name}.{public}", getattr(module, public))


def _thing(name: str, thing: Any) -> Iterator[str]:
    if inspect.isclass(thing):
        bases = ", ".join(base.__name__ for base in thing.__bases__)
        yield f"class {name}({bases}): {_signature(thing)}"
        for member in sorted(set(dir(thing)) - _inherited(thing)):
            yield from _member(f"{name}.{member}", inspect.getattr_static(thing, member))
    elif inspect.isroutine(thing):
        yield f"def {name}{_signature(thing)}"
    else:
        yield f"{name} = {thing}"


def _inherited(thing: type) -> set[str]:
    """Returns the names inherited from other packages, and private names."""
    foreign = [base for base in thing.__mro__ if not base.__module__.startswith("ptn_api")]
    names = {name for base in foreign for name in vars(base)}
    return names | {name for name in dir(thing) if name.startswith("_")}


def _member(name: str, member: Any) -> Iterator[str]:
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    if inspect.isfunction(member):
        word = "async def" if inspect.iscoroutinefunction(member) else "def"
        yield f"    {word} {name}{_signature(member)}"
    else:
        yield f"    {name}"


def _signature(thing: Any) -> str:
    """Returns names, kinds and defaults; mypy checks the types (test_typing.py)."""
    if inspect.isclass(thing) and issubclass(thing, enum.Enum):
        return "(value)"  # the rest differs between versions of Python
    try:
        signature = inspect.signature(thing)
    except ValueError:
        return "(...)"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter.default))
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _default(value: Any) -> Any:
    if value is inspect.Parameter.empty or isinstance(value, (str, int, float, tuple, type(None), enum.Enum)):
        return value
    return _Named(getattr(value, "__name__", type(value).__name__))


class _Named(str):
    """A string printed without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def test_names_and_signatures_are_the_declared_ones() -> None:
    """A change belongs in `public_api.txt` and in the changelog."""
    assert described() == FILE.read_text()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_documented(module: str) -> None:
    """With a docstring, if it can have one."""
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    things = [getattr(loaded, name) for name in loaded.__all__]
    bare = [
        t.__name__ for t in things if (inspect.isclass(t) or inspect.isfunction(t)) and not inspect.getdoc(t)
    ]
    assert bare == []


if __name__ == "__main__":
    FILE.write_text(described())
