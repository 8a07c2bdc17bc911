"""A simulated validator: a believable market and miners, and a directory written as a validator writes it.

Everything follows from the seed and the times it is given, so a run can be repeated; several runs on one
directory continue each other. It does all that a validator does (docs/architecture.md, "The source"), and
keeps the truth about it in a journal.
"""

from __future__ import annotations

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
from ptn_api.simulator.miner import Trade, make_hotkey
from ptn_api.simulator.options import SimulatorOptions
from ptn_api.simulator.population import Population
from ptn_api.simulator.position_store import PositionStore
from ptn_api.simulator.trading import Trading
from ptn_api.simulator.validator import ValidatorFiles

__all__ = ["Simulator", "SimulatorOptions", "StopSignal", "run_simulator"]

_NOTE = "simulator.json"
_TOO_FAR_BEHIND_MS = 30_000


class StopSignal(Protocol):
    """What `threading.Event` and `multiprocessing.Event` have in common."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None, /) -> bool: ...


class _Note(msgspec.Struct, kw_only=True):
    """What a later run must know, kept beside the validator's folders. `miners` counts all there ever were,
    `runs` keeps the random numbers of one run from coming again in the next."""

    complete: bool = False
    runs: int = 0
    miners: int = 0


class _Behaviour(msgspec.Struct):
    """Something done every `every_ms` (on average, where not `steady`), next at `due_ms`."""

    act: Callable[[], object]
    every_ms: float
    steady: bool = False
    due_ms: float = 0.0


class Simulator:
    """Simulates the validator of one directory; use it from one thread.

    Begin with `prepare` (or `build`, `load`). `step` advances to a time of the caller's choice, `run` keeps
    pace with a clock, and every behaviour has a method of its own, which acts at the current simulated time
    and returns what was done, in order (nothing, where nothing was there to do it to). `journal` names a
    file that gets the same (`read_journal`), `on_action` is called with each as it is done. `on_position`
    gets `{"position": {...}}` as a validator that embeds the API puts it on its queue.
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
        self.options = options
        self.directory = directory
        self.market = Market(options.seed)
        self._journal = Journal(journal, on_action)
        self._files = ValidatorFiles(directory)
        self.store = PositionStore(
            self._files, self._journal, close_gap_ms=options.close_gap_ms, on_position=on_position
        )
        documents = Documents(self._files, self._journal, options.seed, options.ledger_checkpoints)
        self.population = Population(self.store, self.market, documents, options, self._new_hotkey)
        self._begin_run(_Note())

    @property
    def now_ms(self) -> int:
        """The simulated time."""
        return self.store.now_ms

    def close(self) -> None:
        """Finishes half-done closes and closes the journal."""
        self.store.finish_closes()
        self._journal.close()

    # --- the initial state --------------------------------------------------------------------------------

    def prepare(self, now_ms: int, *, stop: StopSignal | None = None) -> None:
        """Resumes what the directory holds, or builds it; a build that was cut short is begun again.

        Raises SettingsError if the directory holds a validator that is not this simulator's.
        """
        note = self._read_note()
        if note is not None and note.complete:
            self.load(now_ms)
        else:
            self.build(now_ms, stop=stop)

    def build(self, now_ms: int, *, stop: StopSignal | None = None) -> None:
        """Writes the initial state as of `now_ms`: the same files for the same seed, sizes and time.

        Raises SettingsError if the directory holds a validator that is not this simulator's.
        """
        if self._read_note() is None and not self._files.is_empty():
            raise SettingsError(f"{self.directory} holds a validator that no simulator wrote")
        self._files.clear()
        note = _Note(miners=self.options.miners)
        self._write_note(note)
        self.store.now_ms = now_ms
        for number in range(self.options.miners):
            if stop is not None and stop.is_set():
                return
            self.population.settle(make_hotkey(self.options.seed, number))
        self.population.write_documents(self._rng, small=True)
        note.complete, note.runs = True, 1
        self._write_note(note)
        self._begin_run(note)
        self._arrive(now_ms)
        self._journal.take()

    def load(self, now_ms: int) -> None:
        """Takes over a directory that an earlier run built, however its last run ended.

        Raises SettingsError if there is none.
        """
        note = self._read_note()
        if note is None or not note.complete:
            raise SettingsError(f"{self.directory} holds no simulation to resume")
        note.runs += 1
        self._write_note(note)
        self._begin_run(note)
        self.store.load()
        self.population.load()
        self._arrive(now_ms)
        self.population.enforce(self._trading)

    def _begin_run(self, note: _Note) -> None:
        self._note = note
        self._rng = seeded(f"{self.options.seed}/run/{note.runs}")
        roster = self.population.roster
        self._trading = Trading(self.store, self.market, roster, self._rng)
        self._history_edits = HistoryEdits(self.store, self.market, roster, self._rng)
        self._behaviours = self._planned()

    def _planned(self) -> list[_Behaviour]:
        options, population = self.options, self.population
        minute, hour, day = 60_000, 3_600_000, 86_400_000

        def at_random(act: Callable[[], object], rate: float, unit_ms: int) -> _Behaviour:
            return _Behaviour(act, unit_ms / rate if rate else 0)

        def steadily(act: Callable[[], object], every_ms: int) -> _Behaviour:
            return _Behaviour(act, every_ms, steady=True)

        planned = [
            at_random(self._trading.place_order, options.orders_per_minute, minute),
            at_random(self._trading.correct_recent, options.corrections_per_minute, minute),
            at_random(lambda: self._trading.burst(options.burst_orders), options.bursts_per_hour, hour),
            at_random(self._trading.liquidate_one, options.liquidations_per_day, day),
            at_random(self._eliminate, options.eliminations_per_day, day),
            at_random(lambda: population.add_miner(3, self._rng), options.new_miners_per_day, day),
            at_random(self._remove_miner, options.miners_removed_per_day, day),
            at_random(population.restore_backup, options.restores_per_day, day),
            steadily(self._trading.refresh_all, options.refresh_ms),
            steadily(
                lambda: self._history_edits.synchronise(options.synchronise_share), options.synchronise_ms
            ),
            steadily(population.take_backup, options.backup_ms),
            steadily(lambda: population.write_documents(self._rng), options.documents_ms),
        ]
        return [behaviour for behaviour in planned if behaviour.every_ms]

    def _arrive(self, now_ms: int) -> None:
        """Begins to act at this time; the past is not made up for."""
        self.store.now_ms = now_ms
        self._trading.remember()
        self.population.take_backup()
        for behaviour in self._behaviours:
            behaviour.due_ms = now_ms + self._interval(behaviour)

    def _eliminate(self, hotkey: str | None = None) -> None:
        self.population.eliminate(hotkey, self._trading, self._rng)

    def _remove_miner(self, hotkey: str | None = None) -> None:
        self.population.remove_miner(hotkey, self._history_edits)

    def _new_hotkey(self) -> str:
        self._note.miners += 1
        self._write_note(self._note)
        return make_hotkey(self.options.seed, self._note.miners - 1)

    def _read_note(self) -> _Note | None:
        body = self._files.read_document(_NOTE)
        return None if body is None else msgspec.json.decode(body, type=_Note)

    def _write_note(self, note: _Note) -> None:
        self._files.write_document(_NOTE, msgspec.json.encode(note))

    # --- time ---------------------------------------------------------------------------------------------

    def step(self, now_ms: int) -> list[Action]:
        """Does all that happens up to that time, each thing at its own moment."""
        self._work(now_ms)
        return self._journal.take()

    def run(self, stop: StopSignal, *, speed: float = 1.0, clock: Clock = wall_ms) -> None:
        """Keeps pace with the clock, `speed` times as fast, until told to stop. Blocks. What was slept
        through, as by a suspended machine, is left out rather than made up for."""
        begun, begun_ms = clock(), self.now_ms
        while not stop.is_set():
            goal = begun_ms + int((clock() - begun) * speed)
            if goal - self.now_ms > _TOO_FAR_BEHIND_MS * max(1.0, speed):
                self.skip_to(goal)
            self._work(goal, stop)
            self._journal.take()
            stop.wait(self._pause_s(speed))
        self.store.finish_closes()

    def skip_to(self, now_ms: int) -> None:
        """Moves to that time without doing what would have happened until then."""
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

    def _pause_s(self, speed: float) -> float:
        """Until the next thing to do, at most a tenth of a second."""
        due = [b.due_ms for b in self._behaviours]
        closing = self.store.next_closing_ms()
        next_ms = min([*due, *([] if closing is None else [closing])], default=self.now_ms + 100)
        return min(0.1, max(0.0, (next_ms - self.now_ms) / 1000 / speed))

    def _interval(self, behaviour: _Behaviour) -> float:
        return behaviour.every_ms if behaviour.steady else self._rng.expovariate(1 / behaviour.every_ms)

    # --- single behaviours --------------------------------------------------------------------------------

    def place_order(
        self, hotkey: str | None = None, pair: str | None = None, trade: Trade | None = None
    ) -> list[Action]:
        """A miner's order: of that miner, on that pair, that trade, or whatever its habits suggest."""
        self._trading.place_order(hotkey, pair, trade)
        return self._journal.take()

    def burst(self, orders: int | None = None) -> list[Action]:
        """Several orders on one position, each in a file of its own, as fast as it goes."""
        self._trading.burst(orders or self.options.burst_orders)
        return self._journal.take()

    def refresh_all(self) -> list[Action]:
        """Every open position's returns move."""
        self._trading.refresh_all()
        return self._journal.take()

    def correct_recent(self) -> list[Action]:
        """An order of the last minutes is corrected in place."""
        self._trading.correct_recent()
        return self._journal.take()

    def close_one(self) -> list[Action]:
        """A miner closes a position; its closed file follows after `close_gap_ms` of steps."""
        self._trading.close_one()
        return self._journal.take()

    def finish_closes(self) -> list[Action]:
        """Writes the closed files that are still to come."""
        self.store.finish_closes()
        return self._journal.take()

    def liquidate_one(self) -> list[Action]:
        """A position loses everything and is closed by a FLAT that no miner sent."""
        self._trading.liquidate_one()
        return self._journal.take()

    def eliminate_one(self, hotkey: str | None = None) -> list[Action]:
        """A miner is eliminated and its open positions are closed by FLATs that it did not send."""
        self._eliminate(hotkey)
        return self._journal.take()

    def synchronise(self) -> list[Action]:
        """A share of all positions is rewritten, edited, split or removed."""
        self._history_edits.synchronise(self.options.synchronise_share)
        return self._journal.take()

    def split_one(self) -> list[Action]:
        """A position becomes two."""
        self._history_edits.split_one()
        return self._journal.take()

    def insert_one(self) -> list[Action]:
        """An order appears in the middle of a position's list."""
        self._history_edits.insert_one()
        return self._journal.take()

    def drop_one(self) -> list[Action]:
        """An order disappears from the middle of a position's list."""
        self._history_edits.drop_one()
        return self._journal.take()

    def remove_one(self) -> list[Action]:
        """A position disappears."""
        self._history_edits.remove_one()
        return self._journal.take()

    def add_miner(self, positions: int = 3) -> list[Action]:
        """A new miner's directory appears with that many positions, one order each; in one move, or
        folder by folder."""
        self.population.add_miner(positions, self._rng)
        return self._journal.take()

    def remove_miner(self, hotkey: str | None = None) -> list[Action]:
        """A miner disappears with all its positions; unless named, one that was eliminated."""
        self._remove_miner(hotkey)
        return self._journal.take()

    def take_backup(self) -> list[Action]:
        """Remembers the positions and eliminations as they are."""
        self.population.take_backup()
        return self._journal.take()

    def restore_backup(self) -> list[Action]:
        """Positions and eliminations are what they were at the last backup (at the start of this run, if
        none was taken since)."""
        self.population.restore_backup()
        return self._journal.take()

    def rewrite_documents(self) -> list[Action]:
        """Performance ledgers and statistics move on."""
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
) -> None:
    """Simulates a validator in that directory until told to stop: builds or resumes it, calls `ready`, then
    keeps pace with the clock. Blocks; for a process or thread of its own."""
    simulator = Simulator(directory, options, journal=journal)
    try:
        simulator.prepare(clock(), stop=stop)
        simulator.skip_to(clock())
        if ready is not None and not stop.is_set():
            ready()
        simulator.run(stop, speed=speed, clock=clock)
    finally:
        simulator.close()
