"""A simulated position: its orders, the state computed from them, and the exact text of its file."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from ptn_api.model.accounting import rebuild
from ptn_api.model.order import Order, OrderSource
from ptn_api.model.position import Position, PositionState, parse_position

__all__ = ["QueuedOrderType", "SimulatedPosition", "elimination_flat"]

_encode = msgspec.json.Encoder().encode


class QueuedOrderType(enum.Enum):
    """Order types on the validator's queue, which carries enum members instead of names."""

    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"


class SimulatedPosition:
    """A position in the simulated validator's memory. After a change of `orders`, call `rebuild()`."""

    __slots__ = ("miner_hotkey", "orders", "position_uuid", "state", "trade_pair")

    def __init__(
        self,
        miner_hotkey: str,
        position_uuid: str,
        trade_pair: list[Any],
        orders: list[Order],
        state: PositionState | None = None,
    ) -> None:
        self.miner_hotkey = miner_hotkey
        self.position_uuid = position_uuid
        self.trade_pair = trade_pair
        self.orders = orders
        self.state = PositionState() if state is None else state

    @classmethod
    def parse(cls, body: bytes) -> SimulatedPosition:
        """Reads a position's file. Raises InvalidInputError."""
        read, _ = parse_position(body)
        state = PositionState(**{name: getattr(read, name) for name in PositionState.__struct_fields__})
        return cls(read.miner_hotkey, read.position_uuid, read.trade_pair, read.orders, state)

    @property
    def pair(self) -> str:
        return str(self.trade_pair[0])

    @property
    def closed(self) -> bool:
        return self.state.is_closed_position

    @property
    def first_price(self) -> float:
        """The initial entry price P0, the effective price of the first order (docs/accounting.md, 2)."""
        first = self.orders[0]
        slippage = first.slippage or 0.0
        return first.price * (1 + slippage if (first.leverage or 0.0) > 0 else 1 - slippage)

    def rebuild(self) -> bool:
        """Recomputes the state from the orders (docs/accounting.md, 2); appends the FLAT of a liquidation.

        Returns False and changes nothing if the accounting rejects the orders.
        """
        rebuilt = rebuild(
            Position(
                miner_hotkey=self.miner_hotkey,
                position_uuid=self.position_uuid,
                trade_pair=self.trade_pair,
                orders=self.orders,
            )
        )
        if rebuilt is None:
            return False
        self.state = rebuilt.state
        if rebuilt.appended is not None:
            self.orders.append(rebuilt.appended)
        return True

    def copy(self, orders: list[Order] | None = None, position_uuid: str | None = None) -> SimulatedPosition:
        """Returns a position on the same pair with its own list of orders; its state is not computed yet."""
        orders = list(self.orders) if orders is None else orders
        uuid = position_uuid or self.position_uuid
        return SimulatedPosition(self.miner_hotkey, uuid, self.trade_pair, orders)

    def body(self) -> bytes:
        """Returns the file's JSON, with keys in the validator's order."""
        return _encode(self._fields([_order_fields(order) for order in self.orders]))

    def queue_item(self) -> dict[str, Any]:
        """Returns the item that an embedding validator puts on its queue: dicts, with enums as types."""
        orders = [_order_fields(o) | {"order_type": QueuedOrderType(o.order_type)} for o in self.orders]
        for order in orders:
            order["price_sources"] = msgspec.to_builtins(order["price_sources"])
        kind = self.state.position_type
        position = self._fields(orders)
        position["position_type"] = None if kind is None else QueuedOrderType(kind)
        return {"position": position}

    def _fields(self, orders: list[dict[str, Any]]) -> dict[str, Any]:
        state = self.state
        return {
            "miner_hotkey": self.miner_hotkey,
            "position_uuid": self.position_uuid,
            "open_ms": state.open_ms,
            "trade_pair": self.trade_pair,
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


def elimination_flat(position: SimulatedPosition, at_ms: int) -> Order:
    """Returns the FLAT by which a validator closes an eliminated miner's position."""
    return Order(
        order_type="FLAT",
        leverage=0.0,
        price=0.0,
        bid=0.0,
        ask=0.0,
        slippage=0.0,
        processed_ms=at_ms,
        order_uuid=position.position_uuid[::-1],
        price_sources=[],
        src=OrderSource.ELIMINATION,
    )


def _order_fields(order: Order) -> dict[str, Any]:
    return {
        "order_type": order.order_type,
        "leverage": order.leverage,
        "price": order.price,
        "bid": order.bid,
        "ask": order.ask,
        "slippage": order.slippage,
        "processed_ms": order.processed_ms,
        "order_uuid": order.order_uuid,
        "price_sources": order.price_sources,
        "src": order.src,
    }
