"""Limit orders of one miner and of all, read again only where they changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ptn_api.event_log import Document
from ptn_api.views.documents import Documents, Recent
from ptn_api.views.limit_orders import LimitOrders
from tests.factories import MINER, OTHER_MINER, T0
from tests.memory_log import MemoryLog
from tests.rest.serving import NOW, document, filled_log, limit_order


class CountingLog(MemoryLog):
    """A log that records which documents of miners are read."""

    def document(self, document: Document, miner_hotkey: str = "") -> bytes | None:
        if miner_hotkey:
            self.read_miners.append(miner_hotkey)
        return super().document(document, miner_hotkey)

    read_miners: list[str]


def counting_log() -> CountingLog:
    log = CountingLog(created_ms=NOW)
    log.read_miners = []
    orders = [limit_order(3), limit_order(1), limit_order(2, src=7), limit_order(4, pair="NVDA", src=8)]
    log.baseline(
        [
            document(Document.LIMIT_ORDERS, orders, MINER),
            document(Document.LIMIT_ORDERS, [limit_order(9)], OTHER_MINER),
        ],
        NOW,
    )
    return log


async def test_unfilled_orders_by_pair() -> None:
    """Oldest first; only miners whose orders changed are read again; a miner without any disappears."""
    log = counting_log()
    limit_orders = LimitOrders(Documents(log))

    async def found() -> dict[str, dict[str, list[int]]]:
        by_pair: dict[str, Any] = json.loads((await limit_orders.unfilled_by_pair()).identity)
        return {
            pair: {hotkey: [order["processed_ms"] - T0 for order in orders] for hotkey, orders in of.items()}
            for pair, of in by_pair.items()
        }

    both = {"BTCUSDC": {MINER: [1000, 3000], OTHER_MINER: [9000]}, "NVDA": {MINER: [4000]}}
    assert await found() == await found() == both
    assert log.read_miners == [MINER, OTHER_MINER]
    log.append([document(Document.LIMIT_ORDERS, [limit_order(9, src=7)], OTHER_MINER)], NOW)
    assert await found() == {"BTCUSDC": {MINER: [1000, 3000]}, "NVDA": {MINER: [4000]}}
    assert log.read_miners == [MINER, OTHER_MINER, OTHER_MINER]
    log.append([document(Document.LIMIT_ORDERS, None, MINER)], NOW)
    assert await found() == {}


def test_orders_of_one_miner() -> None:
    """All of them, oldest first, read once per revision."""
    log = counting_log()
    limit_orders = LimitOrders(Documents(log))
    statuses = [order.status for order in limit_orders.of(MINER)]
    assert statuses == ["unfilled", "cancelled", "unfilled", "unfilled"]
    assert limit_orders.of(MINER) is limit_orders.of(MINER)
    assert limit_orders.of("5Nobody") == []
    assert log.read_miners == [MINER]


@pytest.mark.parametrize("odd", ["5", True, [5], {}, None, 1e308])
async def test_a_malformed_order_hides_no_other(odd: Any) -> None:
    """The validator's checkpoint contains the orders of all miners: it must not fail for one of them."""
    log = MemoryLog(created_ms=NOW)
    orders = [limit_order(1), limit_order(2, processed_ms=odd), limit_order(3, src=odd)]
    log.baseline([document(Document.LIMIT_ORDERS, orders, MINER)], NOW)
    limit_orders = LimitOrders(Documents(log))
    listed = [json.loads(order.text) for order in limit_orders.of(MINER)]
    assert [odd in (order["processed_ms"], order["src"]) for order in listed].count(True) == 2
    by_pair = json.loads((await limit_orders.unfilled_by_pair()).identity)
    assert [order["processed_ms"] for order in by_pair["BTCUSDC"][MINER]].count(T0 + 1000) == 1
    assert len(by_pair["BTCUSDC"][MINER]) == 2


def test_the_recent_ones_are_kept() -> None:
    """The one that was not used for longest goes first; another version counts as absent."""
    recent: Recent[str] = Recent(2)
    for key in "ab":
        recent.keep(key, 1, key.upper())
    assert recent.get("a", 1) == "A"
    recent.keep("c", 1, "C")
    assert [recent.get(key, 1) for key in "abc"] == ["A", None, "C"]
    assert recent.get("a", 2) is None
    assert recent.last("a") == "A"


def test_a_log_without_any() -> None:
    assert LimitOrders(Documents(filled_log())).of(MINER) == []
