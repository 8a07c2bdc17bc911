"""Tables on a terminal, tab-separated lines in a pipe."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from unittest.mock import patch

import pytest

from ptn_api.cli.show.output import print_rows

POSITIONS = ("miner", "pair", "type", "leverage", "entry price", "return", "orders", "opened", "closed")
HOTKEY = "5GhCxfBcA7Ur5iiAS343xwvrYHTUfBjBi4JimiL5LhujT9MM"
CLOSED = (HOTKEY, "DOGEUSD", "SHORT", "-10.0000", "0.240167", "1.00491", "1234", "2025-07-29 18:32:41")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(row: Sequence[str] | None, columns: Sequence[str] = POSITIONS) -> list[str]:
    """The lines of a table with this row on a terminal of 80 columns."""
    with (
        patch.object(sys, "stdout", _Terminal()) as terminal,
        patch.dict(os.environ, COLUMNS="80", TERM="dumb"),
    ):
        print_rows(columns, [] if row is None else [row])
    return terminal.getvalue().splitlines()


def test_eighty_columns_are_enough() -> None:
    """Only the hotkey is cut short, and only a column's name wraps."""
    *_, names, row = on_terminal((*CLOSED, "2025-07-30 20:46:20"))
    assert names.split() == [name.removeprefix("entry ") for name in POSITIONS]
    assert row.split() == ["5GhCxfBc…", *CLOSED[1:7], "2025-07-29", "2025-07-30"]


def test_the_leaderboard_fits_too() -> None:
    """Of a miner with long values: the hotkey and the phase are cut short."""
    columns = ("rank", "miner", "180d return", "all time", "won", "lost", "open", "net", "last", "phase")
    row = (
        "1000",
        HOTKEY,
        "10.04320",
        "12.21000",
        "100%",
        "10.0%",
        "12",
        "-10.50",
        "59m",
        "SUBACCOUNT_FUNDED",
    )
    *_, shown = on_terminal(row, columns)
    assert len(shown) <= 80
    assert shown.split()[:-1] == ["1000", "5GhCxfBc…", *row[2:9]]
    assert shown.split()[-1].startswith("SUBACC")


def test_a_column_that_is_empty_in_every_row() -> None:
    """It is left out, such as "closed" for open positions. A table without rows shows all columns."""
    assert "closed" not in " ".join(on_terminal((*CLOSED, "")))
    assert "closed" in " ".join(on_terminal(None))


def test_times_of_this_year_are_shown_to_the_minute() -> None:
    year = datetime.now(timezone.utc).year
    assert on_terminal((*CLOSED, f"{year}-07-30 20:46:20"))[-1].split()[-2:] == ["07-30", "20:46"]


def test_piped_cells_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(POSITIONS, [(*CLOSED, "")], title="not for programs")
    assert capsys.readouterr().out == "\t".join(POSITIONS) + "\n" + "\t".join((*CLOSED, "")) + "\n"


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """A machine of the cluster reports its name and users, and may have been taken over."""
    print_rows(("user", "day"), [("a\x1b]0;b\x07\tc\n", "é")])
    assert capsys.readouterr().out == "user\tday\na\\x1b]0;b\\x07\\tc\\n\té\n"
    assert "\x1b" not in "".join(on_terminal(("a\x1b[2J", "b"), ("user", "day")))
