"""Everything in docs/architecture.md, "What a validator does to its files", observed in the files."""

from __future__ import annotations

import enum
import functools
import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ptn_api.simulator.journal import (
    Action,
    BackupRestored,
    Corrected,
    Dropped,
    Eliminated,
    MinerAdded,
    MinerRemoved,
    OpenFileDeleted,
    Placed,
    Refreshed,
    Removed,
    Split,
    Written,
)
from ptn_api.simulator.miner import Trade
from ptn_api.simulator.options import Network
from ptn_api.simulator.simulator import Simulator
from tests.factories import T0
from tests.simulator.simulation import QUIET, built, files, of_2025, position_files

Positions = dict[str, dict[str, Any]]
MARKED = {
    "current_return",
    "return_at_close",
    "unrealized_pnl",
    "last_price_source",
    "last_quote_usd_conversion",
    "fee_history",
    "dividend_history",
}
"""What changes without an order."""


def of(kind: type[Any], actions: list[Action]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def changed(before: Positions, after: Positions) -> tuple[set[str], set[str], set[str]]:
    """Returns the paths that were added, removed and changed."""
    both = before.keys() & after.keys()
    return (
        after.keys() - before.keys(),
        before.keys() - after.keys(),
        {p for p in both if before[p] != after[p]},
    )


def doing(simulator: Simulator, act: Callable[[], list[Action]]) -> tuple[Positions, list[Action], Positions]:
    """Returns the position files before and after an action, and the actions."""
    before = position_files(simulator.directory)
    actions = act()
    return before, actions, position_files(simulator.directory)


# --- orders -----------------------------------------------------------------------------------------------


def test_an_order_replaces_one_file_and_is_last_in_it(tmp_path: Path) -> None:
    simulator = built(tmp_path)
    key = next(iter(simulator.store.open))
    before, actions, after = doing(simulator, lambda: simulator.place_order(*key, Trade("LONG", 0.01)))
    came, went, other = changed(before, after)
    [placed] = of(Placed, actions)
    [path] = other
    assert not came
    assert not went
    assert after[path]["orders"][:-1] == before[path]["orders"]
    last = after[path]["orders"][-1]
    assert (last["order_uuid"], last["src"]) == (placed.order_uuid, placed.src)
    assert last["leverage"] == pytest.approx(0.01, abs=0.005) == placed.leverage
    assert (placed.place, placed.n_orders) == (len(after[path]["orders"]),) * 2


def test_orders_open_increase_reduce_and_close(tmp_path: Path) -> None:
    """Habits produce every kind of order, and no order reverses a position."""
    simulator = built(tmp_path)
    seen = set()
    for minute in range(1, 400):
        simulator.step(T0 + minute * 60_000)
        before = position_files(tmp_path)
        [placed] = of(Placed, simulator.place_order())
        [held] = [p for p in before.values() if p["position_uuid"] == placed.position_uuid] or [None]
        net = held["net_leverage"] if held else 0.0
        if held is None:
            seen.add("open")
        elif placed.order_type == "FLAT":
            seen.add("close")
        else:
            seen.add("increase" if placed.leverage * net > 0 else "reduce")
            assert net * (net + placed.leverage) > 0
        if len(seen) == 4:
            break
    assert seen == {"open", "close", "increase", "reduce"}


def test_a_burst_replaces_the_file_for_every_order(tmp_path: Path) -> None:
    """Orders follow within milliseconds, faster than a watcher reads."""
    simulator = built(tmp_path)
    actions = simulator.burst(7)
    placed, written = of(Placed, actions), of(Written, actions)
    assert len(placed) == len(written) == 7
    assert len({a.position_uuid for a in placed}) == 1
    assert [a.processed_ms - placed[0].processed_ms for a in placed] == list(range(7))
    assert [a.n_orders for a in written] == [a.place for a in placed]


def test_a_close_deletes_the_open_file_before_the_closed_one_is_written(tmp_path: Path) -> None:
    """Until the end of the gap the position is in neither folder."""
    simulator = built(tmp_path, msgspec.structs.replace(QUIET, close_gap_ms=50))
    before, [deleted], between = doing(simulator, simulator.close_one)
    assert isinstance(deleted, OpenFileDeleted)
    [path] = before.keys() - between.keys()
    assert path.endswith(f"/open/{deleted.position_uuid}")
    assert simulator.step(T0 + 49) == []
    assert position_files(tmp_path) == between
    placed, written = simulator.step(T0 + 50)
    assert (type(placed), type(written)) == (Placed, Written)
    after = position_files(tmp_path)
    [came] = after.keys() - between.keys()
    assert came == path.replace("/open/", "/closed/")
    assert after[came]["orders"][-1]["order_type"] == "FLAT"
    assert after[came]["is_closed_position"]
    assert after[came]["close_ms"] == T0


def test_without_a_gap_the_order_of_the_two_halves_is_the_same(tmp_path: Path) -> None:
    """At the deletion's action neither file exists; at the write's action the closed one does."""
    found: list[tuple[type, list[str]]] = []

    def look(action: Action) -> None:
        uuid = getattr(action, "position_uuid", "")
        statuses = [p.parent.name for p in tmp_path.glob(f"validation/miners/*/positions/*/*/{uuid}")]
        found.append((type(action), statuses))

    simulator = built(tmp_path, on_action=look)
    found.clear()
    simulator.close_one()
    assert found == [(OpenFileDeleted, []), (Placed, []), (Written, ["closed"])]


# --- rewrites without a new order -------------------------------------------------------------------------


def test_a_refresh_moves_returns_of_every_open_position_and_nothing_else(tmp_path: Path) -> None:
    simulator = built(tmp_path)
    simulator.step(T0 + 60_000)
    before, [refreshed], after = doing(simulator, simulator.refresh_all)
    came, went, other = changed(before, after)
    assert not came
    assert not went
    assert other == {p for p in before if "/open/" in p}
    assert isinstance(refreshed, Refreshed)
    assert refreshed.positions == len(other) > 0
    for path in other:
        keys = {k for k in before[path] if before[path][k] != after[path][k]}
        assert keys <= MARKED
        assert 0 < after[path]["return_at_close"] <= after[path]["current_return"]


def test_a_correction_changes_one_recent_order_in_place(tmp_path: Path) -> None:
    """Same uuid, time and leverage, another price; the position's state is updated."""
    simulator = built(tmp_path)
    simulator.place_order()
    simulator.step(T0 + 60_000)
    before, actions, after = doing(simulator, simulator.correct_recent)
    [corrected] = of(Corrected, actions)
    [path] = changed(before, after)[2]
    old, new = before[path]["orders"], after[path]["orders"]
    assert [o["order_uuid"] for o in old] == [o["order_uuid"] for o in new]
    [place] = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    assert old[place]["order_uuid"] == corrected.order_uuid
    assert old[place]["processed_ms"] > T0 - 240_000
    keys = {k for k in old[place] if old[place][k] != new[place][k]}
    corrected_keys = {"price", "bid", "ask", "slippage", "price_sources", "realized_pnl"}
    assert {"price", "price_sources"} <= keys <= corrected_keys


def test_only_orders_of_the_last_minutes_are_corrected(tmp_path: Path) -> None:
    simulator = built(tmp_path)
    simulator.place_order()
    simulator.step(T0 + 3_600_000)
    assert simulator.correct_recent() == []


# --- closed by the validator ------------------------------------------------------------------------------


def test_a_liquidation_ends_with_a_flat_that_no_miner_sent(tmp_path: Path) -> None:
    """In 2025: price 0, src 1, the position's uuid reversed, last in the list."""
    simulator = built(tmp_path, of_2025(QUIET))
    actions = simulator.liquidate_one()
    flat = of(Placed, actions)[-1]
    [path] = [p for p in position_files(tmp_path) if p.endswith(flat.position_uuid)]
    order = position_files(tmp_path)[path]["orders"][-1]
    assert "/closed/" in path
    assert order["order_uuid"] == flat.order_uuid == flat.position_uuid[::-1]
    assert (order["order_type"], order["price"], order["src"]) == ("FLAT", 0.0, 1)
    assert flat.cause == "liquidation"


def test_a_ruinous_order_brings_its_flat_with_it(tmp_path: Path) -> None:
    """In 2025 one rewrite has two new orders: the miner's, and the FLAT appended by the accounting."""
    simulator = built(tmp_path, of_2025(QUIET))
    found = []
    while not found and simulator.store.open:
        actions = simulator.liquidate_one()
        if len(of(Placed, actions)) == 2:
            found = actions
    placed, [written] = of(Placed, found), of(Written, found)
    assert [(a.src, a.cause) for a in placed] == [(0, "miner"), (1, "liquidation")]
    assert [a.place for a in placed] == [written.n_orders - 1, written.n_orders]
    [body] = [p for path, p in position_files(tmp_path).items() if path.endswith(written.position_uuid)]
    assert body["current_return"] == 0


def test_today_a_ruinous_order_has_no_effect_and_the_position_goes_on(tmp_path: Path) -> None:
    """No FLAT is appended: the return is 0 until the next mark, sizes and average stay."""
    simulator = built(tmp_path, msgspec.structs.replace(QUIET, miners=8))
    before = position_files(tmp_path)
    for _ in range(30):
        placed = of(Placed, simulator.liquidate_one())
        if placed and placed[0].order_type != "FLAT":
            break
    [ruinous] = placed
    [path] = [p for p in before if p.endswith(ruinous.position_uuid)]
    after = position_files(tmp_path)[path]
    assert (after["current_return"], after["is_closed_position"]) == (0, False)
    for key in ("net_quantity", "net_leverage", "average_entry_price", "cumulative_entry_value"):
        assert after[key] == before[path][key]
    simulator.refresh_all()
    assert position_files(tmp_path)[path]["current_return"] > 0


def test_today_a_position_is_closed_by_a_flat_at_a_price(tmp_path: Path) -> None:
    """Named after the position and the reason, in minus the sizes that are held."""
    simulator = built(tmp_path)
    before, actions, after = doing(simulator, simulator.flatten_one_miner)
    assert of(Placed, actions)
    for placed in of(Placed, actions):
        [old] = [p for p in before.values() if p["position_uuid"] == placed.position_uuid]
        [new] = [p for p in after.values() if p["position_uuid"] == placed.position_uuid]
        flat = new["orders"][-1]
        assert flat["order_uuid"] == placed.order_uuid == f"{placed.position_uuid}-flat-all"
        assert (flat["order_type"], flat["src"]) == ("FLAT", 11)
        assert flat["price"] > 0
        assert flat["quantity"] == -old["net_quantity"]
        # Not sum(), which is compensated from Python 3.12 on.
        assert new["realized_pnl"] == functools.reduce(
            operator.add, [o["realized_pnl"] for o in new["orders"]]
        )


@pytest.mark.parametrize("network", ["today", "2025"])
def test_an_elimination_closes_everything_and_is_on_record(tmp_path: Path, network: Network) -> None:
    """eliminations.json grows, each open position gets its FLAT, and the miner stops trading."""
    simulator = built(tmp_path, msgspec.structs.replace(QUIET, network=network))
    hotkey = next(iter(simulator.store.open))[0]
    before, actions, after = doing(simulator, lambda: simulator.eliminate_one(hotkey))
    was_open = {p for p in before if p.startswith(hotkey) and "/open/" in p}
    assert {p.replace("/open/", "/closed/") for p in was_open} == changed(before, after)[0]
    for placed in of(Placed, actions):
        names = [placed.position_uuid[::-1]]
        if network == "today":
            names = [f"{placed.position_uuid}-close-{src}" for src in (1, 3)]
        assert placed.order_uuid in names
    [eliminated] = of(Eliminated, actions)
    record = json.loads((tmp_path / "validation/eliminations.json").read_bytes())["eliminations"]
    assert [(r["hotkey"], r["reason"]) for r in record] == [(hotkey, eliminated.reason)]
    assert all(a.miner_hotkey != hotkey for _ in range(100) for a in of(Placed, simulator.place_order()))


# --- synchronisation and operators ------------------------------------------------------------------------


def uuids(position: dict[str, Any]) -> list[str]:
    return [order["order_uuid"] for order in position["orders"]]


def test_a_sync_inserts_an_order_in_the_middle(tmp_path: Path) -> None:
    simulator = built(tmp_path)
    before, actions, after = doing(simulator, simulator.insert_one)
    [placed] = of(Placed, actions)
    [path] = changed(before, after)[2]
    assert 1 < placed.place < placed.n_orders
    assert uuids(after[path])[placed.place - 1] == placed.order_uuid
    assert [u for u in uuids(after[path]) if u != placed.order_uuid] == uuids(before[path])
    assert placed.cause == "sync"


def test_a_sync_drops_an_order_in_the_middle(tmp_path: Path) -> None:
    simulator = built(tmp_path)
    before, actions, after = doing(simulator, simulator.drop_one)
    [dropped] = of(Dropped, actions)
    [path] = changed(before, after)[2]
    assert dropped.order_uuid in uuids(before[path])[1:-1]
    assert uuids(after[path]) == [u for u in uuids(before[path]) if u != dropped.order_uuid]
    assert not of(Placed, actions)


def test_a_split_keeps_order_uuids_and_gives_new_position_uuids(tmp_path: Path) -> None:
    simulator = built(tmp_path, msgspec.structs.replace(QUIET, positions=60))
    before, actions, after = doing(simulator, simulator.split_one)
    [split] = of(Split, actions)
    came, [went], _ = changed(before, after)
    halves = [after[next(p for p in came if p.endswith(uuid))] for uuid in split.into]
    assert len(came) == 2
    assert [u for half in halves for u in uuids(half)] == uuids(before[went])
    assert all(half["is_closed_position"] for half in halves)
    assert not of(Placed, actions)


def test_a_sync_touches_the_share_it_should(tmp_path: Path) -> None:
    """Positions are rewritten, edited and removed in one synchronisation, and journaled by kind."""
    simulator = built(tmp_path, msgspec.structs.replace(QUIET, positions=40, synchronise_share=0.4))
    before, actions, after = doing(simulator, simulator.synchronise)
    removed = {a.position_uuid for a in of(Removed, actions)}
    last = {a.position_uuid: type(a) for a in actions if isinstance(a, (Removed, Written))}
    gone = {uuid for uuid, kind in last.items() if kind is Removed}
    _, went, _ = changed(before, after)
    assert len(before) * 0.25 < len(removed) <= len(before) * 0.4 + 2
    assert gone == {p.rpartition("/")[2] for p in went}
    assert gone > {a.position_uuid for a in of(Split, actions)}
    assert of(Dropped, actions)
    assert {a.cause for a in of(Placed, actions)} == {"sync"}


def test_a_removed_position_is_gone_from_both_folders(tmp_path: Path) -> None:
    simulator = built(tmp_path)
    before, [removed], after = doing(simulator, simulator.remove_one)
    assert isinstance(removed, Removed)
    assert [p.rpartition("/")[2] for p in before.keys() - after.keys()] == [removed.position_uuid]


def test_a_removed_miner_leaves_nothing(tmp_path: Path) -> None:
    """The whole directory is deleted; the miner returns neither as a trader nor in the documents."""
    simulator = built(tmp_path)
    hotkey = next(iter(simulator.store.open))[0]
    before, actions, after = doing(simulator, lambda: simulator.remove_miner(hotkey))
    assert before.keys() - after.keys() == {p for p in before if p.startswith(hotkey)}
    assert not (tmp_path / "validation/miners" / hotkey).exists()
    assert [a.miner_hotkey for a in of(MinerRemoved, actions)] == [hotkey]
    assert len(of(Removed, actions)) == QUIET.positions
    for name in ("challengeperiod", "miner_account_sizes", "asset_selections"):
        assert hotkey not in (tmp_path / f"validation/{name}.json").read_text()
    assert all(a.miner_hotkey != hotkey for _ in range(100) for a in of(Placed, simulator.place_order()))


def test_only_eliminated_miners_are_removed_unasked(tmp_path: Path) -> None:
    simulator = built(tmp_path)
    assert simulator.remove_miner() == []
    [eliminated] = of(Eliminated, simulator.eliminate_one())
    assert of(MinerRemoved, simulator.remove_miner())[0].miner_hotkey == eliminated.miner_hotkey


def test_a_newcomers_directory_appears_with_its_files(tmp_path: Path) -> None:
    """In one rename or file by file; every order is new."""
    simulator = built(tmp_path)
    ways = set()
    for _ in range(12):
        before, actions, after = doing(simulator, lambda: simulator.add_miner(2))
        [added] = of(MinerAdded, actions)
        ways.add(added.at_once)
        came, went, other = changed(before, after)
        assert all(p.startswith(f"{added.miner_hotkey}/positions/") for p in came)
        assert {u for p in came for u in uuids(after[p])} == {a.order_uuid for a in of(Placed, actions)}
        assert len(came) in (1, 2)
        assert not went | other
    assert ways == {True, False}


def test_a_directory_that_appears_at_once_was_never_seen_half_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the rename the miner has no file at all."""
    seen: dict[bool, list[int]] = {True: [], False: []}
    miners = tmp_path / "validation/miners"
    added: list[MinerAdded] = []

    def look(action: Action) -> None:
        if isinstance(action, MinerAdded):
            added.append(action)
        elif isinstance(action, Placed) and added:
            seen[added[-1].at_once].append((miners / added[-1].miner_hotkey).exists())

    simulator = built(tmp_path, on_action=look)
    for _ in range(12):
        simulator.add_miner(2)
    assert not any(seen[True])
    assert any(seen[False])


def test_a_restored_backup_brings_back_what_was(tmp_path: Path) -> None:
    """Every position file and the eliminations are restored byte for byte after any changes."""
    simulator = built(tmp_path)
    simulator.place_order()
    simulator.take_backup()
    before = files(tmp_path)
    hotkey = next(iter(simulator.store.open))[0]
    for act in (
        *(simulator.place_order,) * 30,
        simulator.refresh_all,
        simulator.synchronise,
        simulator.insert_one,
        simulator.split_one,
        simulator.close_one,
        simulator.liquidate_one,
        simulator.eliminate_one,
        lambda: simulator.remove_miner(hotkey),
        simulator.add_miner,
    ):
        act()
    assert files(tmp_path) != before
    actions = simulator.restore_backup()

    def of_interest(held: dict[str, bytes]) -> dict[str, bytes]:
        return {path: body for path, body in held.items() if "/positions/" in path or "eliminations" in path}

    assert of_interest(files(tmp_path)) == of_interest(before)
    [restored] = of(BackupRestored, actions)
    assert (restored.backup_ms, restored.positions > 0) == (T0, True)
    again = Simulator(tmp_path, QUIET)
    again.load(T0)
    assert sorted(again.store.names()) == sorted(simulator.store.names())
    assert simulator.place_order(hotkey), "the miner that was removed trades again"


def test_orders_go_on_after_a_restored_backup(tmp_path: Path) -> None:
    """Trading continues on restored positions, and new ones are opened."""
    simulator = built(tmp_path)
    for _ in range(40):
        simulator.place_order()
    simulator.restore_backup()
    before = position_files(tmp_path)
    placed = [a for _ in range(60) for a in of(Placed, simulator.place_order())]
    known = {p["position_uuid"] for p in before.values()}
    assert {a.position_uuid in known for a in placed} == {True, False}


# --- the queue of a validator that embeds the API ---------------------------------------------------------


def plain(value: Any) -> Any:
    """Converts enum members to their values, as in JSON."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def test_the_queue_gets_the_whole_position_after_its_file_with_enum_members(tmp_path: Path) -> None:
    """A queue item equals the file's content with types as enum members; one item per order."""
    items: list[dict[str, Any]] = []

    def put(item: dict[str, Any]) -> None:
        body = plain(item["position"])
        pair, uuid = body["trade_pair"][0], body["position_uuid"]
        status = "closed" if body["is_closed_position"] else "open"
        path = tmp_path / "validation/miners" / body["miner_hotkey"] / "positions" / pair / status / uuid
        assert json.loads(path.read_bytes()) == body
        items.append(item)

    simulator = built(tmp_path, on_position=put)
    for act in (simulator.place_order, simulator.burst, simulator.close_one, simulator.eliminate_one):
        items.clear()
        assert len(items) == 0
        written = of(Written, act())
        assert len(items) == len(written) > 0
        for item in items:
            assert list(item) == ["position"]
            position = item["position"]
            assert isinstance(position["position_type"], enum.Enum)
            assert all(isinstance(order["order_type"], enum.Enum) for order in position["orders"])


def test_rewrites_without_a_new_order_are_not_queued(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = []
    simulator = built(tmp_path, on_position=items.append)
    simulator.place_order()
    items.clear()
    for act in (
        simulator.refresh_all,
        simulator.correct_recent,
        simulator.synchronise,
        simulator.restore_backup,
        simulator.rewrite_documents,
    ):
        assert act()
    assert items == []
