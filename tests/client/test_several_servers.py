"""One client of several servers: every order once."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptn_api.client import (
    Difference,
    Gap,
    NoCursorFile,
    PTNWebSocketMessage,
    Recording,
    ServerGap,
    StreamState,
    Timing,
    connect,
    follow,
)
from ptn_api.client.delivery import Dispatcher
from ptn_api.client.servers.merge import REMEMBERED, Coverage, Merge, SeenOrders, identity_of
from ptn_api.client.servers.record import OrderRecord, record_path
from ptn_api.client.testing import FakeServer, fake_order, fake_position
from ptn_api.errors import AuthenticationError, ClientError, SettingsError
from ptn_api.websocket_client import PTNWebSocketClient
from ptn_api.wire.close_codes import REPLACED
from tests.properties import tries
from tests.waiting import PATIENCE_S, until_async


@pytest.fixture
def timing(timing: Timing) -> Timing:
    return msgspec.structs.replace(timing, apart=0.05, fill=30.0, behind=0.2)


@pytest.fixture
def pair() -> Iterator[list[FakeServer]]:
    with FakeServer(heartbeat_ms=100) as one, FakeServer(heartbeat_ms=100, first_sequence=901) as two:
        yield [one, two]


class Bot:
    """A client of several servers, with everything that it reported."""

    def __init__(self, servers: list[FakeServer], timing: Timing, state_dir: Path, **options: Any) -> None:
        self.messages: list[PTNWebSocketMessage] = []
        self.gaps: list[Gap] = []
        self.states: list[StreamState] = []
        self.differences: list[Difference] = []
        self.stream = connect(
            options.pop("urls", [server.url for server in servers]),
            options.pop("api_key", FakeServer.api_key),
            timing=timing,
            state_dir=state_dir,
            on_gap=options.pop("on_gap", self.gaps.append),
            on_state=self.states.append,
            on_difference=self.differences.append,
            **options,
        )

    @property
    def uuids(self) -> list[str]:
        return [message.new_order.order_uuid for message in self.messages]

    @property
    def server_states(self) -> list[str]:
        return [str(state) for state in self.states[-1].servers.values()] if self.states else []

    async def __aenter__(self) -> Bot:
        async def read() -> None:
            async with self.stream as stream:
                async for message in stream:
                    self.messages.append(message)

        self.task = asyncio.create_task(read())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.stream.stop()
        await asyncio.wait_for(self.task, PATIENCE_S)

    async def live(self, count: int = 2) -> Bot:
        await until_async(lambda: self.server_states.count("live") == count, what=f"{count} live servers")
        return self

    async def received(self, uuids: list[str]) -> None:
        await until_async(lambda: len(self.messages) >= len(uuids), what=f"{uuids}, have {self.uuids}")
        assert sorted(self.uuids) == sorted(uuids)

    async def overlapping(self) -> None:
        """Waits until each server covers the time before the other one's end by the margin, so that it could
        fill a gap: they are not live at the same moment."""
        source: Any = self.stream._source
        margin_ms = source._merge._margin_ms

        def overlap() -> bool:
            known = source._coverages
            return min(c.complete for c in known) > max(c.since for c in known) + margin_ms

        await until_async(overlap, what="heartbeats")

    async def decided(self, number: int) -> None:
        """Waits until a gap of the server was found and decided on."""
        source: Any = self.stream._source
        await until_async(lambda: source._coverages[number].holes and not source._merge._pending)

    async def settled(self, *servers: FakeServer) -> None:
        """Waits until everything that the servers have was read."""

        def read() -> bool:
            source: Any = self.stream._source
            places = {s.url: s.connection.cursor.sequence for s in source.servers}
            return all(places[server.url] == server.head for server in servers)

        await until_async(read, what="everything read")
        await asyncio.sleep(0)


def place(*servers: FakeServer, price: float = 100.0, **options: Any) -> str:
    """The same order at each server; returns its uuid."""
    position = fake_position("BTCUSD", [fake_order(0.1, price)])
    for server in servers:
        server.publish(position, **options)
    return str(position["orders"][-1]["order_uuid"])


async def test_every_order_comes_once(pair: list[FakeServer], timing: Timing, tmp_path: Path) -> None:
    """From the server that has it first; both count in their own way."""
    one, two = pair
    async with Bot(pair, timing, tmp_path) as bot:
        await bot.live()
        both = [place(one, two) for _ in range(5)]
        only = [place(one), place(two)]
        await bot.received([*both, *only])
        await bot.settled(one, two)
        assert sorted(bot.uuids) == sorted([*both, *only])
        assert {message.server for message in bot.messages} == {one.url, two.url}
    assert (bot.gaps, bot.differences) == ([], [])
    assert bot.states[-1] == "stopped"


async def test_a_restart_delivers_no_order_twice(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """One server sends them only after the restart, and what both got meanwhile comes once."""
    one, two = pair
    async with Bot(pair, timing, tmp_path) as bot:
        await bot.live()
        first = [place(one) for _ in range(3)]
        await bot.received(first)
    for number, uuid in enumerate(first):
        assert uuid == bot.uuids[number]
    for message in bot.messages:
        two.publish(message.data["position"])
    missed = [place(one, two) for _ in range(3)]
    async with Bot(pair, timing, tmp_path) as again:
        await again.live()
        await again.received(missed)
        await again.settled(one, two)
        assert sorted(again.uuids) == sorted(missed)
        assert all(message.replay for message in again.messages)
    assert again.gaps == []


async def test_an_uncommitted_order_comes_again(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """A bot that stops before it has asked for the next order gets this one again, though another server
    sent it as well."""
    one, two = pair
    options = {"timing": timing, "state_dir": tmp_path}
    async with connect([one.url, two.url], FakeServer.api_key, **options) as stream:
        reading = asyncio.create_task(stream.__anext__())
        await until_async(lambda: one.live_clients == two.live_clients == 1)
        done, open_ = place(one, two), place(one, two)
        assert (await reading).new_order.order_uuid == done
        assert (await stream.__anext__()).new_order.order_uuid == open_
    async with connect([one.url, two.url], FakeServer.api_key, **options) as stream:
        assert (await stream.__anext__()).new_order.order_uuid == open_
        new = place(one, two)
        assert (await stream.__anext__()).new_order.order_uuid == new


async def test_a_new_log_costs_nothing_while_another_server_has_all(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """A gap is told only if no server fills it: with the server, in its own numbers."""
    one, two = pair
    async with Bot(pair, timing, tmp_path) as bot:
        await bot.live()
        await bot.overlapping()
        orders = [place(one, two)]
        await bot.received(orders)
        orders.append(place(two))
        one.replace_log(5_000)
        orders.append(place(one, two))
        await bot.received(orders)
        await bot.decided(0)
        assert bot.gaps == []
        one.replace_log(7_000)
        two.replace_log(8_000)
        await until_async(lambda: len(bot.gaps) >= 2, what="the gaps")
        assert {gap.server for gap in bot.gaps if isinstance(gap, ServerGap)} == {one.url, two.url}
        assert {gap.reason for gap in bot.gaps} == {"epoch"}
        await bot.live()
        orders.append(place(one, two))
        await bot.received(orders)


async def test_a_new_log_while_the_client_is_down_is_filled(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """By the server whose cursor reaches back; the saved coverage tells."""
    one, two = pair
    async with Bot(pair, timing, tmp_path) as bot:
        await bot.live()
        await bot.received([place(one, two)])
        await bot.settled(one, two)
        await bot.overlapping()
    missed = place(one, two)
    one.replace_log(5_000)
    async with Bot(pair, timing, tmp_path) as again:
        await again.live()
        await again.received([missed])
        await again.decided(0)
    assert again.gaps == []


async def test_a_server_in_trouble_shows_and_delays_nothing(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """Refused key, unreachable, silent, evicted, stale: the other server's orders arrive."""
    one, two = pair
    two.keys.clear()
    urls = [one.url, two.url, "ws://127.0.0.1:1"]
    async with Bot(pair, timing, tmp_path, urls=urls, stop_on_auth_error=True) as bot:
        await until_async(lambda: bot.states and bot.states[-1] == "live")
        codes = lambda: {problem.code for problem in bot.states[-1].problems}  # noqa: E731
        await until_async(lambda: codes() >= {"login_refused", "unreachable"}, what="both problems")
        assert all("127.0.0.1:" in problem.sentence for problem in bot.states[-1].problems)
        orders = [place(one, two)]
        await bot.received(orders)
        two.keys.add(FakeServer.api_key)
        await bot.live(2)
        two.deaf = two.mute = True
        await until_async(lambda: "server_silent" in codes() or bot.server_states[1] == "connecting")
        orders.append(place(one, two))
        await bot.received(orders)
        two.deaf = two.mute = False
        two.cut()
        await bot.live(2)
        two.stale = True
        await until_async(lambda: bot.server_states[1] == "stale")
        two.stale = False
        one.close_all(REPLACED)
        orders.append(place(two))
        await bot.received(orders)
    assert bot.gaps == []


async def test_a_server_that_lags_counts_as_behind(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """Until it has sent the orders, or has not for a while."""
    one, two = pair
    async with Bot(pair, timing, tmp_path) as bot:
        await bot.live()
        uuid = place(one)
        behind = lambda: [p for p in bot.states[-1].problems if p.code == "server_behind"]  # noqa: E731
        (problem,) = await until_async(behind, what="behind")
        assert two.url.removeprefix("ws://") in problem.sentence
        two.publish(bot.messages[0].data["position"])
        await until_async(lambda: not behind(), what="not behind")
        assert bot.uuids == [uuid]


async def test_a_slow_server_does_not_delay_the_other(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """Each has its own inbox, and they take turns."""
    one, two = pair
    two.slow = 1.0
    async with Bot(pair, timing, tmp_path) as bot:
        await bot.live()
        slow = asyncio.create_task(asyncio.to_thread(place, two))
        orders = [await asyncio.to_thread(place, one) for _ in range(20)]
        await until_async(lambda: len(bot.messages) >= 20)
        orders.append(await slow)
        await bot.received(orders)
    assert [message.server for message in bot.messages].count(one.url) == 20


async def test_a_heartbeat_during_a_replay_proves_nothing(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """Also if the replay is over when the heartbeat is reached, because the bot was slow."""
    one, two = pair
    options = {"timing": timing, "state_dir": tmp_path}
    async with Bot(pair, timing, tmp_path) as bot:
        await bot.live()
        await bot.received([place(one, two)])
        await bot.settled(one, two)
    missed = [place(two) for _ in range(20)]
    two.slow = 0.03
    async with connect([one.url, two.url], FakeServer.api_key, **options) as stream:
        source: Any = stream._source
        before = source._coverages[1].complete
        await until_async(lambda: source.servers[1].state == "live", what="the end of the replay")
        for uuid in missed:
            assert (await anext(stream)).new_order.order_uuid == uuid
            assert source._coverages[1].complete == before


async def test_another_price_is_told_once(pair: list[FakeServer], timing: Timing, tmp_path: Path) -> None:
    """The first one stands."""
    one, two = pair
    position = fake_position("BTCUSD", [fake_order(0.1, 100.0)])
    corrected = msgspec.json.decode(msgspec.json.encode(position))
    corrected["orders"][0]["price"] = 101.0
    async with Bot([one, two], timing, tmp_path) as bot:
        await bot.live()
        one.publish(position)
        await until_async(lambda: bot.messages)
        two.publish(corrected)
        (difference,) = await until_async(lambda: bot.differences)
        assert difference[0] == two.url
        assert (difference.price, difference.delivered_price) == (101.0, 100.0)
        assert difference.leverage == difference.delivered_leverage == 0.1
        two.publish(corrected)
        await bot.received([position["orders"][0]["order_uuid"]])
        await bot.settled(two)
    assert len(bot.differences) == 1
    assert bot.messages[0].new_order.price == 100.0


async def test_two_addresses_of_one_log_share_a_cursor(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """As of a cluster; neither takes the other one's cursor over, and both resume."""
    one, _ = pair
    urls = [one.url, one.url.replace("127.0.0.1", "localhost")]
    async with Bot(pair, timing, tmp_path, urls=urls) as bot:
        await until_async(lambda: one.live_clients == 2)
        orders = [place(one) for _ in range(3)]
        await bot.received(orders)
    missed = place(one)
    async with Bot(pair, timing, tmp_path, urls=urls) as again:
        await again.received([missed])
        await until_async(lambda: one.live_clients == 2)
        await again.received([missed, place(one)])
    assert again.gaps == bot.gaps == []


async def test_a_key_for_each_server(pair: list[FakeServer], timing: Timing, tmp_path: Path) -> None:
    """Different validators know different keys; with one refused by all servers, the stream ends."""
    one, two = pair
    one.keys, two.keys = {"key-one"}, {"key-two"}
    async with Bot(pair, timing, tmp_path, api_key=["key-one", "key-two"]) as bot:
        await bot.live()
    refused = connect([one.url, two.url], "other", state_dir=tmp_path, timing=timing, stop_on_auth_error=True)
    async with refused as stream:
        with pytest.raises(AuthenticationError, match="refused"):
            await stream.__anext__()


def test_blocking_clients_take_lists_too(pair: list[FakeServer], timing: Timing, tmp_path: Path) -> None:
    """`follow` and PTNWebSocketClient, one after the other, with the same cursors."""
    one, two = pair
    urls = [one.url, two.url]
    with follow(urls, FakeServer.api_key, state_dir=tmp_path, timing=timing) as orders:
        uuids: list[str] = []

        def script() -> None:
            for server in pair:
                server.wait_until_live()
            uuids.extend(place(one, two) for _ in range(2))

        thread = threading.Thread(target=script)
        thread.start()
        got = [next(orders).new_order.order_uuid for _ in range(2)]
        orders.commit()
        thread.join()
        assert got == uuids
    missed = place(one, two)
    got = []
    client = PTNWebSocketClient(FakeServer.api_key, urls, state_dir=tmp_path, timing=timing)

    def handle(messages: list[PTNWebSocketMessage]) -> None:
        got.extend(message.new_order.order_uuid for message in messages)
        client.stop()

    client.run(handle)
    assert got == [missed]
    assert client.uri == ", ".join(urls)


async def test_a_failed_handler_is_reported_in_each_servers_numbers(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """A list may have orders of several servers, which are not one gap."""
    gaps: list[Gap] = []

    def failing(messages: list[PTNWebSocketMessage]) -> None:
        raise ValueError("cannot bear it")

    async with Bot(pair, timing, tmp_path, on_gap=gaps.append) as bot:
        await bot.live()
        await bot.received([place(server) for server in pair])
        dispatcher = Dispatcher(bot.stream, [failing], on_error="skip", retries=0, timing=timing)
        assert await dispatcher.dispatch(bot.messages)
    told = {(gap.server, *gap) for gap in gaps if isinstance(gap, ServerGap)}
    assert told == {(pair[0].url, 0, 2, "handler"), (pair[1].url, 900, 902, "handler")}


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    """With the remedy, before anything is connected."""
    urls = ["ws://a:1", "ws://b:1"]
    for wrong in ([], ["ws://a:1", "ws://a:1"]):
        with pytest.raises(SettingsError, match="several different"):
            connect(wrong, "key", state_dir=tmp_path)
    for same in ("ws://a:1/", "ws://a:1/other", "ws://A:1"):
        with pytest.raises(SettingsError, match="same host and port"):
            connect(["ws://a:1", "ws://b:1", same], "key", state_dir=tmp_path)
    with pytest.raises(SettingsError, match="3 API keys for 2 servers"):
        connect(urls, ["a", "b", "c"], state_dir=tmp_path)
    recording = Recording(tmp_path / "r.ndjson")
    with pytest.raises(SettingsError, match="cursor_store= is for one server"):
        connect(urls, "key", cursor_store=recording)
    recording.close()
    connect(urls, "key", cursor_store=NoCursorFile())
    assert list(tmp_path.glob("orders-*")) == []


async def test_a_newer_client_of_the_same_name_takes_over(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """As with one server: a notebook cell can be run again."""
    older = Bot(pair, timing, tmp_path)
    async with older:
        await older.live()
        async with Bot(pair, timing, tmp_path) as newer:
            with pytest.raises(ClientError, match="newer client"):
                await asyncio.wait_for(asyncio.shield(older.task), PATIENCE_S)
            await newer.live()
            uuid = place(*pair)
            await newer.received([uuid])
            assert not [p for p in newer.stream.problems if p.code == "cursor_not_saved"]
        older.task = asyncio.create_task(asyncio.sleep(0))


async def test_a_gap_is_told_although_a_server_connects_before_the_record_is_read(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """The record may be in use for a while; a server that is new now does not cover the time before."""
    one, two = pair
    async with Bot(pair, timing, tmp_path) as bot:
        await bot.live()
        await bot.received([place(one, two)])
        await bot.settled(one, two)
    place(one)
    one.replace_log(5_000)
    blocking = OrderRecord(record_path(tmp_path, [FakeServer.api_key], ""), [], SeenOrders())
    await blocking.open(0)
    slow = msgspec.structs.replace(timing, cursor=600.0)
    with FakeServer(heartbeat_ms=100, first_sequence=301) as new:
        async with Bot([one, new], slow, tmp_path) as again:
            await until_async(lambda: new.live_clients == 1, what="the new server")
            source: Any = again.stream._source
            await until_async(lambda: source.servers[1].state == "live", what="live")
            blocking.close([])
            await until_async(lambda: bool(again.gaps), what="the gap")
            assert again.gaps[0].reason == "epoch"


async def test_a_cancelled_start_leaves_nothing_open(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """Neither connections nor locks: a client of the same name can start at once."""
    urls = [server.url for server in pair]
    blocking = OrderRecord(record_path(tmp_path, [FakeServer.api_key], ""), [], SeenOrders())
    await blocking.open(0)
    slow = msgspec.structs.replace(timing, cursor=600.0)
    entering = asyncio.create_task(connect(urls, "fake-key", timing=slow, state_dir=tmp_path).__aenter__())
    await until_async(lambda: pair[0].logins and pair[1].logins, what="both connect")
    entering.cancel()
    await asyncio.wait([entering])
    blocking.close([])
    await until_async(lambda: not pair[0].clients and not pair[1].clients, what="disconnected")
    async with Bot(pair, timing, tmp_path) as bot:
        await bot.live()
        await bot.received([place(*pair)])
        assert bot.stream.problems == ()


async def test_a_gap_is_told_again_until_it_was_processed(
    pair: list[FakeServer], timing: Timing, tmp_path: Path
) -> None:
    """A batch ends before a gap: committing the batch must not move the cursor behind the gap."""
    one, two = pair
    gaps: list[Gap] = []
    options = {"timing": timing, "state_dir": tmp_path, "on_gap": gaps.append}
    async with connect([one.url, two.url], FakeServer.api_key, **options) as stream:
        source: Any = stream._source
        waiting = asyncio.create_task(stream.__anext__())
        await until_async(lambda: one.live_clients == two.live_clients == 1)
        place(one)
        first = await waiting
        stream.commit(first)
        saved = source.servers[0]._store
        assert saved._saved.sequence == first.sequence
        place(one)
        batches = stream.batches()
        (second,) = await anext(batches)
        source._merge._untold.append((0, Gap(1, 2, "epoch")))
        assert stream._next_without_waiting() is None
        stream.commit(second)
        assert saved._saved.sequence == first.sequence
        assert gaps == []
        waiting = asyncio.create_task(stream.__anext__())
        await until_async(lambda: bool(gaps))
        place(one)
        assert (await waiting).sequence == second.sequence + 1
        assert saved._saved.sequence == second.sequence


# --- the record -------------------------------------------------------------------------------------------


async def test_the_record_survives_a_torn_and_a_damaged_block(tmp_path: Path) -> None:
    """They are ignored; everything else is read, also what was appended after the first save."""
    path = record_path(tmp_path, ["key"], "")
    seen = SeenOrders()
    record = OrderRecord(path, ["a:1"], seen)
    await record.open(0)
    orders = [(identity_of("miner", str(n)), SeenOrders.pack(n, 100.0 + n, 0.1)) for n in range(5)]
    for order in orders:
        seen.add(*order)
        record.save([order], [Coverage(since=1.0, complete=2.0)])
    assert path.stat().st_mode & 0o777 == 0o600
    content = bytearray(path.read_bytes())
    content[-48 + 20] ^= 1
    path.write_bytes(bytes(content) + b"torn")
    record.close([Coverage(since=1.0, complete=2.0)])
    path.write_bytes(bytes(content) + b"torn")
    again = SeenOrders()
    reader = OrderRecord(path, ["a:1", "b:1"], again)
    assert await reader.open(0) == [(1.0, 2.0), None]
    assert [identity for identity, _ in again] == [identity for identity, _ in orders[:4]]
    assert again.get(orders[0][0]) == (100.0, 0.1)
    assert "key" not in path.name
    other = OrderRecord(path, ["a:1"], SeenOrders())
    await other.open(0)
    assert "pass a different name" in other.trouble
    reader.close([Coverage(), Coverage()])


async def test_the_record_is_bounded(tmp_path: Path) -> None:
    """The oldest orders go, and the file is replaced before it has twice as many blocks."""
    seen = SeenOrders(limit=200)
    record = OrderRecord(tmp_path / "orders.bin", ["a:1"], seen)
    await record.open(0)
    for n in range(5_000):
        order = identity_of("miner", str(n)), SeenOrders.pack(n, 1.0, None)
        seen.add(*order)
        record.save([order], [Coverage()])
        assert (tmp_path / "orders.bin").stat().st_size <= 48 * (2 * 200 + 1_010)
    assert len(seen) == 200
    assert seen.since_ms == 4_800
    record.close([Coverage()])
    assert REMEMBERED == 100_000


async def test_a_record_that_cannot_be_written_is_told_and_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next save writes everything."""
    seen = SeenOrders()
    path = tmp_path / "folder" / "orders.bin"
    record = OrderRecord(path, ["a:1"], seen)
    await record.open(0)
    path.with_suffix(".new").mkdir()
    with caplog.at_level(logging.WARNING):
        for n in range(2):
            order = identity_of("miner", str(n)), SeenOrders.pack(n, 1.0, None)
            seen.add(*order)
            record.save([order], [Coverage()])
    assert "cannot write the record" in record.trouble
    assert len(caplog.records) == 1
    path.with_suffix(".new").rmdir()
    record.save([], [Coverage()])
    assert record.trouble == ""
    record.close([Coverage()])
    again = SeenOrders()
    reader = OrderRecord(path, ["a:1"], again)
    await reader.open(0)
    assert len(again) == 2
    reader.close([Coverage()])


# --- a model of several servers ---------------------------------------------------------------------------


class Model:
    """Servers with logs, some of which fail, and one client of all of them. Times are ms."""

    MARGIN, WAIT = 1_000, 60_000

    def __init__(self, count: int) -> None:
        self.now = 1_000_000.0
        self.logs: list[list[int]] = [[] for _ in range(count)]
        self.read = [0] * count
        self.gap_due = [False] * count
        self.down: list[list[int] | None] = [None] * count
        self.placed = 0
        self.delivered: list[int] = []
        self.gaps: list[Gap] = []
        self.seen = SeenOrders()
        self.coverages = [Coverage() for _ in range(count)]
        self._start()
        for server in range(count):
            self.merge.follow(server, self.now)

    def _start(self) -> None:
        limits = {"margin_ms": self.MARGIN, "wait_ms": self.WAIT, "behind_ms": 30_000}
        self.merge = Merge(self.coverages, self.seen, **limits)

    def restart(self) -> None:
        """The client; its cursors and record are saved."""
        for server, pending in enumerate(self.logs):
            if self.merge.holds(server):
                self.gap_due[server] = True
            assert self.read[server] <= len(pending)
        self.coverages = [Coverage(since=c.unbroken_since, complete=c.complete) for c in self.coverages]
        self._start()

    def order(self) -> None:
        self.placed += 1
        for log, down in zip(self.logs, self.down, strict=True):
            (log if down is None else down).append(self.placed)

    def fetch(self, server: int) -> None:
        if self.down[server] is not None:
            return
        if self.gap_due[server]:
            self.gap_due[server] = False
            self.merge.gap(server, Gap(1, 2, "epoch"), self.now)
        elif self.read[server] < len(self.logs[server]):
            order = self.logs[server][self.read[server]]
            self.read[server] += 1
            if self.merge.order(server, identity_of("m", str(order)), self.now, 1.0, 0.1, self.now).is_new:
                self.delivered.append(order)
        else:
            self.merge.complete(server, self.now, self.now)

    def wipe(self, server: int) -> None:
        self.logs[server], self.read[server], self.gap_due[server] = [], 0, True
        if self.down[server] is not None:
            self.down[server] = []

    def stop(self, server: int) -> None:
        self.down[server] = self.down[server] or []

    def resume(self, server: int) -> None:
        if (missed := self.down[server]) is not None:
            self.down[server] = None
            self.logs[server] += missed

    def finish(self) -> None:
        for server in range(len(self.logs)):
            self.resume(server)
        for _ in range(3):
            self.now += 2 * self.WAIT
            for server, log in enumerate(self.logs):
                for _ in range(len(log) + 2):
                    self.fetch(server)
            while (told := self.merge.next_gap(self.now)) is not None:
                self.gaps.append(told[1])


ACTIONS = ["order", "order", "fetch", "fetch", "fetch", "wipe", "stop", "resume", "restart", "time", "time"]


@tries(300)
@example(2, [("wipe", 1, 1), ("restart", 0, 1), ("fetch", 1, 1)])
@example(2, [("fetch", 0, 1), ("order", 0, 1), ("wipe", 1, 1), ("fetch", 1, 1), ("wipe", 0, 1)])
@example(
    2,
    [("fetch", 0, 1), ("order", 0, 1), ("wipe", 0, 1), ("wipe", 1, 1), ("fetch", 1, 1), ("restart", 0, 1)],
)
@given(
    st.integers(2, 3),
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2), st.integers(1, 5_000)), max_size=60),
)
def test_every_order_comes_once_or_a_gap_is_told(count: int, steps: list[tuple[str, int, int]]) -> None:
    """Whatever the servers and the client do; and nothing is told if one server never fails."""
    for faultless in (False, True):
        model = Model(count)
        for action, number, duration in steps:
            server = number % count
            match action:
                case "order":
                    model.order()
                case "restart":
                    model.restart()
                case "time":
                    model.now += duration
                case "wipe" | "stop" if faultless and server == 0:
                    continue
                case _:
                    getattr(model, action)(server)
        model.finish()
        assert len(model.delivered) == len(set(model.delivered))
        missing = set(range(1, model.placed + 1)) - set(model.delivered)
        assert not missing or model.gaps, missing
        if faultless:
            assert (missing, model.gaps) == (set(), [])


def test_a_server_that_returns_after_a_day_repeats_nothing() -> None:
    """Its old orders are no longer remembered, but another server covered that time."""
    model = Model(2)
    for _ in range(3):
        model.order()
        model.now += 10 * model.MARGIN
        model.fetch(0)
        model.fetch(0)
    model.now += 3 * 24 * 3_600_000
    model.order()
    model.fetch(0)
    model.fetch(0)
    old = 1_000_000 + 5_000
    assert not model.merge.order(1, identity_of("m", "1"), old, 1.0, 0.1, model.now).is_new
    assert model.seen.since_ms > old
    alone = Model(2)
    alone.coverages[0].since = alone.now = math.inf
    assert alone.merge.order(1, identity_of("m", "1"), old, 1.0, 0.1, 1e15).is_new


DAY_MS = 24 * 3_600_000


@pytest.mark.parametrize("jump_ms", [10 * 60_000, 25 * 3_600_000, 400 * DAY_MS])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_was_ahead_loses_no_order_and_no_gap(jump_ms: int, restarted: bool) -> None:
    """What a server covered by the wrong time says nothing about the time that follows the correction."""
    model = Model(2)
    model.order()
    for server in (0, 1):
        model.fetch(server)
    model.now += jump_ms
    for server in (0, 0, 1, 1):
        model.order()
        model.fetch(server)
        model.merge.complete(server, model.now, model.now)
    model.now -= jump_ms - 5_000
    if restarted:
        model.restart()
        model.merge.clock_went_back(model.now)
    for server in (0, 1):
        for _ in range(10):
            model.fetch(server)
    assert sorted(model.delivered) == [*range(1, model.placed + 1)]
    model.now += 5_000
    model.order()
    model.fetch(0)
    model.fetch(1)
    assert model.delivered[-1] == model.placed
    assert len(model.delivered) == model.placed
    # One server loses orders while the other one is away: nobody has them.
    model.now += 10 * model.MARGIN
    model.stop(1)
    model.wipe(0)
    model.fetch(0)
    model.now += 2 * model.WAIT
    assert model.merge.next_gap(model.now) == (0, Gap(1, 2, "epoch"))
