"""Tests of code that uses the client: a server in the test's own process, which also fails on command.

from ptn_api.client.testing import FakeServer, quick_timing


def test_my_bot_survives_a_cut(tmp_path):
    def script(server):  # runs once a client is live
        server.order("BTCUSD", leverage=0.1)
        server.cut()
        server.order("ETHUSD")

    with FakeServer(script=script) as server:
        orders = follow(server.url, server.api_key, state_dir=tmp_path, timing=quick_timing())
        assert [next(orders).new_order.trade_pair for _ in range(2)] == ["BTCUSD", "ETHUSD"]

It speaks the real protocol (its sessions are the real server's) on a free port of localhost, over a list of
orders in memory. The real server has to pass the same tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ptn_api.client.arguments import Timing
from ptn_api.client.fake_orders import MINER, Announcement, OrderLog, fake_order, fake_position
from ptn_api.clock import wall_ms
from ptn_api.loop_thread import LoopThread
from ptn_api.tasks import cancel_and_wait
from ptn_api.wire.close_codes import CloseCode
from ptn_api.wire.codec import encode, encode_batch
from ptn_api.wire.frames import AuthSuccess, Heartbeat
from ptn_api.wire.server_session import BadLogin, CatchUp, CheckKey, Close, Effect, Send, ServerSession, State

__all__ = ["FakeServer", "fake_order", "fake_position", "quick_pace", "quick_timing"]

# Debug messages would quote the logins, keys included.
_discarding_logger = logging.Logger("websockets.server", logging.CRITICAL + 1)

_CLOSE_S = 0.2
"""Timeout for the clients' part of the closing handshake when the server ends."""


def quick_timing() -> Timing:
    """Returns a client's timing that is short enough for tests: it reconnects within a tenth of a second."""
    return Timing(
        connect=5.0,
        close=0.2,
        tick=0.02,
        backoff=0.02,
        backoff_max=0.1,
        eviction=0.05,
        refused=0.05,
        retry=0.01,
        settled=0.5,
    )


quick_pace = quick_timing
"""The former name of `quick_timing`."""


class _Client:
    """One client's connection."""

    def __init__(self, socket: ServerConnection, session: ServerSession) -> None:
        self.socket = socket
        self.session = session
        self.frames: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.caught_up_to: int | None = None
        """The last sequence sent by a catch-up in progress."""


class FakeServer:
    """A server on localhost, in a thread; for `with`, or `async with` in a coroutine. `port` 0: a free one.

    Methods may be called from any other thread. `script(server)` runs in a thread once a client is live; the
    end of the block raises what it raised. `version` 1 makes it an old server: no epoch, no replay, no
    heartbeats.

    Settable at any time: `keys` (valid keys), `low_keys` (valid, but of tier 50), `users` (by key; alice),
    `mute` (sends nothing after the login, but stays connected), `deaf` (accepts connections and answers
    nothing), `slow` (s of delay before each frame with orders), `stale`, `problems`, `clock_ahead_ms`.
    `clients` are the connections, `logins` counts attempts.
    """

    host = "127.0.0.1"
    api_key = "fake-key"

    def __init__(
        self,
        *,
        version: Literal[1, 2] = 2,
        heartbeat_ms: int = 15_000,
        first_sequence: int = 1,
        port: int = 0,
        script: Callable[[FakeServer], object] | None = None,
    ) -> None:
        self.keys = {self.api_key}
        self.low_keys: set[str] = set()
        self.users: dict[str, str] = {}
        self.mute = False
        self.deaf = False
        self.slow = 0.0
        self.stale = False
        self.problems: list[str] = []
        self.clock_ahead_ms = 0
        self.version = version
        self.port = port
        self.logins = 0
        self.clients: list[_Client] = []
        self._heartbeat_ms = heartbeat_ms
        self._first = first_sequence
        self._log = OrderLog(first_sequence)
        self._thread = LoopThread("fake-ptn-server")
        self._script = script
        self._scripts: ThreadPoolExecutor | None = None
        self._script_result: Future[None] | None = None
        self._changed = threading.Condition()
        self._ending = False
        self._was_live = False
        self._server: Server | None = None
        self._sockets: list[ServerConnection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # --- start and end ------------------------------------------------------------------------------------

    def __enter__(self) -> FakeServer:
        try:
            self._thread.run(self._start)
        except BaseException:  # Ctrl-C as well: the thread would go on
            self._thread.close()
            raise
        if (script := self._script) is None:
            return self

        def run_script() -> None:
            with self._changed:
                if not self._changed.wait_for(lambda: self._ending or self._was_live, 60.0):
                    raise TimeoutError("no client became live within 60 s")
            if self._was_live:
                script(self)

        self._scripts = ThreadPoolExecutor(1, thread_name_prefix="fake-ptn-script")
        self._script_result = self._scripts.submit(run_script)
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending = True
        self._notify()
        if self._scripts is not None:
            self._scripts.shutdown()
        try:
            self._thread.run(self._stop)
        finally:
            self._thread.close()
            self._thread.join()
        if self._script_result is not None and exception[0] is None:
            self._script_result.result()

    async def __aenter__(self) -> FakeServer:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exception: object) -> None:
        # In another thread, because this one's event loop may run the clients that still have to disconnect.
        await asyncio.to_thread(self.__exit__, *exception)

    def wait_until_live(self, clients: int = 1, seconds: float = 10.0) -> None:
        """Waits until that many clients receive orders as they happen. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ending or self.live_clients >= clients, seconds):
                raise TimeoutError(f"{self.live_clients} of {clients} clients live after {seconds} s")

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"ws://{self.host}:{self.port}"

    @property
    def live_clients(self) -> int:
        """The number of clients that receive orders as they happen."""
        return sum(client.session.state is State.LIVE for client in list(self.clients))

    @property
    def head(self) -> int:
        """The last sequence assigned."""
        return self._log.last

    # --- orders -------------------------------------------------------------------------------------------

    def order(
        self,
        trade_pair: str = "BTCUSD",
        leverage: float = 0.1,
        price: float = 100.0,
        miner: str = MINER,
        **fields: Any,
    ) -> int:
        """Publishes a new position with one order; returns its sequence. `fields` are those of `publish`."""
        order = fake_order(leverage, price, processed_ms=self._now())
        return self.publish(fake_position(trade_pair, [order], miner=miner), **fields)

    def publish(
        self,
        *positions: Mapping[str, Any],
        timestamp_ms: int | None = None,
        late: bool = False,
        lost: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> int:
        """Announces each position's last order, several as one batch; returns the last sequence.

        A `lost` order is not sent now, only to clients that resume. `extra` adds keys to the message's data.
        """
        time_ms = timestamp_ms if timestamp_ms is not None else self._now()
        orders = [Announcement.of(position, time_ms, late=late, extra=extra) for position in positions]

        async def publish_now() -> int:
            sequences = self._log.append(orders)
            for client in list(self.clients):
                if client.session.state is State.LIVE and not (lost or self.mute):
                    await self._deliver(client, sequences)
            return self._log.last

        return self._thread.run(publish_now)

    def skip(self, numbers: int) -> None:
        """Leaves a permanent hole in the sequence."""
        self._log.last += numbers

    # --- failures -----------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Breaks every connection without a close frame; returns when they are gone."""

        async def abort_all() -> None:
            clients = list(self.clients)
            for client in clients:
                client.socket.transport.abort()
            for client in clients:
                await client.gone.wait()

        self._thread.run(abort_all)

    def close_all(self, reason: CloseCode) -> None:
        """Closes every connection with a close code."""
        self._apply_to_all(lambda session: session.close(reason))

    def evict_all(self) -> None:
        """Evicts every connection, as a sixth connection of the same user does to the oldest."""
        self._apply_to_all(lambda session: session.evict())

    def prune(self) -> None:
        """Deletes every order, so that no client can resume."""
        self._log.prune()

    def replace_log(self, first_sequence: int | None = None) -> None:
        """Starts another log, with a new epoch and its own sequence, and breaks every connection."""
        self._log = OrderLog(self._first if first_sequence is None else first_sequence)
        self.cut()

    begin_anew = replace_log  # its former name

    def send_all(self, frame: str) -> None:
        """Sends any text to every connection."""

        async def send_to_all() -> None:
            for client in list(self.clients):
                await self._send(client, frame)

        self._thread.run(send_to_all)

    def heartbeat(self) -> None:
        """Sends a heartbeat now."""
        self._thread.run(self._send_heartbeats)

    def _apply_to_all(self, method: Callable[[ServerSession], list[Effect]]) -> None:
        async def apply() -> None:
            for client in list(self.clients):
                await self._perform(client, method(client.session))

        self._thread.run(apply)

    # --- everything below runs in the server's own loop ---------------------------------------------------

    async def _start(self) -> None:
        def create_connection(*args: Any, **options: Any) -> ServerConnection:
            socket = ServerConnection(*args, **options)
            self._sockets.append(socket)
            return socket

        self._server = await serve(
            self._serve,
            self.host,
            self.port,
            ping_interval=None,
            close_timeout=_CLOSE_S,
            logger=_discarding_logger,
            create_connection=create_connection,  # type: ignore[arg-type]
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

        async def send_heartbeats_forever() -> None:
            while True:
                await asyncio.sleep(self._heartbeat_ms / 1000)
                if not self.mute:
                    await self._send_heartbeats()

        self._tasks.add(asyncio.create_task(send_heartbeats_forever()))

    async def _stop(self) -> None:
        await cancel_and_wait(self._tasks)
        assert self._server is not None
        self._server.close()
        closed = asyncio.ensure_future(self._server.wait_closed())
        await asyncio.wait([closed], timeout=_CLOSE_S)
        # A client whose event loop is blocked, perhaps by waiting for this very server, does not take part in
        # the opening or closing handshake.
        for socket in self._sockets:
            if (transport := getattr(socket, "transport", None)) is not None:
                transport.abort()
        await closed

    async def _serve(self, socket: ServerConnection) -> None:
        session = ServerSession(self._log, heartbeat_ms=self._heartbeat_ms, replay_window_ms=300_000)
        client = _Client(socket, session)
        self.clients.append(client)
        try:
            async for data in socket:
                with contextlib.suppress(ValueError):
                    client.frames.append(json.loads(data))
                if not self.deaf and not (self.mute and session.logged_in):
                    await self._perform(client, session.receive(self._as_received(data), self._now()))
                # Remembered, because the client may be gone by the time another thread looks.
                self._was_live |= session.state is State.LIVE
                self._notify()
        except ConnectionClosed:
            pass
        finally:
            self.clients.remove(client)
            self._sockets.remove(socket)
            client.gone.set()
            self._notify()

    def _as_received(self, data: str | bytes) -> str | bytes:
        """Reduces a login to its key for an old server, which knows neither versions nor cursors."""
        if self.version == 2:
            return data
        try:
            frame = json.loads(data)
        except ValueError:
            return data
        return json.dumps({"api_key": frame["api_key"]}) if "api_key" in frame else data

    async def _perform(self, client: _Client, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(frame=AuthSuccess() as frame) if self.version == 1:
                    old = {"status": "success", "message": frame.message, "tier": frame.tier}
                    await client.socket.send(json.dumps(old | {"current_sequence": frame.current_sequence}))
                case Send(frame=frame):
                    await client.socket.send(encode(frame).decode())
                case CheckKey(api_key=key):
                    self.logins += 1
                    tier = 100 if key in self.keys else 50 if key in self.low_keys else None
                    await self._perform(
                        client,
                        client.session.key_checked(tier, self._now(), alias=self.users.get(key, "alice")),
                    )
                case BadLogin(reason=reason):
                    await self._perform(client, client.session.refuse_login(reason, must_wait=False))
                case CatchUp():
                    await self._catch_up(client, effect)
                case Close():
                    await client.socket.close(effect.reason.code, effect.reason.reason)

    async def _catch_up(self, client: _Client, effect: CatchUp) -> None:
        sequence = effect.after + 1
        while sequence <= self._log.last:  # includes orders published during the catch-up
            client.caught_up_to = sequence - 1
            if sequence in self._log.orders:
                await self._deliver(client, [sequence], replay=sequence <= effect.replay_until)
            sequence += 1
        client.caught_up_to = None
        client.session.caught_up()

    async def _deliver(self, client: _Client, sequences: list[int], *, replay: bool = False) -> None:
        subscription, version = client.session.subscription, client.session.version
        orders = [self._log.orders[n] for n in sequences]
        frames = [
            order.message(format=subscription.format, version=version, replay=replay)
            for order in orders
            if subscription.matches(order.miner, order.trade_pair)
            and not subscription.is_too_old(order, self._now())
        ]
        if frames:
            frame = frames[0] if len(frames) == 1 else encode_batch(frames)
            await asyncio.sleep(self.slow)
            await self._send(client, frame.decode())

    async def _send_heartbeats(self) -> None:
        for client in list(self.clients):
            if client.session.logged_in and client.session.version == 2:
                head = self._log.last if client.caught_up_to is None else client.caught_up_to
                beat = Heartbeat(
                    head=head,
                    revision=0,
                    timestamp=self._now(),
                    source_ms=None,
                    stale=self.stale,
                    problems=self.problems,
                )
                await self._send(client, encode(beat).decode())

    async def _send(self, client: _Client, frame: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await client.socket.send(frame)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _now(self) -> int:
        return wall_ms() + self.clock_ahead_ms
