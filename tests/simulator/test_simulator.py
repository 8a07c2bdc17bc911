"""The simulated validator's directory: building, resuming and advancing it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ptn_api.errors import SettingsError
from ptn_api.model.accounting import rebuild
from ptn_api.model.position import Position, PositionState, parse_position
from ptn_api.simulator.journal import DocumentRewritten, Placed, Refreshed, read_journal
from ptn_api.simulator.options import Network
from ptn_api.simulator.simulator import Simulator, SimulatorOptions, run_simulator
from tests.factories import T0
from tests.simulator.simulation import (
    CALM,
    QUIET,
    SMALL,
    built,
    files,
    of_2025,
    order_uuids,
    position_files,
)
from tests.waiting import PATIENCE_S, until

DAY_MS = 86_400_000
POSITION_KEYS_2025 = [
    "miner_hotkey",
    "position_uuid",
    "open_ms",
    "trade_pair",
    "orders",
    "current_return",
    "close_ms",
    "net_leverage",
    "return_at_close",
    "average_entry_price",
    "cumulative_entry_value",
    "realized_pnl",
    "position_type",
    "is_closed_position",
]
ORDER_KEYS_2025 = [
    "order_type",
    "leverage",
    "price",
    "bid",
    "ask",
    "slippage",
    "processed_ms",
    "order_uuid",
    "price_sources",
    "src",
]
SOURCE_KEYS = [
    "source",
    "timespan_ms",
    "open",
    "close",
    "vwap",
    "high",
    "low",
    "start_ms",
    "websocket",
    "lag_ms",
    "bid",
    "ask",
]


def rebuilt(position: Position) -> PositionState:
    again = rebuild(position)
    assert again is not None
    return again.state


def state_of(position: Position, *, returns: bool) -> dict[str, Any]:
    names = set(PositionState.__struct_fields__)
    if not returns:
        names -= {"current_return", "return_at_close", "unrealized_pnl"}
    return {name: getattr(position, name) for name in names}


def parsed(directory: Path) -> list[Position]:
    paths = (directory / "validation/miners").glob("*/positions/*/*/*")
    return [parse_position(path.read_bytes())[0] for path in paths]


# --- the initial state ------------------------------------------------------------------------------------


def test_a_build_of_2025_has_the_validators_layout_and_key_order(tmp_path: Path) -> None:
    """Folders, names and key order match the validator's."""
    built(tmp_path, of_2025(QUIET))
    held = position_files(tmp_path)
    assert len(held) == QUIET.miners * QUIET.positions
    for path, position in held.items():
        status = "closed" if position["is_closed_position"] else "open"
        pair, uuid = position["trade_pair"][0], position["position_uuid"]
        assert path == f"{position['miner_hotkey']}/positions/{pair}/{status}/{uuid}"
        assert list(position) == POSITION_KEYS_2025
        for order in position["orders"]:
            assert list(order) == ORDER_KEYS_2025
            assert all(list(source) == SOURCE_KEYS for source in order["price_sources"])


def test_a_history_is_mostly_closed_averages_six_orders_and_straddles_the_cutoff(tmp_path: Path) -> None:
    """Tiers differ only then, and the load resembles the network's."""
    built(tmp_path, SimulatorOptions(miners=40, positions=40, ledger_checkpoints=1, snapshot_history_ms=1))
    positions = parsed(tmp_path)
    lengths = [len(p.orders) for p in positions]
    still_open = [p for p in positions if not p.is_closed_position]
    latest = [T0 - p.orders[-1].processed_ms for p in still_open]
    assert 4 < sum(lengths) / len(lengths) < 8
    assert min(lengths) == 1
    assert max(lengths) >= 50
    assert 0.02 < len(still_open) / len(positions) < 0.2
    assert any(age < DAY_MS for age in latest)
    assert any(age > DAY_MS for age in latest)
    assert all(0 < T0 - p.open_ms <= 121 * DAY_MS for p in positions)
    assert {bool(o.price_sources) for p in positions for o in p.orders} == {True, False}


@pytest.mark.parametrize("network", ["today", "2025"])
def test_every_state_is_what_its_orders_make_it(tmp_path: Path, network: Network) -> None:
    """The files match the accounting (docs/accounting.md, 2) to the last digit; open ones may be marked."""
    built(tmp_path, msgspec.structs.replace(QUIET, network=network, miners=12))
    for position in parsed(tmp_path):
        names = state_of(position, returns=network == "2025" or position.is_closed_position)
        assert names == {name: getattr(rebuilt(position), name) for name in names}


@pytest.mark.parametrize("network", ["today", "2025"])
def test_states_still_follow_from_orders_after_a_busy_day(tmp_path: Path, network: Network) -> None:
    """All live changes follow the accounting; only open positions' returns are refreshed in between."""
    simulator = built(tmp_path, msgspec.structs.replace(CALM, network=network))
    for hour in (6, 12, 18, 25):
        simulator.step(T0 + hour * DAY_MS // 24)
    simulator.finish_closes()
    positions = parsed(tmp_path)
    assert {p.is_closed_position for p in positions} == {True, False}
    for position in positions:
        again = rebuilt(position)
        names = state_of(position, returns=position.is_closed_position)
        assert names == {name: getattr(again, name) for name in names}


def test_the_documents_of_2025_have_the_validators_shapes(tmp_path: Path) -> None:
    """In the real format (docs/accounting.md, 6), for every miner."""
    simulator = built(tmp_path, of_2025(QUIET))
    simulator.eliminate_one()
    hotkeys = {entry.name for entry in (tmp_path / "validation/miners").iterdir()}

    def read(name: str) -> Any:
        return json.loads((tmp_path / name).read_bytes())

    [eliminated] = read("validation/eliminations.json")["eliminations"]
    assert set(eliminated) == {"hotkey", "elimination_initiated_time_ms", "dd", "reason"}
    challenge = read("validation/challengeperiod.json")
    assert set(challenge["testing"]) | set(challenge["success"]) == hotkeys - {eliminated["hotkey"]}
    ledgers = read("validation/perf_ledgers.json")
    assert set(ledgers) == hotkeys
    for ledger in ledgers.values():
        assert len(ledger["portfolio"]["cps"]) == QUIET.ledger_checkpoints
        assert all(cp["gain"] >= 0 >= cp["loss"] for cp in ledger["portfolio"]["cps"])
        assert len(ledger) > 1
    statistics = read("runnable/minerstatistics.json")
    assert {row["hotkey"] for row in statistics["data"]} == hotkeys
    assert all(row["checkpoints"] for row in statistics["data"])


def test_no_miner_holds_two_open_positions_on_a_pair(tmp_path: Path) -> None:
    simulator = built(tmp_path, CALM)
    simulator.step(T0 + DAY_MS // 2)
    folders = Counter(path.rpartition("/")[0] for path in position_files(tmp_path) if "/open/" in path)
    assert folders
    assert max(folders.values()) == 1


def test_the_same_seed_and_times_write_the_same_bytes(tmp_path: Path) -> None:
    """Seed and times determine all bytes, in any process."""
    for name in ("a", "b"):
        simulator = built(tmp_path / name, CALM)
        for hour in (1, 2, 9, 26):  # a day with every periodic change
            simulator.step(T0 + hour * 3_600_000)
        simulator.close()
    assert files(tmp_path / "a") == files(tmp_path / "b")
    other = built(tmp_path / "c", SimulatorOptions(seed=4, miners=5, positions=12, ledger_checkpoints=4))
    assert not set(files(tmp_path / "a")) & {path for path in files(other.directory) if "/positions/" in path}


@pytest.mark.parametrize(("miners", "positions"), [(0, 0), (1, 0), (1, 1), (3, 2), (2, 100)])
def test_any_size_is_built_and_lives(tmp_path: Path, miners: int, positions: int) -> None:
    """A build without miners or with miners that never traded also works."""
    options = SimulatorOptions(miners=miners, positions=positions, ledger_checkpoints=1)
    simulator = built(tmp_path, options)
    assert len(list((tmp_path / "validation/miners").iterdir())) == miners
    assert len(position_files(tmp_path)) == miners * positions
    actions = simulator.step(T0 + 60_000)
    assert any(isinstance(a, Placed) for a in actions) == (miners > 0)


def test_nothing_is_written_outside_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside are only a validator's files and the simulator's note."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    simulator = built(tmp_path / "validator", CALM)
    simulator.step(T0 + DAY_MS + 1)
    simulator.close()
    assert not list(elsewhere.iterdir())
    assert {p.name for p in tmp_path.iterdir()} == {"elsewhere", "validator"}
    assert {p.name for p in (tmp_path / "validator").iterdir()} == {
        "validation",
        "runnable",
        "simulator.json",
    }


def test_files_are_written_to_tmp_and_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of the miners' folders never sees a partial file."""
    moves: list[tuple[str, str]] = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        real(source, target)
        moves.append((str(source), str(target)))

    monkeypatch.setattr(os, "replace", replace)
    simulator = built(tmp_path, SMALL)
    simulator.step(T0 + 600_000)
    assert {str(Path(source).parent) for source, _ in moves} == {str(tmp_path / "validation/tmp")}
    appended = {path for path in files(tmp_path) if path.endswith("snapshots.jsonl")}
    assert {target for _, target in moves} >= {
        str(tmp_path / path) for path in files(tmp_path).keys() - appended
    }
    assert not list((tmp_path / "validation/tmp").iterdir())


def test_a_strangers_validator_is_not_touched(tmp_path: Path) -> None:
    """A directory with miners that no simulator wrote is refused and left unchanged."""
    stranger = tmp_path / "validation/miners/5Stranger/positions"
    stranger.mkdir(parents=True)
    with pytest.raises(SettingsError):
        built(tmp_path)
    assert stranger.exists()


@pytest.mark.parametrize("name", ["validation/eliminations.json", "validation/miners", ".git/config"])
def test_a_directory_with_other_files_is_not_touched(tmp_path: Path, name: str) -> None:
    """A validator without miners, or any other directory: the error names the remedy."""
    place = tmp_path / name
    place.mkdir(parents=True) if name.endswith("miners") else place.parent.mkdir(parents=True)
    if not place.exists():
        place.write_text("mine")
    before = {*tmp_path.rglob("*")}
    with pytest.raises(SettingsError, match="choose an empty directory"):
        built(tmp_path)
    assert {*tmp_path.rglob("*")} == before
    assert place.is_dir() or place.read_text() == "mine"


def test_a_build_that_was_killed_at_its_first_file_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "simulator.json").touch()
    assert len(built(tmp_path).store.names()) == QUIET.miners * QUIET.positions


def test_nothing_can_be_loaded_where_nothing_was_built(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        Simulator(tmp_path, QUIET).load(T0)


# --- time -------------------------------------------------------------------------------------------------


def test_a_step_does_everything_at_its_own_moment(tmp_path: Path) -> None:
    """Orders come at about their rate, periodic work exactly on time, none after the step's end."""
    simulator = built(tmp_path, SMALL)
    actions = simulator.step(T0 + 600_000)
    placed = [a for a in actions if isinstance(a, Placed) and a.cause == "miner"]
    assert 450 < len(placed) < 800
    assert [a.at_ms for a in actions] == sorted(a.at_ms for a in actions)
    assert max(a.at_ms for a in actions) <= T0 + 600_000
    assert all(0 <= a.at_ms - a.processed_ms <= 1_000 or a.processed_ms > a.at_ms for a in placed)
    refreshes = [a.at_ms for a in actions if isinstance(a, Refreshed)]
    assert refreshes == [T0 + k * 60_000 for k in range(1, 11)]
    documents = [a for a in actions if isinstance(a, DocumentRewritten)]
    assert len([a for a in documents if "ledgers" in a.name]) == 2
    assert simulator.now_ms == T0 + 600_000


def test_a_run_keeps_pace_with_its_clock_and_stops_when_told(tmp_path: Path) -> None:
    """At 60 times the speed it places orders until the event is set and finishes every close."""
    simulator = built(tmp_path, SimulatorOptions(miners=4, positions=4, ledger_checkpoints=1))
    before = len(order_uuids(tmp_path))
    stop = threading.Event()
    thread = threading.Thread(target=simulator.run, args=(stop,), kwargs={"speed": 60.0})
    thread.start()
    until(lambda: simulator.now_ms > T0 + 60_000, what="a simulated minute")
    stop.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert simulator.store.next_closing_ms() is None
    assert len(order_uuids(tmp_path)) > before


def test_a_run_leaves_out_what_it_slept_through(tmp_path: Path) -> None:
    """After a week of suspension the missed orders are skipped."""
    simulator = built(tmp_path, SMALL)
    before = len(order_uuids(tmp_path))
    stop = threading.Event()
    times = iter([T0, T0 + 7 * DAY_MS])

    def clock() -> int:
        try:
            return next(times)
        except StopIteration:
            stop.set()
            return T0 + 7 * DAY_MS

    simulator.run(stop, clock=clock)
    assert simulator.now_ms == T0 + 7 * DAY_MS
    assert len(order_uuids(tmp_path)) < before + 50


def test_run_simulator_builds_tells_and_ends(tmp_path: Path) -> None:
    """`ready` is called when the directory is complete; a second run continues on it."""
    stop = threading.Event()
    run_simulator(QUIET, tmp_path, stop=stop, ready=stop.set, clock=lambda: T0)
    first = order_uuids(tmp_path)
    assert len(position_files(tmp_path)) == QUIET.miners * QUIET.positions
    stop.clear()
    run_simulator(QUIET, tmp_path, stop=stop, ready=stop.set, clock=lambda: T0 + DAY_MS)
    assert order_uuids(tmp_path) == first


def test_a_build_that_is_stopped_is_not_ready(tmp_path: Path) -> None:
    """The build ends before the next miner, and a later run starts over."""
    stop, ready = threading.Event(), threading.Event()
    stop.set()
    run_simulator(QUIET, tmp_path, stop=stop, ready=ready.set)
    assert not ready.is_set()
    assert not position_files(tmp_path)
    built(tmp_path)
    assert len(position_files(tmp_path)) == QUIET.miners * QUIET.positions


# --- resuming ---------------------------------------------------------------------------------------------


def test_a_later_run_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    """Positions, miners and eliminations are resumed; no order uuid is reused."""
    simulator = built(tmp_path, SMALL)
    simulator.step(T0 + 120_000)
    simulator.eliminate_one()
    simulator.add_miner()
    simulator.close()
    for run in range(2, 4):
        again = built(tmp_path, SMALL)
        assert sorted(again.store.names()) == sorted(simulator.store.names())
        assert again.population.roster.eliminated == simulator.population.roster.eliminated
        before = order_uuids(tmp_path)
        placed = [a for a in again.step(T0 + run * 120_000) if isinstance(a, Placed)]
        again.close()
        assert placed
        assert not {(a.miner_hotkey, a.order_uuid) for a in placed} & before
        simulator = again


def test_a_directory_keeps_its_network(tmp_path: Path) -> None:
    """One that an older version built, whose note names none, goes on as of 2025."""
    built(tmp_path, of_2025(QUIET)).close()
    note = json.loads((tmp_path / "simulator.json").read_bytes())
    assert note.pop("network") == "2025"
    (tmp_path / "simulator.json").write_text(json.dumps(note))
    again = built(tmp_path, QUIET)
    assert again.place_order()
    assert not (tmp_path / "validation/entities.json").exists()
    assert all(list(position) == POSITION_KEYS_2025 for position in position_files(tmp_path).values())


def child(directory: Path, journal: Path, options: str) -> subprocess.Popen[bytes]:
    """Runs a simulator in a separate process, to be killed."""
    code = (
        "import sys, threading; from pathlib import Path\n"
        "from ptn_api.simulator.simulator import SimulatorOptions, run_simulator\n"
        f"run_simulator(SimulatorOptions({options}), Path(sys.argv[1]), stop=threading.Event(), "
        "journal=Path(sys.argv[2]))"
    )
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", code, str(directory), str(journal)], cwd=root)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)


def test_a_build_killed_midway_is_begun_again(tmp_path: Path) -> None:
    """Remains of a killed build do not mix with the next one."""
    directory = tmp_path / "v"
    process = child(directory, tmp_path / "j", "miners=400, positions=40, ledger_checkpoints=1")
    try:
        until(lambda: len(list(directory.glob("validation/miners/*"))) > 3, what="the first miners")
    finally:
        kill(process)
    assert not json.loads((directory / "simulator.json").read_bytes())["complete"]
    simulator = built(directory)
    assert len(position_files(directory)) == QUIET.miners * QUIET.positions
    assert len(simulator.store.names()) == QUIET.miners * QUIET.positions


def test_a_live_run_killed_at_any_moment_is_resumed(tmp_path: Path) -> None:
    """Every file is complete, no order uuid is reused, and the journal stays readable."""
    directory, journal = tmp_path / "v", tmp_path / "j"
    options = "miners=6, positions=6, ledger_checkpoints=1, orders_per_minute=30_000"
    for _ in range(2):
        size = journal.stat().st_size if journal.exists() else 0
        process = child(directory, journal, options)
        try:
            until(lambda size=size: journal.exists() and journal.stat().st_size > size + 200_000)
        finally:
            kill(process)
    simulator = Simulator(directory, SMALL, journal=journal)
    simulator.prepare(T0 + 10 * 365 * DAY_MS)
    simulator.step(simulator.now_ms + 10_000)
    simulator.close()
    assert parsed(directory)
    placed = Counter((a.miner_hotkey, a.order_uuid) for a in read_journal(journal) if isinstance(a, Placed))
    assert len(placed) > 400
    assert max(placed.values()) == 1
