"""The stream's messages over GETs: all, in order, once each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ptn_api.rest import messages as module
from ptn_api.wire.codec import decode
from ptn_api.wire.frames import Message
from tests.factories import EURUSD, MINER, OTHER_MINER, order, position, written
from tests.memory_log import MemoryLog
from tests.rest.serving import NOW, filled_log, serving


def log_with_orders(count: int = 7) -> MemoryLog:
    """Orders of two miners, alternating; the first miner's position grows."""
    log = filled_log()
    mine: list[dict[str, Any]] = []
    for n in range(count):
        if n % 2:
            body = position(100 + n, [order(n, at=NOW + n)], miner=OTHER_MINER, trade_pair=EURUSD)
        else:
            mine.append(order(n, at=NOW + n))
            body = position(1, mine)
        log.append([written(body)], NOW + n)
    return log


async def test_pages_hold_every_message_once() -> None:
    """Requested with `next` until `next` is `head`, at any limit."""
    log = log_with_orders()
    floor, head = log.floor(), log.head().sequence
    async with serving(log) as served:
        for limit in (1, 3, 1000):
            found, after = [], floor - 1
            while after < head:
                path = f"/messages?after={after}&limit={limit}&epoch={log.epoch}"
                page = (await served.get(path)).json()
                assert len(page["messages"]) <= limit
                assert (page["oldest"], page["head"], page["epoch"]) == (floor, head, log.epoch)
                found += page["messages"]
                after = page["next"]
            assert [m["sequence"] for m in found] == list(range(floor, head + 1))
            assert [m["timestamp"] for m in found] == [NOW + n for n in range(7)]


async def test_messages_are_the_streams() -> None:
    """The client's decoder reads them; the announced order is the last of its position."""
    log = log_with_orders()
    async with serving(log) as served:
        raw = await served.get(f"/messages?after={log.floor() - 1}", accept="application/x-ndjson")
        assert raw.headers["content-type"] == "application/x-ndjson"
        lines = raw.content.splitlines()
        assert raw.headers["x-ptn-next"] == raw.headers["x-ptn-head"] == str(log.head().sequence)
        frames = [decode(line, Message) for line in lines]
        assert [len(f.data.position.orders) for f in frames] == [1, 1, 2, 1, 3, 1, 4]
        plain = (await served.get(f"/messages?after={log.floor() - 1}")).json()
        assert [json.loads(line) for line in lines] == plain["messages"]


async def test_deltas_hold_the_order_alone() -> None:
    """Their size does not grow with the position's orders."""
    log = log_with_orders()
    async with serving(log) as served:
        page = (await served.get(f"/messages?after={log.floor() - 1}&format=delta")).json()
        last = page["messages"][-1]["data"]
        assert last["order"]["order_uuid"] == order(6)["order_uuid"]
        assert last["n_orders"] == 4
        assert "orders" not in last["position"]


async def test_filters_advance_past_dropped_messages() -> None:
    """`next` reaches the head although the last messages did not match."""
    log = log_with_orders()
    async with serving(log) as served:
        start = f"/messages?after={log.floor() - 1}"
        for query, count in [
            (f"&miner={MINER}", 4),
            (f"&miner={MINER}&miner={OTHER_MINER}", 7),
            ("&trade_pair=EURUSD", 3),
            (f"&miner={MINER}&trade_pair=EURUSD", 0),
        ]:
            page = (await served.get(start + query)).json()
            assert len(page["messages"]) == count
            assert page["next"] == log.head().sequence


async def test_without_after_it_starts_at_the_head() -> None:
    """As on the socket: no message yet, and the cursor to continue at."""
    log = log_with_orders()
    async with serving(log) as served:
        for path in ("/messages", "/messages?after=-1"):
            page = (await served.get(path)).json()
            assert (page["messages"], page["next"]) == ([], log.head().sequence)


async def test_cursors_that_cannot_be_used() -> None:
    """410 for another epoch, below the floor and beyond the head, with the valid range."""
    log = log_with_orders()
    floor, head = log.floor(), log.head().sequence
    async with serving(log) as served:
        for query in (
            f"after={floor - 2}",
            f"after={head + 1}",
            f"after={floor}&epoch={'f' * 32}",
            "after=0",
        ):
            response = await served.get(f"/messages?{query}")
            assert response.status_code == 410
            body = response.json()
            assert (body["epoch"], body["oldest_sequence"], body["head"]) == (log.epoch, floor, head)
            assert ("cursor is too old" in body["error"]) == (f"works is after={floor - 1}" in body["error"])
            assert (await served.ask("HEAD", f"/messages?{query}")).status_code == 410


async def test_an_empty_log_has_no_messages() -> None:
    """Its floor is beyond its head; a cursor at the head is valid."""
    log = filled_log()
    async with serving(log) as served:
        page = (await served.get(f"/messages?after={log.head().sequence}&epoch={log.epoch}")).json()
        assert (page["messages"], page["next"]) == ([], log.head().sequence)
        assert page["oldest"] == page["head"] + 1


async def test_a_response_of_too_many_bytes_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the limit parameter; at least one message is included."""
    monkeypatch.setattr(module, "_MAX_BYTES", 1)
    log = log_with_orders()
    async with serving(log) as served:
        page = (await served.get(f"/messages?after={log.floor() - 1}&limit=10000")).json()
        assert len(page["messages"]) == 1
        assert page["next"] == log.floor()


async def test_unknown_miners_are_named_in_a_header() -> None:
    """Quoted, and at most ten; the response is the same as for a miner without messages."""
    log = log_with_orders()
    async with serving(log) as served:
        for accept in ("application/json", "application/x-ndjson"):
            path = f"/messages?after={log.floor() - 1}&miner={MINER}"
            assert "x-ptn-unknown-miners" not in (await served.get(path, accept=accept)).headers
            raw = await served.get(path + "&miner=mis%0d%0aspelt&miner=other", accept=accept)
            assert raw.headers["x-ptn-unknown-miners"] == "mis%0D%0Aspelt,other"
            assert raw.status_code == 200
        many = "".join(f"&miner=m{n}" for n in range(30))
        raw = await served.get(path + many)
        assert raw.headers["x-ptn-unknown-miners"].split(",") == [f"m{n}" for n in range(10)]
        positions = await served.get(f"/miner-positions?miner={MINER}&miner=other")
        assert positions.headers["x-ptn-unknown-miners"] == "other"
        assert "x-ptn-unknown-miners" not in (await served.get(f"/miner-positions?miner={MINER}")).headers
