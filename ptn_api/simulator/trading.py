"""The everyday changes at a validator: orders, their corrections, refreshed returns, liquidations."""

from __future__ import annotations

from collections import deque
from random import Random

import msgspec

from ptn_api.model.fees import fee
from ptn_api.model.order import Order
from ptn_api.model.trade_pair import category_and_rate
from ptn_api.simulator.journal import Corrected, Refreshed
from ptn_api.simulator.market import Instrument, Market, Quote
from ptn_api.simulator.miner import Miner, Roster, Trade
from ptn_api.simulator.position import SimulatedPosition, elimination_flat
from ptn_api.simulator.position_store import PositionStore

__all__ = ["Trading"]

_CORRECTED_WITHIN_MS = 5 * 60_000
_MOST_ORDERS = 300


class _Recent(msgspec.Struct, frozen=True):
    processed_ms: int
    miner_hotkey: str
    position_uuid: str
    order_uuid: str


class Trading:
    """The miners' orders, chosen by their habits, and the validator's reactions, at `store.now_ms`."""

    def __init__(self, store: PositionStore, market: Market, roster: Roster, rng: Random) -> None:
        self._store = store
        self._market = market
        self._roster = roster
        self._rng = rng
        self._recent: deque[_Recent] = deque(maxlen=10_000)

    def remember(self) -> None:
        """Makes the latest orders of the open positions candidates for `correct_recent`."""
        for position in self._store.open.values():
            for order in position.orders:
                if order.processed_ms > self._store.now_ms - _CORRECTED_WITHIN_MS:
                    self._note(position, order)

    # --- orders -------------------------------------------------------------------------------------------

    def place_order(
        self, hotkey: str | None = None, pair: str | None = None, trade: Trade | None = None
    ) -> bool:
        """Places one order; miner, pair and trade are chosen at random unless given.

        Returns False if no miner can trade.
        """
        for attempt in range(50):
            if attempt == 25:  # Perhaps every position is between its two folders.
                self._store.finish_closes()
            miner = self._roster.get(hotkey) if hotkey else self._roster.choose(self._rng)
            if miner is None:
                return False
            instrument = self._market.instruments[pair] if pair else self._rng.choice(miner.pairs)
            if not self._store.is_closing(miner.hotkey, instrument.id):
                self._order(miner, instrument, trade)
                return True
        return False

    def burst(self, count: int) -> bool:
        """Places `count` orders on one open position back to back, rewriting its file for each."""
        position = self._any_open()
        if position is None:
            return False
        miner = self._roster.get(position.miner_hotkey)
        instrument = self._market.instruments[position.pair]
        for _ in range(count):
            if miner is None or self._store.open.get((miner.hotkey, position.pair)) is not position:
                break
            self._order(miner, instrument, miner.adjustment(instrument, _net(position), self._rng))
        return True

    def close_one(self) -> bool:
        """Closes one position by its miner's order."""
        position = self._any_open()
        if position is None:
            return False
        trade = Trade("FLAT", -position.state.net_leverage)
        return self.place_order(position.miner_hotkey, position.pair, trade)

    def _order(self, miner: Miner, instrument: Instrument, trade: Trade | None) -> None:
        position = self._store.open.get((miner.hotkey, instrument.id))
        if trade is None:
            if position is None:
                trade = miner.opening(instrument, self._rng)
            elif len(position.orders) >= _MOST_ORDERS:
                trade = miner.closing(_net(position))
            else:
                trade = miner.next_trade(instrument, _net(position), self._rng)
        at_ms = self._next_ms(position)
        order = self._market.fill(instrument, trade.order_type, trade.leverage, at_ms, self._rng)
        if position is None:
            position = SimulatedPosition(miner.hotkey, order.order_uuid, list(instrument.trade_pair), [])
        self._append(position, order)

    def _next_ms(self, position: SimulatedPosition | None) -> int:
        """Returns the current time, or 1 ms after the position's last order if that is later."""
        if position is None:
            return self._store.now_ms
        return max(self._store.now_ms, position.orders[-1].processed_ms + 1)

    def _append(self, position: SimulatedPosition, order: Order, cause: str = "miner") -> None:
        before = len(position.orders)
        position.orders.append(order)
        if not position.rebuild():
            raise AssertionError("the accounting rejected a simulated order")
        new = position.orders[before:]
        self._note(position, order)
        self._store.save(position, new, cause=cause)

    def _note(self, position: SimulatedPosition, order: Order) -> None:
        self._recent.append(
            _Recent(order.processed_ms, position.miner_hotkey, position.position_uuid, order.order_uuid)
        )

    def _any_open(self) -> SimulatedPosition | None:
        """Returns an open position of a miner that is not eliminated."""
        held = [p for p in self._store.open.values() if p.miner_hotkey not in self._roster.eliminated]
        return self._rng.choice(held) if held else None

    # --- closes by the validator --------------------------------------------------------------------------

    def liquidate_one(self) -> bool:
        """Liquidates a position.

        If a positive price can wipe it out, an order is filled at that price and the accounting appends the
        FLAT. Otherwise the validator places the FLAT itself.
        """
        position = self._any_open()
        if position is None:
            return False
        price = _ruinous_price(position)
        if price <= 0:
            self.flatten(position, "liquidation")
            return True
        instrument = self._market.instruments[position.pair]
        side = 1 if _net(position) > 0 else -1
        leverage = side * instrument.limits[0]
        order = self._market.fill(
            instrument, "LONG" if side > 0 else "SHORT", leverage, self._next_ms(position), self._rng
        )
        order.price = order.bid = order.ask = price
        self._append(position, order)
        return True

    def flatten(self, position: SimulatedPosition, cause: str) -> None:
        """Closes a position by a FLAT of the validator."""
        flat = elimination_flat(position, self._next_ms(position))
        position.orders.append(flat)
        position.rebuild()
        self._store.save(position, [flat], cause=cause)

    # --- rewrites without a new order ---------------------------------------------------------------------

    def correct_recent(self) -> bool:
        """Corrects price, quotes, slippage and sources of an order of the last five minutes in place."""
        while self._recent and self._recent[0].processed_ms < self._store.now_ms - _CORRECTED_WITHIN_MS:
            self._recent.popleft()
        if not self._recent:
            return False
        recent = self._rng.choice(self._recent)
        position = self._store.find(recent.miner_hotkey, recent.position_uuid)
        if position is None:
            return False
        places = (i for i, order in enumerate(position.orders) if order.order_uuid == recent.order_uuid)
        place = next(places, None)
        return place is not None and self._correct(position, place)

    def _correct(self, position: SimulatedPosition, place: int) -> bool:
        old = position.orders[place]
        instrument = self._market.instruments[position.pair]
        quoted_ms = old.processed_ms + self._rng.randrange(200, 4_000)
        new = self._market.fill(instrument, old.order_type, old.leverage or 0.0, quoted_ms, self._rng)
        new.order_uuid, new.processed_ms = old.order_uuid, old.processed_ms
        corrected = position.copy([*position.orders[:place], new, *position.orders[place + 1 :]])
        if not corrected.rebuild() or corrected.closed != position.closed:
            return False
        self._store.journal.add(
            Corrected(
                at_ms=self._store.now_ms,
                miner_hotkey=position.miner_hotkey,
                position_uuid=position.position_uuid,
                order_uuid=old.order_uuid,
            )
        )
        self._store.save(corrected)
        return True

    def refresh_all(self) -> int:
        """Rewrites every open position whose live return changed. Returns how many."""
        quotes: dict[str, Quote] = {}
        moved = 0
        for position in list(self._store.open.values()):
            instrument = self._market.instruments[position.pair]
            if position.pair not in quotes:
                quotes[position.pair] = self._market.quote(instrument, self._store.now_ms)
            if _revalue(position, quotes[position.pair].price, self._store.now_ms):
                self._store.rewrite(position)
                moved += 1
        self._store.journal.add(Refreshed(at_ms=self._store.now_ms, positions=moved))
        return moved


def _net(position: SimulatedPosition) -> float:
    return position.state.net_leverage


def _revalue(position: SimulatedPosition, price: float, now_ms: int) -> bool:
    """Sets an open position's returns at a price (docs/accounting.md, 2). Returns whether they changed."""
    state = position.state
    terms = category_and_rate(position.trade_pair)
    gain = (state.realized_pnl or 0.0) + (price - state.average_entry_price) * state.net_leverage
    current = 1 + gain / position.first_price
    if terms is None or current <= 0:
        return False
    at_close = current * fee(now_ms, position.orders, *terms, state.open_ms)
    before = (state.current_return, state.return_at_close)
    state.current_return, state.return_at_close = current, at_close
    return before != (current, at_close)


def _ruinous_price(position: SimulatedPosition) -> float:
    """Returns a price that wipes out the position; 0 or less if no positive price does."""
    state = position.state
    loss = (position.first_price + (state.realized_pnl or 0.0)) * 1.001
    return state.average_entry_price - loss / state.net_leverage
