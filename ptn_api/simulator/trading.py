"""The everyday changes at a validator: orders, limit orders, corrections, refreshed returns, liquidations."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from ptn_api.model.order import Order, OrderSource
from ptn_api.simulator.journal import Corrected, LimitOrder, Refreshed
from ptn_api.simulator.market import Instrument, Market, SimulatedOrder, new_uuid
from ptn_api.simulator.miner import Miner, Roster, Trade
from ptn_api.simulator.position import POSITION_KINDS, SimulatedPosition, TodaysPosition, order_fields
from ptn_api.simulator.position_store import PositionStore

__all__ = ["LimitOrders", "Trading"]

_CORRECTED_WITHIN_MS = 5 * 60_000
_MOST_ORDERS = 300


class _Recent(msgspec.Struct, frozen=True):
    processed_ms: int
    miner_hotkey: str
    position_uuid: str
    order_uuid: str


class Trading:
    """The miners' orders, chosen by their habits, and the validator's reactions, at `store.now_ms`."""

    def __init__(
        self,
        store: PositionStore,
        market: Market,
        roster: Roster,
        rng: Random,
        balance: Callable[[str], float],
    ) -> None:
        self._store = store
        self._market = market
        self._roster = roster
        self._rng = rng
        self._balance = balance
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

    def fill_limit(self, hotkey: str, pair: str, waiting: Order) -> bool:
        """Fills a limit order at the market price. Returns False if its position cannot take it."""
        miner, instrument = self._roster.get(hotkey), self._market.instruments[pair]
        if miner is None or self._store.is_closing(hotkey, pair):
            return False
        position = self._store.open.get((hotkey, pair)) or TodaysPosition.begin(miner, instrument)
        leverage = waiting.leverage or 0.0
        if waiting.execution_type == "BRACKET":
            leverage = -position.state.net_leverage
        at_ms = self._next_ms(position if position.orders else None)
        order = self._market.fill(instrument, waiting.order_type, leverage, at_ms, self._rng)
        kept = ("order_uuid", "execution_type", "limit_price", "stop_loss", "take_profit")
        for name in (*kept, "stop_price", "stop_condition", "bracket_orders"):
            setattr(order, name, getattr(waiting, name))
        order.src = (waiting.src or 0) + 1
        self._append(position, order)
        return True

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
        self._append(position or POSITION_KINDS[self._market.network].begin(miner, instrument), order)

    def _next_ms(self, position: SimulatedPosition | None) -> int:
        """Returns the current time, or 1 ms after the position's last order if that is later."""
        if position is None:
            return self._store.now_ms
        return max(self._store.now_ms, position.orders[-1].processed_ms + 1)

    def _append(self, position: SimulatedPosition, order: SimulatedOrder, cause: str = "miner") -> None:
        before = len(position.orders)
        if not position.take(order, self._market, self._balance(position.miner_hotkey)):
            raise AssertionError("the accounting rejected a simulated order")
        new = position.orders[before:]
        if cause == "miner":
            self._note(position, order)
        self._store.save(position, new, cause=cause)

    def _note(self, position: SimulatedPosition, order: SimulatedOrder) -> None:
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

        If a positive price can wipe it out, an order is filled at that price. In 2025 the accounting then
        appends the FLAT; today the order is without further effect. Otherwise the validator places the FLAT.
        """
        position = self._any_open()
        if position is None:
            return False
        price = position.ruinous_price()
        if price <= 0:
            self.flatten(position, "liquidation")
            return True
        side = 1 if _net(position) > 0 else -1
        leverage = side * position.instrument.limits[0]
        order = self._market.fill(
            position.instrument,
            "LONG" if side > 0 else "SHORT",
            leverage,
            self._next_ms(position),
            self._rng,
        )
        order.price = order.bid = order.ask = price
        if order.quote_usd_rate:
            order.usd_base_rate = 1 / (price * order.quote_usd_rate)
        self._append(position, order)
        return True

    def flatten(self, position: SimulatedPosition, cause: str, src: int = OrderSource.ELIMINATION) -> None:
        """Closes a position by a FLAT that no miner sent for it; `src` is the order's in files of today."""
        at_ms = self._next_ms(position)
        price = self._market.fill(position.instrument, "FLAT", -_net(position), at_ms, self._rng)
        self._append(position, position.forced_close(src, price), cause)

    def flatten_miner(self, hotkey: str, cause: str, src: int) -> None:
        """Closes all of a miner's positions."""
        for position in [p for p in self._store.open.values() if p.miner_hotkey == hotkey]:
            self.flatten(position, cause, src)

    def flatten_one_miner(self) -> bool:
        """Lets a miner close all its positions at once."""
        position = self._any_open()
        if position is None:
            return False
        self.flatten_miner(position.miner_hotkey, "miner", OrderSource.FLAT_ALL)
        return True

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
        fresh = self._market.fill(instrument, old.order_type, old.leverage, quoted_ms, self._rng)
        names = ("price", "bid", "ask", "slippage", "price_sources")
        new = msgspec.structs.replace(old, **{name: getattr(fresh, name) for name in names})
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
        moved = 0
        for position in list(self._store.open.values()):
            accrued = position.accrue(self._market, self._store.now_ms)
            if position.mark(self._market, self._store.now_ms) or accrued:
                self._store.rewrite(position)
                moved += 1
        self._store.journal.add(Refreshed(at_ms=self._store.now_ms, positions=moved))
        return moved


def _net(position: SimulatedPosition) -> float:
    return position.state.net_leverage


class _WaitingOrder(Order, kw_only=True):
    """A limit order's file. The order's `src` says what became of it: see the numbers in `LimitOrders`."""

    trade_pair: list[Any]


_waiting = msgspec.json.Decoder(_WaitingOrder)


class LimitOrders:
    """Orders that wait for their price, at validators of today.

    Each kind has three values of `src`: unfilled, filled (one more) and cancelled (two more).
    """

    def __init__(
        self, store: PositionStore, market: Market, roster: Roster, trading: Trading, rng: Random
    ) -> None:
        self._store = store
        self._market = market
        self._roster = roster
        self._trading = trading
        self._rng = rng
        self._unfilled: dict[Path, _WaitingOrder] = {}

    def load(self) -> None:
        """Reads the orders that wait."""
        for path in self._store.files.limit_orders("unfilled"):
            with contextlib.suppress(msgspec.DecodeError):
                self._unfilled[path] = _waiting.decode(path.read_bytes())

    def place(self) -> bool:
        """Lets a miner place a limit or stop order, or a bracket around a position that it has."""
        miner = self._roster.choose(self._rng)
        if miner is None or self._market.network != "today":
            return False
        instrument = self._rng.choice(miner.pairs)
        position = self._store.open.get((miner.hotkey, instrument.id))
        price = self._market.mark(instrument, self._store.now_ms)
        step = instrument.daily_volatility * self._rng.uniform(0.05, 0.5)

        def away(distance: float) -> float:
            return round(price * (1 + distance), instrument.digits)

        order = _WaitingOrder(
            order_type="LONG",
            leverage=None,
            price=0.0,
            processed_ms=self._store.now_ms,
            order_uuid=new_uuid(self._rng),
            price_sources=[],
            src=OrderSource.BRACKET_UNFILLED,
            execution_type="BRACKET",
            trade_pair=list(instrument.trade_pair),
        )
        if position is not None and self._rng.random() < 0.5:
            side = 1 if position.state.net_leverage > 0 else -1
            order.order_type = "SHORT" if side > 0 else "LONG"
            order.quantity = -(position.state.net_quantity or 0.0)
            order.stop_loss, order.take_profit = away(-side * step), away(2 * side * step)
        else:
            trade = miner.opening(instrument, self._rng)
            if position is not None:
                trade = miner.adjustment(instrument, position.state.net_leverage, self._rng)
            order.order_type, order.leverage = trade.order_type, trade.leverage
            side = 1 if trade.leverage > 0 else -1
            if self._rng.random() < 0.7:
                order.src, order.execution_type = OrderSource.LIMIT_UNFILLED, "LIMIT"
                order.limit_price = away(-side * step)
            else:
                order.src, order.execution_type = OrderSource.STOP_LIMIT_UNFILLED, "STOP_LIMIT"
                order.stop_price, order.limit_price = away(side * step), away(side * step * 1.1)
                order.stop_condition = "GTE" if side > 0 else "LTE"
        self._write(miner.hotkey, "unfilled", order)
        return True

    def cancel_one(self) -> bool:
        """Lets a miner cancel an order that waits."""
        if not self._unfilled:
            return False
        path = self._rng.choice(list(self._unfilled))
        self._cancel(path, (self._unfilled[path].src or 0) + 2)
        return True

    def cancel_all(self, hotkey: str, src: int | None = None) -> None:
        """Cancels all of a miner's orders that wait."""
        for path in [p for p in self._unfilled if p.parts[-5] == hotkey]:
            self._cancel(path, src or (self._unfilled[path].src or 0) + 2)

    def fill_due(self) -> None:
        """Fills the orders whose price was reached; cancels brackets whose position was closed otherwise."""
        for path, order in list(self._unfilled.items()):
            hotkey, pair = path.parts[-5], path.parts[-3]
            position = self._store.open.get((hotkey, pair))
            if self._roster.get(hotkey) is None:
                del self._unfilled[path]
            elif order.execution_type == "BRACKET" and position is None:
                self._cancel(path, OrderSource.BRACKET_CANCELLED)
            elif self._is_due(order, pair) and self._fits(order, position):
                # The file goes first: an order is never in both places.
                del self._unfilled[path]
                path.unlink(missing_ok=True)
                self._journal(hotkey, order, "filled")
                self._trading.fill_limit(hotkey, pair, order)

    def _fits(self, order: _WaitingOrder, position: SimulatedPosition | None) -> bool:
        """Returns whether the order opens, increases or closes; other reductions wait."""
        if position is None or order.execution_type == "BRACKET":
            return True
        if self._store.is_closing(position.miner_hotkey, position.pair):
            return False
        net = position.state.net_leverage
        return net * (order.leverage or 0.0) > 0 and abs(net) < position.instrument.limits[1]

    def _is_due(self, order: _WaitingOrder, pair: str) -> bool:
        price = self._market.mark(self._market.instruments[pair], self._store.now_ms)
        long = order.order_type == "LONG"
        if order.execution_type == "LIMIT":
            limit = order.limit_price or 0.0
            return price <= limit if long else price >= limit
        if order.execution_type == "STOP_LIMIT":
            stop = order.stop_price or 0.0
            return price >= stop if long else price <= stop
        loss, profit = order.stop_loss or 0.0, order.take_profit or 0.0
        return not min(loss, profit) < price < max(loss, profit)

    def _cancel(self, path: Path, src: int) -> None:
        order = self._unfilled.pop(path)
        path.unlink(missing_ok=True)
        order.src = src
        self._write(path.parts[-5], "closed", order)

    def _write(self, hotkey: str, folder: str, order: _WaitingOrder) -> None:
        pair = str(order.trade_pair[0])
        path = self._store.files.limit_order(hotkey, pair, folder, order.order_uuid)
        self._journal(hotkey, order, "unfilled" if folder == "unfilled" else "cancelled")
        self._store.files.write(
            path, msgspec.json.encode({"trade_pair": order.trade_pair} | order_fields(order))
        )
        if folder == "unfilled":
            self._unfilled[path] = order

    def _journal(self, hotkey: str, order: Order, status: str) -> None:
        self._store.journal.add(
            LimitOrder(
                at_ms=self._store.now_ms, miner_hotkey=hotkey, order_uuid=order.order_uuid, status=status
            )
        )
