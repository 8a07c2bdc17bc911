"""A position's state, derived from its orders (docs/accounting.md, 1 and 2), the network's quirks included.

`accounting_usd` has the formulas of generations 3 and 4, `accounting_leverage` those of 1 and 2.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from ptn_api.model.accounting_leverage import LeverageAccount
from ptn_api.model.accounting_usd import Contract, UsdAccount
from ptn_api.model.fees import fee, fee_by_category
from ptn_api.model.order import Order, OrderSource, OrderType
from ptn_api.model.position import Position, PositionState
from ptn_api.model.trade_pair import FOREX_LOT, FeeCategory, base_and_quote, category_and_rate, lot_size

__all__ = [
    "Generation",
    "RebuiltPosition",
    "generation_of",
    "rebuild",
    "rebuild_each",
    "replay_differs",
]


class Generation(enum.IntEnum):
    """The rules that a position follows, by the validators that introduced them (docs/accounting.md, 1)."""

    LEVERAGE = 1
    """Until August 2025: price x leverage."""
    ACCOUNT_SIZE = 2
    """Until November 2025: as LEVERAGE, with another spread fee."""
    USD = 3
    """December 2025: USD, with fees in the return."""
    FEE_HISTORY = 4
    """2026: USD, with fees apart."""


class RebuiltPosition(msgspec.Struct, frozen=True, kw_only=True):
    """A position's state, rebuilt from a list of orders.

    `orders` are the orders as the accounting leaves them, with the pnl that each realized and the sizes of a
    closing one; generations 1 and 2 change none. `appended` is the FLAT that the accounting of generations
    1 to 3 adds when the position is liquidated. `initial_entry_price` is the first order's effective price.
    """

    state: PositionState
    initial_entry_price: float
    orders: tuple[Order, ...]
    appended: Order | None = None


class Account(Protocol):
    """A position while its orders are taken one by one: the state after the orders taken so far.

    `orders` are those, as the fees see them. `priced_ms` is when the returns were last computed, None before;
    `liquidated_ms` when the position was liquidated. Units are those of `PositionState`.
    """

    initial_entry_price: float
    orders: list[Order]
    priced_ms: int | None
    liquidated_ms: int | None
    position_type: OrderType | None
    open_ms: int
    close_ms: int | None
    net_leverage: float
    average_entry_price: float
    cumulative_entry_value: float
    realized_pnl: float
    current_return: float

    @property
    def net_value(self) -> float | None: ...

    @property
    def net_quantity(self) -> float | None: ...

    @property
    def unrealized_pnl(self) -> float | None: ...

    def take(self, order: Order) -> Order:
        """Takes the next order. Returns it as the accounting leaves it."""
        ...


def generation_of(position: Position, orders: Sequence[Order] | None = None) -> Generation:
    """Returns the rules by which the position is replayed from these of its orders (default: all).

    A newer validator that rewrites an old position adds its own keys without converting the old numbers, so
    the later keys alone do not make it one of USD.
    """
    orders = position.orders if orders is None else orders
    in_usd = position.net_quantity is not None or all(order.quantity is not None for order in orders)
    if in_usd and (position.account_size or 0.0) > 0:
        return Generation.USD if position.fee_history is None else Generation.FEE_HISTORY
    return Generation.LEVERAGE if position.account_size is None else Generation.ACCOUNT_SIZE


def rebuild(position: Position, orders: Sequence[Order] | None = None) -> RebuiltPosition | None:
    """Returns the position with these of its orders only (default: all), taken in list order.

    None if it cannot be rebuilt: without orders, if the first has leverage 0 (generations 1 and 2) or no
    effective price, if sizes are missing, if the pair's fees or lot size are unknown, or if a result is not
    finite.
    """
    orders = position.orders if orders is None else orders
    return next(rebuild_each(position, [len(orders)], orders))


def rebuild_each(
    position: Position, lengths: Sequence[int], orders: Sequence[Order] | None = None
) -> Iterator[RebuiltPosition | None]:
    """Yields `rebuild(position, orders[:length])` for each length, in one pass. Lengths must ascend."""
    orders = position.orders if orders is None else orders
    generation = generation_of(position, orders)
    terms = category_and_rate(position.trade_pair)
    try:
        account = _open_account(position, orders, generation, terms)
    except (ValueError, ArithmeticError):
        account = None
    taken: list[Order] = []
    for length in lengths:
        rebuilt = None
        if account is not None and length >= 1:
            try:
                taken += map(account.take, orders[len(taken) : length])
            except (ValueError, ArithmeticError):
                account = None
        if account is not None and length >= 1:
            state = _state_of(account, generation, terms)
            numbers = (value for value in msgspec.structs.astuple(state) if isinstance(value, float))
            if all(map(math.isfinite, numbers)):
                rebuilt = RebuiltPosition(
                    state=state,
                    initial_entry_price=account.initial_entry_price,
                    orders=tuple(taken),
                    appended=_liquidation(account, generation, position.position_uuid),
                )
        yield rebuilt


def _open_account(
    position: Position,
    orders: Sequence[Order],
    generation: Generation,
    terms: tuple[FeeCategory, float] | None,
) -> Account | None:
    """Returns the account of the position's generation; None if the position cannot be rebuilt."""
    if not orders or (terms is None and generation != Generation.FEE_HISTORY):
        return None
    if generation <= Generation.ACCOUNT_SIZE:
        return LeverageAccount(orders[0], position.account_size)
    lot = lot_size_of(position, orders, generation)
    if lot is None:
        return None
    contract = Contract(lot, *base_and_quote(position.trade_pair))
    fees_in_return = generation == Generation.USD
    return UsdAccount(orders[0], position.account_size or 0.0, contract, fees_in_return=fees_in_return)


def _state_of(
    account: Account, generation: Generation, terms: tuple[FeeCategory, float] | None
) -> PositionState:
    """Returns the account's state, with its fees where they are part of the return."""
    fees = 1.0
    if generation != Generation.FEE_HISTORY and terms is not None and account.priced_ms is not None:
        charge = fee if generation == Generation.LEVERAGE else fee_by_category
        fees = charge(account.priced_ms, account.orders, *terms, account.open_ms)
    return PositionState(
        position_type=account.position_type,
        is_closed_position=account.close_ms is not None,
        open_ms=account.open_ms,
        close_ms=account.close_ms,
        net_leverage=account.net_leverage,
        net_value=account.net_value,
        net_quantity=account.net_quantity,
        average_entry_price=account.average_entry_price,
        cumulative_entry_value=account.cumulative_entry_value,
        realized_pnl=account.realized_pnl,
        unrealized_pnl=account.unrealized_pnl,
        current_return=account.current_return,
        return_at_close=account.current_return * fees,
    )


def _liquidation(account: Account, generation: Generation, position_uuid: str) -> Order | None:
    """Returns the FLAT that a liquidation appends, unless the orders already contain it."""
    uuid = position_uuid[::-1]
    if account.liquidated_ms is None or any(
        order.order_uuid == uuid and order.src in _LIQUIDATIONS for order in account.orders
    ):
        return None
    return Order(
        order_type="FLAT",
        leverage=-account.net_leverage if generation == Generation.USD else 0.0,
        price=0.0,
        processed_ms=account.liquidated_ms,
        order_uuid=uuid,
        src=int(OrderSource.ELIMINATION),
        price_sources=[],
        quote_usd_rate=0.0,
        usd_base_rate=0.0,
        execution_type="MARKET",
    )


def lot_size_of(position: Position, orders: Sequence[Order], generation: Generation) -> int | None:
    """Returns how many base units a quantity of 1 stands for; None if that is unknown.

    The first order with all sizes tells. Shares have lots of 1, and a split changes their quantities alone.
    """
    category, _ = category_and_rate(position.trade_pair) or (None, None)
    stated = lot_size(position.trade_pair)
    if category in ("equities", "indices"):
        return stated
    if generation == Generation.USD and category == "forex":
        stated = FOREX_LOT  # of gold and silver too
    for order in orders:
        if order.value and order.quantity and order.usd_base_rate:
            ratio = order.value * order.usd_base_rate / order.quantity
            whole = round(ratio) if math.isfinite(ratio) else 0
            if whole >= 1 and math.isclose(ratio, whole, rel_tol=1e-6):
                return whole
            break
    return stated


_LIQUIDATIONS = (OrderSource.ELIMINATION, OrderSource.PRICED_ELIMINATION)
_COMPARED = ("average_entry_price", "realized_pnl")


def replay_differs(position: Position) -> bool:
    """Returns whether a replay of all orders contradicts the file, by more than a millionth.

    Corrections, stock splits, or rules that are unknown here. False if the position cannot be rebuilt.
    """
    rebuilt = rebuild(position)
    return rebuilt is not None and any(
        not math.isclose(
            getattr(rebuilt.state, key), getattr(position, key) or 0.0, rel_tol=1e-6, abs_tol=1e-9
        )
        for key in _COMPARED
        if getattr(position, key) is not None
    )
