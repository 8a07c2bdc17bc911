"""A simulated position: its orders, the state computed from them, and the exact text of its file."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any, cast

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.accounting import rebuild, rebuild_each
from ptn_api.model.fees import fee
from ptn_api.model.order import Order, OrderSource, PriceSource
from ptn_api.model.position import Dividend, FeeEvent, Position, PositionState
from ptn_api.model.trade_pair import category_and_rate
from ptn_api.simulator.market import Instrument, Market, SimulatedOrder, price_source
from ptn_api.simulator.miner import Miner
from ptn_api.simulator.options import Network

__all__ = ["POSITION_KINDS", "QueuedOrderType", "SimulatedPosition", "TodaysPosition", "order_fields"]

_DAY_MS = 86_400_000
_OWN_MONEY = 0.5
"""The leverage up to which a share is paid for with the miner's money; more is borrowed."""
_HOUR_MS = 3_600_000
_FOREX_CARRY = 0.0000821918
_BORROW = 0.03 / 365
_INTEREST = 0.066 / 365
_TRANSACTION = {"crypto": 0.0003, "equities": 0.0001, "commodities": 0.00005, "forex": 0.0, "indices": 0.0}

_encode = msgspec.json.Encoder().encode


class QueuedOrderType(enum.Enum):
    """Order types on the validator's queue, which carries enum members instead of names."""

    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"


class SimulatedPosition:
    """A position in a validator's memory, as in 2025. After a change of `orders`, call `rebuild()`."""

    __slots__ = ("instrument", "miner_hotkey", "orders", "position_uuid", "state")

    def __init__(
        self,
        miner_hotkey: str,
        instrument: Instrument,
        position_uuid: str = "",
        orders: Iterable[SimulatedOrder] = (),
        state: PositionState | None = None,
    ) -> None:
        self.miner_hotkey = miner_hotkey
        self.instrument = instrument
        self.position_uuid = position_uuid
        self.orders = list(orders)
        self.state = PositionState() if state is None else state

    @classmethod
    def begin(cls, miner: Miner, instrument: Instrument) -> SimulatedPosition:
        """Returns a position without orders."""
        return cls(miner.hotkey, instrument)

    @classmethod
    def parse(cls, body: bytes, market: Market) -> SimulatedPosition:
        """Reads a position's file. Raises InvalidInputError."""
        try:
            read = _file.decode(body)
        except msgspec.DecodeError as error:
            raise InvalidInputError(str(error), code="not_a_position") from None
        state = PositionState(**{name: getattr(read, name) for name in PositionState.__struct_fields__})
        instrument = market.instruments[read.trade_pair[0]]
        position = cls(read.miner_hotkey, instrument, read.position_uuid, read.orders, state)
        position._restore(read)
        return position

    def _restore(self, read: _File) -> None:
        """Sets the part of the file that does not follow from its orders."""

    @property
    def pair(self) -> str:
        return self.instrument.id

    @property
    def closed(self) -> bool:
        return self.state.is_closed_position

    # --- orders -------------------------------------------------------------------------------------------

    def take(self, order: SimulatedOrder, market: Market, balance: float = 0.0) -> bool:
        """Adds an order that the miner's balance (USD) pays for. Returns False if it is rejected."""
        self._append(order)
        return self.rebuild()

    def take_all(self, orders: Iterable[SimulatedOrder], market: Market) -> bool:
        """Adds the orders of a history. Returns False if one is rejected."""
        for order in orders:
            self._append(order)
        return self.rebuild()

    def sized(self, order: SimulatedOrder) -> SimulatedOrder:
        """Returns an order of the position's side with the sizes that it has in the account."""
        return order

    def _append(self, order: SimulatedOrder) -> None:
        self.position_uuid = self.position_uuid or order.order_uuid
        self.orders.append(order)

    def rebuild(self) -> bool:
        """Recomputes the state from the orders (docs/accounting.md, 2); appends the FLAT of a liquidation.

        Returns False and changes nothing if the accounting rejects the orders.
        """
        rebuilt = rebuild(self._as_read())
        if rebuilt is None:
            return False
        self.state = rebuilt.state
        self.orders = [*cast(Sequence[SimulatedOrder], rebuilt.orders)]
        if (flat := rebuilt.appended) is not None:
            names = flat.__struct_fields__
            self.orders.append(SimulatedOrder(**{name: getattr(flat, name) for name in names}))
        return True

    def _as_read(self) -> Position:
        """Returns the part that the accounting works on."""
        return Position(
            miner_hotkey=self.miner_hotkey,
            position_uuid=self.position_uuid,
            trade_pair=self.instrument.trade_pair,
            orders=[*self.orders],
        )

    def forced_close(self, src: int, order: SimulatedOrder) -> SimulatedOrder:
        """Returns the FLAT by which the validator closes the position, at that time; `order` has a price."""
        return SimulatedOrder(
            order_type="FLAT",
            leverage=0.0,
            price=0.0,
            bid=0.0,
            ask=0.0,
            slippage=0.0,
            processed_ms=order.processed_ms,
            order_uuid=self.position_uuid[::-1],
            price_sources=[],
            src=OrderSource.ELIMINATION,
        )

    def ruinous_price(self) -> float:
        """Returns a price that wipes out the position; 0 or less if no positive price does."""
        first, state = self.orders[0], self.state
        entry = _effective_price(first)  # P0
        loss = (entry + (state.realized_pnl or 0.0)) * 1.001
        return state.average_entry_price - loss / state.net_leverage

    # --- between orders -----------------------------------------------------------------------------------

    def accrue(self, market: Market, until_ms: int) -> bool:
        """Applies the events other than orders until that time. Returns whether there were any."""
        return False

    def mark(self, market: Market, now_ms: int) -> bool:
        """Sets an open position's returns at the market price (docs/accounting.md, 2); False if unchanged."""
        state = self.state
        terms = category_and_rate(list(self.instrument.trade_pair))
        price = market.mark(self.instrument, now_ms)
        gain = (state.realized_pnl or 0.0) + (price - state.average_entry_price) * state.net_leverage
        current = 1 + gain / _effective_price(self.orders[0])
        if terms is None or current <= 0:
            return False
        at_close = current * fee(now_ms, self.orders, *terms, state.open_ms)
        before = (state.current_return, state.return_at_close)
        state.current_return, state.return_at_close = current, at_close
        return before != (current, at_close)

    # --- copies and texts ---------------------------------------------------------------------------------

    def copy(self, orders: Iterable[SimulatedOrder], position_uuid: str | None = None) -> SimulatedPosition:
        """Returns a position on the same pair with other orders; its state is not computed yet."""
        return type(self)(self.miner_hotkey, self.instrument, position_uuid or self.position_uuid, orders)

    def body(self) -> bytes:
        """Returns the file's JSON, with keys in the validator's order."""
        return _encode(self._fields([_in_order(order, _ORDER_KEYS) for order in self.orders]))

    def queue_item(self) -> dict[str, Any]:
        """Returns the item that an embedding validator puts on its queue: dicts, with enums as types."""
        position: dict[str, Any] = msgspec.json.decode(self.body())
        for order in position["orders"]:
            order["order_type"] = QueuedOrderType(order["order_type"])
        kind = self.state.position_type
        position["position_type"] = None if kind is None else QueuedOrderType(kind)
        return {"position": position}

    def _fields(self, orders: list[dict[str, Any]]) -> dict[str, Any]:
        state = self.state
        return {
            "miner_hotkey": self.miner_hotkey,
            "position_uuid": self.position_uuid,
            "open_ms": state.open_ms,
            "trade_pair": self.instrument.trade_pair,
            "orders": orders,
            "current_return": state.current_return,
            "close_ms": state.close_ms,
            "net_leverage": state.net_leverage,
            "return_at_close": state.return_at_close,
            "average_entry_price": state.average_entry_price,
            "cumulative_entry_value": state.cumulative_entry_value,
            "realized_pnl": state.realized_pnl,
            "position_type": state.position_type,
            "is_closed_position": state.is_closed_position,
        }


_ORDER_KEYS = (
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
)


def _in_order(order: Order, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: getattr(order, key) for key in keys}


def _fee(fee_type: str, amount: float, time_ms: int) -> FeeEvent:
    return FeeEvent(fee_type=fee_type, amount=amount, time_ms=time_ms)


def _date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).strftime("%Y-%m-%d")


def _midnight(date: str) -> int:
    return int(datetime.fromisoformat(f"{date}T00:00+00:00").timestamp()) * 1000


def _effective_price(order: SimulatedOrder) -> float:
    slippage = order.slippage or 0.0
    return order.price * (1 + slippage if order.leverage > 0 else 1 - slippage)


# --- validators of today ----------------------------------------------------------------------------------


class _File(Position, kw_only=True):
    """A position's file, of either network."""

    orders: list[SimulatedOrder]  # type: ignore[assignment]


_file = msgspec.json.Decoder(_File)


class TodaysPosition(SimulatedPosition):
    """A position in the memory of a validator of today: accounted for in USD, with fees as events."""

    __slots__ = (
        "account_size",
        "dividends",
        "fees",
        "funded_ms",
        "is_hl",
        "last_price_source",
        "last_quote_usd_conversion",
        "last_stock_split_date",
    )

    def __init__(
        self,
        miner_hotkey: str,
        instrument: Instrument,
        position_uuid: str = "",
        orders: Iterable[SimulatedOrder] = (),
        state: PositionState | None = None,
    ) -> None:
        super().__init__(miner_hotkey, instrument, position_uuid, orders, state or PositionState())
        self.account_size = 0.0
        self.is_hl = False
        self.fees: list[FeeEvent] = []
        self.dividends: list[Dividend] = []
        self.last_stock_split_date: str | None = None
        self.last_price_source: PriceSource | None = None
        self.last_quote_usd_conversion = 1.0
        self.funded_ms = 0
        """Until when funding has been looked at."""

    @classmethod
    def begin(cls, miner: Miner, instrument: Instrument) -> TodaysPosition:
        position = cls(miner.hotkey, instrument)
        position.account_size = miner.account_size
        position.is_hl = instrument.hyperliquid and miner.hl_address is not None
        return position

    def _restore(self, read: _File) -> None:
        self.account_size = read.account_size or 0.0
        self.is_hl = bool(read.is_hl)
        self.fees = read.fee_history or []
        self.dividends = read.dividend_history or []
        self.last_stock_split_date = read.last_stock_split_date
        self.last_price_source = read.last_price_source
        self.last_quote_usd_conversion = read.last_quote_usd_conversion or 1.0

    @property
    def net(self) -> tuple[float, float, float]:
        """Leverage, quantity and value that are held."""
        return self.state.net_leverage, self.state.net_quantity or 0.0, self.state.net_value or 0.0

    # --- orders -------------------------------------------------------------------------------------------

    def take(self, order: SimulatedOrder, market: Market, balance: float = 0.0) -> bool:
        if self.orders:
            self.accrue(market, order.processed_ms)
        self._append(self._sized(order, *self.net, balance))
        if not self.rebuild():
            return False
        self._charge(self.orders[-1])
        return True

    def take_all(self, orders: Iterable[SimulatedOrder], market: Market) -> bool:
        orders = list(orders)
        if any(market.splits(self.instrument, orders[0].processed_ms, orders[-1].processed_ms)):
            return all(self.take(order, market, self.account_size) for order in orders)
        leverage = quantity = value = 0.0
        for order in orders:
            sized = self._sized(order, leverage, quantity, value, self.account_size)
            self._append(sized)
            leverage += sized.leverage
            quantity += sized.quantity
            value = sized.price * sized.quote_usd_rate * quantity * self.instrument.lot
        if not self.rebuild():
            return False
        complete, final = self.orders, self.state
        for place, (at_ms, state) in enumerate(self.history()):
            if place and not self.closed:
                self.accrue(market, at_ms)
            if not (place and self.closed):
                self.orders, self.state = complete[: place + 1], state
                self._charge(complete[place])
        self.orders, self.state = complete, final
        return True

    def sized(self, order: SimulatedOrder) -> SimulatedOrder:
        return self._sized(order, 0.0, 0.0, 0.0, self.account_size)

    def _sized(
        self, order: SimulatedOrder, leverage: float, quantity: float, value: float, balance: float
    ) -> SimulatedOrder:
        """Returns the order in the sizes that a balance allows; one that closes has minus the net sizes."""
        lot = self.instrument.lot
        sized = msgspec.structs.replace(order)
        if self.is_hl and sized.src == OrderSource.MINER:
            sized.src, sized.is_hl_taker = OrderSource.HYPERLIQUID_FILL, True
        reduces = order.leverage * leverage < 0
        closes = order.order_type == "FLAT" or (
            reduces and abs(order.leverage + leverage) < 0.02 * abs(leverage)
        )
        if not closes:
            digits = (4 if balance <= 10_000 else 2) if self.instrument.category == "forex" else 5
            exact = order.leverage * balance * sized.usd_base_rate / lot
            sized.quantity = round(exact, digits) or math.copysign(10**-digits, exact)
            if reduces and abs(sized.quantity) >= abs(quantity) - 1e-6:
                sized.quantity = -quantity / 2  # rounding must not close the position
        if closes:
            sized.leverage, sized.quantity, sized.value = -leverage, -quantity, -value
        else:
            sized.value = sized.quantity * lot / sized.usd_base_rate
            sized.leverage = sized.value / balance
            if self.instrument.spot and sized.leverage > 0 and leverage >= 0:
                borrowed = max(0.0, leverage + sized.leverage - _OWN_MONEY) - max(0.0, leverage - _OWN_MONEY)
                sized.margin_loan = borrowed * balance
        return sized

    def rebuild(self) -> bool:
        if not super().rebuild():
            return False
        last = self.orders[-1]
        if last.price_sources:
            self.last_price_source = last.price_sources[0]
        self.last_quote_usd_conversion = last.quote_usd_rate
        return True

    def _as_read(self) -> Position:
        position = super()._as_read()
        position.account_size, position.fee_history = self.account_size, self.fees
        return position

    def _charge(self, order: SimulatedOrder) -> None:
        """Charges an order's transaction fee, and repays the loans that it frees."""
        state, lot = self.state, self.instrument.lot
        proceeds = abs(order.quantity) * lot * state.average_entry_price * order.quote_usd_rate
        proceeds += order.realized_pnl
        opening = order.leverage * self.orders[0].leverage > 0
        turnover = abs(order.value) if opening else proceeds
        amount = turnover * _TRANSACTION[self.instrument.category]
        if amount > 0:
            self.fees.append(_fee("transaction", amount, order.processed_ms))
        if not opening and (loans := sum(o.margin_loan for o in self.orders)) > 0:
            order.margin_loan = -min(loans, proceeds)

    def forced_close(self, src: int, order: SimulatedOrder) -> SimulatedOrder:
        suffix = "flat-all" if src == OrderSource.FLAT_ALL else f"close-{src}"
        flat = msgspec.structs.replace(order)
        flat.order_type, flat.src = "FLAT", src
        flat.order_uuid = f"{self.position_uuid}-{suffix}"
        if src == OrderSource.ELIMINATION:
            flat.price = flat.bid = flat.ask = 0.0
            flat.price_sources = []
        return flat

    def ruinous_price(self) -> float:
        state = self.state
        loss = (self.account_size + (state.realized_pnl or 0.0)) * 1.001
        units = self.net[1] * self.instrument.lot
        return state.average_entry_price - loss / (units * self.orders[-1].quote_usd_rate)

    # --- between orders -----------------------------------------------------------------------------------

    def accrue(self, market: Market, until_ms: int) -> bool:
        before = (len(self.fees), len(self.dividends), self.last_stock_split_date)
        applied = False
        if self.instrument.spot:
            self._split(market, until_ms)
            applied = self._pay_dividends(market, until_ms)
        event = self._carry(market, until_ms)
        if event is not None and (event.amount or 0.0) > 0:
            self.fees.append(event)
        return applied or before != (len(self.fees), len(self.dividends), self.last_stock_split_date)

    def _split(self, market: Market, until_ms: int) -> None:
        """Converts the orders to the shares after a split; their values stay."""
        last = self.last_stock_split_date
        since = self.state.open_ms if last is None else max(self.state.open_ms, _midnight(last))
        for at_ms, ratio in market.splits(self.instrument, since, until_ms):
            self.orders = [
                msgspec.structs.replace(order, quantity=order.quantity * ratio, price=order.price / ratio)
                for order in self.orders
            ]
            self.rebuild()
            self.last_stock_split_date = _date(at_ms)

    def _pay_dividends(self, market: Market, until_ms: int) -> bool:
        """Books the dividends whose ex date has passed. Returns whether one was paid out."""
        _, quantity, _ = self.net
        gross, shares, long = self.instrument.dividend, abs(quantity), quantity > 0
        known = {dividend.ex_date for dividend in self.dividends}
        for at_ms in market.ex_dates(self.instrument, self.state.open_ms, until_ms):
            if _date(at_ms) in known:
                continue
            dividend = Dividend(
                type="long_credit" if long else "short_debit",
                gross_dividend=gross,
                quantity=shares,
                amount=gross * shares,
                ex_date=_date(at_ms),
                payment_date=_date(at_ms + 10 * _DAY_MS),
                time_ms=at_ms,
                applied=not long,
            )
            self.dividends.append(dividend)
            if not long:
                self.fees.append(_fee("dividend_liability", gross * shares, at_ms))
        due = [d for d in self.dividends if not d.applied and (d.payment_date or "") <= _date(until_ms)]
        for dividend in due:
            dividend.applied = True
        return bool(due)

    def _carry(self, market: Market, until_ms: int) -> FeeEvent | None:
        """Returns the next fee for holding the position, if one is due by that time."""
        _, quantity, value = self.net
        held, long = abs(value) + (self.state.unrealized_pnl or 0.0), quantity > 0
        if held <= 0:
            return None
        if self.instrument.hyperliquid:
            at_ms = until_ms // _HOUR_MS * _HOUR_MS
            if at_ms <= self.funded_ms:
                return None
            self.funded_ms = at_ms
            hours = range((self._last("hl_funding") // _HOUR_MS + 1) * _HOUR_MS, at_ms + 1, _HOUR_MS)
            rate = sum(market.funding_rate(self.instrument, hour) for hour in hours)
            return _fee("hl_funding", held * (rate if long else -rate), at_ms)
        if self.instrument.category == "forex":
            last = self._last("carry")
            days = (until_ms - last) // _DAY_MS
            return _fee("carry", held * _FOREX_CARRY * days, last + days * _DAY_MS)
        at_ms = until_ms // _DAY_MS * _DAY_MS
        if not long:
            days = (at_ms - self._last("borrow")) // _DAY_MS
            return _fee("borrow", held * _BORROW * days, at_ms)
        days = (at_ms - self._last("interest")) // _DAY_MS
        return _fee("interest", sum(order.margin_loan for order in self.orders) * _INTEREST * days, at_ms)

    def _last(self, fee_type: str) -> int:
        times = [event.time_ms for event in self.fees if event.fee_type == fee_type]
        return max(times, default=self.state.open_ms)

    def mark(self, market: Market, now_ms: int) -> bool:
        state = self.state
        quote = market.quote(self.instrument, now_ms)
        conversion = market.usd_rate(self.instrument, now_ms)
        before = (state.current_return, state.unrealized_pnl, self.last_price_source)
        units = self.net[1] * self.instrument.lot
        state.unrealized_pnl = (quote.price - state.average_entry_price) * units * conversion
        gain = ((state.realized_pnl or 0.0) + state.unrealized_pnl) / self.account_size
        state.current_return = state.return_at_close = 0.0 if gain <= -1 else 1 + gain
        lag = 20 + now_ms % 480
        self.last_price_source = price_source(self.instrument.sources[0], 0, quote, now_ms - lag, lag)
        self.last_quote_usd_conversion = conversion
        return before != (state.current_return, state.unrealized_pnl, self.last_price_source)

    # --- the past -----------------------------------------------------------------------------------------

    def history(self) -> list[tuple[int, PositionState]]:
        """Returns the time of each order with the state right after it."""
        each = rebuild_each(self._as_read(), range(1, len(self.orders) + 1))
        states = [PositionState() if rebuilt is None else rebuilt.state for rebuilt in each]
        return [(order.processed_ms, state) for order, state in zip(self.orders, states, strict=True)]

    def marked(self, state: PositionState, market: Market, at_ms: int) -> tuple[float, float]:
        """Returns the unrealized pnl and the return of an earlier state at the price of that time."""
        price = market.mark(self.instrument, at_ms)
        if self.last_stock_split_date is not None:
            for _, ratio in market.splits(self.instrument, at_ms, _midnight(self.last_stock_split_date)):
                price /= ratio
        units = (state.net_quantity or 0.0) * self.instrument.lot
        pnl = (price - state.average_entry_price) * units * market.usd_rate(self.instrument, at_ms)
        return pnl, max(0.0, 1 + ((state.realized_pnl or 0.0) + pnl) / self.account_size)

    def fee_amounts(self) -> list[tuple[int, float]]:
        """Returns time and amount (USD) of each fee."""
        return [(event.time_ms, event.amount or 0.0) for event in self.fees]

    def dividend_amounts(self) -> list[tuple[int, float]]:
        """Returns time and amount (USD) of each dividend that was credited to the account."""
        return [
            (_midnight(dividend.payment_date or ""), dividend.amount or 0.0)
            for dividend in self.dividends
            if dividend.applied and dividend.type == "long_credit"
        ]

    # --- copies and texts ---------------------------------------------------------------------------------

    def copy(self, orders: Iterable[SimulatedOrder], position_uuid: str | None = None) -> TodaysPosition:
        copied = list(orders)
        other = TodaysPosition(
            self.miner_hotkey, self.instrument, position_uuid or self.position_uuid, copied
        )
        other.account_size, other.is_hl = self.account_size, self.is_hl
        from_ms, until_ms = copied[0].processed_ms, copied[-1].processed_ms
        last = len(copied) and copied[-1].order_uuid == self.orders[-1].order_uuid
        other.fees = [e for e in self.fees if from_ms <= e.time_ms and (last or e.time_ms <= until_ms)]
        other.dividends = [
            d for d in self.dividends if from_ms <= d.time_ms and (last or d.time_ms <= until_ms)
        ]
        other.last_stock_split_date = self.last_stock_split_date
        return other

    def body(self) -> bytes:
        return _encode(self._fields([order_fields(order) for order in self.orders]))

    def _fields(self, orders: list[dict[str, Any]]) -> dict[str, Any]:
        state = self.state
        return {
            "miner_hotkey": self.miner_hotkey,
            "position_uuid": self.position_uuid,
            "open_ms": state.open_ms,
            "trade_pair": self.instrument.trade_pair,
            "position_type": state.position_type,
            "orders": orders,
            "current_return": state.current_return,
            "close_ms": state.close_ms,
            "net_leverage": state.net_leverage,
            "net_value": state.net_value,
            "net_quantity": state.net_quantity,
            "return_at_close": state.return_at_close,
            "average_entry_price": state.average_entry_price,
            "cumulative_entry_value": state.cumulative_entry_value,
            "account_size": self.account_size,
            "realized_pnl": state.realized_pnl,
            "unrealized_pnl": state.unrealized_pnl,
            "is_closed_position": state.is_closed_position,
            "fee_history": [{key: getattr(fee, key) for key in _FEE_KEYS} for fee in self.fees],
            "is_hl": self.is_hl,
            "is_pro": False,
            "last_stock_split_date": self.last_stock_split_date,
            "dividend_history": [{key: getattr(d, key) for key in _DIVIDEND_KEYS} for d in self.dividends],
            "last_price_source": self.last_price_source,
            "last_quote_usd_conversion": self.last_quote_usd_conversion,
        }


_FEE_KEYS = ("fee_type", "amount", "time_ms")
_DIVIDEND_KEYS = (
    "type",
    "gross_dividend",
    "quantity",
    "amount",
    "ex_date",
    "payment_date",
    "time_ms",
    "applied",
)
_TODAYS_ORDER_KEYS = (
    "order_type",
    "leverage",
    "value",
    "quantity",
    "execution_type",
    "limit_price",
    "stop_loss",
    "take_profit",
    "stop_price",
    "stop_condition",
    "trailing_stop",
    "bracket_orders",
    "price",
    "bid",
    "ask",
    "slippage",
    "quote_usd_rate",
    "usd_base_rate",
    "processed_ms",
    "order_uuid",
    "price_sources",
    "src",
    "realized_pnl",
    "margin_loan",
    "is_hl_taker",
)


def order_fields(order: Order) -> dict[str, Any]:
    """Returns an order's fields in the order in which a validator of today writes them."""
    return _in_order(order, _TODAYS_ORDER_KEYS)


POSITION_KINDS: dict[Network, type[SimulatedPosition]] = {"2025": SimulatedPosition, "today": TodaysPosition}
