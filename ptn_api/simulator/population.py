"""Who is there: miners that join, are eliminated, or disappear, and the documents that say so."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ptn_api.simulator.documents import Documents
from ptn_api.simulator.history import Period, make_history
from ptn_api.simulator.history_edits import HistoryEdits
from ptn_api.simulator.journal import Eliminated, MinerAdded
from ptn_api.simulator.market import Market, seeded
from ptn_api.simulator.miner import Miner, Roster
from ptn_api.simulator.options import SimulatorOptions
from ptn_api.simulator.position import SimulatedPosition
from ptn_api.simulator.position_store import PositionStore
from ptn_api.simulator.trading import Trading

__all__ = ["Population"]


class Population:
    """Changes who trades, at `store.now_ms`. `new_hotkey` gives one that was never there."""

    def __init__(
        self,
        store: PositionStore,
        market: Market,
        documents: Documents,
        options: SimulatorOptions,
        new_hotkey: Callable[[], str],
    ) -> None:
        self.roster = Roster(market)
        self._store = store
        self._market = market
        self._documents = documents
        self._options = options
        self._new_hotkey = new_hotkey
        self._eliminations_then = documents.eliminations()

    def load(self) -> None:
        """Takes over the miners and documents that the files hold."""
        self._documents.load()
        for hotkey in self._store.files.hotkeys():
            self.roster.add(hotkey)
        self.roster.eliminate(self._documents.eliminated())

    def enforce(self, trading: Trading) -> None:
        """Closes what eliminated miners still hold, as after a crash between the elimination and that."""
        for position in list(self._store.open.values()):
            if position.miner_hotkey in self.roster.eliminated:
                trading.flatten(position, "elimination")

    def settle(self, hotkey: str) -> None:
        """Writes a miner that was there before the simulation, with its history."""
        now_ms, options = self._store.now_ms, self._options
        miner = self.roster.add(hotkey)
        period = Period(
            from_ms=now_ms - options.history_ms, until_ms=now_ms, sources_from_ms=now_ms - options.sources_ms
        )
        self._store.files.add_miner(hotkey)
        for position in make_history(miner, self._market, options.positions, period, options.seed):
            self._store.enter(position)
            self._store.rewrite(position)
        rng = seeded(f"{options.seed}/admission/{hotkey}")
        self._documents.admit(hotkey, now_ms - rng.randrange(options.history_ms), veteran=rng.random() < 0.7)

    def add_miner(self, positions: int, rng: Random) -> str:
        """A newcomer, with up to that many positions of one order each; its hotkey. Its directory appears
        with everything in it at once, or is made and filled."""
        now_ms = self._store.now_ms
        miner = self.roster.add(self._new_hotkey())
        self._documents.admit(miner.hotkey, now_ms, veteran=False)
        held = [self._first_position(miner, place, rng) for place in range(min(positions, len(miner.pairs)))]
        at_once = rng.random() < 0.5
        self._store.journal.add(MinerAdded(at_ms=now_ms, miner_hotkey=miner.hotkey, at_once=at_once))
        if at_once:
            self._store.appear(miner.hotkey, held)
        else:
            self._store.files.add_miner(miner.hotkey)
            for position in held:
                self._store.save(position, position.orders)
        self._documents.write_challengeperiod(now_ms)
        return miner.hotkey

    def eliminate(self, hotkey: str | None, trading: Trading, rng: Random) -> str | None:
        """Eliminates that miner, or any that is not yet: eliminations.json first, then FLATs that it never
        sent close its positions. The hotkey, if there was one."""
        present = [h for h in self.roster.hotkeys() if h not in self.roster.eliminated]
        chosen = hotkey or (rng.choice(present) if present else None)
        if chosen is None or chosen not in present:
            return None
        now_ms = self._store.now_ms
        reason = self._documents.eliminate(chosen, now_ms, rng)
        self.roster.eliminate(self._documents.eliminated())
        self._store.journal.add(Eliminated(at_ms=now_ms, miner_hotkey=chosen, reason=reason))
        self.enforce(trading)
        return chosen

    def remove_miner(self, hotkey: str | None, edits: HistoryEdits) -> str | None:
        """Removes that miner, or an eliminated one, from the files and from the challenge period."""
        gone = edits.remove_miner(hotkey)
        if gone is not None:
            self._documents.forget(gone, self._store.now_ms)
        return gone

    def take_backup(self) -> None:
        self._store.take_backup()
        self._eliminations_then = self._documents.eliminations()

    def restore_backup(self) -> None:
        """Positions and eliminations are again what they were at the backup."""
        self._store.restore_backup()
        self._documents.restore(self._eliminations_then, self._store.now_ms)
        for hotkey in self._store.files.hotkeys():
            if self.roster.get(hotkey) is None:
                self.roster.add(hotkey)
        self.roster.eliminate(self._documents.eliminated())

    def write_documents(self, rng: Random, *, small: bool = False) -> None:
        """Rewrites ledgers and statistics; with `small` the other documents too."""
        now_ms = self._store.now_ms
        if small:
            self._documents.write_eliminations(now_ms)
            self._documents.write_challengeperiod(now_ms)
        self._documents.write_reports(self.roster.miners(), now_ms, rng)

    def _first_position(self, miner: Miner, place: int, rng: Random) -> SimulatedPosition:
        instrument = miner.pairs[place]
        trade = miner.opening(instrument, rng)
        order = self._market.fill(instrument, trade.order_type, trade.leverage, self._store.now_ms, rng)
        position = SimulatedPosition(miner.hotkey, order.order_uuid, list(instrument.trade_pair), [order])
        position.rebuild()
        return position
