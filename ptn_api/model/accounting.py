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
from ptn_api.model.order import Order
from ptn_api.model.position import Position, PositionState
from ptn_api.model.trade_pair import FOREX_LOT, base_and_quote, category_and_rate, lot_size

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


class _Account(Protocol):
    """A position while its orders are taken one by one."""

    initial_entry_price: float

    def take(self, order: Order) -> Order:
        """Takes the next order. Returns it as the accounting leaves it."""
        ...

    def state(self) -> PositionState:
        """Returns the state after the orders taken so far."""
        ...

    def liquidation(self) -> Order | None:
        """Returns the FLAT that a liquidation appends, unless the orders already contain it."""
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
    account = _open_account(position, orders)
    taken: list[Order] = []
    for length in lengths:
        if account is None or length < 1:
            yield None
            continue
        try:
            taken += map(account.take, orders[len(taken) : length])
            state = account.state()
        except (ValueError, ArithmeticError):
            account = None
            yield None
            continue
        yield (
            RebuiltPosition(
                state=state,
                initial_entry_price=account.initial_entry_price,
                orders=tuple(taken),
                appended=account.liquidation(),
            )
            if _is_finite(state)
            else None
        )


def _open_account(position: Position, orders: Sequence[Order]) -> _Account | None:
    """Returns the account of the position's generation; None if the position cannot be rebuilt."""
    if not orders:
        return None
    terms = category_and_rate(position.trade_pair)
    generation = generation_of(position, orders)
    uuid, size = position.position_uuid, position.account_size
    try:
        if generation < Generation.USD:
            return None if terms is None else LeverageAccount(orders[0], uuid, terms, size)
        lot = lot_size_of(position, orders, generation)
        if lot is None or (terms is None and generation == Generation.USD):
            return None
        contract = Contract(lot, *base_and_quote(position.trade_pair))
        in_return = terms if generation == Generation.USD else None
        return UsdAccount(orders[0], uuid, size or 0.0, contract, in_return)
    except (ValueError, ArithmeticError):
        return None


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


def _is_finite(state: PositionState) -> bool:
    return all(
        math.isfinite(value or 0.0)
        for value in (
            state.net_leverage,
            state.net_value,
            state.net_quantity,
            state.average_entry_price,
            state.cumulative_entry_value,
            state.realized_pnl,
            state.unrealized_pnl,
            state.current_return,
            state.return_at_close,
        )
    )
