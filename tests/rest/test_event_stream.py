"""GET /stream: the stream's messages as Server-Sent Events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.events import events
from tests.factories import order, position, uuid, written
from tests.rest.serving import NOW, Served, filled_log, serving

QUICK = {"heartbeat_ms": 50}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(filled_log()) as served:
        yield served


def trade(served: Served, count: int = 1, first: int = 100, **fields: Any) -> None:
    """Appends `count` new positions with one order each, one by one."""
    for n in range(first, first + count):
        served.log.append([written(position(n, [order(n, at=NOW + n)], **fields))], NOW + n)


def cursor_of(served: Served, sequence: int | None = None, revision: int | None = None) -> str:
    head = served.log.head()
    sequence = head.sequence if sequence is None else sequence
    return f"{served.log.epoch}:{sequence}:{head.revision if revision is None else revision}"


async def test_an_order_is_an_event(served: Served) -> None:
    """Headers that keep proxies from holding it back, an id at once, then the message of version 2."""
    async with events(served.client) as stream:
        headers = stream.response.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in headers
        first = await stream.next()
        assert (first.kind, first.cursor) == ("heartbeat", cursor_of(served))
        trade(served)
        event = await stream.next("order")
        assert event.id[:2] == (served.log.epoch, served.log.head().sequence)
        assert event.data["sequence"] == served.log.head().sequence
        assert event.data["data"]["position"]["position_uuid"] == uuid(100)


async def test_resuming_sends_exactly_what_was_missed(served: Served) -> None:
    """By the header that browsers send, or by the parameter; the header wins."""
    trade(served, 3)
    head = served.log.head().sequence
    for path, headers in (
        ("/stream", {"last_event_id": cursor_of(served, head - 2)}),
        (f"/stream?after={cursor_of(served, head - 2)}", {}),
        (f"/stream?after={served.log.epoch}:{head - 2}", {}),
        (f"/stream?after={cursor_of(served, head)}", {"last_event_id": cursor_of(served, head - 2)}),
    ):
        async with events(served.client, path, **headers) as stream:
            found = await stream.orders(2)
            assert [event.id[1] for event in found] == [head - 1, head]
            assert all(event.data["replay"] for event in found)
            beat = await stream.next("heartbeat") if len(found) > 2 else None
            assert beat is None


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        ("another-epoch:{head}:0", "epoch"),
        ("{epoch}:{beyond}:0", "future"),
        ("{epoch}:{old}:0", "too_old"),
        ("not a cursor", "epoch"),
        ("{epoch}", "epoch"),
        ("{epoch}:-1:0", "epoch"),
        ("{epoch}:99999999999999999999:0", "epoch"),
    ],
)
async def test_what_cannot_be_resumed_is_a_gap(served: Served, cursor: str, reason: str) -> None:
    """All or nothing: nothing that was missed is sent, then live messages follow."""
    trade(served, 3)
    head = served.log.head().sequence
    text = cursor.format(epoch=served.log.epoch, head=head, beyond=head + 1, old=head - 1_000)
    async with events(served.client, last_event_id=text) as stream:
        gap = await stream.next()
        assert gap.kind == "gap"
        assert gap.data["reason"] == reason
        assert (gap.id[0], gap.id[1]) == (served.log.epoch, head)
        trade(served, first=200)
        live = await stream.next("order")
        assert live.data["data"]["position"]["position_uuid"] == uuid(200)
        assert "replay" not in live.data
