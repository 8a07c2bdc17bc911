"""Tables: on a terminal for people, rounded and coloured; otherwise exact, as lines, CSV or JSON."""

from __future__ import annotations

import csv
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from ptn_api.cli.row_options import View
from ptn_api.summary import counted

__all__ = [
    "AGE",
    "AMOUNT",
    "COUNT",
    "DAY_AND_TIME",
    "IDENTITY",
    "LEVERAGE",
    "LOST",
    "NUMBER",
    "RETURN",
    "SHARE",
    "SIDE",
    "TEXT",
    "TIME",
    "Column",
    "Kind",
    "Table",
    "fitted",
    "format_age",
    "format_day_and_time",
    "format_leverage",
    "format_number",
    "format_return",
    "format_short_time",
    "format_time",
    "iso_time",
    "print_document",
    "print_lines",
    "print_table",
    "rendered",
    "shortened",
]

_Path = Sequence[str]


# --- cells ------------------------------------------------------------------------------------------------


def iso_time(ms: float | None) -> str:
    """UTC, to the millisecond, such as 2026-11-22T18:30:00.000Z; empty for 0 and None, which mean never.

    A time beyond the calendar, which a validator's file may hold, stays in milliseconds.
    """
    if not ms:
        return ""
    try:
        moment = datetime.fromtimestamp(ms / 1000, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{ms:.0f} ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_time(ms: float | None) -> str:
    """UTC, to the second; empty for never."""
    return iso_time(ms)[:19].replace("T", " ")


def format_return(factor: float) -> str:
    """A return as what was gained or lost, from a factor."""
    gained = round((factor - 1) * 100, 2)
    if not gained:
        return "0.00%"
    return f"{gained:+.2f}%" if abs(gained) < 1e6 else f"{gained:+.2g}%"


def format_leverage(value: float) -> str:
    if not value:
        return "0x"
    return f"{value:+.3g}x" if abs(value) < 1000 else f"{value:+.0f}x"


def format_number(value: float) -> str:
    """Six digits, more for large numbers; without an exponent where that is short."""
    return f"{value:.2f}" if 1e5 <= abs(value) < 1e9 else f"{value:.6g}"


def format_short_time(ms: float) -> str:
    """To the minute without the year within this year, else the date."""
    text = format_time(ms)
    return text[5:16] if text.startswith(f"{datetime.now(timezone.utc).year}-") else text[:10]


def format_day_and_time(ms: float) -> str:
    """To the second, without the year within this year."""
    return format_time(ms).removeprefix(f"{datetime.now(timezone.utc).year}-")


def format_age(ms: float) -> str:
    """A duration in its largest unit, such as 5m; seconds below 10 with a decimal."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        if ms >= size:
            return f"{ms // size:.0f}{unit}"
    seconds = max(ms, 0) / 1000
    return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds // 1:.0f}s"


def shortened(name: str) -> str:
    """The start of a hotkey or UUID, which commands accept in its place, and a subaccount's number."""
    hotkey, _, number = name.partition("_")
    return name if len(name) <= 12 else f"{hotkey[:8]}…" + (f"_{number}" if number.isdigit() else "")


class Kind(NamedTuple):
    """How the cells of a column are shown on a terminal."""

    show: Callable[[Any], str] = str
    right: bool = False
    style: Callable[[Any], str] = lambda _: ""
    is_time: bool = False


_SIDES = {"LONG": "green", "SHORT": "red", "FLAT": "dim"}
TEXT = Kind()
IDENTITY = Kind(shortened, style=lambda _: "cyan")
SIDE = Kind(style=lambda side: _SIDES.get(side, ""))
TIME = Kind(format_short_time, is_time=True)
DAY_AND_TIME = Kind(format_day_and_time, is_time=True)
AGE = Kind(lambda ms: format_age(time.time() * 1000 - ms), right=True, is_time=True)
RETURN = Kind(format_return, right=True, style=lambda factor: "green" if factor > 1 else "red" * (factor < 1))
LEVERAGE = Kind(format_leverage, right=True)
NUMBER = Kind(format_number, right=True)
AMOUNT = Kind(lambda amount: f"{amount:,.2f}", right=True)
COUNT = Kind(right=True)
SHARE = Kind(lambda share: f"{share:.0%}", right=True)
LOST = Kind(lambda share: f"{share:.1%}", right=True)


class Column(NamedTuple):
    """`name` is for programs, `heading` for people. A terminal that is too narrow lacks `spare` columns."""

    name: str
    heading: str
    kind: Kind = TEXT
    spare: bool = False


class Table(NamedTuple):
    """Rows of exact values: numbers, texts, times in epoch ms, None for a cell that is empty.

    `what` names the rows after their number in the title; `notes` explain columns and units.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    what: str
    notes: str = ""


# --- printing ---------------------------------------------------------------------------------------------


def print_table(
    table: Table, view: View, *, body: bytes = b"", lists: Sequence[_Path] = (), objects: Sequence[Any] = ()
) -> None:
    """Prints the first `view.limit` rows in the format of the view.

    `body` is the server's document, which is the JSON output; `lists` are the places of its rows, where "*"
    stands for every key. `objects` replace the rows in NDJSON. Control characters are escaped: names may come
    from another machine, and would reach the terminal.
    """
    shown = table.rows[: view.limit or None]
    names = [column.name for column in table.columns]
    match view.output:
        case "json" if body:
            print_document(_cut(body, lists, view.limit) if len(shown) < len(table.rows) else body)
        case "json" | "ndjson":
            values = (dict(zip(names, _exact(table, row), strict=True)) for row in shown)
            rows = list(objects)[: view.limit or None] or list(values)
            print_lines(map(msgspec.json.encode, rows if view.output == "ndjson" else [rows]))
        case "table" if sys.stdout.isatty():
            console = Console()
            show = rendered(table, console, view)
            # A line that is wider than the terminal is the user's wish.
            console.width = max(console.width, _width_of(show, console) if view.wide else 0)
            console.print(show)
        case output:
            dialect = "excel" if output == "csv" else "excel-tab"
            writer = csv.writer(sys.stdout, dialect=dialect, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([_printable(cell) for cell in _exact(table, row)] for row in shown)
    sys.stdout.flush()


def _exact(table: Table, row: Sequence[Any]) -> Iterable[Any]:
    for column, cell in zip(table.columns, row, strict=True):
        is_time = column.kind.is_time and not isinstance(cell, str)  # "never" is a word
        yield (iso_time(cell) or None) if is_time else cell


def _printable(cell: Any) -> Any:
    return ascii(cell)[1:-1] if isinstance(cell, str) and not cell.isprintable() else cell


def _cut(body: bytes, lists: Sequence[_Path], limit: int) -> bytes:
    """The document with the first `limit` elements of these lists or objects together."""
    document, left = msgspec.json.decode(body), limit

    def cut(value: Any, path: _Path) -> Any:
        nonlocal left
        if not path:
            chosen = value[:left] if isinstance(value, list) else dict([*value.items()][:left])
            left -= len(chosen)
            return chosen
        keys = [*value] if path[0] == "*" else [path[0]]
        kept = {key: cut(value[key], path[1:]) for key in keys if key in value and (left or path[0] != "*")}
        return kept if path[0] == "*" else value | kept

    for path in lists:
        document = cut(document, path)
    return msgspec.json.encode(document)


def print_document(body: bytes) -> None:
    """JSON as the server sent it, on one line."""
    print_lines([body.rstrip()])


def print_lines(lines: Iterable[bytes]) -> None:
    for line in lines:
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


# --- on a terminal ----------------------------------------------------------------------------------------


def fitted(table: Table, console: Console, view: View, *, note: str = "") -> RenderableType:
    """The table with as many rows as fit the terminal's present height, but at least one."""
    show, limit = rendered(table, console, view, note=note), view.limit or len(table.rows)
    while (excess := len(console.render_lines(show)) - console.height) > 0 and limit > 1:
        limit = max(1, min(limit, len(table.rows)) - excess)
        lower = view._replace(limit=limit)
        show = rendered(table, console, lower, note=note, remedy="enlarge the terminal")
    return show


def rendered(
    table: Table, console: Console, view: View, *, note: str = "", remedy: str = "--limit 0"
) -> RenderableType:
    """The table as a terminal shows it: a title, one line per row, and the notes.

    Columns without a value are left out. Where the terminal is narrow, so are spare ones, then texts are cut,
    then the last columns are left out. `remedy` shows the rows beyond the limit.
    """
    shown = table.rows[: view.limit or None]
    used = [
        n
        for n, column in enumerate(table.columns)
        if not shown or any(_text(column.kind, row[n], wide=view.wide) for row in shown)
    ]
    left_out: list[str] = []
    longest: dict[int, int] = {}
    while True:
        grid = _grid(table, shown, used, console, longest, wide=view.wide)
        excess = _width_of(grid, console) - console.width
        spare = [n for n in used if table.columns[n].spare]
        texts = [n for n in used if table.columns[n].kind is TEXT]
        if view.wide or excess <= 0 or len(used) == 1:
            break
        # Rich would shorten numbers as well.
        if spare or longest or not texts:
            last = (spare or used)[-1]
            used.remove(last)
            left_out.insert(0, table.columns[last].heading)
            continue
        cells = {n: (table.columns[n].heading, *(row[n] for row in shown)) for n in texts}
        widths = {n: max(len(str(cell)) for cell in column) for n, column in cells.items()}
        n = max(widths, key=lambda n: widths[n], default=0)
        longest = {n: max(4, widths.get(n, 0) - excess)}
    more = len(table.rows) - len(shown)
    hints = [
        f"Not shown here: {', '.join(left_out)} (--wide)." if left_out else "",
        f"{more} more: {remedy}." if more else "",
    ]
    title = counted(len(table.rows), table.what)
    lines = (
        f"{len(shown)} of {title}{note}" if more else f"{title}{note}",
        table.notes,
        " ".join(filter(None, hints)),
    )
    width = min(console.width, 100)
    heading, *notes = [Text("\n".join(textwrap.wrap(text, width)), style="dim") for text in lines if text]
    return Group(heading, grid, *notes)


def _width_of(show: RenderableType, console: Console) -> int:
    return console.measure(show, options=console.options.update(max_width=10_000)).maximum


def _grid(
    table: Table,
    shown: Sequence[Sequence[Any]],
    used: Sequence[int],
    console: Console,
    longest: Mapping[int, int],
    *,
    wide: bool,
) -> RichTable:
    """`longest` are limits of columns' widths, by their place."""
    gap = 2 if console.width >= 100 else 1
    grid = RichTable(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    for n in used:
        side: Literal["left", "right"] = "right" if table.columns[n].kind.right else "left"
        heading = Text(table.columns[n].heading)
        limit = longest.get(n)
        grid.add_column(heading, justify=side, no_wrap=True, overflow="ellipsis", max_width=limit)
    for row in shown:
        cells = []
        for n in used:
            kind = table.columns[n].kind
            text = _text(kind, row[n], wide=wide)
            style = kind.style(row[n]) if text else ""
            cells.append(Text(text, style=style, no_wrap=True, overflow="ellipsis"))
        grid.add_row(*cells)
    return grid


def _text(kind: Kind, value: Any, *, wide: bool) -> str:
    """What a terminal shows of a value; empty for None, and for the time 0, which means never."""
    if value is None or (kind.is_time and not value):
        return ""
    is_word = isinstance(value, str) and (kind.is_time or (wide and kind is IDENTITY))
    return str(_printable(value if is_word else kind.show(value)))
