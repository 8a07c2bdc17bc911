"""A recording behind the real protocol."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ptn_api.client.arguments import Timing
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.replaying import Replay, ReplayServer
from ptn_api.client.stream import Stream
from ptn_api.errors import InvalidInputError, ServerUnreachableError
from ptn_api.wire.client_session import Gap
from ptn_api.wire.codec import decode
from ptn_api.wire.server_frames import OrderMessage
from tests.client.test_replaying import PAST, message
from tests.factories import T0
from tests.system.follower import Follower


async def follow(
    url: str, tmp_path: Path, n: int, timing: Timing, **options: Any
) -> list[PTNWebSocketMessage]:
    found: list[PTNWebSocketMessage] = []
    async with Stream(url, "whatever", state_dir=tmp_path, timing=timing, **options) as stream:
        while len(found) < n:
            found.append(await anext(stream))
    return found


async def test_any_client_gets_what_was_recorded(tmp_path: Path, timing: Timing) -> None:
    """In one piece: numbers without holes, from the first one on, times as they were."""
    with ReplayServer(Replay(PAST)) as server:
        playing = threading.Thread(target=server.play)
        playing.start()
        found = await follow(server.url, tmp_path, 4, timing)
        playing.join()
    assert [m.sequence for m in found] == [1, 2, 3, 4]
    assert [m.timestamp for m in found] == [T0, T0 + 1_000, T0 + 1_000, T0 + 60_000]
    assert [m.data for m in found] == [m.data for m in Replay(PAST)]


async def test_what_was_sent_can_be_resumed_from(tmp_path: Path, timing: Timing) -> None:
    """The second run goes on after the first."""
    with ReplayServer(Replay(PAST)) as server:
        playing = threading.Thread(target=server.play)
        playing.start()
        first = await follow(server.url, tmp_path, 2, timing)
        playing.join()
        rest = await follow(server.url, tmp_path, 3, timing)
    assert [m.sequence for m in first] == [1, 2]
    assert [m.sequence for m in rest] == [2, 3, 4]


async def test_the_clock_is_that_of_then(tmp_path: Path, timing: Timing) -> None:
    """A client that measures the server's clock finds the orders fresh, and is not put off by their age."""
    stale: list[PTNWebSocketMessage] = []
    with ReplayServer(Replay(PAST[:3])) as server:
        playing = threading.Thread(target=server.play)
        playing.start()
        found = await follow(server.url, tmp_path, 3, timing, max_age_ms=60_000, on_stale=stale.append)
        playing.join()
    assert len(found) == 3
    assert stale == []


def test_an_old_client_is_served() -> None:
    """Protocol version 1, written against the protocol and not against our client."""
    with ReplayServer(Replay(PAST)) as server, Follower(server.url, "whatever") as follower:
        assert server.play() == 4
        follower.wait_for(4)
        assert follower.sequences == [1, 2, 3, 4]


def test_positions_without_orders_cannot_be_served() -> None:
    """A recording in format delta lacks what a full message is made of."""
    text = '{"sequence": 1, "timestamp": 5, "data": {"position": {"miner_hotkey": "a", "position_uuid": "b", '
    text += '"trade_pair": ["BTCUSD"]}, "order": {"order_type": "LONG", "leverage": 1, "price": 1, '
    text += '"processed_ms": 1, "order_uuid": "c"}, "n_orders": 1}}'
    delta = decode(text, OrderMessage)
    with (
        ReplayServer(Replay([delta])) as server,
        Follower(server.url, "whatever"),
        pytest.raises(InvalidInputError, match="delta"),
    ):
        server.play()


def test_nothing_to_serve() -> None:
    """An empty recording is served: nothing comes."""
    with ReplayServer(Replay([])) as server, Follower(server.url, "whatever"):
        assert server.play() == 0


def test_it_waits_for_a_subscriber_until_it_is_stopped() -> None:
    stop = threading.Event()
    stop.set()
    with ReplayServer(Replay(PAST)) as server:
        assert server.play(stop) == 0


def test_a_gap_at_the_beginning() -> None:
    """It leaves the numbers alone, and nobody waits for it."""
    past = [Gap(1, 40, "too_old"), message(41, T0)]
    with ReplayServer(Replay(past)) as server, Follower(server.url, "whatever") as follower:
        server.play()
        follower.wait_for(1)
        assert follower.sequences == [41]


def test_a_port_that_is_taken() -> None:
    with ReplayServer(Replay(PAST)) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ServerUnreachableError, match=str(port)):
            ReplayServer(Replay(PAST), port=port).__enter__()
