"""The simulator: schedules behaviours and runs them on one validator directory.

Seed and times determine everything, so a run can be repeated; several runs on one directory continue each
other. Every kind of change that a validator makes to its files occurs (docs/architecture.md, "What a
validator does to its files"), and each is journaled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import SettingsError
from ptn_api.simulator.documents import Documents
from ptn_api.simulator.history_edits import HistoryEdits
from ptn_api.simulator.journal import Action, Journal
from ptn_api.simulator.market import Market, seeded
from ptn_api.simulator.miner import Trade, make_hotkey, make_synthetic_hotkey
from ptn_api.simulator.options import Network, SimulatorOptions
from ptn_api.simulator.population import Population
from ptn_api.simulator.position_store import PositionStore
from ptn_api.simulator.todays_documents import TodaysDocuments
from ptn_api.simulator.trading import LimitOrders, Trading
from ptn_api.simulator.validator import ValidatorFiles

__all__ = ["Simulator", "SimulatorOptions", "StopSignal", "holds_simulation", "run_simulator"]

_NOTE = "simulator.json"
_TOO_FAR_BEHIND_MS = 30_000


class StopSignal(Protocol):
    """The common part of `threading.Event` and `multiprocessing.Event`."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None, /) -> bool: ...


class _Note(msgspec.Struct, kw_only=True):
    """State kept for later runs, in a file next to the validator's folders.

    `miners` counts all miners that ever existed, `runs` gives each run its own random numbers. A directory
    keeps the network that it was built for; without one it is older than the choice.
    """

    network: Network = "2025"
    complete: bool = False
    runs: int = 0
    miners: int = 0


def _note_in(directory: Path) -> _Note:
    """The note of the runs so far. Without any, or if a build was killed at once, none is complete."""
    with contextlib.suppress(FileNotFoundError):
        if content := (directory / _NOTE).read_bytes():
            return msgspec.json.decode(content, type=_Note)
    return _Note()


def holds_simulation(directory: Path) -> bool:
    """Whether a run in this directory resumes a simulation, which keeps its size and network."""
    return _note_in(directory).complete


class _Behaviour(msgspec.Struct):
    """An action repeated every `every_ms` (on average, unless `steady`), next due at `due_ms`."""

    act: Callable[[], object]
    every_ms: float
    steady: bool = False
    due_ms: float = 0.0


class Simulator:
    """A simulated validator in one directory; not thread-safe.

    Call `prepare` first (or `build`, `load`). `step` advances to a given time, `run` follows a clock. Each
    behaviour also has a method that acts at the current simulated time. These methods return the actions in
    order, none if nothing was suitable.

    `journal` is a file to which the actions are appended (`read_journal`), `on_action` a callback for each.
    `on_position` gets `{"position": {...}}`, the item that an embedding validator puts on its queue.
    """

    def __init__(
        self,
        directory: Path,
        options: SimulatorOptions,
        *,
        journal: Path | None = None,
        on_position: Callable[[dict[str, Any]], None] | None = None,
        on_action: Callable[[Action], None] | None = None,
    ) -> None:
        self.directory = directory
        note = _note_in(self.directory)
        if note.complete:
            options = msgspec.structs.replace(options, network=note.network)
        self.options = options
        self.market = Market(options.seed, options.network)
        self._journal_file = journal
        self._journal = Journal(journal, on_action)
        today = options.network == "today"
        self._files = ValidatorFiles(directory, private=today, copy_every=options.copy_every)
        self.store = PositionStore(
            self._files,
            self._journal,
            self.market,
            close_gap_ms=options.close_gap_ms,
            on_write=lambda position: documents.book(position),
            on_position=on_position,
        )
        common = (self._files, self._journal, options.seed, options.ledger_checkpoints)
        documents = (
            TodaysDocuments(*common, self.market, self.store.of_miner) if today else Documents(*common)
        )
        self._documents = documents
        self.population = Population(self.store, self.market, documents, options, self._new_hotkey)
        self._begin_run(_Note())

    @property
    def now_ms(self) -> int:
        """The simulated time."""
        return self.store.now_ms

    def close(self) -> None:
        """Finishes pending closes and closes the journal."""
        self.store.finish_closes()
        self._journal.close()

    # --- the initial state --------------------------------------------------------------------------------

    def prepare(
        self,
        now_ms: int,
        *,
        stop: StopSignal | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Resumes the simulation in the directory or builds it; an interrupted build starts over.

        `progress` gets the numbers of miners that are built, and of all. Raises SettingsError if the
        directory has files that no simulator wrote.
        """
        if _note_in(self.directory).complete:
            self.load(now_ms)
        else:
            self.build(now_ms, stop=stop, progress=progress)

    def build(
        self,
        now_ms: int,
        *,
        stop: StopSignal | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Writes the initial state as of `now_ms`; the same seed, sizes and time give the same files.

        Raises SettingsError if the directory has files of a real validator, or others.
        """
        note_file = self.directory / _NOTE
        if not note_file.exists():
            self._check_empty()
            self.directory.mkdir(parents=True, exist_ok=True)
            note_file.touch(0o600)  # before all others: a build that is killed from here on starts over
        self._files.clear()
        note = _Note(network=self.options.network, miners=self.options.miners)
        self._write_note(note)
        self.store.now_ms = now_ms
        for number in range(self.options.miners):
            if stop is not None and stop.is_set():
                return
            self.population.settle(self._hotkey(number))
            if progress is not None:
                progress(number + 1, self.options.miners)
        if self.options.limit_orders_per_minute:
            for _ in range(2 * self.options.miners):
                self._limit_orders.place()
        self.population.write_documents(self._rng, small=True)
        self.population.write_snapshots(now_ms - self.options.snapshot_history_ms)
        note.complete, note.runs = True, 1
        self._write_note(note)
        self._begin_run(note)
        self._start_at(now_ms)
        self._journal.take()

    def _check_empty(self) -> None:
        own = {self._journal_file and self._journal_file.absolute()}
        if not self.directory.exists() or own >= {*self.directory.absolute().iterdir()}:
            return
        what = "a validator" if (self.directory / "validation").exists() else "files"
        raise SettingsError(f"{self.directory} has {what} that no simulator wrote: choose an empty directory")

    def load(self, now_ms: int) -> None:
        """Resumes the simulation in the directory, also after a kill.

        Raises SettingsError if the directory holds no complete simulation.
        """
        note = _note_in(self.directory)
        if not note.complete:
            raise SettingsError(f"{self.directory} holds no simulation to resume")
        note.runs += 1
        self._write_note(note)
        self._begin_run(note)
        self.store.now_ms = now_ms
        self.store.load()
        self.population.load()
        self._start_at(now_ms)
        self.population.enforce(self._trading)

    def _begin_run(self, note: _Note) -> None:
        self._note = note
        self._rng = seeded(f"{self.options.seed}/run/{note.runs}")
        roster = self.population.roster
        self._trading = Trading(self.store, self.market, roster, self._rng, self._documents.balance)
        self._limit_orders = LimitOrders(self.store, self.market, roster, self._trading, self._rng)
        self._history_edits = HistoryEdits(self.store, self.market, roster, self._rng)

        options, population = self.options, self.population
        minute, hour, day = 60_000, 3_600_000, 86_400_000

        def at_random(act: Callable[[], object], rate: float, unit_ms: int) -> _Behaviour:
            return _Behaviour(act, unit_ms / rate if rate else 0)

        def steadily(act: Callable[[], object], every_ms: int) -> _Behaviour:
            return _Behaviour(act, every_ms, steady=True)

        behaviours = [
            at_random(self._trading.place_order, options.orders_per_minute, minute),
            at_random(self._trading.correct_recent, options.corrections_per_minute, minute),
            at_random(lambda: self._trading.burst(options.burst_orders), options.bursts_per_hour, hour),
            at_random(self._trading.liquidate_one, options.liquidations_per_day, day),
            at_random(self._eliminate, options.eliminations_per_day, day),
            at_random(lambda: population.add_miner(3, self._rng), options.new_miners_per_day, day),
            at_random(self._remove_miner, options.miners_removed_per_day, day),
            at_random(population.restore_backup, options.restores_per_day, day),
            steadily(self._refresh_all, options.refresh_ms),
            steadily(
                lambda: self._history_edits.synchronise(options.synchronise_share), options.synchronise_ms
            ),
            steadily(population.take_backup, options.backup_ms),
            steadily(lambda: population.write_documents(self._rng), options.documents_ms),
        ]
        if options.network == "today":
            behaviours += [
                at_random(self._limit_orders.place, options.limit_orders_per_minute, minute),
                at_random(self._limit_orders.cancel_one, options.limit_orders_per_minute / 3, minute),
                at_random(self._trading.flatten_one_miner, options.flats_per_day, day),
                at_random(self._reset_account, options.account_resets_per_day, day),
                steadily(population.write_snapshots, options.snapshots_ms),
            ]
        self._behaviours = [behaviour for behaviour in behaviours if behaviour.every_ms]

    def _start_at(self, now_ms: int) -> None:
        """Starts all behaviours at this time, without catching up on the past."""
        self.store.now_ms = now_ms
        self._trading.remember()
        self._limit_orders.load()
        self.population.take_backup()
        for behaviour in self._behaviours:
            behaviour.due_ms = now_ms + self._interval(behaviour)

    def _eliminate(self, hotkey: str | None = None) -> None:
        self.population.eliminate(hotkey, self._trading, self._limit_orders, self._rng)

    def _reset_account(self, hotkey: str | None = None) -> None:
        self.population.reset_account(hotkey, self._trading, self._limit_orders, self._rng)

    def _refresh_all(self) -> None:
        self._trading.refresh_all()
        self._limit_orders.fill_due()

    def _remove_miner(self, hotkey: str | None = None) -> None:
        self.population.remove_miner(hotkey, self._history_edits)

    def _new_hotkey(self) -> str:
        self._note.miners += 1
        self._write_note(self._note)
        return self._hotkey(self._note.miners - 1)

    def _hotkey(self, number: int) -> str:
        make = make_synthetic_hotkey if self.options.network == "today" else make_hotkey
        return make(self.options.seed, number)

    def _write_note(self, note: _Note) -> None:
        self._files.write_document(_NOTE, msgspec.json.encode(note))

    # --- time ---------------------------------------------------------------------------------------------

    def step(self, now_ms: int) -> list[Action]:
        """Advances to that time, running each behaviour when it is due. Returns the actions."""
        self._work(now_ms)
        return self._journal.take()

    def run(self, stop: StopSignal, *, speed: float = 1.0, clock: Clock = wall_ms) -> None:
        """Follows the clock, `speed` times as fast, until `stop` is set. Blocks.

        Time that was slept through, as on a suspended machine, is skipped.
        """
        begun, begun_ms = clock(), self.now_ms
        while not stop.is_set():
            due_ms = begun_ms + int((clock() - begun) * speed)
            if due_ms - self.now_ms > _TOO_FAR_BEHIND_MS * max(1.0, speed):
                self.skip_to(due_ms)
            self._work(due_ms, stop)
            self._journal.take()
            due = [behaviour.due_ms for behaviour in self._behaviours]
            if (closing_ms := self.store.next_closing_ms()) is not None:
                due.append(closing_ms)
            until_due_s = (min(due, default=self.now_ms + 100) - self.now_ms) / 1000 / speed
            stop.wait(min(0.1, max(0.0, until_due_s)))
        self.store.finish_closes()

    def skip_to(self, now_ms: int) -> None:
        """Moves to that time without running the behaviours due until then."""
        self._advance(now_ms)
        for behaviour in self._behaviours:
            behaviour.due_ms = max(behaviour.due_ms, now_ms)

    def _work(self, until_ms: int, stop: StopSignal | None = None) -> None:
        while stop is None or not stop.is_set():
            behaviour = min(self._behaviours, key=lambda b: b.due_ms, default=None)
            if behaviour is None or behaviour.due_ms > until_ms:
                self._advance(until_ms)
                break
            self._advance(int(behaviour.due_ms))
            behaviour.act()
            behaviour.due_ms += self._interval(behaviour)

    def _advance(self, now_ms: int) -> None:
        while (due := self.store.next_closing_ms()) is not None and due <= now_ms:
            self.store.now_ms = max(self.now_ms, due)
            self.store.finish_closes(due)
        self.store.now_ms = max(self.now_ms, now_ms)

    def _interval(self, behaviour: _Behaviour) -> float:
        return behaviour.every_ms if behaviour.steady else self._rng.expovariate(1 / behaviour.every_ms)

    # --- single behaviours --------------------------------------------------------------------------------

    def place_order(
        self, hotkey: str | None = None, pair: str | None = None, trade: Trade | None = None
    ) -> list[Action]:
        """Places an order; miner, pair and trade follow from the miners' habits unless given."""
        self._trading.place_order(hotkey, pair, trade)
        return self._journal.take()

    def burst(self, orders: int | None = None) -> list[Action]:
        """Places several orders on one position back to back, rewriting its file for each."""
        self._trading.burst(orders or self.options.burst_orders)
        return self._journal.take()

    def refresh_all(self) -> list[Action]:
        """Rewrites every open position with new returns."""
        self._trading.refresh_all()
        return self._journal.take()

    def place_limit_order(self) -> list[Action]:
        """Places an order that waits for its price, only at a validator of today."""
        self._limit_orders.place()
        return self._journal.take()

    def cancel_limit_order(self) -> list[Action]:
        """Cancels an order that waits."""
        self._limit_orders.cancel_one()
        return self._journal.take()

    def fill_limit_orders(self) -> list[Action]:
        """Fills the orders whose price was reached."""
        self._limit_orders.fill_due()
        return self._journal.take()

    def flatten_one_miner(self) -> list[Action]:
        """Closes all positions of a miner at its request."""
        self._trading.flatten_one_miner()
        return self._journal.take()

    def reset_account(self, hotkey: str | None = None) -> list[Action]:
        """Closes and archives all positions of a miner, only at a validator of today."""
        self._reset_account(hotkey)
        return self._journal.take()

    def correct_recent(self) -> list[Action]:
        """Corrects an order of the last five minutes in place."""
        self._trading.correct_recent()
        return self._journal.take()

    def close_one(self) -> list[Action]:
        """Closes a position by its miner's order; the closed file follows `close_gap_ms` later."""
        self._trading.close_one()
        return self._journal.take()

    def finish_closes(self) -> list[Action]:
        """Writes the closed files of all pending closes."""
        self.store.finish_closes()
        return self._journal.take()

    def liquidate_one(self) -> list[Action]:
        """Liquidates a position: it loses everything and is closed by the validator's FLAT."""
        self._trading.liquidate_one()
        return self._journal.take()

    def eliminate_one(self, hotkey: str | None = None) -> list[Action]:
        """Eliminates a miner and closes its open positions by the validator's FLATs."""
        self._eliminate(hotkey)
        return self._journal.take()

    def synchronise(self) -> list[Action]:
        """Rewrites, edits, splits or removes a share of all positions."""
        self._history_edits.synchronise(self.options.synchronise_share)
        return self._journal.take()

    def split_one(self) -> list[Action]:
        """Splits a position into two."""
        self._history_edits.split_one()
        return self._journal.take()

    def insert_one(self) -> list[Action]:
        """Inserts an order into the middle of a position's list."""
        self._history_edits.insert_one()
        return self._journal.take()

    def drop_one(self) -> list[Action]:
        """Drops an order from the middle of a position's list."""
        self._history_edits.drop_one()
        return self._journal.take()

    def remove_one(self) -> list[Action]:
        """Removes a position."""
        self._history_edits.remove_one()
        return self._journal.take()

    def add_miner(self, positions: int = 3) -> list[Action]:
        """Adds a miner with that many positions of one order each, in one rename or file by file."""
        self.population.add_miner(positions, self._rng)
        return self._journal.take()

    def remove_miner(self, hotkey: str | None = None) -> list[Action]:
        """Removes a miner with all its positions, an eliminated one unless named."""
        self._remove_miner(hotkey)
        return self._journal.take()

    def take_backup(self) -> list[Action]:
        """Takes a backup of positions and eliminations."""
        self.population.take_backup()
        return self._journal.take()

    def restore_backup(self) -> list[Action]:
        """Restores positions and eliminations from the last backup, by default that of the run's start."""
        self.population.restore_backup()
        return self._journal.take()

    def rewrite_documents(self) -> list[Action]:
        """Rewrites performance ledgers and statistics."""
        self.population.write_documents(self._rng)
        return self._journal.take()


def run_simulator(
    options: SimulatorOptions,
    directory: Path,
    *,
    stop: StopSignal,
    ready: Callable[[], None] | None = None,
    speed: float = 1.0,
    journal: Path | None = None,
    clock: Clock = wall_ms,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Simulates a validator in that directory until `stop` is set. Blocks.

    Builds or resumes it, calls `ready`, then follows the clock. `progress` gets the numbers of miners that
    are built, and of all.
    """
    simulator = Simulator(directory, options, journal=journal)
    try:
        simulator.prepare(clock(), stop=stop, progress=progress)
        simulator.skip_to(clock())
        if ready is not None and not stop.is_set():
            ready()
        simulator.run(stop, speed=speed, clock=clock)
    finally:
        simulator.close()
