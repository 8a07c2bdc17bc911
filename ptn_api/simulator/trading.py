"""What happens at a validator all day: orders, their corrections, refreshed returns, liquidations."""

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
    """Places orders of miners as their habits suggest, at `store.now_ms`, and does what follows."""

    def __init__(self, store: PositionStore, market: Market, roster: Roster, rng: Random) -> None:
        self._store = store
        self._market = market
        self._roster = roster
        self._rng = rng
        self._recent: deque[_Recent] = deque(maxlen=10_000)

    def remember(self) -> None:
        """Takes the latest orders of the open positions as recent enough to be corrected."""
        for position in self._store.open.values():
            for order in position.orders:
                if order.processed_ms > self._store.now_ms - _CORRECTED_WITHIN_MS:
                    self._note(position, order)

    # --- orders -------------------------------------------------------------------------------------------

    def place_order(
        self, hotkey: str | None = None, pair: str | None = None, trade: Trade | None = None
    ) -> bool:
        """One order: of that miner, on that pair, that trade, or whatever comes. False if nobody can."""
        for attempt in range(50):
            if attempt == 25:
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
        """That many orders on one open position, its file replaced for each, as fast as it goes."""
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
        """A miner closes one of its positions."""
        position = self._any_open()
        if position is None:
            return False
        trade = Trade("FLAT", -position.state.net_leverage)
        return self.place_order(position.miner_hotkey, position.pair, trade)

    def _order(self, miner: Miner, instrument: Instrument, trade: Trade | None) -> None:
        position = self._store.open.get((miner.hotkey, instrument.id))
        if trade is None:
            trade = self._idea(miner, instrument, position)
        at_ms = self._next_ms(position)
        order = self._market.fill(instrument, trade.order_type, trade.leverage, at_ms, self._rng)
        if position is None:
            position = SimulatedPosition(miner.hotkey, order.order_uuid, list(instrument.trade_pair), [])
        self._append(position, order)

    def _idea(self, miner: Miner, instrument: Instrument, position: SimulatedPosition | None) -> Trade:
        if position is None:
            return miner.opening(instrument, self._rng)
        if len(position.orders) >= _MOST_ORDERS:
            return miner.closing(position.state.net_leverage)
        return miner.next_trade(instrument, position.state.net_leverage, self._rng)

    def _next_ms(self, position: SimulatedPosition | None) -> int:
        """Now, but later than the position's last order."""
        if position is None:
            return self._store.now_ms
        return max(self._store.now_ms, position.orders[-1].processed_ms + 1)

    def _append(self, position: SimulatedPosition, order: Order, cause: str = "miner") -> None:
        before = len(position.orders)
        position.orders.append(order)
        if not position.rebuild():
            raise AssertionError("a simulated order can be rebuilt")
        new = position.orders[before:]
        self._note(position, order)
        self._store.save(position, new, cause=cause)

    def _note(self, position: SimulatedPosition, order: Order) -> None:
        self._recent.append(
            _Recent(order.processed_ms, position.miner_hotkey, position.position_uuid, order.order_uuid)
        )

    def _any_open(self) -> SimulatedPosition | None:
        """An open position of a miner who still trades."""
        held = [p for p in self._store.open.values() if p.miner_hotkey not in self._roster.eliminated]
        return self._rng.choice(held) if held else None

    # --- what no miner sent -------------------------------------------------------------------------------

    def liquidate_one(self) -> bool:
        """Ends a position: where a price can wipe it out, by an order filled at that price, after which the
        accounting appends the FLAT; else by the validator's own FLAT."""
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
        """The validator closes a position by itself."""
        flat = elimination_flat(position, self._next_ms(position))
        position.orders.append(flat)
        position.rebuild()
        self._store.save(position, [flat], cause=cause)

    # --- rewrites without a new order ---------------------------------------------------------------------

    def correct_recent(self) -> bool:
        """Corrects the price, quotes, slippage and sources of an order of the last minutes, in place."""
        while self._recent and self._recent[0].processed_ms < self._store.now_ms - _CORRECTED_WITHIN_MS:
            self._recent.popleft()
        if not self._recent:
            return False
        recent = self._rng.choice(self._recent)
        position = self._store.find(recent.miner_hotkey, recent.position_uuid)
        places = (
            [i for i, o in enumerate(position.orders) if o.order_uuid == recent.order_uuid]
            if position
            else []
        )
        if position is None or not places:
            return False
        return self._correct(position, places[0])

    def _correct(self, position: SimulatedPosition, place: int) -> bool:
        old = position.orders[place]
        instrument = self._market.instruments[position.pair]
        look_ms = old.processed_ms + self._rng.randrange(200, 4_000)
        better = self._market.fill(instrument, old.order_type, old.leverage, look_ms, self._rng)
        better.order_uuid, better.processed_ms = old.order_uuid, old.processed_ms
        corrected = position.copy([*position.orders[:place], better, *position.orders[place + 1 :]])
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
        """Rewrites every open position whose live return moved; how many."""
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
    """Gives an open position the returns it has at that price (docs/accounting.md, 2: between orders)."""
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
    """A price at which nothing is left of the position; 0 or less where there is none."""
    state = position.state
    loss = (position.first_price + (state.realized_pnl or 0.0)) * 1.001
    return state.average_entry_price - loss / state.net_leverage
