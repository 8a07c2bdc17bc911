"""GET /stream: the stream's messages as Server-Sent Events."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.access.usage import Usage
from ptn_api.event_log.contract import PositionRemoved
from ptn_api.fanout.event_stream import EventCursor, EventStream, read_cursor
from ptn_api.fanout.options import StreamOptions
from ptn_api.wire import close_codes
from tests.events import Event, Events, events
from tests.factories import BTCUSD, EURUSD, MINER, OTHER_MINER, order, position, uuid, written
from tests.rest.serving import NOW, Served, filled_log, serving
from tests.stream.live import KEY, Client, LiveStream, running
from tests.stream.test_presence import Network, Node
from tests.system.certificates import contexts
from tests.waiting import PATIENCE_S, until_async

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


def test_a_cursor_is_read_strictly() -> None:
    """With and without a revision; numbers fit into 64 bits."""
    assert read_cursor("e1:5:7") == EventCursor("e1", 5, 7)
    assert read_cursor("e1:5") == EventCursor("e1", 5)
    for text in (
        "",
        "e1",
        "e1:",
        ":5:7",
        "e1:5:",
        "e1:5:7:9",
        "e1:5:7\n",
        "e1:+5:7",
        "e1:٥:7",
        "e1:" + "9" * 19,
    ):
        assert read_cursor(text) is None


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=nonsense", "after"),
        ("after=e1:5&updates=true", "after"),
        ("format=xml", "format"),
        ("updates=maybe", "updates"),
        ("trade_pair=NOPE", "trade_pair"),
        ("miners=5A", "miners"),
        ("miner=" + "x" * 65, "miner"),
        ("miner=" + ",".join("x" * 2_049), "miner"),
    ],
)
async def test_a_bad_parameter_is_an_error(served: Served, query: str, parameter: str) -> None:
    """A stream that cannot be what the client meant does not begin."""
    response = await served.get(f"/stream?{query}")
    assert (response.status_code, response.json()["parameter"]) == (400, parameter)


async def test_who_may_have_a_stream(served: Served) -> None:
    """The key is in the header, of tier 100."""
    assert (await served.get("/stream", None)).status_code == 401
    assert (await served.get("/stream?key=k100&api_key=k100", None)).status_code == 401
    in_body = await served.ask("GET", "/stream", None, b'{"api_key": "k100"}')
    assert in_body.status_code == 401
    response = await served.get("/stream", "k50")
    assert (response.status_code, response.json()["code"]) == (403, "insufficient_tier")
    async with events(served.client, authorization="k100") as stream:
        assert (await stream.next()).kind == "heartbeat"


async def test_head_has_the_headers_only(served: Served) -> None:
    """No stream is opened for it."""
    response = await served.ask("HEAD", "/stream")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-store"
    assert served.counters.events.logins == 0


async def test_unknown_miners_are_named_in_a_header(served: Served) -> None:
    """As in /messages."""
    trade(served)
    async with events(served.client, f"/stream?miner={MINER},mis%0d%0aspelt") as stream:
        assert stream.response.headers["x-ptn-unknown-miners"] == "mis%0D%0Aspelt"
    async with events(served.client, f"/stream?miner={MINER}") as stream:
        assert "x-ptn-unknown-miners" not in stream.response.headers


async def test_updates_and_removals(served: Served) -> None:
    """An id has the new revision only once everything up to there was sent, removals included."""
    trade(served, 2)
    start = served.log.head()
    changed = position(100, [order(100, at=NOW + 100)], current_return=1.5)
    async with events(served.client, "/stream?updates=true") as stream:
        await stream.next("heartbeat")
        served.log.append([written(changed)], NOW + 300)
        event = await stream.next("position")
        assert event.data["position"]["current_return"] == 1.5
        assert event.id[1:] == (start.sequence, served.log.head().revision)
        served.log.append([PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(101))], NOW + 301)
        event = await stream.next("removed")
        assert event.data["positions"] == [[MINER, uuid(101)]]
    after = f"{served.log.epoch}:{start.sequence}:{start.revision}"
    async with events(served.client, f"/stream?updates=true&after={after}") as stream:
        first, last = await stream.next("position"), await stream.next("removed")
        assert first.id[2] == start.revision
        assert last.id[2] == served.log.head().revision


async def test_the_end_of_the_server_asks_for_a_reconnect() -> None:
    """With a time; the response ends as a whole."""
    async with serving(filled_log()) as served, events(served.client) as stream:
        await stream.next("heartbeat")
        await served.stopped()
        with pytest.raises(EOFError):
            await stream.next()
        assert stream.retry_ms == 1_000
        assert stream.comments == [close_codes.SHUTTING_DOWN.reason]


async def test_a_revoked_key_ends_its_streams(served: Served) -> None:
    """At once; the next request is refused."""
    async with events(served.client) as stream, events(served.client, key="k200") as other:
        await stream.next("heartbeat")
        served.keys.replace([("user200", "k200", 200)])
        assert await stream.end() == []
        assert stream.comments == [close_codes.KEY_REVOKED.reason]
        assert (await served.get("/stream")).status_code == 401
        trade(served)
        assert (await other.next("order")).id[1] == served.log.head().sequence


async def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    """Also while nothing is sent."""
    async with events(served.client) as stream:
        await stream.next("heartbeat")
        assert served.counters.events.clients == 1
    await until_async(lambda: served.counters.events.clients == 0)
    await until_async(lambda: served.counters.events.closed[1006] == 1)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_reader_that_is_too_slow_is_ended(run: Any) -> None:
    """It is a problem once it happens to several users; a reader in time is unaffected."""

    async def work() -> None:
        stream_options = {"send_buffer_bytes": 20_000}
        async with serving(filled_log(), stream=stream_options) as served, events(served.client) as prompt:
            sockets = []
            for key in ("k100", "k200"):
                raw = socket.socket()
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                raw.connect(("127.0.0.1", served.port))
                raw.sendall(f"GET /stream HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n".encode())
                sockets.append(raw)
            counters, n = served.counters.events, 0
            await until_async(lambda: counters.clients == 3)
            while counters.slow_closes < 2:
                n += 1
                trade(served, first=1_000 + n, padding="x" * 20_000)
                assert (await prompt.next("order")).id[1] == served.log.head().sequence
            await until_async(lambda: counters.closed[close_codes.SLOW_CONSUMER.code] == 2)
            health = (await served.get("/health", None)).json()
            assert health["details"]["clients_too_slow"]["count"] == 2
            for raw in sockets:
                raw.close()

    run(work())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_stream_over_tls(run: Any, tmp_path: Path) -> None:
    """Events arrive at once, and so does the end."""

    async def work() -> None:
        client, server = contexts(tmp_path)
        async with serving(filled_log(), tls=server) as served:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, ssl=client, server_hostname="localhost"
            )
            writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\nAuthorization: k100\r\n\r\n")
            for end_of in (b"\r\n\r\n", b"\n\n"):  # the response's head, and the first event
                await asyncio.wait_for(reader.readuntil(end_of), PATIENCE_S)
            trade(served)
            event = await asyncio.wait_for(reader.readuntil(b"\n\n"), PATIENCE_S)
            assert event.startswith(b"event: order\n")
            await served.stopped()
            end = await asyncio.wait_for(reader.read(), PATIENCE_S)
            assert end == b"retry: 1000\n: server is shutting down\n\n"
            writer.close()

    run(work())


async def test_the_sixth_connection_of_a_user_evicts_the_oldest_of_either_kind() -> None:
    """Streams in REST and sockets in the stream's process share the limit, in the order of their logins."""
    network, live = Network(), LiveStream(log=filled_log(), ready=False)
    async with (
        serving(live.log, keys=live.keys, peers=Node("rest", network), stream={"presence_ms": 50}) as served,
        running(live, peers=Node("stream", network), presence_ms=50),
        contextlib.AsyncExitStack() as stack,
    ):

        async def open_socket() -> Client:
            client = await stack.enter_async_context(live.client())
            assert (await client.login(KEY))["status"] == "success"
            return client

        async def open_stream() -> Events:  # ended once it is no longer referred to
            stream = await stack.enter_async_context(events(served.client, key=KEY))
            await stream.next("heartbeat")
            return stream

        def total() -> int:
            return live.counters.clients + served.counters.events.clients

        oldest, second = await open_stream(), await open_socket()
        kept = [await open_stream(), await open_socket(), await open_stream()]
        await until_async(lambda: total() == 5)
        await open_socket()
        assert await oldest.end() == []
        assert oldest.comments[-1] == close_codes.REPLACED.reason
        kept.append(await open_stream())
        assert await second.close_code() == close_codes.REPLACED.code
        await until_async(lambda: total() == len(kept) + 1)
        assert (live.counters.evictions, served.counters.events.evictions) == (1, 1)


async def test_a_stream_is_neither_idle_nor_a_slow_download() -> None:
    """It outlives the time after which idle connections end, the minimum rate and a flood of connections."""
    options = {"rate_window_ms": 20, "minimum_rate": 1_000_000, "max_rest_connections": 3}
    async with serving(filled_log(), stream=QUICK, **options) as served, events(served.client) as stream:
        flood = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(12)]
        for _ in range(5):
            await stream.next("heartbeat")
        trade(served)
        assert (await stream.next("order")).id[1] == served.log.head().sequence
        assert served.counters.limited["connections"] > 0
        for _, writer in flood:
            writer.close()


async def test_what_is_sent_counts_as_usage() -> None:
    """Messages and bytes of the stream, one request."""
    usage = Usage()
    async with serving(filled_log(), usage=usage) as served:
        async with events(served.client) as stream:
            await stream.next("heartbeat")
            trade(served, 3)
            await stream.orders(3)
        await until_async(lambda: served.counters.requests["/stream", "200", "identity"] == 1)
        rows = usage.take()
        assert sum(row.requests for row in rows) == 1
        assert sum(row.messages for row in rows) == 3
        assert sum(row.sent_bytes for row in rows) > 1_000


async def test_what_follows_the_request_is_ignored(served: Served) -> None:
    """The response ends with the connection, for HTTP/1.0 too, so a pipelined request cannot be answered."""
    for version in ("1.1", "1.0"):
        request = f"GET /stream HTTP/{version}\r\nHost: x\r\nAuthorization: k100\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(request.encode() + b"GET /me HTTP/1.1\r\nHost: x\r\nAuthorization: k100\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert b"connection: close" in head
        assert b"transfer-encoding" not in head
        served.keys.replace([("user200", "k200", 200)])
        rest = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert rest.startswith(b"event: heartbeat")
        assert b"HTTP/1.1" not in rest
        served.keys.replace([("user100", "k100", 100)])
        writer.close()


async def test_a_cursor_ahead_waits_for_this_machines_copy() -> None:
    """503 if the copy stays behind; everything once it has the rest; a gap if it is complete without it."""
    log = filled_log()
    async with serving(log, stream={"behind_wait_ms": 200}) as served:
        log.behind_ms = lambda: None  # type: ignore[method-assign,assignment]
        ahead = cursor_of(served, log.head().sequence + 2)
        response = await served.get("/stream", last_event_id=ahead)
        assert (response.status_code, response.json()["code"]) == (503, "behind")
        assert int(response.headers["retry-after"]) > 0
    async with serving(log, stream={"behind_wait_ms": 60_000}) as served:
        asked: list[None] = []
        log.behind_ms = lambda: asked.append(None)  # type: ignore[method-assign,assignment,func-returns-value]
        waiting = asyncio.create_task(_first_events(served, 2, last_event_id=ahead))
        await until_async(lambda: asked)
        trade(served, 3)
        beat, event = await waiting
        assert (beat.kind, event.kind) == ("heartbeat", "order")
        assert event.id[1] == log.head().sequence
        log.behind_ms = lambda: 0  # type: ignore[method-assign,assignment]
        [gap] = await _first_events(served, 1, last_event_id=cursor_of(served, log.head().sequence + 9))
        assert (gap.kind, gap.data["reason"]) == ("gap", "future")


async def _first_events(served: Served, count: int, **headers: str) -> list[Event]:
    async with events(served.client, **headers) as stream:
        return [await stream.next() for _ in range(count)]


# --- beside the socket ------------------------------------------------------------------------------------

FILTERS = st.fixed_dictionaries(
    {
        "miner": st.sampled_from([[], [MINER], [MINER, OTHER_MINER], ["5Nobody"]]),
        "trade_pair": st.sampled_from([[], ["BTCUSD"], ["eur/usd"], ["BTCUSD", "EURUSD"]]),
        "format": st.sampled_from(["full", "delta"]),
        "updates": st.booleans(),
    }
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["order", "refresh", "remove"]),
        st.integers(1, 4),
        st.sampled_from([MINER, OTHER_MINER]),
    ),
    max_size=8,
)


class Both:
    """A log with both servers, and what happens in it."""

    def __init__(self, served: Served, live: LiveStream) -> None:
        self.served, self.live, self.log = served, live, live.log
        self._orders: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._changes = 0

    def take(self, steps: list[tuple[str, int, str]]) -> None:
        for kind, n, miner in steps:
            self._changes += 1
            now, key = NOW + self._changes, (miner, n)
            number = n if miner == MINER else n + 10
            if kind == "remove":
                self._orders.pop(key, None)
                self.log.append([PositionRemoved(miner_hotkey=miner, position_uuid=uuid(number))], now)
                continue
            orders = self._orders.setdefault(key, [])
            if kind == "order" or not orders:
                orders.append(order(self._changes, at=now))
            pair = BTCUSD if n % 2 else EURUSD
            body = position(number, orders, miner=miner, trade_pair=pair, current_return=1 + now % 100 / 100)
            self.log.append([written(body)], now)

    def clients(self) -> tuple[int, int]:
        return self.served.counters.events.clients, self.live.counters.clients


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    live = LiveStream(log=filled_log(), ready=False)
    async with (
        serving(live.log, keys=live.keys, stream={"heartbeat_ms": 20}, requests_per_minute=0) as served,
        running(live, heartbeat_ms=20),
    ):
        yield Both(served, live)


async def _up_to_head(log: Any, read: Callable[[], Awaitable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the messages up to the heartbeat that confirms everything; batches are taken apart."""
    head, found = log.head(), []
    while True:
        frame = await read()
        if frame.get("type") != "heartbeat":
            found += frame.get("messages", [frame])
        elif frame["head"] >= head.sequence and frame["revision"] >= head.revision:
            return [frame for frame in found if frame.get("type") != "resumed"]


@given(filters=FILTERS, missed=STEPS, live_steps=STEPS, resumes=st.booleans())
async def test_events_are_the_sockets_messages(
    both: Both, filters: dict[str, Any], missed: Any, live_steps: Any, resumes: bool
) -> None:
    """For the same filters and cursor: the same messages in the same order, replayed and live."""
    log, start = both.log, both.log.head()
    both.take(missed)
    login = {"last_sequence": start.sequence, "epoch": log.epoch} if resumes else {}
    subscribe = {"format": filters["format"], "updates": filters["updates"]}
    query = [("format", filters["format"]), ("updates", str(filters["updates"]).lower())]
    for name in ("miner", "trade_pair"):
        if filters[name]:
            subscribe[name + "s"] = filters[name]
            query.append((name, ",".join(filters[name])))
    if resumes:
        query.append(("after", f"{log.epoch}:{start.sequence}:{start.revision}"))
        if filters["updates"]:
            subscribe["revision"] = start.revision
    async with (
        both.live.client() as client,
        events(both.served.client, f"/stream?{urlencode(query)}", key=KEY) as stream,
    ):
        await client.login(KEY, version=2, **login)
        await client.subscribe(**subscribe)

        async def event() -> dict[str, Any]:
            return (await stream.next()).data

        replayed = await _up_to_head(log, client.receive)
        assert await _up_to_head(log, event) == replayed
        both.take(live_steps)
        live = await _up_to_head(log, client.receive)
        assert await _up_to_head(log, event) == live
        if resumes and not filters["miner"] and not filters["trade_pair"]:
            steps = [step for step in missed if step[0] == "order"]
            assert len([frame for frame in replayed if "sequence" in frame]) >= len(steps)
    await until_async(lambda: both.clients() == (0, 0))


@given(missed=STEPS, cut=st.integers(0, 20))
async def test_a_stream_can_be_resumed_from_each_of_its_events(both: Both, missed: Any, cut: int) -> None:
    """No order is lost or repeated; of the position changes that follow, none is lost."""
    start = both.log.head()
    both.take(missed)

    async def read(cursor: str) -> list[Event]:
        head, found = both.log.head(), []
        path = f"/stream?updates=true&format=delta&after={cursor}"
        async with events(both.served.client, path, key=KEY) as stream:
            while True:
                found.append(await stream.next())
                if found[-1].kind == "heartbeat" and found[-1].id[1:] == (head.sequence, head.revision):
                    break
        await until_async(lambda: both.clients() == (0, 0))
        return found

    def orders(found: list[Event]) -> list[int]:
        return [event.data["sequence"] for event in found if event.kind == "order"]

    def changes(found: list[Event]) -> list[Any]:
        return [event.data for event in found if event.kind in ("position", "removed")]

    whole = await read(f"{both.log.epoch}:{start.sequence}:{start.revision}")
    cut = min(cut, len(whole) - 1)
    rest = await read(whole[cut].cursor)
    assert orders(whole) == list(range(start.sequence + 1, both.log.head().sequence + 1))
    assert orders(whole[: cut + 1]) + orders(rest) == orders(whole)
    assert all(change in changes(rest) for change in changes(whole[cut + 1 :]))


def test_a_client_that_has_just_left_ends_nothing() -> None:
    """The socket is closed before the response is cancelled, and orders are sent until then."""

    async def check() -> None:
        ours, theirs = socket.socketpair()
        lost = asyncio.Event()

        class Ending(asyncio.Protocol):
            def connection_lost(self, _: Exception | None) -> None:
                lost.set()

        transport, _ = await asyncio.get_running_loop().create_unix_connection(Ending, sock=ours)
        hub = SimpleNamespace(options=StreamOptions(), connect=lambda _: SimpleNamespace())
        stream = EventStream(hub, "epoch", "127.0.0.1")  # type: ignore[arg-type]
        stream._transport = transport
        theirs.close()
        transport.abort()
        await lost.wait()
        await asyncio.sleep(0)  # the handle is closed after the callback
        stream.write(b"data: 1\n\n")
        assert stream.unsent_bytes() == 0
        stream.close(close_codes.SHUTTING_DOWN)

    uvloop.run(check())
