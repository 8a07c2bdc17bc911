"""The journal, against which other tests check the files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from ptn_api.simulator.journal import (
    Action,
    Dropped,
    Journal,
    Placed,
    Refreshed,
    Removed,
    Written,
    read_journal,
)
from tests.factories import T0
from tests.simulator.simulation import CALM, QUIET, built, order_uuids, position_files

KEEPING = msgspec.structs.replace(CALM, synchronise_ms=0, restores_per_day=0, miners_removed_per_day=0)
"""Orders are only added."""


def test_the_journal_names_every_order_that_came(tmp_path: Path) -> None:
    """Baseline and journal together list exactly the orders in the files, each once."""
    journal = tmp_path / "journal"
    simulator = built(tmp_path / "v", KEEPING, journal=journal)
    baseline = order_uuids(tmp_path / "v")
    simulator.step(T0 + 86_400_000)
    simulator.close()
    placed = Counter((a.miner_hotkey, a.order_uuid) for a in read_journal(journal) if isinstance(a, Placed))
    assert len(placed) > 200
    assert set(placed.values()) == {1}
    assert not placed.keys() & baseline
    assert order_uuids(tmp_path / "v") == baseline | placed.keys()


def test_nothing_unjournaled_is_in_the_files_whatever_happened(tmp_path: Path) -> None:
    """Includes syncs, splits, backups and removals; an order in no file was removed or dropped."""
    journal = tmp_path / "journal"
    simulator = built(tmp_path / "v", CALM, journal=journal)
    baseline = order_uuids(tmp_path / "v")
    simulator.step(T0 + 30 * 3_600_000)
    simulator.close()
    actions = list(read_journal(journal))
    placed = {(a.miner_hotkey, a.order_uuid) for a in actions if isinstance(a, Placed)}
    assert order_uuids(tmp_path / "v") <= baseline | placed
    removed = {a.position_uuid for a in actions if isinstance(a, Removed)}
    dropped = {a.order_uuid for a in actions if isinstance(a, Dropped)}
    held = {uuid for _, uuid in order_uuids(tmp_path / "v")}
    lost = [a for a in actions if isinstance(a, Placed) and a.order_uuid not in held]
    assert lost
    assert all(a.position_uuid in removed or a.order_uuid in dropped for a in lost)


def test_an_order_is_journaled_before_its_file_and_confirmed_after(tmp_path: Path) -> None:
    """At `placed` no file has the order; at `written` one has it, at the announced place."""
    directory = tmp_path / "v"
    waiting: list[Placed] = []
    checked = 0

    def look(action: Action) -> None:
        nonlocal checked
        if isinstance(action, Placed):
            assert (action.miner_hotkey, action.order_uuid) not in order_uuids(directory)
            waiting.append(action)
        elif isinstance(action, Written):
            [body] = [
                p for p in position_files(directory).values() if p["position_uuid"] == action.position_uuid
            ]
            assert len(body["orders"]) == action.n_orders
            for placed in waiting:
                assert body["orders"][placed.place - 1]["order_uuid"] == placed.order_uuid
                checked += 1
            waiting.clear()

    options = msgspec.structs.replace(QUIET, miners=3, positions=6)
    simulator = built(directory, options, on_action=look)
    for act in (
        *(simulator.place_order,) * 20,
        simulator.burst,
        simulator.insert_one,
        simulator.liquidate_one,
        simulator.eliminate_one,
    ):
        act()
    assert checked > 25
    assert not waiting


def test_the_file_says_what_the_caller_was_told(tmp_path: Path) -> None:
    """The journal's lines equal the returned actions, in order."""
    journal = tmp_path / "journal"
    simulator = built(tmp_path / "v", CALM, journal=journal)
    size = len(list(read_journal(journal)))
    actions = [*simulator.step(T0 + 7_200_000), *simulator.synchronise(), *simulator.restore_backup()]
    simulator.close()
    assert list(read_journal(journal))[size:] == actions


def test_a_line_cut_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    """The next run starts on a new line."""
    path = tmp_path / "journal"
    first, second = Refreshed(at_ms=1, positions=2), Refreshed(at_ms=3, positions=4)
    journal = Journal(path)
    journal.add(first)
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"type":"refreshed","at')
    journal = Journal(path)
    journal.add(second)
    journal.close()
    assert list(read_journal(path)) == [first, second]
