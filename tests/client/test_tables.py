"""Data frames: one row per thing, flat columns, the right types."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timezone
from typing import Any, TypeVar

import msgspec
import polars as pl
import pytest

from ptn_api.client import calls, tables
from ptn_api.client.calls import (
    Checkpoint,
    LeaderboardDocument,
    Ledgers,
    MessagePage,
    Miner,
    MinerPositions,
    StatisticsDocument,
)
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.errors import ClientError, SettingsError
from ptn_api.model.documents import trade_pairs_answer
from ptn_api.model.miner import LastOrder, LeaderboardEntry
from ptn_api.model.position import Position
from ptn_api.model.statistics import MinerStatistics
from tests.factories import EURUSD, MINER, OTHER_MINER, T0, order, position, uuid

T = TypeVar("T")
UTC = pl.Datetime("ms", "UTC")


def moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, timezone.utc)


def entries() -> MinerPositions:
    open_one = position(1, [order(1), order(2, -0.05, bid=None)], close_ms=0)
    closed = position(2, [order(3)], closed=True, trade_pair=EURUSD, miner=OTHER_MINER)
    body = {MINER: {"positions": [open_one]}, OTHER_MINER: {"positions": [closed]}, "empty": {}}
    return MinerPositions.read(msgspec.json.encode(body), {})


def test_a_row_per_position() -> None:
    """Times as UTC datetimes; an open position has no closing time."""
    frame = entries().to_polars()
    assert frame["position_uuid"].to_list() == [uuid(1), uuid(2)]
    assert frame["trade_pair"].to_list() == ["BTCUSD", "EURUSD"]
    assert frame["n_orders"].to_list() == [2, 1]
    assert frame["closed_at"].to_list() == [None, moment(T0 + 3000)]
    assert frame["opened_at"].to_list() == [moment(T0 + 1000), moment(T0 + 3000)]
    assert frame.schema["opened_at"] == frame.schema["closed_at"] == UTC
    assert frame.schema["net_leverage"] == pl.Float64
    assert frame.schema["is_closed_position"] == pl.Boolean
    assert isinstance(frame.schema["position_type"], pl.Enum)


@pytest.mark.parametrize("frame", ["to_polars", "to_pandas"])
def test_misspelt_rows_are_refused(frame: str) -> None:
    with pytest.raises(SettingsError, match="rows must be one of 'positions', 'orders', not 'order'"):
        getattr(entries(), frame)("order")


def test_a_row_per_order() -> None:
    """With its position and its index there."""
    frame = entries().to_polars("orders")
    assert frame.select("miner_hotkey", "position_uuid", "place").rows() == [
        (MINER, uuid(1), 1),
        (MINER, uuid(1), 2),
        (OTHER_MINER, uuid(2), 1),
    ]
    assert frame["order_type"].to_list() == ["LONG", "SHORT", "LONG"]
    assert frame["leverage"].to_list() == [0.1, -0.05, 0.1]
    assert frame["bid"].to_list() == [100.9, None, 102.9]
    assert frame["processed_at"].to_list()[0] == moment(T0 + 1000)
    assert frame.schema["src"] == pl.Int64


def test_one_miner_and_a_checkpoint_make_the_same_tables() -> None:
    """Positions of any source."""
    complete = entries()
    body = msgspec.json.encode({"positions": complete, "perf_ledgers": {MINER: LEDGER}})
    checkpoint = msgspec.json.decode(body, type=Checkpoint)
    assert checkpoint.to_polars("orders").equals(complete.to_polars("orders"))
    assert complete[MINER].to_polars().equals(complete.to_polars().filter(pl.col("miner_hotkey") == MINER))
    assert checkpoint.ledgers_to_polars()["trade_pair"].to_list() == ["portfolio"] * 2


@pytest.mark.parametrize("frame", ["to_polars", "to_pandas"])
def test_what_no_column_holds_is_null(frame: str) -> None:
    """As a validator may write it: an integer beyond 64 bits, a time beyond all calendars."""
    large = 10**20
    points = [{"last_update_ms": 1 << 53, "n_updates": large}, {"last_update_ms": T0, "n_updates": 3}]
    ledgers = Ledgers.read(MINER, msgspec.json.encode({"portfolio": {"cps": points}}))
    later = Ledgers.read(MINER, msgspec.json.encode({"portfolio": {"cps": [{"last_update_ms": large}]}}))
    scores = [{"hotkey": str(n), "weight": {"value": value}} for n, value in enumerate([10**400, 0.5])]
    statistics = msgspec.convert({"data": scores}, StatisticsDocument)
    for table, column, known in (
        (ledgers, "updated_at", [False, True]),
        (ledgers, "n_updates", [False, True]),
        (later, "updated_at", [False]),
        (statistics, "weight.value", [False, True]),
    ):
        values = getattr(table, frame)()[column]
        assert list(values.is_not_null() if frame == "to_polars" else values.notna()) == known
        assert repr(table)
    assert ledgers.to_polars().to_dicts()[1]["updated_at"] == moment(T0)


def test_odd_values_of_a_ledger_are_printed() -> None:
    """As they are."""
    points = [{"timestamp_ms": "soon", "performance": {"portfolio_return": 10**400}}]
    assert "soon" in repr(calls.LedgerDocument(hotkey=MINER, checkpoints=points))
    assert "10000" in repr(MinerStatistics(hotkey=MINER, weight=10**400))


def test_a_checkpoint_may_have_whole_floats() -> None:
    """As validators of today write some integers."""
    content = {
        "positions": {},
        "perf_ledgers": {MINER: {"initialization_time_ms": 5.0, "cps": [{"n_updates": 3.0}]}},
        "eliminations": [{"hotkey": MINER, "elimination_initiated_time_ms": 7.0}],
    }
    checkpoint = Checkpoint.read(msgspec.json.encode(content), {})
    assert checkpoint.perf_ledgers[MINER].cps[0].n_updates == 3
    assert checkpoint.eliminations[0].elimination_initiated_time_ms == 7


def test_odd_values_of_a_document_hide_no_others(caplog: pytest.LogCaptureFixture) -> None:
    """They are left out, and a warning names the first."""
    odd = {"max_return": "x", "cps": [{"n_updates": [], "gain": 0.5}, 7, {"mdd": 0.9}]}
    ledgers = {MINER: odd, OTHER_MINER: LEDGER, "5Odd": None}
    eliminations = [{"hotkey": MINER, "dd": {}, "reason": "LIQUIDATED"}, {"hotkey": None}, "x"]
    body = msgspec.json.encode({"perf_ledgers": ledgers, "eliminations": eliminations, "version": [1]})
    checkpoint = Checkpoint.read(body, {})
    assert checkpoint.perf_ledgers.keys() == {MINER, OTHER_MINER}
    ledger = checkpoint.perf_ledgers[MINER]
    assert (ledger.max_return, [cp.gain for cp in ledger.cps]) == (None, [0.5, None])
    assert [(e.hotkey, e.dd, e.reason) for e in checkpoint.eliminations] == [(MINER, None, "LIQUIDATED")]
    assert calls.eliminations().read(body, {}) == checkpoint.eliminations
    assert Ledgers.read(MINER, msgspec.json.encode({MINER: odd}))["portfolio"] == ledger
    assert Ledgers.read(MINER, msgspec.json.encode(odd))["portfolio"] == ledger
    assert "left out what the validator wrote" in caplog.text
    with pytest.raises(msgspec.ValidationError):
        Checkpoint.read(b"[]", {})


def test_an_empty_table_has_the_same_columns() -> None:
    """Tables can always be joined and concatenated."""
    for rows in ("positions", "orders"):
        full: pl.DataFrame = entries().to_polars(rows)  # type: ignore[arg-type]
        assert Miner().to_polars(rows).schema == full.schema  # type: ignore[arg-type]
    page = MessagePage(messages=[], next=1, head=1, epoch="e")
    assert page.to_polars().schema == tables.messages([message()]).schema


def message(**fields: Any) -> PTNWebSocketMessage:
    raw = {"sequence": 7, "timestamp": T0, "data": {"position": position(1, [order(1), order(2, -0.2)])}}
    return PTNWebSocketMessage(raw | fields)


def test_a_row_per_message() -> None:
    """The new order, its times, and the position's leverage after it."""
    [row] = tables.messages([message(replay=True)]).to_dicts()
    assert (row["sequence"], row["late"], row["replay"]) == (7, False, True)
    assert (row["seen_at"], row["processed_at"]) == (moment(T0), moment(T0 + 2000))
    assert (row["trade_pair"], row["order_type"], row["leverage"]) == ("BTCUSD", "SHORT", -0.2)
    assert row["net_leverage"] == pytest.approx(-0.1)


LEDGER = {
    "initialization_time_ms": 1,
    "cps": [{"last_update_ms": T0, "gain": 0.1, "n_updates": 3}, {"last_update_ms": T0 + 1, "mdd": 0.9}],
}


def test_a_row_per_checkpoint_of_a_ledger() -> None:
    """By hotkey and trade pair; the older schema has only the portfolio's."""
    body = msgspec.json.encode({"portfolio": LEDGER, "BTCUSD": LEDGER})
    frame = Ledgers.read(MINER, body).to_polars()
    assert frame["trade_pair"].to_list() == ["portfolio"] * 2 + ["BTCUSD"] * 2
    assert frame["updated_at"].to_list()[0] == moment(T0)
    assert frame["gain"].to_list()[:2] == [0.1, None]
    assert (frame.schema["n_updates"], frame.schema["mdd"]) == (pl.Int64, pl.Float64)
    old = Ledgers.read(MINER, msgspec.json.encode(LEDGER)).to_polars()
    assert old.equals(frame.filter(pl.col("trade_pair") == "portfolio"))
    assert set(old["hotkey"]) == {MINER}


def test_a_row_per_miner_of_the_statistics() -> None:
    """A column per nested value; numbers stay numbers, lists are left out."""
    data = [
        {"hotkey": "a", "weight": {"value": 0.5, "rank": 1}, "scores": {"omega": {"value": 2}}},
        {"hotkey": "b", "weight": {"value": 1, "rank": 2}, "daily_returns": [1], "plagiarism": True},
        {"hotkey": "c", "challengeperiod": {"status": "testing"}, "plagiarism": 0.5, "checkpoints": []},
    ]
    document = msgspec.json.decode(msgspec.json.encode({"data": data}), type=StatisticsDocument)
    frame = document.to_polars()
    assert frame["weight.value"].to_list() == [0.5, 1.0, None]
    assert frame.schema["weight.rank"] == pl.Int64
    assert frame["scores.omega.value"].to_list() == [2, None, None]
    assert frame["challengeperiod.status"].to_list() == [None, None, "testing"]
    assert frame["plagiarism"].to_list() == [None, "true", "0.5"]
    assert not {"daily_returns", "checkpoints"} & set(frame.columns)
    assert document.of("b") is document.data[1]
    assert document.of("d") is None


def test_integers_are_accepted_as_prices() -> None:
    """A validator may write 100 for 100.0."""
    body = msgspec.json.encode(position(1, [order(1, price=100)]))
    frame = tables.orders([msgspec.json.decode(body, type=Position)])
    assert frame["price"].to_list() == [100.0]


def test_without_polars_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a ClientError."""
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ClientError, match=r"pip install 'ptn-api\[dataframe\]'") as caught:
        entries().to_polars()
    assert caught.value.code == "no_polars"


def test_polars_is_imported_only_when_a_table_is_made() -> None:
    """Other programs do not load it."""
    program = (
        "import sys; import ptn_api.client.rest, ptn_api.client.tables; sys.exit('polars' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_other_documents_have_rows_too() -> None:
    """By miner, with nested values as columns and times as datetimes; malformed records are left out."""
    debt = b'{"timestamp_ms": 1795608000000, "performance": {"portfolio_return": 1.01}}'
    ledger = read(
        calls.debt_ledger(MINER), b'{"hotkey": "%s", "checkpoints": [%s, 7]}' % (MINER.encode(), debt)
    )
    frame = ledger.to_polars()
    assert frame.rows() == [(MINER, moment(1795608000000), 1.01)]
    assert frame.columns == ["hotkey", "timestamp_at", "performance.portfolio_return"]
    assert str(ledger.to_pandas()["timestamp_at"][0]) == "2026-11-25 12:00:00+00:00"
    summary = read(calls.debt_ledgers(), b'{"5A": {"hotkey": "5A", "net_pnl": 2.5}}')
    assert summary.to_polars().rows() == [("5A", 2.5)]
    account = read(
        calls.account_snapshots("5A"),
        b'{"hotkey": "5A", "count": 1, "snapshots": [{"snapshot_ms": 1000, "snapshot_date": "x", '
        b'"account_size": 1.0, "balance": 2.0, "equity": 3.0, "equity_return": 3.0}]}',
    )
    assert account.to_polars().select("hotkey", "snapshot_at", "equity").rows() == [("5A", moment(1000), 3.0)]
    sizes = read(
        calls.collateral(),
        b'{"status": "success", "miner_count": 2, "total_records": 1, "timestamp": 1, '
        b'"data": {"5A": [{"account_size": 5.0, "update_time_ms": 2000}], "5B": null}}',
    )
    assert sizes.to_polars().rows() == [("5A", 5.0, moment(2000))]
    place = b'{"bucket": "MAINCOMP", "start_time_ms": 3000}'
    period = read(
        calls.challenge_period("5A"),
        b'{"status": "success", "hotkey": "5A", "challenge_period": %s, "timestamp": 1}' % place,
    )
    assert period.to_polars().select("hotkey", "bucket", "start_time_at").rows() == [
        ("5A", "MAINCOMP", moment(3000))
    ]
    chosen = read(
        calls.miner_selections(), b'{"miner_selections": {"5A": "forex"}, "total_miners": 1, "timestamp": 1}'
    )
    assert chosen.to_polars().rows() == [("5A", "forex")]
    pairs = trade_pairs_answer(None, 0)
    listed = read(calls.trade_pairs(), msgspec.json.encode(pairs)).to_polars()
    assert listed["disabled"].sum() == len(pairs.disabled) > 0
    assert len(listed) == len(pairs.allowed) + len(pairs.disabled)


def test_the_leaderboards_exposure_and_last_pair() -> None:
    row = LeaderboardEntry(
        hotkey="5A",
        rank=1,
        thirty_day_returns=1.0,
        all_time_returns=1.0,
        n_positions=2,
        percentage_profitable=0.5,
        open_positions=2,
        net_leverage={"BTCUSD": 0.5, "EURUSD": -2.0},
        last_order=LastOrder(processed_ms=T0, trade_pair="EURUSD", order_type="LONG", leverage=0.5),
        phase=None,
        elimination=None,
        drawdown=None,
        curve=None,
    )
    frame = LeaderboardDocument(tier=100, delay_ms=0, lookback_days=30, miners=[row]).to_polars()
    assert frame.select("net_leverage", "last_order_at", "last_order_trade_pair").rows() == [
        (-1.5, moment(T0), "EURUSD")
    ]


def test_ledgers_show_themselves_in_short_lines() -> None:
    """Nested values do not make a line of hundreds of characters."""
    point = {
        "timestamp_ms": T0,
        "emissions": {"chunk_usd": 4.0, "chunk_alpha": 1.5, "chunk_tao": 0.01, "avg_tao_to_usd_rate": 400.0},
        "performance": {"portfolio_return": 1.01, "realized_pnl": 3.0},
        "penalties": {"cumulative": 0.5},
    }
    ledger = read(
        calls.debt_ledger(MINER), msgspec.json.encode({"hotkey": MINER, "checkpoints": [point] * 20})
    )
    _, heading, first, *rest = repr(ledger).splitlines()
    assert heading.split() == ["until", "portfolio_return", "chunk_usd", "cumulative"]
    assert first.split()[2:] == ["1.01", "4", "0.5"]
    assert rest[-1] == "... 12 more"
    everyone = {MINER: {"hotkey": MINER, "total_checkpoints": 3, "portfolio_return": 1.01, "net_pnl": 1.0}}
    summary = read(calls.debt_ledgers(), msgspec.json.encode(everyone))
    assert max(map(len, (*repr(summary).splitlines(), *repr(ledger).splitlines()))) <= 100
    assert "1.01000" in repr(summary)


def read(call: calls.Call[T], body: bytes) -> T:
    return call.read(body, {})
