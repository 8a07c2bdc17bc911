"""A simulated validator of today: its files next to a real layout's, and what its documents say of it."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ptn_api.simulator.journal import AccountReset, LimitOrder, Placed, Removed
from ptn_api.simulator.simulator import Simulator
from tests import newest
from tests.factories import T0
from tests.simulator.simulation import QUIET, built, files, position_files

"""A validator's directory in today's layout, synthetic; a few of its positions are older."""
DAY_MS = 86_400_000
LIVELY = msgspec.structs.replace(QUIET, miners=9, ledger_checkpoints=240)


def read(path: Path) -> Any:
    body = path.read_bytes()
    return json.loads(gzip.decompress(body) if path.suffix == ".gz" else body)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return newest.unpack(tmp_path_factory.mktemp("layout"))


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A validator on which everything has happened; tests read its files."""
    simulator = built(tmp_path_factory.mktemp("today"), LIVELY)
    for _ in range(30):
        simulator.place_limit_order()
    for _ in range(5):
        simulator.cancel_limit_order()
    simulator.flatten_one_miner()
    simulator.reset_account()
    simulator.eliminate_one()
    simulator.rewrite_documents()
    yield simulator
    simulator.close()


def keys_of(folder: Path, pattern: str) -> set[tuple[str, ...]]:
    """Returns the lists of keys, in order, of all JSON objects in files that match."""
    return {tuple(read(path)) for path in folder.glob(pattern)}


@pytest.mark.parametrize(
    "pattern",
    [
        "validation/miners/*/positions/*/*/*",
        "validation/miners/*/archived_positions/*/*/*",
        "validation/miners/*/limit_orders/*/*/*",
    ],
)
def test_files_have_the_keys_of_the_layout_in_its_order(
    simulator: Simulator, layout: Path, pattern: str
) -> None:
    keys = keys_of(simulator.directory, pattern)
    assert len(keys) == 1
    assert keys <= keys_of(layout, pattern)


def test_orders_and_events_have_the_keys_of_the_layout(simulator: Simulator, layout: Path) -> None:
    """Orders, their price sources and fees."""

    def keys(folder: Path, name: str) -> set[tuple[str, ...]]:
        found = [read(path) for path in folder.glob("validation/miners/*/positions/*/*/*")]
        elements = [element for position in found for element in position.get(name, [])]
        return {tuple(element) for element in elements}

    for name in ("orders", "fee_history"):
        assert len(keys(simulator.directory, name)) == 1
        assert keys(simulator.directory, name) <= keys(layout, name)


DOCUMENTS = [
    "validation/miner_account_sizes.json",
    "validation/entities.json",
    "validation/perf_ledgers.json.gz",
    "validation/debt_ledger.json.gz",
    "validation/emissions_ledger.json.gz",
    "validation/penalty_ledger.json.gz",
    "validation/eliminations.json",
    "runnable/minerstatistics.json",
]


def paths_of(value: Any, prefix: str = "") -> set[str]:
    """Returns the paths of all values; miners, numbered keys, pairs and list elements become `*`."""
    if isinstance(value, list):
        return {path for element in value for path in paths_of(element, f"{prefix}/*")}
    found = set()
    for key, element in value.items() if isinstance(value, dict) else ():
        step = "*" if len(key) > 40 or key.isdigit() or key.endswith("USDC") else key
        found |= {f"{prefix}/{step}"} | paths_of(element, f"{prefix}/{step}")
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_have_everything_that_the_layout_has(simulator: Simulator, layout: Path, name: str) -> None:
    """Every value of the layout's document is there, maybe with more."""
    here, there = read(simulator.directory / name), read(layout / name)
    missing = paths_of(there) - paths_of(here)
    assert not {
        path for path in missing if not path.endswith(("capital_used_by_class/crypto", "price_info/*"))
    }


def test_every_file_belongs_to_the_validators_user_alone(simulator: Simulator) -> None:
    for path in files(simulator.directory):
        assert (simulator.directory / path).stat().st_mode & 0o777 == 0o600, path


def test_all_kinds_of_assets_and_miners_occur(tmp_path: Path) -> None:
    """Also ids with lower case or `_`, and subaccounts of entities."""
    built(tmp_path, msgspec.structs.replace(QUIET, miners=40, positions=8, ledger_checkpoints=1))
    held = list(position_files(tmp_path).values())
    pairs = {position["trade_pair"][0] for position in held}
    assert {"GOLDUSDC", "kPEPEUSDC", "BRK_B", "EURUSD", "SP500USDC", "BTCUSDC"} <= pairs
    fees = Counter(event["fee_type"] for position in held for event in position["fee_history"])
    assert {"transaction", "hl_funding", "carry", "borrow"} <= fees.keys()
    sources = {order["src"] for position in held for order in position["orders"]}
    assert sources == {0, 16}
    subaccounts = {position["miner_hotkey"] for position in held if "_" in position["miner_hotkey"]}
    entities = read(tmp_path / "validation/entities.json")
    assert subaccounts == {
        row["synthetic_hotkey"] for entity in entities.values() for row in entity["subaccounts"].values()
    }
    classes = read(tmp_path / "validation/asset_selections.json")
    assert {"crypto", "forex", "equities", "hl_all", "all_markets"} <= set(classes.values())


# --- what the documents say -------------------------------------------------------------------------------


def returns_of(simulator: Simulator) -> dict[str, list[dict[str, Any]]]:
    by_miner: dict[str, list[dict[str, Any]]] = {}
    for position in position_files(simulator.directory).values():
        by_miner.setdefault(position["miner_hotkey"], []).append(position)
    return by_miner


def test_a_ledger_ends_at_the_return_of_its_miners_positions(simulator: Simulator) -> None:
    """The portfolio's return is the product of the positions' returns, its pnl their sum in USD."""
    ledgers = read(simulator.directory / "validation/perf_ledgers.json.gz")
    held = returns_of(simulator)
    assert len(held) > 5
    for hotkey, positions in held.items():
        last = ledgers[hotkey]["cps"][-1]
        assert last["last_update_ms"] == T0
        assert last["prev_portfolio_ret"] == pytest.approx(math.prod(p["return_at_close"] for p in positions))
        assert last["prev_portfolio_realized_pnl"] == pytest.approx(sum(p["realized_pnl"] for p in positions))
        fees = sum(event["amount"] for p in positions for event in p["fee_history"])
        assert last["cumulative_fees_usd"] == pytest.approx(fees)


def test_a_ledger_is_consistent_in_itself(simulator: Simulator) -> None:
    """Gains and losses lead from each return to the next; drawdowns are below 1; checkpoints adjoin."""
    for ledger in read(simulator.directory / "validation/perf_ledgers.json.gz").values():
        value, until = 1.0, ledger["initialization_time_ms"]
        for number, cp in enumerate(ledger["cps"]):
            if number:
                assert cp["last_update_ms"] == until + cp["accum_ms"]
                assert value * math.exp(cp["gain"] + cp["loss"]) == pytest.approx(cp["prev_portfolio_ret"])
            assert cp["gain"] >= 0 >= cp["loss"]
            assert 0 < cp["mdd"] <= 1
            assert cp["mpv"] >= cp["prev_portfolio_ret"]
            value, until = cp["prev_portfolio_ret"], cp["last_update_ms"]
        assert ledger["max_return"] >= max((cp["mpv"] for cp in ledger["cps"]), default=0) * 0.999


def test_statistics_rank_the_miners_that_there_are(simulator: Simulator) -> None:
    """Ranks are 1 to n by value; weights add up to 1; eliminated miners are left out."""
    statistics = read(simulator.directory / "runnable/minerstatistics.json")
    assert statistics == read(simulator.directory / "runnable/minerstatistics.json.gz")
    rows = statistics["data"]
    eliminated = {
        row["hotkey"] for row in read(simulator.directory / "validation/eliminations.json")["eliminations"]
    }
    assert {row["hotkey"] for row in rows} == set(simulator.population.roster.hotkeys()) - eliminated
    ranked = [[row["scores"][name] for row in rows] for name in rows[0]["scores"]]
    for entries in [*ranked, [row["weight"] for row in rows], [row["pnl_info"]["raw_pnl"] for row in rows]]:
        entries.sort(key=lambda entry: int(entry["rank"]))
        assert [entry["rank"] for entry in entries] == list(range(1, len(rows) + 1))
        values = [entry["value"] for entry in entries]
        assert values == sorted(values, reverse=True)
    assert sum(row["weight"]["value"] for row in rows) == pytest.approx(1)
    assert statistics["constants"]["SET_WEIGHT_LOOKBACK_RANGE_DAYS"] == 180
    held = returns_of(simulator)
    for row in rows:
        assert row["engagement"]["n_positions"] == len(held.get(row["hotkey"], []))


def test_an_account_holds_what_its_positions_earned(simulator: Simulator) -> None:
    accounts = read(simulator.directory / "validation/miner_account_sizes.json")
    for hotkey, positions in returns_of(simulator).items():
        fields = accounts[hotkey][-1]
        fees = sum(event["amount"] for p in positions for event in p["fee_history"])
        assert fields["total_realized_pnl"] == pytest.approx(sum(p["realized_pnl"] for p in positions))
        assert fields["total_fees_paid"] == pytest.approx(fees)
        assert fields["miner_bucket"]
        assert {p["account_size"] for p in positions} == {fields["account_size"]}


def test_snapshots_are_hourly_and_end_now(tmp_path: Path) -> None:
    simulator = built(tmp_path, msgspec.structs.replace(QUIET, snapshots_ms=3_600_000))
    simulator.step(T0 + 2 * 3_600_000)
    for path in tmp_path.glob("validation/miners/*/snapshots.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["snapshot_ms"] for row in rows][-2:] == [T0 + 3_600_000, T0 + 2 * 3_600_000]
        assert len(rows) >= 4
        assert all(set(row) == {"snapshot_ms", "account_size", "balance", "equity"} for row in rows)


def test_an_eliminated_miner_is_eliminated_everywhere(simulator: Simulator) -> None:
    [row] = read(simulator.directory / "validation/eliminations.json")["eliminations"]
    entries = read(simulator.directory / "validation/challengeperiod.json")[row["hotkey"]]["entries"]
    assert entries[-1] == {"bucket": "ELIMINATED", "bucket_start_time": T0}
    assert not list(
        (simulator.directory / "validation/miners" / row["hotkey"]).glob("limit_orders/*/unfilled/*")
    )
    assert (row["dd"] is None) == ("DRAWDOWN" not in row["reason"])


# --- limit orders and archives ----------------------------------------------------------------------------


def test_a_limit_order_waits_and_is_filled_at_its_price_or_cancelled(tmp_path: Path) -> None:
    """Its file leaves `unfilled`; a filled one is an order of a position, with its uuid and the next src."""
    simulator = built(tmp_path, msgspec.structs.replace(QUIET, refresh_ms=7_200_000))
    waiting: dict[str, Any] = {}
    for _ in range(40):
        simulator.place_limit_order()
    for path in tmp_path.glob("validation/miners/*/limit_orders/*/unfilled/*"):
        waiting[path.name] = read(path)
    assert {order["execution_type"] for order in waiting.values()} == {"LIMIT", "STOP_LIMIT", "BRACKET"}
    assert len(waiting) == 40
    simulator.cancel_limit_order()
    [cancelled] = tmp_path.glob("validation/miners/*/limit_orders/*/closed/*")
    assert read(cancelled)["src"] == waiting.pop(cancelled.name)["src"] + 2
    actions = simulator.step(T0 + DAY_MS)
    filled = {a.order_uuid for a in actions if isinstance(a, LimitOrder) and a.status == "filled"}
    placed = {a.order_uuid for a in actions if isinstance(a, Placed)}
    assert filled == placed & waiting.keys()
    orders = {o["order_uuid"]: o for p in position_files(tmp_path).values() for o in p["orders"]}
    assert len(filled) > 5
    for uuid in filled:
        assert orders[uuid]["src"] == waiting[uuid]["src"] + 1
        assert orders[uuid]["execution_type"] == waiting[uuid]["execution_type"]
        assert not list(tmp_path.glob(f"validation/miners/*/limit_orders/*/*/{uuid}"))


def test_waiting_orders_are_kept_by_a_later_run(tmp_path: Path) -> None:
    simulator = built(tmp_path)
    for _ in range(5):
        simulator.place_limit_order()
    simulator.close()
    again = built(tmp_path)
    cancelled = [action for _ in range(6) for action in again.cancel_limit_order()]
    assert [a.status for a in cancelled if isinstance(a, LimitOrder)] == ["cancelled"] * 5


def test_an_account_reset_moves_all_positions_to_the_archive(tmp_path: Path) -> None:
    """Open ones are closed first (src 12); the archive holds the same files at the same relative paths."""
    simulator = built(tmp_path)
    hotkey = next(iter(simulator.store.open))[0]
    miner = tmp_path / "validation/miners" / hotkey
    before = {str(p.relative_to(miner / "positions")) for p in miner.glob("positions/*/*/*")}
    actions = simulator.reset_account(hotkey)
    archived = {
        str(p.relative_to(miner / "archived_positions")) for p in miner.glob("archived_positions/*/*/*")
    }
    assert not list(miner.glob("positions/*/*/*"))
    assert archived == {path.replace("/open/", "/closed/") for path in before}
    assert {a.src for a in actions if isinstance(a, Placed)} == {12}
    assert {a.cause for a in actions if isinstance(a, Removed)} == {"archive"}
    assert [a.positions for a in actions if isinstance(a, AccountReset)] == [len(before)]
    assert simulator.place_order()


def test_a_copied_file_is_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the validator's temporary directory is on another file system: no rename, two writes."""
    simulator = built(tmp_path, msgspec.structs.replace(QUIET, copy_every=1))
    renamed: list[str] = []
    monkeypatch.setattr(os, "replace", lambda source, target: renamed.append(str(target)))
    simulator.place_order()
    simulator.rewrite_documents()
    assert not renamed
    for position in position_files(tmp_path).values():
        assert position["orders"]
    for path in files(tmp_path):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o600


# --- shares -----------------------------------------------------------------------------------------------


def test_a_stock_split_converts_the_orders_and_keeps_the_value(tmp_path: Path) -> None:
    """Quantities times 2, prices by 2 (or the reverse); values, rates and the average's value stay."""
    options = msgspec.structs.replace(QUIET, miners=30, positions=4, ledger_checkpoints=1)
    simulator = built(tmp_path, options)
    held = [p for p in simulator.store.open.values() if p.instrument.spot]
    assert held
    position = held[0]
    [(at_ms, ratio), *_] = simulator.market.splits(position.instrument, T0, T0 + 400 * DAY_MS)
    before = json.loads(position.body())
    simulator.step(at_ms + 1)
    simulator.refresh_all()
    after = json.loads(position.body())
    assert after["net_quantity"] == pytest.approx(before["net_quantity"] * ratio)
    assert after["average_entry_price"] == pytest.approx(before["average_entry_price"] / ratio)
    assert after["last_stock_split_date"] is not None
    for old, new in zip(before["orders"], after["orders"], strict=True):
        assert new["quantity"] == pytest.approx(old["quantity"] * ratio)
        assert new["value"] == old["value"]
    types = {event["fee_type"] for event in after["fee_history"]}
    if after["net_quantity"] < 0:
        assert "borrow" in types
