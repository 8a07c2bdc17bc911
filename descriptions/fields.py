"""The table of fields: what each field of a response or frame means, read from the docstrings of the types.

The docstring below a field is its row: the meaning, then `Type:` where the annotation does not tell it,
`Unit:`, `Null:` or `Absent:`, and `Since:`. Lines that begin with "- " are rows of keys within an untyped
value, or in a class docstring of keys that are passed on without a field. A `Since:` in a class docstring
holds for all of its fields. "See `Order`." means the row of the field with the same name there.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from ptn_api.rest.routes import ROUTES
from ptn_api.wire import frames

__all__ = ["Field", "about", "add_descriptions", "fields_of", "structs", "type_name"]

Kind = type[msgspec.Struct]

_FACT = re.compile(r"(?:^| )(Type|Unit|Null|Absent|Since): (.+?)\.(?= (?:Type|Unit|Null|Absent|Since): |$)")
_SEE = re.compile(r"See `(\w+)`\.")
_INTEGERS = ("epoch ms", "ms", "count", "place", "number", "block number")
_TEXTS = ("", "YYYY-MM-DD", "YYYY-MM-DD HH:MM:SS", "ISO 8601")


class Field(NamedTuple):
    """A row of the table. `name` is dotted for a key within the field; `*` stands for any key."""

    name: str
    type: str
    meaning: str
    unit: str = ""
    null: str = ""
    """When it is null or absent; empty if it always has a value."""
    null_word: str = "Null"
    """`Null`, or `Absent` if the key is left out instead."""
    since: str = ""
    """The server's version, the validator's year or generation; empty if it has always been there."""

    @property
    def text(self) -> str:
        """The row as sentences."""
        facts = {"Unit": self.unit, self.null_word: self.null, "Since": self.since}
        return " ".join([self.meaning, *(f"{name}: {fact}." for name, fact in facts.items() if fact)])


class _Docstrings(NamedTuple):
    of_class: str
    of_fields: dict[str, str]


@cache
def _docstrings(module: str) -> dict[str, _Docstrings]:
    """Returns the docstrings of a module's classes and of their fields."""
    found = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            pairs = zip(node.body, node.body[1:], strict=False)
            of_fields = {
                field.target.id: inspect.cleandoc(text.value.value)
                for field, text in pairs
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
            found[node.name] = _Docstrings(ast.get_docstring(node) or "", of_fields)
    return found


def _docstrings_of(kind: type) -> _Docstrings:
    return _docstrings(kind.__module__).get(kind.__name__, _Docstrings("", {}))


def about(kind: Kind) -> str:
    """Returns what the type itself is: its docstring without rows and facts."""
    text = _docstrings_of(kind).of_class
    paragraphs = (part for part in text.split("\n\n") if not part.startswith("- "))
    return "\n\n".join(filter(None, (_FACT.sub("", " ".join(part.split())).strip() for part in paragraphs)))


@cache
def fields_of(kind: Kind) -> dict[str, Field]:
    """Returns the rows of a type by name, in the order of its fields; keys that it passes on come last."""
    class_text, *extra = _entries(_docstrings_of(kind).of_class)
    since = dict(_FACT.findall(class_text[1])).get("Since", "")
    rows: list[Field] = []
    for field in msgspec.structs.fields(kind):
        texts = (_docstrings_of(base).of_fields.get(field.name, "") for base in kind.__mro__)
        entries = list(_entries(next(filter(None, texts), "")))
        rows += _rows(
            [(f"{field.encode_name}.{name}".rstrip("."), text) for name, text in entries],
            type_name(field.type),
        )
    rows += _rows(extra)
    return {row.name: row if row.since or not since else row._replace(since=since) for row in rows}


def _rows(entries: list[tuple[str, str]], first_type: str = "anything") -> Iterator[Field]:
    """Returns the rows of texts by name; only the first one may have a type of its own."""
    type_ = first_type
    for name, text in entries:
        if see := _SEE.fullmatch(text):
            yield fields_of(structs()[see[1]])[name.rpartition(".")[2]]._replace(name=name)
            type_ = "anything"
            continue
        facts = dict(_FACT.findall(text))
        unit = facts.get("Unit", "")
        if "Type" in facts:
            type_ = facts["Type"]
        elif any(other.startswith(f"{name}.") for other, _ in entries):
            type_ = type_.replace("anything", "object")
        elif type_ == "anything":
            type_ = "integer" if unit in _INTEGERS else "text" if unit in _TEXTS else "number"
        null, word = (facts[word], word) if (word := "Absent") in facts else (facts.get("Null", ""), "Null")
        yield Field(name, type_, _FACT.sub("", text).strip(), unit, null, word, facts.get("Since", ""))
        type_ = "anything"


def _entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Returns the docstring's text, under an empty name, and the texts of its rows by name."""
    head, *items = re.split(r"^- ", docstring, flags=re.MULTILINE)
    yield "", " ".join(head.split())
    for item in items:
        name, _, text = item.partition(": ")
        yield name, " ".join(text.split())


@cache
def structs() -> dict[str, Kind]:
    """Returns the types of all responses and frames, and of their parts, by name."""
    responses = [
        kind for route in ROUTES for kind in (route.response, route.variant, route.ndjson_line) if kind
    ]
    of_frames = [kind for name in frames.__all__ if isinstance(kind := getattr(frames, name), type)]
    found: dict[str, Kind] = {}
    waiting: list[Any] = [*responses, *of_frames]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind.__name__ not in found:
                found[kind.__name__] = kind
                waiting += [field.type for field in msgspec.structs.fields(kind)]
        else:
            waiting += get_args(kind)
    return dict(sorted(found.items()))


def add_descriptions(schemas: dict[str, Any]) -> None:
    """Adds the table's texts to JSON Schemas by name, and the keys that a type passes on."""
    for name, schema in schemas.items():
        kind = structs().get(name)
        if kind is None:
            continue
        schema["description"] = about(kind)
        rows = fields_of(kind)
        for row_name, row in rows.items():
            parts = [part for part in rows.values() if part.name.startswith(f"{row_name}.")]
            if "." not in row_name:
                schema["properties"].setdefault(row_name, {})["description"] = "\n\n".join(
                    filter(None, [row.text, "\n".join(f"- `{part.name}`: {part.text}" for part in parts)])
                )


def type_name(kind: Any) -> str:
    """Returns a type's name in plain words."""
    if kind is Any:
        return "anything"
    if isinstance(kind, type) and not get_args(kind):
        words = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
        return words.get(kind.__name__, kind.__name__)
    parts = [part for part in get_args(kind) if part not in (msgspec.UnsetType, ...)]
    origin = get_origin(kind)
    if origin is Annotated:
        return type_name(parts[0])
    if origin is tuple:
        return f"[{', '.join(map(type_name, parts))}]"
    if origin is list:
        return f"list of {type_name(parts[0])}"
    if origin is dict:
        return f"{type_name(parts[1])} by key"
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    return " or ".join("null" if part is type(None) else type_name(part) for part in parts)
