"""The client at servers of other implementations, each form of it over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.client import PTNWebSocketMessage, follow
from ptn_api.client.arguments import Timing
from ptn_api.client.cursor_file import NoCursorFile
from ptn_api.client.stream import Stream
from ptn_api.client.testing import FakeServer
from ptn_api.errors import AuthenticationError
from ptn_api.websocket_client import PTNWebSocketClient
from ptn_api.wire.client_session import Cursor, Gap
from tests.client.other_server import OtherServer
from tests.factories import BTCUSD, EURUSD, MINER, OTHER_MINER, order, position
from tests.waiting import PATIENCE_S, until, until_async

POSITION_OF_TODAY = Path(__file__).parent.parent / "stream" / "data" / "position_of_today.json"


@pytest.fixture(params=["header", "frame"])
def other(request: pytest.FixtureRequest) -> Iterator[OtherServer]:
    first = 0 if request.param == "header" else 500
    with OtherServer(request.param, first_sequence=first) as server:
        yield server


class Reader:
    """A stream read in a task."""

    def __init__(self, server: OtherServer, timing: Timing, tmp_path: Path, **options: Any) -> None:
        self.messages: list[PTNWebSocketMessage] = []
        self.gaps: list[Gap] = []
        options = {"api_key": "other-key", "timing": timing, "state_dir": tmp_path} | options
        self.stream = Stream(server.url, on_gap=self.gaps.append, **options)

    async def __aenter__(self) -> Reader:
        self._task = asyncio.create_task(self._read())
        await until_async(lambda: self.stream.state == "live", what="live")
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.stream.stop()
        await asyncio.wait_for(self._task, PATIENCE_S)

    async def received(self, count: int) -> list[str]:
        """Returns the uuids of the orders received, once there are as many."""
        await until_async(lambda: len(self.messages) >= count, what=f"{count} messages")
        return [message.new_order.order_uuid for message in self.messages]

    async def _read(self) -> None:
        async with self.stream as stream:
            async for message in stream:
                self.messages.append(message)


@pytest.fixture
def reader(other: OtherServer, timing: Timing, tmp_path: Path) -> Any:
    return lambda **options: Reader(other, timing, tmp_path, **options)


def numbered(n: int, **fields: Any) -> dict[str, Any]:
    return position(n, [order(n)], **fields)


UUIDS = [order(n)["order_uuid"] for n in range(10)]


async def test_orders_arrive_whole(other: OtherServer, reader: Any) -> None:
    """Every field of a position, also those that no struct of ours knows."""
    body = json.loads(POSITION_OF_TODAY.read_bytes())
    async with reader() as client:
        other.send(body)
        await client.received(1)
    (message,) = client.messages
    assert message.data == {"position": body}
    assert message.new_order.order_uuid == body["orders"][-1]["order_uuid"]
    assert client.gaps == []
    assert other.headers == ["Bearer other-key"]


async def test_every_reconnect_is_a_gap_and_no_order_is_taken_for_a_repeat(
    other: OtherServer, reader: Any
) -> None:
    """Although a server may count every connection's messages from 0."""
    async with reader() as client:
        for connection in range(3):
            other.send(numbered(2 * connection))
            other.send(numbered(2 * connection + 1))
            assert await client.received(2 * connection + 2) == UUIDS[: 2 * connection + 2]
            assert len(client.gaps) == connection
            other.cut()
            await until_async(lambda n=connection: len(client.gaps) == n + 1)
            await until_async(lambda: client.stream.state == "live" and any(other.subscribed.values()))
    reasons = {gap.reason for gap in client.gaps}
    assert reasons == ({"restarted"} if other.login == "header" else {"not_replayed"})
    assert not any("last_sequence" in frame for frame in other.frames)


async def test_numbered_frames_that_are_no_orders_are_passed_over(
    other: OtherServer, reader: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A server of today numbers dashboards like orders: they are neither messages nor gaps."""
    async with reader() as client:
        other.send(numbered(0))
        other.send_data({"dashboard": {"position": 1}})
        other.send_data({"type": "subscription_status", "action": "new_subaccount_subscribed"})
        other.send(numbered(1))
        assert await client.received(2) == UUIDS[:2]
    assert client.gaps == []
    assert "malformed" not in caplog.text


async def test_an_order_lost_on_the_way_is_a_gap(other: OtherServer, reader: Any) -> None:
    """Within a connection every number counts, from the first message on."""
    async with reader() as client:
        other.send(numbered(0))
        other.send(numbered(1), lost=True)
        other.send(numbered(2))
        assert await client.received(2) == [UUIDS[0], UUIDS[2]]
    first = client.messages[0].sequence
    assert client.gaps == [Gap(first, first + 2, "hole")]


async def test_no_cursor_is_kept(
    other: OtherServer, reader: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each run starts with the next order. The log tells that this server cannot resume."""
    for n in range(2):
        async with reader() as client:
            other.send(numbered(n))
            assert await client.received(1) == [UUIDS[n]]
        assert client.gaps == []
    assert not list(tmp_path.glob("cursor-*.json"))
    assert caplog.text.count("cannot resume") == 2


async def test_a_cursor_of_our_server_is_kept_for_its_return(other: OtherServer, reader: Any) -> None:
    """Another server on its port in between is reported as a gap, and leaves the cursor as it was."""
    store = NoCursorFile(Cursor(101, "epoch-1"))
    async with reader(cursor_store=store) as client:
        other.send(numbered(0))
        await client.received(1)
    assert [gap.reason for gap in client.gaps] == ["epoch"]
    assert store.load() == Cursor(101, "epoch-1")


async def test_filters_hold(other: OtherServer, reader: Any) -> None:
    """These servers send everything; the client leaves out what was not asked for."""
    async with reader(miners=[MINER], trade_pairs=["BTCUSD"], format="delta") as client:
        other.send(numbered(0, trade_pair=EURUSD))
        other.send(numbered(1, miner=OTHER_MINER))
        other.send(numbered(2, trade_pair=BTCUSD))
        assert await client.received(1) == [UUIDS[2]]
    assert client.gaps == []


async def test_unsubscribe_and_subscribe(other: OtherServer, reader: Any) -> None:
    """Their answers may lack the times."""
    async with reader() as client:
        other.send(numbered(0))
        client.stream.unsubscribe()
        await until_async(lambda: not any(other.subscribed.values()))
        other.send(numbered(1))
        client.stream.subscribe()
        await until_async(lambda: any(other.subscribed.values()))
        other.send(numbered(2))
        assert await client.received(2) == [UUIDS[0], UUIDS[2]]
    assert client.gaps == []


@pytest.mark.parametrize("tier", [None, 50])
async def test_a_refused_key_is_raised(
    other: OtherServer, timing: Timing, tmp_path: Path, tier: int | None
) -> None:
    """With the server's own words."""
    other.tiers = {} if tier is None else {"other-key": tier}
    options: Any = {"timing": timing, "state_dir": tmp_path, "stop_on_auth_error": True}
    async with Stream(other.url, "other-key", **options) as stream:
        with pytest.raises(AuthenticationError, match="Invalid API key" if tier is None else "tier 100"):
            await anext(stream)


async def test_an_eviction_is_understood(
    other: OtherServer, reader: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client waits longer than after a lost connection."""
    async with reader() as client:
        other.evict()
        await until_async(lambda: client.gaps)
    assert "too many connections" in caplog.text


def trade_later(other: OtherServer, n: int) -> None:
    """Sends order n to the n-th connection, once it has subscribed."""

    def trade() -> None:
        until(lambda: other.connections == n + 1 and any(other.subscribed.values()))
        other.send(numbered(n))

    threading.Thread(target=trade).start()


def test_a_plain_loop(other: OtherServer, timing: Timing, tmp_path: Path) -> None:
    """Across a lost connection."""
    gaps: list[Gap] = []
    with follow(other.url, "other-key", timing=timing, state_dir=tmp_path, on_gap=gaps.append) as orders:
        for n in range(2):
            trade_later(other, n)
            assert next(orders).new_order.order_uuid == UUIDS[n]
            other.cut()
    assert len(gaps) == 1


def test_the_networks_client_class(other: OtherServer, timing: Timing, tmp_path: Path) -> None:
    """With a handler, across a lost connection."""
    port = int(other.url.rpartition(":")[2])
    gaps: list[Gap] = []
    client = PTNWebSocketClient(
        "other-key", "127.0.0.1", port, timing=timing, state_dir=tmp_path, on_gap=gaps.append
    )
    received: list[str] = []

    def handle(messages: list[PTNWebSocketMessage]) -> None:
        received.extend(message.new_order.order_uuid for message in messages)
        if len(received) == 2:
            client.stop()
        else:
            trade_later(other, 1)
            other.cut()

    trade_later(other, 0)
    client.run(handle)
    assert received == UUIDS[:2]
    assert len(gaps) == 1


async def test_our_own_server_of_0_1_0_is_resumed_from(
    server: FakeServer, timing: Timing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It ignores the headers and waits for the login frame, as this stand-in does."""
    async with Reader(server, timing, tmp_path, api_key=server.api_key) as client:  # type: ignore[arg-type]
        server.order()
        server.cut()
        server.order()
        await client.received(2)
    assert [message.sequence for message in client.messages] == [101, 102]
    assert client.gaps == []
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text for text in warnings if "retrying" not in text and "connected again" not in text] == []
