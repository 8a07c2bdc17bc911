"""Data frames: one row per thing, flat columns, the right types."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timezone
from typing import Any

import msgspec
import polars as pl
import pytest

from ptn_api.client import tables
from ptn_api.client.calls import Checkpoint, Ledgers, MessagePage, Miner, MinerPositions, StatisticsDocument
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.errors import ClientError, SettingsError
from ptn_api.model.position import Position
from tests.factories import EURUSD, MINER, OTHER_MINER, T0, order, position, uuid

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
