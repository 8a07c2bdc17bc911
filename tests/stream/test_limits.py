"""Limits of the stream, and key changes that affect open connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import struct
import tracemalloc
from collections import Counter
from typing import Any, cast

import picows
import pytest

from ptn_api.access import Grant, KeyRing
from ptn_api.access.usage import Usage
from ptn_api.fanout.connection import Socket
from ptn_api.fanout.counters import StreamCounters
from ptn_api.fanout.hub import Hub
from ptn_api.fanout.options import StreamOptions
from ptn_api.problems import ProblemRegister
from ptn_api.stream.server import _Client
from ptn_api.wire import close_codes
from ptn_api.wire.client_frames import MOST_NAMES, SMALL_FRAME_BYTES
from tests.factories import T0
from tests.hostile.raw import UPGRADE, RawSocket, deflated, frame
from tests.memory_log import MemoryLog
from tests.stream.live import KEY, LiveStream, running, until
from tests.waiting import PATIENCE_S

FORWARDED = {"X-Forwarded-For": "1.1.1.1"}
TOO_MANY = close_codes.TOO_MANY_REQUESTS.code
CLOSED_BY_PICOWS = (frame(b"{}", masked=False), frame(b"", claimed=1 << 30))
"""Its own close code stands: it does not know of limits."""


async def test_too_many_frames_close_their_connection_only() -> None:
    """With "reconnect"; pings and frames before the login count too."""
    async with running(frames_per_minute=10) as live, live.client() as client, live.client() as calm:
        await client.login()
        await calm.login()
        for _ in range(9):
            await client.send(type="ping", timestamp=1)
            assert (await client.receive())["type"] == "pong"
        await client.send(type="ping", timestamp=1)
        assert await client.close_code() == close_codes.TOO_MANY_REQUESTS.code
        assert close_codes.should_return(close_codes.TOO_MANY_REQUESTS.code)
        await calm.send(type="ping", timestamp=1)
        assert (await calm.receive())["type"] == "pong"
        assert live.counters.limited == {"frames": 1}
        assert live.counters.closed[close_codes.TOO_MANY_REQUESTS.code] == 1


async def test_a_flood_after_the_close_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few frames are, since the client's close frame may follow."""
    handled: list[bytes] = []
    handle = _Client.on_ws_frame

    def counted(client: _Client, transport: picows.WSTransport, ws_frame: picows.WSFrame) -> None:
        handled.append(ws_frame.get_payload_as_bytes())
        handle(client, transport, ws_frame)

    monkeypatch.setattr(_Client, "on_ws_frame", counted)
    async with running(frames_per_minute=10) as live, live.client() as calm:
        await calm.login()
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(UPGRADE + b"\r\n" + frame(b'{"type":"ping"}', first=0x89) * 100_000)
        data = b""
        with contextlib.suppress(ConnectionError):  # reset: the server does not read all of it
            while chunk := await asyncio.wait_for(reader.read(1 << 16), PATIENCE_S):
                data += chunk
        writer.close()
        assert struct.pack("!H", TOO_MANY) in data
        await calm.send(type="ping", timestamp=1)
        assert (await calm.receive())["type"] == "pong"
    # The parser finishes what it has read in one turn of the loop.
    assert 10 < len(handled) < 300


async def test_a_flood_of_frames_leaves_turns_of_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is read for long without a pause, before its login or after."""
    turn = 0
    turns: list[int] = []
    handle = _Client.on_ws_frame

    def counted(client: _Client, transport: picows.WSTransport, ws_frame: picows.WSFrame) -> None:
        turns.append(turn)
        handle(client, transport, ws_frame)

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        asyncio.get_running_loop().call_soon(next_turn)

    monkeypatch.setattr(_Client, "on_ws_frame", counted)
    login = json.dumps({"api_key": KEY}).encode()
    async with running(frames_per_minute=0) as live:
        next_turn()
        for first_frame in (b"", frame(login)):
            turns.clear()
            _, writer = await asyncio.open_connection("127.0.0.1", live.port)
            # What arrives together, and what the sender's system holds back until there is room.
            writer.write(UPGRADE + b"\r\n" + first_frame + frame(b"", first=0x8A) * 50_000)
            await until(lambda: len(turns) >= 50_000)
            assert max(Counter(turns).values()) < 300
            writer.transport.abort()


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (frame(b"", claimed=1 << 30), 1009),
        (frame(b" " * 5_000, claimed=100_000), 1009),
        (frame(b"{}", first=0xA1), 1002),
    ],
)
async def test_a_bad_frame_behind_many_others(last: bytes, code: int) -> None:
    """The connection is still read from: its end is noticed at once."""
    async with running(unread_close_ms=60_000) as live:
        sent = frame(b"", first=0x8A) * 150 + last  # more than is parsed in one turn of the loop
        assert await asyncio.to_thread(close_code_after, live.port, sent) == code
        await until(lambda: live.counters.closed.total() == 1)


async def test_too_many_connects_from_an_address_are_closed_with_come_back() -> None:
    """Behind a trusted proxy every client counts separately."""
    async with (
        running(connects_per_minute=2, trusted_proxies="127.0.0.1") as live,
        live.client(additional_headers=FORWARDED) as first,
        live.client(additional_headers=FORWARDED) as second,
        live.client() as unsaid,
        live.client(additional_headers={"X-Forwarded-For": "2.2.2.2"}) as other,
        live.client(additional_headers=FORWARDED) as third,
    ):
        assert await third.close_code() == close_codes.TOO_MANY_REQUESTS.code
        for client in (first, second, unsaid, other):
            assert (await client.login())["status"] == "success"


async def test_an_address_that_guesses_keys_must_wait() -> None:
    """Without an error frame, which existing clients take as final."""
    async with running(failed_logins_per_minute=2, trusted_proxies="127.0.0.1") as live:
        codes = []
        for key in ("wrong", "wrong", "wrong", KEY):
            async with live.client(additional_headers=FORWARDED) as client:
                await client.send(api_key=key)
                codes.append(await client.close_code())
        assert codes == [close_codes.INVALID_KEY.code] * 2 + [close_codes.TOO_MANY_REQUESTS.code] * 2
        async with live.client() as client:
            assert (await client.login())["status"] == "success"
        assert live.counters.limited == {"failed_logins": 2}
        assert live.counters.auth_failures == 2


@pytest.mark.parametrize(
    ("reason", "sent", "code"),
    [
        ("not_json", frame(b"hello"), 4100),
        ("bad_frame", frame(b"[]"), 4100),
        ("no_key", frame(b"{}"), 4100),
        ("too_big", frame(b" " * 4_097), 1009),
        ("too_big", frame(b" " * 4_000, first=0x01) + frame(b" " * 97, first=0x80), 1009),
        ("too_big", frame(b" " * 5_000, claimed=100_000), 1009),
        ("too_big", frame(b"", claimed=1 << 30), 1009),
        ("too_big", frame(deflated(b" " * 4_097), first=0xC1), 1009),
        ("not_deflated", frame(b"\xff" * 100, first=0xC1), 1007),
        ("bad_fragment", frame(b"{}", first=0x80), 1002),
        ("not_a_frame", frame(b"{}", first=0xA1), 1002),
        ("not_a_frame", frame(b"{}", masked=False), 1002),
    ],
)
async def test_a_bad_first_frame_counts_as_a_failed_login(reason: str, sent: bytes, code: int) -> None:
    """Limited by address, and counted by reason."""
    async with running(failed_logins_per_minute=1, trusted_proxies="127.0.0.1") as live:
        codes = [await asyncio.to_thread(close_code_after, live.port, sent) for _ in range(2)]
        assert codes == [code, code if sent in CLOSED_BY_PICOWS else TOO_MANY]
        assert live.counters.bad_logins == {reason: 2}
        async with live.client(additional_headers=FORWARDED) as client:
            await client.send(api_key=KEY)
            assert await client.close_code() == TOO_MANY
        async with live.client(additional_headers={"X-Forwarded-For": "2.2.2.2"}) as client:
            assert (await client.login(KEY))["status"] == "success"


def close_code_after(port: int, sent: bytes) -> int:
    with RawSocket(port, b"permessage-deflate", forwarded=b"1.1.1.1") as raw:
        raw.send(sent)
        return raw.close_code()


async def test_a_large_filter_costs_as_much_as_many_frames() -> None:
    """Every full 4 KiB counts as another frame, however well it was compressed."""
    miners = [f"5Miner{n:042d}" for n in range(MOST_NAMES)]
    cost = (
        1
        + len(json.dumps({"type": "subscribe", "all": True, "sender_timestamp": 5, "miners": miners}))
        // 4_096
    )
    async with running(frames_per_minute=1 + 3 * cost) as live, live.client() as client:
        await client.login(version=2)
        for _ in range(3):
            assert (await client.subscribe(miners=miners))["miners"] == miners
        await client.send(type="subscribe", all=True, sender_timestamp=5, miners=miners)
        assert await client.close_code() == TOO_MANY
        assert live.counters.limited == {"frames": 1}


async def test_a_long_header_is_not_kept() -> None:
    """An open connection holds no more memory for it."""

    async def held(handshake: bytes) -> int:
        tracemalloc.start()
        try:
            async with running() as live, contextlib.AsyncExitStack() as stack:
                for _ in range(100):
                    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
                    stack.callback(writer.close)
                    writer.write(handshake + b"\r\n")
                    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
                gc.collect()
                return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    await held(UPGRADE)  # what is imported or cached only once
    short = await held(UPGRADE)
    assert await held(UPGRADE + b"X-Forwarded-For: " + b"203.0.113.77, " * 500 + b"\r\n") - short < 100_000


async def test_a_loopback_peer_has_only_the_frame_limit() -> None:
    """Its X-Forwarded-For is ignored: it is not a trusted proxy."""
    async with running(failed_logins_per_minute=1, connects_per_minute=1) as live:
        for _ in range(3):
            async with live.client(additional_headers=FORWARDED) as client:
                assert (await client.login("wrong"))["status"] == "error"
        async with live.client(additional_headers=FORWARDED) as client:
            assert (await client.login())["status"] == "success"


async def test_connections_of_an_expired_key_are_closed() -> None:
    """At the next check, although the key file did not change."""
    now = [1_000]
    live = LiveStream()
    live.keys = KeyRing(lambda: now[0])
    live.keys.replace([Grant("alice", KEY, 100, expires_ms=2_000), Grant("bob", "key-of-bob", 100)])
    async with running(live), live.client() as alice, live.client() as bob:
        await alice.login()
        await bob.login("key-of-bob")
        now[0] = 2_000
        assert live.keys.expire()
        assert await alice.close_code() == close_codes.KEY_REVOKED.code
        await bob.send(type="ping", timestamp=1)
        assert (await bob.receive())["type"] == "pong"
        async with live.client() as again:
            assert (await again.login())["status"] == "error"


async def test_a_keys_own_connection_limit_applies_and_changes_without_a_reconnect() -> None:
    """Raising it admits more; lowering it evicts the oldest; a user's old and new key share slots."""
    live = LiveStream()

    def allow(connections: int) -> None:
        keys = (KEY, "next-key-of-alice")
        live.keys.replace([Grant("alice", key, 100, max_connections=connections) for key in keys])

    allow(1)
    async with running(live), contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(live.client())
        await first.login()
        allow(3)
        second = await stack.enter_async_context(live.client())
        third = await stack.enter_async_context(live.client())
        await second.login()
        await third.login("next-key-of-alice")
        await first.send(type="ping", timestamp=1)
        assert (await first.receive())["type"] == "pong"
        allow(2)
        assert (await first.receive())["code"] == "MAX_CONNECTIONS_EXCEEDED"
        assert await first.close_code() == close_codes.REPLACED.code
        assert live.counters.clients == 2
        live.keys.replace([Grant("alice", "next-key-of-alice", 100)])
        assert await second.close_code() == close_codes.KEY_REVOKED.code
        await third.send(type="ping", timestamp=1)
        assert (await third.receive())["type"] == "pong"


async def test_usage_counts_what_was_sent_and_orders_are_timed() -> None:
    """Messages and bytes of every connection; an idle connection counts as seen."""
    usage = Usage()
    live = LiveStream()
    async with running(live, usage=usage), live.client() as client, live.client() as idle:
        await idle.login("key-of-bob")
        await client.login()
        await client.subscribe()
        live.trade(3)
        await client.messages(3)
        await client.connection.close()
        await until(lambda: live.counters.clients == 1)
        await idle.connection.close()
        await until(lambda: live.counters.clients == 0)
    rows = {row.alias: row for row in usage.take()}
    assert (rows["alice"].messages, rows["bob"].messages) == (3, 0)
    assert rows["alice"].sent_bytes > live.counters.sent_bytes > 0
    assert sum(live.counters.lag_seen.counts) == 3


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_up_to_their_limits_are_read(compression: str | None) -> None:
    """4 KiB, or of a version 2 client after its login the limit of filters; a byte more closes with 1009."""

    def padded(size: int, **fields: Any) -> str:
        text = json.dumps(fields)[:-1] + ', "x": "'
        return text + "y" * (size - len(text) - 2) + '"}'

    most = StreamOptions().message_limit_bytes
    async with running() as live:
        for more, result in ((0, "success"), (1, 1009)):
            async with live.client(compression=compression) as client:
                await client.connection.send(padded(SMALL_FRAME_BYTES + more, api_key=KEY))
                assert result == (await client.close_code() if more else (await client.receive())["status"])
            for version, size in ((1, SMALL_FRAME_BYTES), (2, most)):
                async with live.client(compression=compression) as client:
                    await client.login(version=version)
                    await client.connection.send(padded(size + more, type="subscribe", all=True))
                    if more:
                        assert await client.close_code() == 1009
                    else:  # version 2 knows no such field
                        kind = "subscription_status" if version == 1 else "error"
                        assert (await client.receive())["type"] == kind


class Unread:
    """A socket whose client reads what the test says."""

    address, address_group = "", None
    unsent = 0
    closed: close_codes.CloseCode | None = None

    def write(self, data: bytes) -> None: ...
    def unsent_bytes(self) -> int:
        return self.unsent

    def close(self, reason: close_codes.CloseCode) -> None:
        self.closed = reason


def hub_of(counters: StreamCounters, **options: Any) -> Hub:
    return Hub(
        MemoryLog(created_ms=T0),
        KeyRing(),
        options=StreamOptions(**options),
        counters=counters,
        clock=lambda: T0,
        problems=ProblemRegister(),
    )


async def test_unsent_bytes_up_to_the_limit_are_kept() -> None:
    """A byte more closes the connection with "reconnect"."""
    socket, counters = Unread(), StreamCounters()
    hub = hub_of(counters, send_buffer_bytes=1_000)
    connection = hub.connect(cast(Socket, socket))
    connection.congested()
    for socket.unsent, code in ((1_000, None), (1_001, close_codes.SLOW_CONSUMER)):
        connection.check_buffer()
        assert socket.closed == code
    assert counters.slow_closes == 1
    hub.disconnected(connection, close_codes.SLOW_CONSUMER)


async def test_a_client_that_reads_at_all_does_not_stall() -> None:
    """Even if it never catches up with what waits for it, to which heartbeats are added."""
    socket, counters = Unread(), StreamCounters()
    hub = hub_of(counters)
    connection = hub.connect(cast(Socket, socket))
    assert connection.stalled_ms(0) == 0
    connection.congested()
    since = connection.congested_since or 0
    steps = ((0, 900, 0), (5_000, 900, 5_000), (6_000, 800, 0), (7_000, 850, 1_000), (8_000, 849, 0))
    for after_ms, socket.unsent, stalled_ms in steps:
        assert connection.stalled_ms(since + after_ms) == stalled_ms
    connection.drained()
    assert connection.stalled_ms(since + 99_000) == 0
    hub.disconnected(connection, close_codes.SLOW_CONSUMER)
