"""Positions and orders for tests, in the validator's JSON shape, and a fake server's log of them."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ptn_api.clock import wall_ms
from ptn_api.model.position import PositionText, parse_position
from ptn_api.wire.codec import encode_message
from ptn_api.wire.frames import Format

__all__ = ["MINER", "OrderLog", "fake_order", "fake_position"]

MINER = "5GhCxfBcA7Ur5iiAS343xwvrYHTUfBjBi4JimiL5LhujRT9t"
"""The default miner's hotkey."""

_numbers = itertools.count(1)


def fake_order(leverage: float = 0.1, price: float = 100.0, **fields: Any) -> dict[str, Any]:
    """Returns an order filled now; leverage 0 makes it FLAT. `fields` replace or add keys."""
    return {
        "order_type": "LONG" if leverage > 0 else "SHORT" if leverage < 0 else "FLAT",
        "leverage": leverage,
        "price": price,
        "bid": price,
        "ask": price,
        "slippage": 0.0,
        "processed_ms": wall_ms(),
        "price_sources": [],
        "order_uuid": str(uuid.UUID(int=1_000_000 + next(_numbers))),
        "src": 0,
    } | fields


def fake_position(
    trade_pair: str = "BTCUSD",
    orders: Sequence[dict[str, Any]] | None = None,
    *,
    miner: str = MINER,
    **fields: Any,
) -> dict[str, Any]:
    """Returns an open position with these orders (default: one); its sums are plausible, not exact.

    `fields` replace or add keys. To add an order to a position, publish it again with a longer list.
    """
    orders = list(orders) if orders is not None else [fake_order()]
    leverage = sum(order["leverage"] for order in orders)
    price = orders[0]["price"] if orders else 0.0
    return {
        "miner_hotkey": miner,
        "position_uuid": str(uuid.UUID(int=next(_numbers))),
        "open_ms": orders[0]["processed_ms"] if orders else wall_ms(),
        "trade_pair": [trade_pair, trade_pair, 0.001, 0.01, 0.5],
        "orders": orders,
        "current_return": 1.0,
        "close_ms": None,
        "net_leverage": leverage,
        "return_at_close": 1.0,
        "average_entry_price": price,
        "cumulative_entry_value": price * leverage,
        "realized_pnl": 0.0,
        "position_type": "LONG" if leverage >= 0 else "SHORT",
        "is_closed_position": False,
    } | fields


class _Head(NamedTuple):
    sequence: int
    revision: int = 0


class Announcement(NamedTuple):
    """A position as announced with its last order."""

    timestamp_ms: int
    text: PositionText
    miner: str
    trade_pair: str
    processed_ms: int
    late: bool
    extra: bytes
    sequence: int = 0

    @classmethod
    def of(
        cls, position: Mapping[str, Any], timestamp_ms: int, *, late: bool, extra: Mapping[str, Any] | None
    ) -> Announcement:
        parsed, text = parse_position(json.dumps(position).encode())
        return cls(
            timestamp_ms,
            text,
            parsed.miner_hotkey,
            parsed.trade_pair_id,
            parsed.orders[-1].processed_ms,
            late,
            json.dumps(extra).encode() if extra else b"",
        )

    def message(self, *, format: Format, version: int, replay: bool) -> bytes:  # noqa: A002 - the protocol's word
        return encode_message(
            sequence=self.sequence,
            timestamp_ms=self.timestamp_ms,
            text=self.text,
            order=self.text.orders[-1],
            n_orders=len(self.text.orders),
            format=format,
            late=self.late and version == 2,
            replay=replay and version == 2,
            extra=self.extra,
        )


class OrderLog:
    """Announced orders by sequence; the `LogView` of the server's sessions."""

    def __init__(self, first_sequence: int) -> None:
        self.epoch = uuid.uuid4().hex[:12]
        self.orders: dict[int, Announcement] = {}
        self.last = first_sequence - 1
        self.oldest = first_sequence

    def append(self, announced: Sequence[Announcement]) -> list[int]:
        """Returns the sequences of the appended orders."""
        sequences = list(range(self.last + 1, self.last + 1 + len(announced)))
        self.orders.update(
            (n, order._replace(sequence=n)) for n, order in zip(sequences, announced, strict=True)
        )
        self.last += len(announced)
        return sequences

    def prune(self) -> None:
        self.orders.clear()
        self.oldest = self.last + 1

    def head(self) -> _Head:
        return _Head(self.last)

    def floor(self) -> int:
        return self.oldest

    def first_timestamp_after(self, sequence: int) -> int | None:
        later = [n for n in self.orders if n > sequence]
        return self.orders[min(later)].timestamp_ms if later else None

    def read(self, after: int, limit: int, *, orders: bool) -> list[Announcement]:
        return [order for n, order in sorted(self.orders.items()) if n > after][:limit]

    def oldest_revision(self) -> int:
        return 0

    def behind_ms(self) -> int:
        return 0
