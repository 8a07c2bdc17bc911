"""Short descriptions of large values, for a Python prompt and for notebooks, and lines that fit a terminal.

A class that `summarised` decorates has a method `_summary`, and gets `__repr__` and `_repr_html_` from it.
Hotkeys and names come from other people: every cell is escaped and cut.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any, TextIO, TypeVar

__all__ = [
    "ROWS",
    "SummarisedDict",
    "SummarisedList",
    "Summary",
    "counted",
    "flattened",
    "number",
    "summarised",
    "time_text",
    "wrapped",
]

T = TypeVar("T")
K = TypeVar("K")

ROWS = 8
"""Rows that a summary shows."""
_WIDEST = 56
"""Characters of a cell, and of a line without a table: more than those of a subaccount's hotkey."""
_NARROWEST = 16


class Summary:
    """A title, and the first rows of a table; `total` is the number of all rows.

    `rows` may be a generator over everything: no more than the shown rows are taken from it.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[str] = (),
        rows: Iterable[Sequence[object]] = (),
        total: int = 0,
    ) -> None:
        self.title = _printable(title, 4 * _WIDEST)
        self.columns = columns
        self.rows = [[_printable(_cell(value), _WIDEST) for value in row] for row in islice(rows, ROWS)]
        more = total - len(self.rows)
        self.rest = f"... {more:,} more" if more > 0 and columns else ""

    def text(self) -> str:
        """On a terminal, a line that would be wider has its longest column cut in the middle."""
        if not self.rows:
            return self.title
        lines = [list(line) for line in (self.columns, *self.rows)]
        widths = [max(len(line[n]) for line in lines) for n in range(len(self.columns))]
        room = shutil.get_terminal_size((10_000, 24)).columns - sum(widths) - 2 * (len(widths) - 1)
        if room < 0:
            n = widths.index(max(widths))
            widths[n] = max(_NARROWEST, widths[n] + room)
            for line in lines:
                if len(line[n]) > widths[n]:
                    line[n] = f"{line[n][: widths[n] - 6]}…{line[n][-5:]}"
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        ]
        return "\n".join(line.rstrip() for line in (self.title, *table, self.rest) if line.strip())

    def html(self) -> str:
        import html

        title, rest = html.escape(self.title), html.escape(self.rest)
        if not self.rows:
            return f"<pre>{title}</pre>"
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        return (
            f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            + (f"<p>{rest}</p>" if rest else "")
        )


def summarised(cls: type[T]) -> type[T]:
    """Gives a class with a method `_summary` a short `repr` and a table in notebooks."""
    described: Any = cls
    described.__repr__ = lambda self: self._summary().text()
    described._repr_html_ = lambda self: self._summary().html()
    return cls


def counted(count: int, things: str) -> str:
    """The number with its noun: "2 closed positions of 5Ent", and of one, "1 closed position of 5Ent".

    `things` begins with the plural, which ends before " of ", " in ", " since ", a comma or a semicolon.
    """
    if count != 1:
        return f"{count:,} {things}"
    noun = re.split(" of | in | since |[,;]", things, maxsplit=1)[0]
    singular = re.sub(r"ies\b", "y", re.sub(r"((?<=ss)e)?(?<!ie)s\b", "", noun)).replace(" and ", " or ")
    return f"1 {singular}{things[len(noun) :]}"


def wrapped(text: str, stream: TextIO, *, first: str = "", indent: str = "", widest: int = 10_000) -> str:
    """The line as the stream should get it: on a terminal, broken between words at its width or `widest`.

    `first` precedes the first line, `indent` the others. A word that is longer than a line stays whole, and
    so does the line on a terminal that does not report its width.
    """
    columns, width = os.environ.get("COLUMNS", ""), 0
    with contextlib.suppress(OSError):
        width = int(columns) if columns.isdecimal() else os.get_terminal_size(stream.fileno()).columns
    if width == 0 or not stream.isatty():
        return first + text
    return textwrap.fill(
        text,
        min(width, widest),
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def number(value: float | None, form: str = "g") -> str:
    """Formats a number that a validator may have left out."""
    try:
        return "" if value is None else format(value, form)
    except OverflowError:  # an integer beyond a float
        return str(value)


def time_text(ms: float | None) -> str:
    """UTC, to the second; empty for 0 and None, which mean never."""
    try:
        return f"{datetime.fromtimestamp(ms / 1000, timezone.utc):%Y-%m-%d %H:%M:%S}" if ms else ""
    except (ValueError, OverflowError, OSError):  # no year that Python knows
        return f"{ms} ms"
    except TypeError:  # of a validator, no number
        return str(ms)


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of nested objects by dotted name, such as `scores.omega`; without lists and None."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": found for inner, found in flattened(value).items()}
        elif value is not None and not isinstance(value, list):
            flat[name] = value
    return flat


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def _printable(text: str, longest: int) -> str:
    shown = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return shown if shown.isprintable() else ascii(shown)[1:-1]


@summarised
class SummarisedList(list[T]):
    """A list whose `repr` shows the first elements."""

    def _summary(self) -> Summary:
        return Summary(f"{len(self):,} in a list", ("",), ([_short(value)] for value in self), len(self))


@summarised
class SummarisedDict(dict[K, T]):
    """A dict whose `repr` shows the first items."""

    def _summary(self) -> Summary:
        rows = ([_short(key), _short(value)] for key, value in self.items())
        return Summary(f"{len(self):,} in a dict", ("key", "value"), rows, len(self))


def _short(value: object) -> str:
    """The first line of a value's `repr`; of collections, whose `repr` may be long, only their size."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    return repr(value).partition("\n")[0]
