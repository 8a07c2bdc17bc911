"""Outages of the log: no client is disconnected, nothing is lost, and afterwards everything flows again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from ptn_api.access.limits import LoginGuard
from ptn_api.errors import LogError, LogReplacedError
from ptn_api.event_log import open_reader, open_writer
from ptn_api.event_log.contract import Event
from ptn_api.event_log.database import log_path
from ptn_api.event_log.sqlite_reader import SqliteReader
from ptn_api.fanout.connection import Connection
from ptn_api.wire import close_codes
from tests.factories import MINER, T0, order, position, written
from tests.memory_log import MemoryLog
from tests.stream.live import KEY, Client, LiveStream, running, until
from tests.stream.test_version_2 import Mirror, take_until_summed


class Outage:
    """A switch that makes every read of a real log fail inside SQLite."""

    def __init__(self, reader: SqliteReader) -> None:
        self._reader = reader
        self.failed_reads = 0

    def start(self) -> None:
        self._reader._db.set_progress_handler(self._interrupt, 1)

    def stop(self) -> None:
        self._reader._db.set_progress_handler(None, 0)

    def _interrupt(self) -> int:
        self.failed_reads += 1
        return 1

    async def lasts(self, reads: int = 4) -> None:
        """Waits until some reads have failed, so that retries are among them."""
        goal = self.failed_reads + reads
        await until(lambda: self.failed_reads >= goal)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[SqliteReader]:
    open_writer(tmp_path, clock=lambda: T0).close()
    with_log = open_reader(tmp_path)
    yield with_log
    with_log.close()


@pytest.fixture
async def live(tmp_path: Path, reader: SqliteReader) -> AsyncIterator[LiveStream]:
    writer = open_writer(tmp_path, clock=lambda: T0)
    writer.baseline([], T0)
    options = {"max_connections_per_key": 50, "accepts_per_second": 100_000, "heartbeat_ms": 40}
    async with running(LiveStream(log=writer, reader=reader, ready=False), **options) as stream:
        yield stream
    writer.close()


@pytest.fixture
def outage(reader: SqliteReader) -> Outage:
    return Outage(reader)


async def _take_messages(client: Client, last: int) -> list[int]:
    """Returns the sequences of all messages up to `last`."""
    sequences: list[int] = []
    while not sequences or sequences[-1] < last:
        frame = await client.receive()
        sequences += [m["sequence"] for m in frame.get("messages", [frame] if "sequence" in frame else [])]
    return sequences


async def _stale(client: Client, stale: bool) -> dict[str, Any]:
    """Returns the next heartbeat with this `stale`."""
    while (frame := await client.receive()).get("stale") is not stale:
        pass
    return frame


async def test_a_login_that_is_tried_again_counts_once(
    live: LiveStream, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one attempt of its address, here and in the other processes of the stream."""
    attempts: list[Any] = []
    tries: list[Any] = []
    record, check = LoginGuard.record_attempt, Connection.key_checked

    def recorded(*args: Any) -> int:
        attempts.append(args)
        return record(*args)

    def checked(*args: Any) -> None:
        tries.append(args)
        check(*args)

    monkeypatch.setattr(LoginGuard, "record_attempt", recorded)
    monkeypatch.setattr(Connection, "key_checked", checked)
    async with live.client() as client:
        outage.start()
        await client.send(api_key=KEY, version=2, last_sequence=-1)
        await until(lambda: len(tries) >= 3)
        outage.stop()
        await until(lambda: live.counters.logins == 1)
        assert len(attempts) == 1


async def test_live_clients_stay_and_get_every_order(live: LiveStream, outage: Outage) -> None:
    """Of both versions, filtered or not. The outage is logged once, and so is its end."""
    with capture_logs() as lines:
        async with live.client() as old, live.client() as new, live.client() as chosen, live.client() as idle:
            await old.login()
            await idle.login(version=2)
            await old.subscribe()
            for client, fields in ((new, {"updates": True}), (chosen, {"miners": [MINER]})):
                await client.login(version=2)
                await client.subscribe(**fields)
            start = live.trade(3).sequence - 3
            for client in (old, new, chosen):
                assert await _take_messages(client, start + 3) == [start + 1, start + 2, start + 3]
            outage.start()
            live.trade(5)
            await outage.lasts()
            live.trade(5)
            outage.stop()
            for client in (old, new, chosen):
                assert await _take_messages(client, start + 13) == list(range(start + 4, start + 14))
            await idle.send(type="ping", timestamp=1)
            await idle.next("pong")
        await until(lambda: live.counters.clients == 0)
    assert [line["log_level"] for line in lines if line["event"] == "log_unreadable"] == ["error"]
    assert sum(line["event"] == "log_readable_again" for line in lines) == 1
    assert {line["code"] for line in lines if line["event"] == "connection_closed"} == {1000}


async def test_a_catch_up_continues_where_it_was(live: LiveStream, outage: Outage) -> None:
    """After an outage between two of its parts."""
    start = live.log.head().sequence
    head = live.append(*(written(position(n, [order(n)])) for n in range(10_000, 11_000))).sequence
    async with live.client() as client:
        await client.login(last_sequence=start)
        await client.subscribe()
        sequences = [message["sequence"] for message in await client.messages(1)]
        outage.start()
        await outage.lasts()
        assert live.counters.deliveries < 1_000
        outage.stop()
        live.trade()
        sequences += await _take_messages(client, head + 1)
        assert sequences == list(range(start + 1, head + 2))


async def test_a_login_and_its_subscribe_wait_for_the_log(live: LiveStream, outage: Outage) -> None:
    """Frames sent meanwhile are answered in order."""
    start = live.trade(3).sequence - 3
    async with live.client() as old, live.client() as new:
        outage.start()
        await old.send(api_key=KEY, last_sequence=start)
        await old.send(type="subscribe", all=True)
        await new.send(api_key=KEY, version=2, last_sequence=start, epoch=live.log.epoch)
        await new.send(type="subscribe", updates=True)
        await new.send(type="ping", timestamp=7)
        await outage.lasts(12)
        outage.stop()
        for client in (old, new):
            assert (await client.receive())["current_sequence"] == start
            assert (await client.next("subscription_status"))["action"] == "subscribe"
        assert (await new.next("resumed"))["after"] == start
        kinds = {(await new.receive()).get("type") for _ in range(2)}
        while not {"pong", "batch"} <= kinds:  # heartbeats may come in between
            kinds.add((await new.receive()).get("type"))
        assert await _take_messages(old, start + 3) == [start + 1, start + 2, start + 3]


async def test_a_subscribe_that_resumes_waits_and_nothing_is_missed(live: LiveStream, outage: Outage) -> None:
    """Orders and position changes since the client's snapshot; its mirror agrees with the checksum."""
    live.append(written(position(1, [order(1)])))
    snapshot = live.log.head()
    mirror = Mirror()
    for logged in live.log.positions():
        mirror.load(logged.text)
    live.append(written(position(1, [order(1, price=7.0)])))
    async with live.client() as client:
        await client.login(version=2, last_sequence=snapshot.sequence, epoch=live.log.epoch)
        outage.start()
        await client.send(type="subscribe", updates=True, revision=snapshot.revision)
        await client.send(type="ping", timestamp=7)
        await outage.lasts()
        live.append(written(position(2, [order(2)])))
        outage.stop()
        await client.next("subscription_status")
        await client.next("resumed")
        while (frame := await client.receive()).get("type") != "pong":
            mirror.take(frame)
        await take_until_summed(client, mirror, live)


async def test_heartbeats_continue_and_turn_stale_in_a_long_outage(live: LiveStream, outage: Outage) -> None:
    """They still state what was sent. The end of the outage is announced at once."""
    async with live.client() as client:
        await client.login(version=2)
        await client.subscribe()
        head = live.trade(2).sequence
        await client.messages(2)
        outage.start()
        live.trade()
        assert (await _stale(client, True))["head"] == head
        outage.stop()
        assert (await client.messages(1))[0]["sequence"] == head + 1
        assert (await _stale(client, False))["head"] == head + 1


async def test_a_replaced_log_ends_the_stream_with_come_back(tmp_path: Path) -> None:
    """The stream's state belongs to another log; a retry would not help."""
    writer = open_writer(tmp_path, clock=lambda: T0)
    writer.baseline([], T0)
    reader = open_reader(tmp_path)
    with pytest.raises(LogReplacedError):
        stream = LiveStream(log=writer, reader=reader, ready=False)
        async with running(stream) as live, live.client() as client:
            await client.login()
            await client.subscribe()
            log_path(tmp_path).unlink()
            assert await client.close_code() == close_codes.SHUTTING_DOWN.code
    reader.close()
    writer.close()


class DamagedLog(MemoryLog):
    """A log with events that can never be read."""

    def __init__(self) -> None:
        super().__init__(created_ms=T0, epoch="epoch-1")
        self.damaged = 0

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        if after < self.damaged:
            raise LogError("damaged", code="corrupt")
        return super().read(after, limit, orders=orders)


async def test_only_a_catch_up_that_cannot_continue_is_given_up() -> None:
    """All other reads work: its client is closed with "reconnect", the others are served."""
    log = DamagedLog()
    with capture_logs() as lines:
        async with (
            running(LiveStream(log=log), replay_stall_ms=300) as live,
            live.client() as client,
            live.client() as other,
        ):
            start = log.head().sequence
            await other.login()
            await other.subscribe()
            live.trade(5)
            await other.messages(5)
            log.damaged = start + 5
            await client.login(version=2, epoch=log.epoch, last_sequence=start)
            await client.subscribe()
            assert await client.close_code() == close_codes.INTERNAL_ERROR.code
            live.trade()
            assert len(await other.messages(1)) == 1
    assert sum(line["event"] == "log_unreadable" for line in lines) == 1


async def test_a_login_is_closed_with_come_back_when_the_outage_outlasts_it() -> None:
    """Without an error frame, which existing clients take as final."""

    class Headless(MemoryLog):
        def floor(self) -> int:
            raise LogError("damaged", code="corrupt")

    log = Headless(created_ms=T0)
    log.baseline([], T0)
    stream = LiveStream(log=log, ready=False)
    async with running(stream, auth_timeout_ms=2_500) as live, live.client() as client:
        await client.send(api_key=KEY)
        assert await client.close_code() == close_codes.INTERNAL_ERROR.code
        assert live.counters.clients == 0


async def test_logins_before_the_first_successful_read_are_closed_with_come_back(
    tmp_path: Path, reader: SqliteReader, outage: Outage
) -> None:
    """A stream that starts during an outage serves as soon as the outage ends."""
    writer = open_writer(tmp_path, clock=lambda: T0)
    writer.baseline([], T0)
    outage.start()
    async with running(LiveStream(log=writer, reader=reader, ready=False)) as live:
        async with live.client() as client:
            await client.send(api_key=KEY)
            assert await client.close_code() == close_codes.NOT_READY.code
        await outage.lasts()
        outage.stop()
        answer: dict[str, Any] = {}
        while not answer:
            async with live.client() as client:
                with contextlib.suppress(ConnectionClosed):
                    answer = await client.login()
        assert answer["status"] == "success"
    writer.close()
