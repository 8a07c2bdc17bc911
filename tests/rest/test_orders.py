"""All miners' orders, page by page: newest first, each once, as their positions show them."""

from __future__ import annotations

from typing import Any

import pytest

from ptn_api.event_log import PositionRemoved
from ptn_api.rest import orders as module
from tests.factories import EURUSD, MINER, OTHER_MINER, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.rest.serving import DAY, HOUR, NOW, Served, filled_log, serving

SOURCES = [{"source": "Polygon"}]


def some_log() -> MemoryLog:
    """Old orders of the baseline, and newer ones that were announced."""
    log = filled_log(
        [
            written(position(1, [order(1, at=NOW - 9 * DAY, price_sources=SOURCES)])),
            written(position(2, [order(2, at=NOW - HOUR)], miner=OTHER_MINER, trade_pair=EURUSD)),
        ]
    )
    for n in range(3, 8):
        body = position(n, [order(n, at=NOW + n)], miner=MINER if n % 2 else OTHER_MINER)
        log.append([written(body)], NOW + n)
    return log


async def pages(served: Served, query: str = "") -> list[dict[str, Any]]:
    """All orders, by following `next`."""
    found: list[dict[str, Any]] = []
    before = ""
    while True:
        page = (await served.get(f"/orders?before={before}&{query}")).json()
        found += page["orders"]
        if page["next"] is None:
            return found
        before = page["next"]


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [int(row["order"]["order_uuid"][-12:], 16) - 1000 for row in rows]


async def test_pages_hold_every_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any limit, also one that takes several reads; the orders and their sequences are those elsewhere."""
    monkeypatch.setattr(module, "_READ_ORDERS", 2)
    async with serving(some_log()) as served:
        rows = await pages(served)
        assert numbers(rows) == [7, 6, 5, 4, 3, 2, 1]
        for limit in (1, 3, 7, 1_000):
            assert await pages(served, f"limit={limit}") == rows
        assert len((await served.get("/orders?limit=5")).json()["orders"]) == 5
        entries = (await served.get("/miner-positions")).json()
        shown = {
            (hotkey, body["position_uuid"]): body["orders"]
            for hotkey, entry in entries.items()
            for body in entry["positions"]
        }
        assert all(row["order"] in shown[row["miner_hotkey"], row["position_uuid"]] for row in rows)
        assert rows[-1]["order"]["price_sources"] == []  # aged out, as in the position
        after = served.log.floor() - 1
        messages = (await served.get(f"/messages?after={after}")).json()["messages"]
        sequences = {m["data"]["position"]["orders"][-1]["order_uuid"]: m["sequence"] for m in messages}
        assert [row["sequence"] for row in rows] == [
            sequences.get(row["order"]["order_uuid"]) for row in rows
        ]
        assert (rows[-2]["trade_pair"], rows[-2]["sequence"]) == ("EURUSD", None)


async def test_filters_and_their_errors() -> None:
    """By miner and pair, as for messages; what cannot be read is a 400 that names the parameter."""
    async with serving(some_log()) as served:
        assert numbers(await pages(served, f"miner={MINER}&limit=2")) == [7, 5, 3, 1]
        assert numbers(await pages(served, "trade_pair=eur/usd")) == [2]
        assert numbers(await pages(served, f"trade_pair=EURUSD,BTCUSD&miner={MINER},{OTHER_MINER}")) == [
            7, 6, 5, 4, 3, 2, 1,
        ]  # fmt: skip
        unknown = await served.get("/orders?miner=5Nobody")
        assert unknown.json() == {"orders": [], "next": None}
        assert unknown.headers["x-ptn-unknown-miners"] == "5Nobody"
        for parameter, values in {
            "limit": ["0", "1001", "x"],
            "before": ["x", "!", "AAAA", "kwE", "lAGhYaFhzwAAAAAAAAAA" * 99, "lM__________oWGhYQE"],
            "trade_pair": ["NOPE"],
            "mienr": ["5Miner"],
        }.items():
            for value in values:
                refused = await served.get(f"/orders?{parameter}={value}")
                assert (refused.status_code, refused.json()["parameter"]) == (400, parameter), value
        assert (await served.get("/orders", "k50")).status_code == 403


async def test_a_cursor_holds_while_orders_arrive_and_positions_go() -> None:
    """What follows it stays; and it is the same on another server with the same orders."""
    async with serving(some_log()) as served, serving(some_log()) as another:
        page = (await served.get("/orders?limit=2")).json()
        rest = (await another.get(f"/orders?before={page['next']}")).json()["orders"]
        served.log.append([written(position(20, [order(20, at=NOW + 20)]))], NOW + 20)
        assert (await served.get(f"/orders?before={page['next']}")).json()["orders"] == rest
        gone = [PositionRemoved(miner_hotkey=OTHER_MINER, position_uuid=uuid(6))]
        served.log.append([*gone, PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(5))], NOW + 21)
        rows = (await served.get(f"/orders?before={page['next']}")).json()["orders"]
        assert numbers(rows) == [4, 3, 2, 1]
        assert numbers(await pages(served)) == [20, 7, 4, 3, 2, 1]


async def test_an_unchanged_page_is_a_304() -> None:
    """The ETag is of the content; HEAD costs nothing."""
    async with serving(some_log()) as served:
        first = await served.get("/orders?limit=3")
        again = await served.get("/orders?limit=3", if_none_match=first.headers["etag"])
        assert (again.status_code, first.headers["x-ptn-revision"]) == (304, "7")
        assert (await served.ask("HEAD", "/orders")).status_code == 200
