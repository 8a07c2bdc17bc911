"""Miners that join, are eliminated or disappear, and the documents that list them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ptn_api.model.order import OrderSource
from ptn_api.simulator.documents import Documents
from ptn_api.simulator.history import Period, make_history
from ptn_api.simulator.history_edits import HistoryEdits
from ptn_api.simulator.journal import Eliminated, MinerAdded
from ptn_api.simulator.market import Market, seeded
from ptn_api.simulator.miner import Roster, entity_of
from ptn_api.simulator.options import SimulatorOptions
from ptn_api.simulator.position import POSITION_KINDS, SimulatedPosition
from ptn_api.simulator.position_store import PositionStore
from ptn_api.simulator.trading import LimitOrders, Trading

__all__ = ["Population"]


class Population:
    """The miners' arrivals, eliminations and removals, at `store.now_ms`.

    `new_hotkey` returns a hotkey that was never used.
    """

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
        self._backed_up_eliminations = documents.eliminations()

    def load(self) -> None:
        """Reads miners and documents from the files."""
        for hotkey in self._store.files.hotkeys():
            self.roster.add(hotkey)
        self._documents.load(self.roster.miners(), self._store.now_ms)
        self.roster.eliminate(self._documents.eliminated())

    def enforce(self, trading: Trading) -> None:
        """Closes what eliminated miners still hold, possibly after a crash between the two steps."""
        for position in list(self._store.open.values()):
            if position.miner_hotkey in self.roster.eliminated:
                trading.flatten(position, "elimination", OrderSource.PRICED_ELIMINATION)

    def settle(self, hotkey: str) -> None:
        """Writes a miner of the initial state with its history."""
        now_ms, options = self._store.now_ms, self._options
        miner = self.roster.add(hotkey)
        rng = seeded(f"{options.seed}/admission/{hotkey}")
        joined_ms, veteran = now_ms - rng.randrange(options.history_ms), rng.random() < 0.7
        from_ms = now_ms - options.history_ms
        if self._market.network == "today":
            # A miner trades from its admission; the challenge period lasts 60 days.
            joined_ms = from_ms = from_ms if veteran else now_ms - options.history_ms // 3
        self._documents.admit(miner, joined_ms, veteran=veteran)
        period = Period(from_ms=from_ms, until_ms=now_ms, sources_from_ms=now_ms - options.sources_ms)
        self._store.files.add_miner(hotkey)
        for position in make_history(miner, self._market, options.positions, period, options.seed):
            if not position.closed and self._market.network == "today":
                position.accrue(self._market, now_ms)
                position.mark(self._market, now_ms)
            self._store.enter(position)
            self._store.rewrite(position)

    def add_miner(self, positions: int, rng: Random) -> str:
        """Adds a miner with up to that many positions of one order each. Returns its hotkey.

        Its directory appears complete in one rename, or is created and then filled.
        """
        now_ms = self._store.now_ms
        miner = self.roster.add(self._new_hotkey())
        self._documents.admit(miner, now_ms, veteran=False)
        held: list[SimulatedPosition] = []
        for instrument in miner.pairs[:positions]:
            trade = miner.opening(instrument, rng)
            order = self._market.fill(instrument, trade.order_type, trade.leverage, now_ms, rng)
            position = POSITION_KINDS[self._market.network].begin(miner, instrument)
            position.take(order, self._market, miner.account_size)
            held.append(position)
        at_once = rng.random() < 0.5
        self._store.journal.add(MinerAdded(at_ms=now_ms, miner_hotkey=miner.hotkey, at_once=at_once))
        if at_once:
            self._store.add_miner_at_once(miner.hotkey, held)
        else:
            self._store.files.add_miner(miner.hotkey)
            for position in held:
                self._store.save(position, position.orders)
        self._documents.write_small(now_ms)
        return miner.hotkey

    def eliminate(
        self, hotkey: str | None, trading: Trading, limit_orders: LimitOrders, rng: Random
    ) -> str | None:
        """Eliminates a miner, a random one unless named. Returns its hotkey, if any.

        In 2025 eliminations.json is written first, then the validator closes its positions by FLATs. Today
        its limit orders are cancelled, its positions closed, and eliminations.json is written last.
        """
        present = [h for h in self.roster.hotkeys() if h not in self.roster.eliminated]
        chosen = hotkey or (rng.choice(present) if present else None)
        if chosen is None or chosen not in present:
            return None
        now_ms = self._store.now_ms
        held = [p.instrument for p in self._store.open.values() if p.miner_hotkey == chosen]
        prices = {instrument.id: self._market.mark(instrument, now_ms) for instrument in held}
        if self._market.network == "today":
            limit_orders.cancel_all(chosen, OrderSource.CANCELLED_BY_ELIMINATION)
            src = OrderSource.PRICED_ELIMINATION if rng.random() < 0.7 else OrderSource.ELIMINATION
            trading.flatten_miner(chosen, "elimination", src)
        reason = self._documents.eliminate(chosen, now_ms, rng, prices)
        self.roster.eliminate(self._documents.eliminated())
        self._store.journal.add(Eliminated(at_ms=now_ms, miner_hotkey=chosen, reason=reason))
        self.enforce(trading)
        return chosen

    def reset_account(
        self, hotkey: str | None, trading: Trading, limit_orders: LimitOrders, rng: Random
    ) -> None:
        """Closes and archives all of a miner's positions; promotes it."""
        present = [h for h in self.roster.hotkeys() if h not in self.roster.eliminated]
        subaccounts = [h for h in present if entity_of(h)]
        chosen = hotkey or (rng.choice(subaccounts or present) if present else None)
        if chosen is None or self._market.network != "today":
            return
        limit_orders.cancel_all(chosen)
        trading.flatten_miner(chosen, "promotion", OrderSource.PROMOTION)
        self._store.archive(chosen)
        self._documents.promote(chosen, self._store.now_ms)

    def remove_miner(self, hotkey: str | None, edits: HistoryEdits) -> str | None:
        """Removes a miner from the files and the challenge period, an eliminated one unless named."""
        removed = edits.remove_miner(hotkey)
        if removed is not None:
            self._documents.forget(removed, self._store.now_ms)
        return removed

    def take_backup(self) -> None:
        self._store.take_backup()
        self._backed_up_eliminations = self._documents.eliminations()

    def restore_backup(self) -> None:
        """Restores positions and eliminations from the backup."""
        self._store.restore_backup()
        now_ms = self._store.now_ms
        self._documents.restore(self._backed_up_eliminations, now_ms)
        returned = [hotkey for hotkey in self._store.files.hotkeys() if self.roster.get(hotkey) is None]
        for hotkey in returned:
            self._documents.admit(self.roster.add(hotkey), now_ms, veteran=False)
        if returned:
            self._documents.write_small(now_ms)
        self.roster.eliminate(self._documents.eliminated())

    def write_documents(self, rng: Random, *, small: bool = False) -> None:
        """Rewrites ledgers and statistics, with `small` also eliminations and challenge period."""
        now_ms = self._store.now_ms
        if small:
            self._documents.write_small(now_ms)
        self._documents.write_reports(self.roster.miners(), now_ms, rng)

    def write_snapshots(self, since_ms: int | None = None) -> None:
        """Adds a line to each miner's account snapshots, and those of the hours since a time."""
        now_ms = self._store.now_ms
        self._documents.write_snapshots(
            self.roster.miners(), now_ms, now_ms if since_ms is None else since_ms
        )
