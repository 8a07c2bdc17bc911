"""Catch-ups under load: every subscriber gets every order once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket

from websockets.exceptions import ConnectionClosed

from ptn_api.wire import close_codes
from tests.factories import order, position, written
from tests.stream.live import Client, LiveStream, running, until
from tests.waiting import PATIENCE_S


async def follow(live: LiveStream, dice: random.Random, cursor: int, until_sequence: int) -> list[int]:
    """Disconnects at random and resumes each time; returns the received sequences in order."""
    got: list[int] = []
    version = dice.choice([1, 2])
    compression = dice.choice([None, "deflate"])
    while (got[-1] if got else cursor) < until_sequence:
        async with live.client(compression=compression) as client:
            last = got[-1] if got else cursor
            await client.login(
                dice.choice(["key-of-alice", "key-of-bob"]), **_resume(version, last, live.log.epoch)
            )
            await client.send(type="subscribe", format="delta" if version == 2 else "full")
            leaving_at = last + dice.randrange(1, 120)
            with contextlib.suppress(ConnectionClosed):
                while (got[-1] if got else cursor) < min(leaving_at, until_sequence):
                    frame = await client.receive()
                    messages = frame.get("messages", [frame] if "sequence" in frame else [])
                    got += [m["sequence"] for m in messages]
    return got


def _resume(version: int, last: int, epoch: str) -> dict[str, object]:
    return {"version": version, "last_sequence": last} | ({"epoch": epoch} if version == 2 else {})


async def test_reconnecting_clients_under_load_see_neither_gap_nor_repeat() -> None:
    """Random reconnects, seeded; orders keep arriving while they resume."""
    total = 1_500
    async with running(max_connections_per_key=50, accepts_per_second=100_000, heartbeat_ms=20) as live:
        start = live.log.head().sequence
        dice = random.Random(7)
        followers = [
            asyncio.create_task(follow(live, random.Random(dice.random()), start, start + total))
            for _ in range(12)
        ]
        while live.log.head().sequence < start + total:
            live.trade(dice.randrange(1, 20))
            await asyncio.sleep(0)
        for follower in followers:
            got = await asyncio.wait_for(follower, PATIENCE_S)
            assert got[:total] == list(range(start + 1, start + total + 1))
        assert live.counters.replays > 0


async def test_a_burst_is_sent_in_batches_of_bounded_size() -> None:
    """At most 50 messages and less than 512 KiB a batch; a single order is sent alone."""
    async with running() as live, live.client(max_size=None) as client:
        await client.login()
        await client.subscribe()
        live.trade(120)
        sizes = []
        while sum(sizes) < 120:
            text = await asyncio.wait_for(client.connection.recv(), PATIENCE_S)
            assert len(text) < 512 * 1024
            sizes.append(text.count('"sequence":'))
        assert sizes == [50, 50, 20]
        padding = "x" * 200_000
        live.append(*(written(position(n, [order(n)], note=padding)) for n in range(1_000, 1_005)))
        sizes = []
        while sum(sizes) < 5:
            text = await asyncio.wait_for(client.connection.recv(), PATIENCE_S)
            assert len(text) < 512 * 1024
            sizes.append(text.count('"sequence":'))
        assert sizes == [2, 2, 1]
        live.trade()
        assert "sequence" in await client.receive()


def stuck_client(live: LiveStream, login: bytes) -> socket.socket:
    """A client with a small window that logs in, subscribes and never reads again."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(True)
    raw.connect(("127.0.0.1", live.port))
    raw.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    for payload in (login, b'{"type":"subscribe","all":true}'):
        raw.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
    return raw


async def test_a_client_that_stops_reading_delays_no_other_and_is_closed() -> None:
    """With "reconnect"; the connection is aborted if the close frame is not read."""
    async with (
        running(send_buffer_bytes=1 << 20, unread_close_ms=100) as live,
        live.client() as client,
        live.client() as second,
    ):
        with contextlib.closing(stuck_client(live, b'{"api_key":"key-of-bob"}')):
            for reader in (client, second):
                await reader.login()
                await reader.subscribe()
            await until(lambda: live.counters.clients == 3)
            start = live.log.head().sequence
            note = "x" * 50_000
            for n in range(1, 81):
                live.append(written(position(n, [order(n)], note=note)))
                for reader in (client, second):
                    assert (await reader.messages(1))[0]["sequence"] == start + n
            await until(lambda: live.counters.clients == 2)
            assert live.counters.slow_closes == 1


async def test_a_replay_waits_for_its_client_and_is_given_up_after_a_stall() -> None:
    """The server buffers no more than one part, and its system less than that."""
    async with running(replay_stall_ms=100, unread_close_ms=100) as live:
        start = live.log.head().sequence
        note = "x" * 50_000
        for n in range(1, 201):
            live.append(written(position(n, [order(n)], note=note)))
        login = b'{"api_key":"key-of-bob","last_sequence":%d}' % start
        with contextlib.closing(stuck_client(live, login)):
            await until(lambda: live.counters.replays == 1)
            await until(lambda: live.counters.slow_closes == 1)
            assert live.counters.sent_bytes < 2_000_000
            await until(lambda: live.counters.clients == 0)


async def test_slow_clients_of_several_users_are_a_problem() -> None:
    """`clients_too_slow`, which heartbeats name. A single user has a slow line."""
    options = {"replay_stall_ms": 100, "unread_close_ms": 100, "heartbeat_ms": 50}
    async with running(**options) as live, live.client() as watcher:
        start = live.log.head().sequence
        note = "x" * 50_000
        for n in range(1, 201):
            live.append(written(position(n, [order(n)], note=note)))
        await watcher.login(version=2)
        for user, problems in ((b"bob", None), (b"bob", None), (b"alice", ["clients_too_slow"])):
            before = live.counters.slow_closes
            login = b'{"api_key":"key-of-%b","last_sequence":%d}' % (user, start)
            with contextlib.closing(stuck_client(live, login)):
                await until(lambda n=before: live.counters.slow_closes == n + 1)  # type: ignore[misc]
            await watcher.send(type="ping", timestamp=1)
            while (await watcher.receive())["type"] != "pong":
                pass
            assert (await watcher.receive()).get("problems") == problems


async def test_a_replay_that_pruning_overtakes_is_closed_not_cut_short() -> None:
    """The client reconnects and learns what is still available."""
    async with running() as live:
        start = live.trade(2).sequence - 2
        live.trade(300)
        async with live.client() as client:
            await client.login(last_sequence=start)
            del live.log._events[:100]
            await client.subscribe()
            assert await client.close_code() == close_codes.REPLAY_OVERTAKEN.code


async def test_a_key_is_checked_again_before_every_part_of_a_replay() -> None:
    """Even if the key ring announces no change."""
    async with running() as live:
        start = live.log.head().sequence
        live.trade(300)
        async with live.client() as client:
            await client.login(last_sequence=start)
            live.keys._holders.clear()
            await client.subscribe()
            assert await client.close_code() == close_codes.KEY_REVOKED.code


async def test_a_second_subscribe_during_a_replay_applies_to_the_rest_of_it() -> None:
    """The replay continues with the new format, then live orders follow."""
    async with running() as live, live.client() as client:
        start = live.log.head().sequence
        head = live.trade(400).sequence
        await client.login(version=2, last_sequence=start, epoch="epoch-1")
        await client.subscribe()
        await client.send(type="subscribe", format="delta")
        got = await _sequences(client, head)
        assert got == list(range(start + 1, head + 1))
        live.trade()
        assert "n_orders" in (await client.messages(1))[0]["data"]


async def _sequences(client: Client, last: int) -> list[int]:
    got: list[int] = []
    while not got or got[-1] < last:
        frame = await client.receive()
        got += [m["sequence"] for m in frame.get("messages", [frame] if "sequence" in frame else [])]
    return got
