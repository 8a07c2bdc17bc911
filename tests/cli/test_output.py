"""Tables on a terminal, exact values elsewhere."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Literal
from unittest.mock import patch

import pytest
from rich.console import Console

from ptn_api.cli.row_options import View
from ptn_api.cli.show.output import order_handler
from ptn_api.cli.show.table import (
    IDENTITY,
    LEVERAGE,
    LOST,
    NUMBER,
    RETURN,
    TIME,
    Column,
    Table,
    fitted,
    print_table,
)
from ptn_api.client import PTNWebSocketMessage
from ptn_api.client.testing import fake_order, fake_position
from ptn_api.summary import counted

HOTKEY = "5GhCxfBcA7Ur5iiAS343xwvrYHTUfBjBi4JimiL5LhujT9MM"
COLUMNS = (
    Column("miner_hotkey", "miner", IDENTITY),
    Column("trade_pair", "pair"),
    Column("net_leverage", "leverage", LEVERAGE),
    Column("current_return", "return", RETURN),
    Column("drawdown", "lost", LOST),
    Column("opened", "opened", TIME),
    Column("closed", "closed", TIME),
    Column("average_entry_price", "entry price", NUMBER, spare=True),
    Column("position_uuid", "position", IDENTITY, spare=True),
)
OPENED_MS, CLOSED_MS = 1_753_813_961_123, 1_753_908_380_456
ROW = (
    HOTKEY,
    "DOGEUSD",
    -10.0,
    1.0049112345,
    0.034,
    OPENED_MS,
    CLOSED_MS,
    0.24016712345,
    "1b4f5c6d-aaaa-bbbb",
)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(*rows: Sequence[Any], columns: int = 80, view: View | None = None) -> list[str]:
    """The lines of a table with these rows on a terminal."""
    with (
        patch.object(sys, "stdout", _Terminal()) as terminal,
        patch.dict(os.environ, COLUMNS=str(columns), TERM="xterm"),
    ):
        print_table(Table(COLUMNS, rows, "positions", "lost: drawdown."), view or View())
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()


def test_a_narrow_terminal() -> None:
    """One line per row: hotkeys are cut short, spare columns left out and named. Units are explained."""
    title, names, row, *notes = on_terminal(ROW, columns=60)
    assert title.strip() == "1 position"
    assert names.split() == ["miner", "pair", "leverage", "return", "lost", "opened", "closed"]
    assert row.split() == ["5GhCxfBc…", "DOGEUSD", "-10x", "+0.49%", "3.4%", "2025-07-29", "2025-07-30"]
    assert [note.strip() for note in notes] == [
        "lost: drawdown.",
        "Not shown here: entry price, position (--wide).",
    ]


@pytest.mark.parametrize(("height", "limit"), [(12, 0), (12, 25), (30, 0), (1, 0)])
def test_a_table_that_is_kept_on_the_screen_fits_its_height(height: int, limit: int) -> None:
    """As many rows as fit, and how many there are more; at least one row."""
    console = Console(width=100, height=height, file=io.StringIO())
    table = Table(COLUMNS, [ROW] * 40, "positions", "lost: drawdown.")
    console.print(fitted(table, console, View(limit=limit)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    shown = sum("DOGEUSD" in line for line in lines)
    assert (len(lines), shown) == (max(height, 5), max(height - 4, 1))
    assert lines[0].startswith(f"{shown} of 40 positions")
    assert f"{40 - shown} more: enlarge the terminal." in lines[-1]


def test_a_table_that_is_kept_on_the_screen_may_be_shorter() -> None:
    """Then the limit counts."""
    console = Console(width=100, height=100, file=io.StringIO())
    console.print(fitted(Table(COLUMNS, [ROW] * 40, "positions"), console, View(limit=5)))
    assert "35 more: --limit 0." in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("columns", [20, 30, 40, 50])
def test_a_very_narrow_terminal_lacks_the_last_columns(columns: int) -> None:
    """No number is shortened, which would be another number."""
    title, names, row, *notes = on_terminal(ROW, columns=columns)
    kept = names.split()
    assert kept == ["miner", "pair", "leverage", "return", "lost", "opened", "closed"][: len(kept)]
    assert row.split()[2:] == ["-10x", "+0.49%", "3.4%", "2025-07-29", "2025-07-30"][: len(kept) - 2]
    assert "Not shown here: " in " ".join(notes)
    assert max(map(len, (title, names, row, *notes))) <= columns


def test_a_long_text_does_not_shorten_numbers() -> None:
    row = (HOTKEY, "SUBACCOUNT_CHALLENGE" * 2, *ROW[2:])
    *_, shown = on_terminal(row, columns=60)[:3]
    assert shown.split()[2:] == ["-10x", "+0.49%", "3.4%", "2025-07-29", "2025-07-30"]
    assert shown.split()[1].startswith("SUBACC")


def test_nothing_gained_and_no_leverage_have_no_sign() -> None:
    assert on_terminal((HOTKEY, "BTCUSD", 0.0, 0.99999999, None, OPENED_MS, None, 1.0, ""))[2].split()[
        2:4
    ] == [
        "0x",
        "0.00%",
    ]


def test_wide_shows_whole_hotkeys_and_every_column() -> None:
    _, names, row, *_ = on_terminal(ROW, columns=60, view=View(wide=True))
    assert names.split()[-1] == "position"
    assert row.split()[0] == HOTKEY
    assert row.split()[-1] == ROW[-1]


@pytest.mark.parametrize("columns", [20, 40, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    wide = (HOTKEY + "_1234", "PLATINUMUSDC", 12345.678, 1e300, 1.0, OPENED_MS, None, 1e-300, "x" * 300)
    assert max(map(len, on_terminal(ROW, wide, columns=columns))) <= columns


def test_a_column_that_is_empty_in_every_row() -> None:
    """It is left out, such as "closed" for open positions. A table without rows shows all columns."""
    assert "closed" not in " ".join(on_terminal((*ROW[:6], 0, *ROW[7:])))
    assert "closed" in " ".join(on_terminal())


def test_times_of_this_year_are_shown_to_the_minute() -> None:
    this_year = datetime.now(timezone.utc).replace(month=7, day=30, hour=20, minute=46, second=20)
    row = (*ROW[:6], this_year.timestamp() * 1000, *ROW[7:])
    assert "07-30 20:46" in on_terminal(row)[2]


@pytest.mark.parametrize("output", ["table", "csv"])
def test_a_time_beyond_the_calendar_is_no_traceback(
    output: Literal["table", "csv"], capsys: pytest.CaptureFixture[str]
) -> None:
    """`ptn stream` would end at the same order again and again."""
    position = fake_position("BTCUSD", [fake_order(0.1, 100.0) | {"processed_ms": 10**17}])
    message = PTNWebSocketMessage({"sequence": 1, "timestamp": 10**17, "data": {"position": position}})
    order_handler(output, None)([message])
    assert "100000000000000000 ms" in capsys.readouterr().out


def test_fewer_rows() -> None:
    title, *_, hint = on_terminal(ROW, ROW, ROW, view=View(limit=2), columns=120)
    assert title.strip() == "2 of 3 positions"
    assert hint.strip() == "1 more: --limit 0."


@pytest.mark.parametrize(
    ("count", "things", "title"),
    [
        (0, "eliminated miners", "0 eliminated miners"),
        (1, "eliminated miners", "1 eliminated miner"),
        (1, "open positions of 2 miners, best miner first", "1 open position of 2 miners, best miner first"),
        (1, "keys in /srv/keys of users.json", "1 key in /srv/keys of users.json"),
        (1, "entities", "1 entity"),
        (1, "processes", "1 process"),
        (1, "items since the start", "1 item since the start"),
        (1, "files and folders", "1 file or folder"),
        (1, "miners, with the asset class that each chose", "1 miner, with the asset class that each chose"),
        (1_150, "trade pairs", "1,150 trade pairs"),
    ],
)
def test_one_thing_is_singular(count: int, things: str, title: str) -> None:
    assert counted(count, things) == title


def test_orders_stay_in_their_columns() -> None:
    """After a name that is wider than its column, too. Only the columns that are shown are explained."""
    lines = printed_orders("BTCUSDC", "WTIOILUSDC", "SILVERUSDC")
    assert all(name in " ".join(lines) for name in ("leverage:", "net:"))
    assert " age:" not in " ".join(lines)
    heading = next(line for line in lines if line.startswith("time "))
    ends = [heading.index(name) + len(name) for name in ("price", "net", "return")]
    rows = [line for line in lines if "5GhCx" in line]
    assert len(rows) == 3
    for row in rows:
        assert [row[end - 1 : end + 1].strip() for end in ends] == ["5", "x", "%"]


def printed_orders(*pairs: str) -> list[str]:
    """The lines of past orders of these pairs on a terminal."""
    orders = [fake_order(-0.568, 64_123.5, processed_ms=OPENED_MS)]
    messages = [
        PTNWebSocketMessage(
            {
                "sequence": n,
                "timestamp": OPENED_MS,
                "data": {
                    "position": fake_position("BTCUSD", orders, miner=HOTKEY) | {"trade_pair": [pair, pair]}
                },
            }
        )
        for n, pair in enumerate(pairs)
    ]
    with (
        patch.object(sys, "stdout", _Terminal()) as terminal,
        patch.dict(os.environ, COLUMNS="80", TERM="xterm"),
    ):
        order_handler("table", None, live=False)(messages)
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()


def test_other_output_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    """Piped, CSV and JSON: every digit, whole names without spaces, times as ISO 8601."""
    printed = {}
    for output in ("table", "csv", "ndjson", "json"):
        print_table(Table(COLUMNS, [(*ROW[:6], 0, *ROW[7:])], "not for programs"), View(output))  # type: ignore[arg-type]
        printed[output] = capsys.readouterr().out
    values = [*ROW[:5], "2025-07-29T18:32:41.123Z", None, *ROW[7:]]
    expected = {column.name: value for column, value in zip(COLUMNS, values, strict=True)}
    assert json.loads(printed["ndjson"]) == expected
    assert json.loads(printed["json"]) == [expected]
    for output, delimiter in (("table", "\t"), ("csv", ",")):
        (row,) = csv.DictReader(io.StringIO(printed[output]), delimiter=delimiter)
        assert row == {name: "" if value is None else str(value) for name, value in expected.items()}
        assert not any(" " in name for name in row)


def test_fewer_rows_of_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON keeps the server's shape."""
    body = b'{"a":{"positions":[1,2],"n":1},"b":{"positions":[3,4],"n":2},"c":{"positions":[5]}}'
    table = Table(COLUMNS, [ROW] * 5, "positions")
    print_table(table, View("json", limit=3), body=body, lists=[("*", "positions")])
    assert json.loads(capsys.readouterr().out) == {
        "a": {"positions": [1, 2], "n": 1},
        "b": {"positions": [3], "n": 2},
    }
    print_table(table, View("json"), body=body, lists=[("*", "positions")])
    assert capsys.readouterr().out.encode() == body + b"\n"


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """A machine of the cluster reports its name and users, and may have been taken over."""
    row = (HOTKEY, "a\x1b]0;b\x07\tc\n", *ROW[2:])
    print_table(Table(COLUMNS, [row], ""), View())
    assert "a\\x1b]0;b\\x07\\tc\\n" in capsys.readouterr().out
    assert "\x1b" not in "".join(on_terminal(row))
