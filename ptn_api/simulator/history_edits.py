"""Edits of existing positions, as by a synchronisation with other validators or by an operator."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

from ptn_api.model.order import OrderSource
from ptn_api.simulator.journal import MinerRemoved, Split
from ptn_api.simulator.market import Market, SimulatedOrder, new_uuid
from ptn_api.simulator.miner import Roster
from ptn_api.simulator.position import SimulatedPosition
from ptn_api.simulator.position_store import PositionStore

__all__ = ["HistoryEdits"]

_SAMPLE = 400
"""How many positions an edit tries until it finds a suitable one."""


class HistoryEdits:
    """Inserts, drops, splits and removals in the positions' past, made at `store.now_ms`."""

    def __init__(self, store: PositionStore, market: Market, roster: Roster, rng: Random) -> None:
        self._store = store
        self._market = market
        self._roster = roster
        self._rng = rng

    def synchronise(self, share: float) -> int:
        """Rewrites, edits or removes a share of all positions and splits one. Returns how many changed."""
        names = self._store.names()
        changed = 0
        for hotkey, uuid in self._rng.sample(names, min(len(names), math.ceil(len(names) * share))):
            changed += self._change(hotkey, uuid)
        return changed + self.split_one()

    def _change(self, hotkey: str, uuid: str) -> bool:
        position = self._store.find(hotkey, uuid)
        if position is None:
            return False
        kind = self._rng.choices(("rewrite", "insert", "drop", "remove"), (4, 3, 2, 1))[0]
        if kind == "remove":
            self._store.remove(hotkey, uuid, "sync")
            return True
        if kind == "insert":
            return self._insert(position)
        if kind == "drop":
            return self._drop(position)
        self._store.remove(hotkey, uuid, "sync")
        self._store.save(position, cause="sync")
        return True

    # --- single changes, also for tests -------------------------------------------------------------------

    def insert_one(self) -> bool:
        """Inserts an order that other validators have into the middle of a position's list."""
        return any(self._insert(position) for position in self._some(2))

    def drop_one(self) -> bool:
        """Drops an order that other validators lack from the middle of a position's list."""
        return any(self._drop(position) for position in self._some(3))

    def remove_one(self) -> bool:
        """Removes a position that other validators lack."""
        names = self._store.names()
        if not names:
            return False
        self._store.remove(*self._rng.choice(names), "sync")
        return True

    def split_one(self) -> bool:
        """Replaces a position whose leverage reaches zero midway by two, with new uuids, same orders."""
        for position in self._some(4):
            end = _reaches_zero(position.orders)
            if end is None:
                continue
            parts = (position.orders[:end], position.orders[end:])
            halves = [position.copy(orders, new_uuid(self._rng)) for orders in parts]
            if not all(half.rebuild() and half.closed for half in halves):
                continue
            hotkey, uuid = position.miner_hotkey, position.position_uuid
            into = (halves[0].position_uuid, halves[1].position_uuid)
            self._store.journal.add(
                Split(at_ms=self._store.now_ms, miner_hotkey=hotkey, position_uuid=uuid, into=into)
            )
            self._store.remove(hotkey, uuid, "split")
            for half in halves:
                self._store.save(half, cause="sync")
            return True
        return False

    def remove_miner(self, hotkey: str | None = None) -> str | None:
        """Removes a miner with all its files, an eliminated one unless named. Returns its hotkey, if any."""
        gone = sorted(set(self._roster.hotkeys()) & self._roster.eliminated)
        chosen = hotkey or (self._rng.choice(gone) if gone else None)
        if chosen is None or self._roster.get(chosen) is None:
            return None
        self._store.finish_closes()
        for owner, uuid in self._store.names():
            if owner == chosen:
                self._store.remove(owner, uuid, "miner")
        self._store.closed.pop(chosen, None)
        self._store.files.remove_miner(chosen)
        self._roster.remove(chosen)
        self._store.journal.add(MinerRemoved(at_ms=self._store.now_ms, miner_hotkey=chosen))
        return chosen

    def _some(self, least_orders: int) -> list[SimulatedPosition]:
        """Returns those of a random sample of positions that have at least `least_orders` orders."""
        names = self._store.names()
        sample = self._rng.sample(names, min(len(names), _SAMPLE))
        found = (self._store.find(*name) for name in sample)
        return [p for p in found if p is not None and len(p.orders) >= least_orders]

    def _insert(self, position: SimulatedPosition) -> bool:
        gaps = [
            place
            for place, (a, b) in enumerate(pairwise(position.orders), start=1)
            if b.processed_ms - a.processed_ms > 1
        ]
        if not gaps:
            return False
        place = self._rng.choice(gaps)
        before, after = position.orders[place - 1], position.orders[place]
        at_ms = self._rng.randrange(before.processed_ms + 1, after.processed_ms)
        instrument = self._market.instruments[position.pair]
        side = 1 if (position.orders[0].leverage or 0.0) > 0 else -1
        leverage = side * instrument.limits[0]
        order = self._market.fill(instrument, "LONG" if side > 0 else "SHORT", leverage, at_ms, self._rng)
        order = position.sized(order)
        edited = position.copy([*position.orders[:place], order, *position.orders[place:]])
        return self._replace(position, edited, new=[order])

    def _drop(self, position: SimulatedPosition) -> bool:
        middle = [
            place
            for place in range(1, len(position.orders) - 1)
            if position.orders[place].src == OrderSource.MINER
        ]
        if not middle:
            return False
        place = self._rng.choice(middle)
        dropped = position.orders[place]
        edited = position.copy([*position.orders[:place], *position.orders[place + 1 :]])
        return self._replace(position, edited, dropped=dropped)

    def _replace(
        self,
        position: SimulatedPosition,
        edited: SimulatedPosition,
        *,
        new: list[SimulatedOrder] | None = None,
        dropped: SimulatedOrder | None = None,
    ) -> bool:
        """Deletes the position and writes the edited one, as a synchronisation does.

        Returns False without a change if the edit would close, reopen or liquidate the position.
        """
        length = len(edited.orders)
        if not edited.rebuild() or edited.closed != position.closed or len(edited.orders) != length:
            return False
        hotkey, uuid = position.miner_hotkey, position.position_uuid
        if dropped is not None:
            self._store.announce_drop(hotkey, uuid, dropped)
        self._store.remove(hotkey, uuid, "sync")
        self._store.save(edited, new or [], cause="sync")
        return True


def _reaches_zero(orders: list[SimulatedOrder]) -> int | None:
    """Returns how many orders it takes to reach or cross zero, or None if no order comes after that."""
    net = 0.0
    for place, order in enumerate(orders[:-1]):
        if place and (order.order_type == "FLAT" or net * (net + (order.leverage or 0.0)) <= 0):
            return place + 1
        net += order.leverage or 0.0
    return None
