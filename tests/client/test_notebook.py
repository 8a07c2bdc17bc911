"""What a Python prompt and a notebook show of the client's answers."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from functools import cache
from typing import Any

import msgspec
import pytest
from IPython.core.interactiveshell import InteractiveShell

from ptn_api.client.calls import (
    Checkpoint,
    EliminationList,
    LeaderboardDocument,
    Ledgers,
    MessagePage,
    MinerOrders,
    MinerPositions,
    PositionChanges,
    StatisticsDocument,
    TradePairs,
)
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.mirror import PositionMirror
from ptn_api.client.mirror_state import MirrorState
from ptn_api.model.documents import AccountSnapshots, ChallengePeriod, Collateral, MinerLedger
from ptn_api.model.limit_order import ListedOrder
from ptn_api.model.order import Order
from ptn_api.model.position import Position
from ptn_api.model.statistics import Elimination, MinerStatistics, PerfCheckpoint, PerfLedger
from ptn_api.summary import SummarisedDict, SummarisedList
from tests.factories import MINER, order, position, uuid

EVIL = '<img src=x onerror="alert(1)">\x1b[2J&'


def read(raw: Any, kind: Any) -> Any:
    return msgspec.convert(raw, kind)


@cache
def answers(hotkey: str = MINER, many: int = 20) -> dict[str, Any]:
    """One of each, with `many` rows."""
    positions = [position(n, [order(n)], miner=hotkey) for n in range(1, many + 1)]
    entry = {"positions": positions, "thirty_day_returns": 1.1}
    message = msgspec.json.encode(
        {"sequence": 7, "timestamp": 1, "data": {"position": positions[0]}, "replay": True}
    )
    ledger = PerfLedger(cps=[PerfCheckpoint(last_update_ms=n) for n in range(many)])
    eliminated = [Elimination(hotkey=hotkey, reason=hotkey) for _ in range(many)]
    row = {"hotkey": hotkey, "rank": 1, "thirty_day_returns": 1.1, "all_time_returns": 1.2, "n_positions": 3}
    row |= {"percentage_profitable": 0.5, "open_positions": 1, "net_leverage": {}, "last_order": None}
    row |= {"phase": hotkey, "elimination": None, "drawdown": 0.1, "curve": None}
    board = {"tier": 100, "delay_ms": 0, "lookback_days": 30, "miners": [row] * many}
    snapshot = {"snapshot_ms": 1, "snapshot_date": "", "account_size": 1.0, "balance": 1.0, "equity": 1.0}
    listed = [read(order(n) | {"trade_pair_id": hotkey}, ListedOrder) for n in range(many)]
    changes = {"cursor": "e:1", "sequence": 1, "removed": [], "positions": {hotkey: positions}, "miners": {}}
    period = {"bucket": hotkey, "start_time_ms": 1}
    by_many = {f"{hotkey}{n}": [1] for n in range(many)}
    return {
        "positions": MinerPositions.read(
            msgspec.json.encode({hotkey: entry} | {str(n): {} for n in range(many)}), {}
        ),
        "entry": MinerPositions.read(msgspec.json.encode({hotkey: entry}), {})[hotkey],
        "position": read(positions[0], Position),
        "order": read(order(1), Order),
        "changes": read(changes, PositionChanges),
        "message": PTNWebSocketMessage(message),
        "page": MessagePage(messages=[PTNWebSocketMessage(message)] * many, next=1, head=2, epoch="e"),
        "leaderboard": read(board, LeaderboardDocument),
        "statistics": StatisticsDocument(data=[MinerStatistics(hotkey=hotkey, weight=0.5)] * many),
        "ledgers": Ledgers({hotkey: ledger}),
        "ledger": ledger,
        "debt": MinerLedger(hotkey=hotkey, checkpoints=[{"a": hotkey}] * many),
        "orders": MinerOrders(unfilled=listed),
        "eliminations": EliminationList(eliminated),
        "elimination": eliminated[0],
        "checkpoint": Checkpoint(created_timestamp_ms=1, eliminations=eliminated),
        "pairs": TradePairs(allowed=[]),
        "snapshots": read(
            {"hotkey": hotkey, "count": 1, "snapshots": [snapshot | {"equity_return": 1.0}] * many},
            AccountSnapshots,
        ),
        "period": read(
            {
                "status": "success",
                "hotkey": hotkey,
                "challenge_period": period,
                "timestamp": 1,
                "history": [period] * many,
            },
            ChallengePeriod,
        ),
        "sizes": Collateral(status="success", data=by_many, miner_count=1, total_records=1, timestamp=1),
        "hotkeys": SummarisedList([hotkey] * many),
        "selections": SummarisedDict(by_many),
        "mirror": mirror(positions),
    }


def mirror(positions: list[dict[str, Any]]) -> PositionMirror:
    """Loaded, and not connected."""
    made = PositionMirror("ws://127.0.0.1:1", "http://127.0.0.1:1", "key")
    made._state = MirrorState()
    for _ in made._state.load(msgspec.Raw(msgspec.json.encode(p)) for p in positions):
        pass
    return made


@pytest.mark.parametrize("name", answers())
def test_a_prompt_shows_a_few_short_lines(name: str) -> None:
    """However large the value is, and without control characters."""
    for hotkey in (MINER, EVIL, "x" * 20_000):
        text = repr(answers(hotkey)[name])
        lines = text.splitlines()
        assert 1 <= len(lines) <= 11
        assert len(text) < 6_000
        assert all(line.isprintable() for line in lines)
        assert " object at 0x" not in text


@pytest.mark.parametrize("name", ["positions", "sizes", "selections"])
def test_a_table_fits_a_narrow_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hotkey is cut in the middle: subaccounts of one entity stay distinguishable."""
    monkeypatch.setenv("COLUMNS", "10000")
    assert f"{MINER}_12" in repr(answers(f"{MINER}_12")[name])
    monkeypatch.setenv("COLUMNS", "60")
    lines = repr(answers(f"{MINER}_12")[name]).splitlines()
    assert max(map(len, lines)) <= 60
    assert any("…" in line and "_12" in line for line in lines)


@pytest.mark.parametrize("name", answers())
def test_a_notebook_shows_an_escaped_table(name: str) -> None:
    """IPython's own display formatter, and a hotkey that is markup."""
    formatter = InteractiveShell.instance().display_formatter
    assert formatter is not None
    shown, _ = formatter.format(answers(EVIL)[name])
    tags = set(re.findall(r"<\s*/?([a-z]+)", shown.get("text/html", "")))
    assert tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p", "pre"}
    assert 'onerror="' not in shown.get("text/html", "")
    assert shown["text/plain"] == repr(answers(EVIL)[name]).strip()


def test_a_document_of_50_000_positions_is_shown_without_reading_all_of_them() -> None:
    """A summary takes the first rows only: its cost does not grow with the positions."""
    one = read(position(1, [order(1)]), Position)
    entries = MinerPositions(
        {str(n): answers()["entry"].__class__(positions=[one] * 200) for n in range(250)}
    )
    started = time.process_time()
    text = repr(entries)
    spent = time.process_time() - started
    worse = entries["0"].__class__(thirty_day_returns=0.5)
    assert "by hotkey" in repr(MinerPositions({"5A": worse, "5B": entries["0"]}))  # as `at` returns them
    assert "250 miners, best first, with 50,000 positions" in text
    assert "242 more" in text
    assert spent < 5  # it is 1 ms
    assert repr(entries["0"]).endswith("... 192 more")


def test_a_value_inside_another_one_takes_one_line() -> None:
    """A list of positions or messages stays readable."""
    for name in ("position", "order", "message", "elimination"):
        assert len(repr(answers()[name]).splitlines()) == 1
    assert uuid(1) in repr(answers()["position"])
    assert repr(answers()["message"]).endswith(")")
    assert str(answers()["message"]).startswith("PTNWebSocketMessage(seq=7)\nPosition Summary:")


def test_answers_stay_what_they_were() -> None:
    """Lists and dicts still are lists and dicts, for JSON too."""
    assert SummarisedList(["a"]) == ["a"]
    assert msgspec.json.encode(SummarisedList(["a"])) == b'["a"]'
    assert msgspec.json.encode(SummarisedDict({"a": 1})) == b'{"a":1}'


# --- pandas -----------------------------------------------------------------------------------------------


def test_pandas_has_the_same_tables_as_polars() -> None:
    """Rows, columns and times; missing values are missing."""
    found = answers()
    for name in ("positions", "entry", "changes"):
        for rows in ("positions", "orders"):
            compare(found[name].to_pandas(rows), found[name].to_polars(rows))
    for name in ("page", "statistics", "ledgers", "orders", "eliminations", "leaderboard"):
        compare(found[name].to_pandas(), found[name].to_polars())
    assert found["checkpoint"].ledgers_to_pandas().empty
    assert str(found["entry"].to_pandas()["opened_at"].dtype) == "datetime64[ms, UTC]"
    assert found["entry"].to_pandas()["closed_at"].isna().all()


def compare(pandas_frame: Any, polars_frame: Any) -> None:
    assert list(pandas_frame.columns) == polars_frame.columns
    for column in polars_frame.columns:
        ours = [
            None if value is None or value != value else value for value in polars_frame[column].to_list()
        ]
        cells = pandas_frame[column].astype(object).where(pandas_frame[column].notna(), None)
        theirs = [cell.to_pydatetime() if hasattr(cell, "to_pydatetime") else cell for cell in cells]
        assert theirs == ours, column


def test_without_pandas_the_error_names_the_remedy() -> None:
    """In a process that cannot import it."""
    program = (
        "import sys; sys.modules['pandas'] = None\n"
        "from ptn_api.client.calls import Miner\n"
        "from ptn_api.errors import ClientError\n"
        "try: Miner().to_pandas()\n"
        "except ClientError as error: print(error.code, error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "no_pandas these tables need pandas: pip install 'ptn-api[pandas]'", (
        done.stderr
    )
