"""The fake server and the real one in the same tests, and the fake server's own features."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from websockets.asyncio.client import connect as open_socket

from ptn_api.client.delivery import follow
from ptn_api.client.stream import connect
from ptn_api.client.testing import FakeServer, fake_order, fake_position, quick_timing
from ptn_api.errors import AuthenticationError
from ptn_api.wire.client_session import Gap
from tests.factories import MINER, OTHER_MINER, T0, order, position
from tests.stream.live import KEY, Client, LiveStream, running
from tests.waiting import PATIENCE_S, until, until_async

LOW_KEY = "key-of-carl"


class Server(Protocol):
    """The interface that the tests need; the log starts empty, the clock stands near T0."""

    @property
    def url(self) -> str: ...

    @property
    def epoch(self) -> str: ...

    def trade(self, count: int = 1, *, late: bool = False, **fields: Any) -> int:
        """Publishes that many positions with one order each; returns the last sequence."""
        ...

    @property
    def head(self) -> int: ...

    @property
    def floor(self) -> int: ...

    def set_stale(self) -> None: ...


class Real:
    def __init__(self, live: LiveStream) -> None:
        self._live = live
        self.url = f"ws://127.0.0.1:{live.port}"
        self.epoch = live.log.epoch

    @property
    def head(self) -> int:
        return self._live.log.head().sequence

    @property
    def floor(self) -> int:
        return self._live.log.floor()

    def trade(self, count: int = 1, *, late: bool = False, **fields: Any) -> int:
        if late:
            self._live.now_ms += 3_600_000
        return self._live.trade(count, **fields).sequence

    def set_stale(self) -> None:
        from ptn_api.event_log.contract import SourceStatus

        self._live.log.set_source(SourceStatus(swept_ms=T0, stale=True))


class Fake:
    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._count = 0
        self.url = server.url

    @property
    def epoch(self) -> str:
        return self._server._log.epoch

    @property
    def head(self) -> int:
        return self._server.head

    @property
    def floor(self) -> int:
        return self._server._log.oldest

    def trade(self, count: int = 1, *, late: bool = False, **fields: Any) -> int:
        for _ in range(count):
            self._count += 1
            self._server.publish(position(self._count, [order(self._count)], **fields), late=late)
        return self._server.head

    def set_stale(self) -> None:
        self._server.stale = True


@contextlib.asynccontextmanager
async def _real() -> AsyncIterator[Server]:
    async with running(heartbeat_ms=100) as live:
        yield Real(live)


@contextlib.asynccontextmanager
async def _fake() -> AsyncIterator[Server]:
    with FakeServer(heartbeat_ms=100, first_sequence=1_760_000_001) as server:
        server.keys = {KEY}
        server.low_keys = {LOW_KEY}
        yield Fake(server)


@pytest.fixture(params=["real", "fake"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with {"real": _real, "fake": _fake}[request.param]() as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with open_socket(server.url) as socket:
        yield Client(socket)


async def no_order_comes(client: Client) -> None:
    """Waits for three pongs and allows nothing but heartbeats before them."""
    for _ in range(3):
        await client.send(type="ping", timestamp=1)
        while (frame := await client.receive())["type"] != "pong":
            assert frame["type"] == "heartbeat", frame


# --- login ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "expected", "code"),
    [
        ({"api_key": "nobody"}, "Invalid API key. Authentication failed.", 4101),
        ({}, "Authentication required. Please provide an API key.", 4100),
        (
            {"api_key": LOW_KEY},
            "WebSocket connections require tier 100 access. Please upgrade your API key.",
            4102,
        ),
    ],
)
async def test_a_bad_key_is_answered_and_closed(
    client: Client, frame: dict[str, Any], expected: str, code: int
) -> None:
    """With the documented message, and a close code that forbids a retry."""
    await client.send(**frame)
    answer = await client.receive()
    assert (answer["status"], answer["message"]) == ("error", expected)
    assert await client.close_code() == code


async def test_a_malformed_first_frame_is_closed_without_an_answer(client: Client) -> None:
    """As existing servers do."""
    await client.connection.send("nonsense")
    assert await client.close_code() == 4100


@pytest.mark.parametrize("version", [1, 2])
async def test_the_success_frame(server: Server, client: Client, version: int) -> None:
    """It has the same keys from both."""
    server.trade(2)
    success = await client.login(version=version)
    assert success == {
        "status": "success",
        "message": "Authentication successful.",
        "current_sequence": server.head,
        "tier": 100,
        "epoch": server.epoch,
        "oldest_sequence": server.floor,
        "version": version,
        "heartbeat_ms": 100,
    } | ({"user": "alice"} if version == 2 else {})


# --- orders -----------------------------------------------------------------------------------------------


async def test_orders_come_only_while_subscribed(server: Server, client: Client) -> None:
    """Heartbeats and pongs come at any time."""
    await client.login()
    server.trade()
    await no_order_comes(client)
    status = await client.subscribe()
    assert status["received_timestamp"] > 0
    assert {k: v for k, v in status.items() if k != "received_timestamp"} == {
        "type": "subscription_status",
        "status": "success",
        "all": True,
        "action": "subscribe",
        "sender_timestamp": 5,
    }
    await client.messages(1)  # the order since the login
    await client.send(type="unsubscribe", all=True, sender_timestamp=6)
    assert (await client.next("subscription_status"))["action"] == "unsubscribe"
    server.trade()
    await no_order_comes(client)


async def test_a_message_is_the_position_with_the_new_order_last(server: Server, client: Client) -> None:
    """Numbered without holes."""
    await client.login()
    await client.subscribe()
    head = server.head
    server.trade(3)
    messages = await client.messages(3)
    assert [m["sequence"] for m in messages] == [head + 1, head + 2, head + 3]
    assert set(messages[0]) == {"sequence", "timestamp", "data"}
    assert messages[0]["data"] == {"position": position(1, [order(1)])}


async def test_delta_filters_and_marks(server: Server, client: Client) -> None:
    """As requested by a client of version 2."""
    await client.login(version=2)
    status = await client.subscribe(miners=[OTHER_MINER], trade_pairs=["BTCUSD"], format="delta")
    assert (status["miners"], status["trade_pairs"], status["format"]) == ([OTHER_MINER], ["BTCUSD"], "delta")
    server.trade()
    last = server.trade(miner=OTHER_MINER, late=True)
    [message] = await client.messages(1)
    assert (message["sequence"], message["late"]) == (last, True)
    assert set(message["data"]) == {"order", "position", "n_orders"}
    assert message["data"]["n_orders"] == 1
    assert "orders" not in message["data"]["position"]


# --- resuming ---------------------------------------------------------------------------------------------


async def test_version_1_gets_missed_orders_as_ordinary_messages(server: Server, client: Client) -> None:
    """It cannot distinguish a replay from live orders."""
    received = server.trade()
    server.trade(2)
    success = await client.login(last_sequence=received)
    assert success["current_sequence"] == received
    await client.subscribe()
    server.trade()
    messages = await client.messages(3)
    assert [m["sequence"] for m in messages] == [received + 1, received + 2, received + 3]
    assert not any("replay" in m for m in messages)


async def test_version_2_resumes_with_marks(server: Server, client: Client) -> None:
    """`resumed`, the missed orders, then live ones."""
    received = server.trade()
    head = server.trade(2)
    await client.login(version=2, last_sequence=received, epoch=server.epoch)
    await client.subscribe()
    assert await client.next("resumed") == {"type": "resumed", "after": received, "head": head}
    await client.messages(2)
    server.trade()
    [live] = await client.messages(1)
    assert "replay" not in live


@pytest.mark.parametrize("reason", ["epoch", "too_old", "future"])
async def test_a_resume_with_missing_orders_fails(server: Server, client: Client, reason: str) -> None:
    """Only live orders follow."""
    head = server.trade(2)
    last = {"epoch": head, "too_old": 5, "future": head + 1}[reason]
    epoch = "another" if reason == "epoch" else server.epoch
    await client.login(version=2, last_sequence=last, epoch=epoch)
    await client.subscribe()
    assert await client.next("resume_failed") == {
        "type": "resume_failed",
        "reason": reason,
        "epoch": server.epoch,
        "oldest_sequence": server.floor,
        "head": head,
    }
    server.trade()
    assert [m["sequence"] for m in await client.messages(1)] == [head + 1]


# --- everything else --------------------------------------------------------------------------------------


async def test_heartbeats_have_the_head_of_what_was_sent(server: Server, client: Client) -> None:
    """And whether the source is stale."""
    await client.login(version=2)
    await client.subscribe()
    head = server.trade()
    await client.messages(1)
    beat = await client.next("heartbeat")
    assert beat["head"] == head
    assert {"type", "head", "revision", "timestamp", "source_ms", "stale"} <= set(beat)
    server.set_stale()
    while not (await client.next("heartbeat"))["stale"]:
        pass


async def test_a_ping_is_answered(client: Client) -> None:
    """With the ping's timestamp and the server's clock."""
    await client.login()
    await client.send(type="ping", timestamp=17)
    pong = await client.next("pong")
    assert set(pong) == {"type", "client_timestamp", "server_timestamp", "timestamp"}
    assert pong["client_timestamp"] == 17


async def test_a_malformed_frame_is_answered_and_ignored(server: Server, client: Client) -> None:
    """The connection stays open."""
    await client.login(version=2)
    await client.send(type="subscribe", minors=["5A"])
    error = await client.next("error")
    assert error["code"] == "bad_frame"
    await client.subscribe()
    server.trade()
    await client.messages(1)


async def test_a_bot_follows_both_alike(server: Server, tmp_path: Path) -> None:
    """Live, across a restart, and when refused."""
    options: Any = {"timing": quick_timing(), "state_dir": tmp_path}
    first = server.head + 1
    async with connect(server.url, KEY, **options) as stream:
        await until_async(lambda: stream.state == "live")
        server.trade(2)
        assert [(await anext(stream)).sequence for _ in range(2)] == [first, first + 1]
        stream.commit()
    server.trade()
    async with connect(server.url, KEY, **options) as stream:
        message = await anext(stream)
        assert (message.sequence, message.replay) == (first + 2, True)
    for key in ("nobody", LOW_KEY):
        async with connect(server.url, key, stop_on_auth_error=True, **options) as stream:
            with pytest.raises(AuthenticationError):
                await anext(stream)


# --- what only the fake one does --------------------------------------------------------------------------


def test_a_script_runs_once_a_client_is_live(tmp_path: Path) -> None:
    """Orders, a cut and a gap, in the order of the script."""

    def script(server: FakeServer) -> None:
        server.order("BTCUSD")
        server.cut()
        server.order("ETHUSD")
        server.wait_until_live(seconds=PATIENCE_S)
        server.skip(2)
        server.order("EURUSD")

    gaps: list[Gap] = []
    with FakeServer(script=script) as server:
        options: Any = {"state_dir": tmp_path, "timing": quick_timing(), "on_gap": gaps.append}
        with follow(server.url, server.api_key, **options) as orders:
            received = [next(orders) for _ in range(3)]
    assert [m.new_order.trade_pair for m in received] == ["BTCUSD", "ETHUSD", "EURUSD"]
    assert gaps == [Gap(2, 5, "hole")]


def test_an_exception_of_the_script_is_raised_at_the_end(tmp_path: Path) -> None:
    """A test with a broken script must fail."""

    def script(server: FakeServer) -> None:
        raise ValueError("broken script")

    with pytest.raises(ValueError, match="broken script"), FakeServer(script=script) as server:
        options: Any = {"state_dir": tmp_path, "on_state": lambda state: state == "live" and orders.stop()}
        with follow(server.url, server.api_key, **options) as orders:
            assert list(orders) == []


def test_a_script_without_a_client_does_not_run() -> None:
    """The server ends without waiting for a client."""
    runs: list[FakeServer] = []
    with FakeServer(script=runs.append):
        pass
    assert runs == []


def test_waiting_for_clients_times_out(tmp_path: Path) -> None:
    """With TimeoutError."""
    with FakeServer() as server, pytest.raises(TimeoutError, match="0 of 2 clients"):
        server.wait_until_live(clients=2, seconds=0.01)


def test_a_slow_server_loses_and_reorders_nothing(tmp_path: Path) -> None:
    """It delays each frame."""

    def script(server: FakeServer) -> None:
        server.slow = 0.05
        for _ in range(4):
            server.order()
        sent_after.append(time.monotonic() - started)

    sent_after: list[float] = []
    started = time.monotonic()
    with (
        FakeServer(script=script) as server,
        follow(server.url, server.api_key, state_dir=tmp_path, timing=quick_timing()) as orders,
    ):
        assert [next(orders).sequence for _ in range(4)] == [1, 2, 3, 4]
    assert sent_after[0] >= 0.2


def test_fake_positions_have_the_validators_shape() -> None:
    """With the fields that a test overrides, and unique uuids."""
    grown = fake_position("EURUSD", [fake_order(0.1), fake_order(-0.3, price=2.0)], realized_pnl=1.5)
    assert (grown["position_type"], grown["realized_pnl"]) == ("SHORT", 1.5)
    assert grown["trade_pair"][0] == "EURUSD"
    assert fake_order(0.0)["order_type"] == "FLAT"
    assert fake_position()["position_uuid"] != fake_position()["position_uuid"]
    with FakeServer() as server:
        assert server.publish(grown, fake_position(miner=MINER)) == 2


async def test_it_works_with_async_with(tmp_path: Path) -> None:
    """Methods that wait for the server's thread may be called from the running loop."""
    async with FakeServer() as server:
        options: Any = {"state_dir": tmp_path, "timing": quick_timing()}
        async with connect(server.url, server.api_key, **options) as stream:
            await until_async(lambda: stream.state == "live")
            server.order("BTCUSD")
            assert (await anext(stream)).new_order.trade_pair == "BTCUSD"


@pytest.mark.parametrize("handshake", ["finished", "unfinished"])
async def test_it_ends_while_its_clients_event_loop_is_blocked(handshake: str) -> None:
    """A `with` block in a coroutine ends, although a client in the same loop cannot answer."""
    with FakeServer() as server:
        if handshake == "finished":
            socket = await open_socket(server.url)
            transport: asyncio.Transport = socket.transport
        else:
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, server.host, server.port
            )
            await until_async(lambda: server._sockets)
    transport.abort()


def test_a_port_in_use_is_an_error_and_leaves_no_thread() -> None:
    """As with any server."""
    with FakeServer() as server:
        threads = set(threading.enumerate())
        with pytest.raises(OSError, match="in use"), FakeServer(port=server.port):
            pass
        until(lambda: set(threading.enumerate()) <= threads)
