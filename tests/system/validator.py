"""A validator's directory, written the way the validator writes it.

See docs/architecture.md, "What a validator does to its files".
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

from tests import factories

MINER = factories.MINER


class Validator:
    """Places orders as files; `placed` has their uuids in order."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.placed: list[str] = []
        self._numbers = itertools.count(1)
        (root / "validation" / "tmp").mkdir(parents=True)
        (root / "validation" / "miners").mkdir()

    def path(self, position: dict[str, Any], *, closed: bool | None = None) -> Path:
        folder = "closed" if (position["is_closed_position"] if closed is None else closed) else "open"
        pair = position["trade_pair"][0]
        miner = self.root / "validation" / "miners" / position["miner_hotkey"]
        return miner / "positions" / pair / folder / position["position_uuid"]

    def write(self, position: dict[str, Any]) -> None:
        """The file is written to validation/tmp and moved; a close deletes the open file first."""
        path = self.path(position)
        path.parent.mkdir(parents=True, exist_ok=True)
        if position["is_closed_position"]:
            self.path(position, closed=False).unlink(missing_ok=True)
        temporary = self.root / "validation" / "tmp" / position["position_uuid"]
        temporary.write_text(json.dumps(position))
        os.replace(temporary, path)

    def document(self, name: str, content: Any) -> None:
        """`validation/<name>` or `runnable/<name>`, replaced in place."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content))
        os.replace(temporary, path)

    def place(self, n_orders: int = 1, *, miner: str = MINER, closed: bool = False) -> dict[str, Any]:
        """Opens a position with orders of the current time, one file write per order."""
        number = next(self._numbers)
        orders: list[dict[str, Any]] = []
        position: dict[str, Any] = {}
        for n in range(n_orders):
            now = time.time_ns() // 1_000_000
            last = closed and n == n_orders - 1
            orders.append(factories.order(number * 1000 + n, 0.0 if last else 0.1, at=now))
            position = factories.position(number, orders, miner=miner, closed=last)
            self.placed.append(orders[-1]["order_uuid"])
            self.write(position)
        return position

    def add_order(self, position: dict[str, Any]) -> dict[str, Any]:
        """Adds an order to a position, as a complete new file."""
        now = time.time_ns() // 1_000_000
        order = factories.order(next(self._numbers) * 1000, 0.1, at=now)
        changed = position | {"orders": [*position["orders"], order]}
        self.placed.append(order["order_uuid"])
        self.write(changed)
        return changed
