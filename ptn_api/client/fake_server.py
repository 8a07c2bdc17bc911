"""A server to test a bot against: real sockets, no validator, and misbehaviour on command.

    with FakeServer() as server:
        client = PTNWebSocketClient(server.api_key, server.host, server.port)
        ...
        server.order("BTCUSD", leverage=0.1)

It speaks the real protocol (the session is the real server's) over a list of orders in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import uuid
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ptn_api.client.fake_positions import MINER, fake_order, fake_position
from ptn_api.clock import wall_ms
from ptn_api.model.position import PositionText, parse_position
from ptn_api.model.trade_pair import pair_id
from ptn_api.tasks import cancel_and_wait
from ptn_api.wire.close_codes import CloseCode
from ptn_api.wire.codec import encode, encode_batch, encode_message
from ptn_api.wire.frames import AuthSuccess, Heartbeat
from ptn_api.wire.server_session import CatchUp, CheckKey, Close, Effect, Send, ServerSession, State

__all__ = ["FakeServer"]

T = TypeVar("T")


class _Head(NamedTuple):
    sequence: int
    revision: int = 0


class _Entry(NamedTuple):
    timestamp_ms: int
    text: PositionText
    miner: str
    trade_pair: str
    late: bool
    extra: bytes


class _Log:
    """The orders, by their numbers."""

    def __init__(self, first: int) -> None:
        self.epoch = uuid.uuid4().hex[:12]
        self.entries: dict[int, _Entry] = {}
        self.last = first - 1
        self.oldest = first

    def head(self) -> _Head:
        return _Head(self.last)

    def floor(self) -> int:
        return self.oldest

    def first_timestamp_after(self, sequence: int) -> int | None:
        later = [n for n in self.entries if n > sequence]
        return self.entries[min(later)].timestamp_ms if later else None

    def oldest_revision(self) -> int:
        return 0


class _Client:
    """One connection."""

    def __init__(self, socket: ServerConnection, session: ServerSession) -> None:
        self.socket = socket
        self.session = session
        self.frames: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.replayed: int | None = None
        """How far a replay has come, while there is one."""


class FakeServer:
    """Listens on localhost, on a free port unless one is given, in a thread of its own.

    Methods are for any other thread.

    `script(server)` runs in a thread once a client follows; what it raises is raised at the end of `with`.
    `version` 1 makes it an old server: no epoch, no replay, no heartbeats.

    Attributes to set at will: `keys` (those that are good), `low_keys` (good, but of tier 50), `mute` (say
    nothing more after the login, but stay connected), `deaf` (take connections, answer nothing), `slow` (s,
    waited before each frame that holds orders), `stale`, `clock_ahead_ms`. `clients` are the connections,
    `logins` counts attempts.
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
        self.mute = False
        self.deaf = False
        self.slow = 0.0
        self.stale = False
        self.clock_ahead_ms = 0
        self.version = version
        self.port = port
        self.logins = 0
        self.clients: list[_Client] = []
        self._heartbeat_ms = heartbeat_ms
        self._first = first_sequence
        self._log = _Log(first_sequence)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-ptn-server", daemon=True)
        self._script = script
        self._scripts: ThreadPoolExecutor | None = None
        self._played: Future[None] | None = None
        self._changed = threading.Condition()
        self._ending = False
        self._server: Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life ---------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeServer:
        self._thread.start()
        self._run(self._start())
        if self._script is not None:
            self._scripts = ThreadPoolExecutor(1, thread_name_prefix="fake-ptn-script")
            self._played = self._scripts.submit(self._play, self._script)
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending = True
        self._tell_waiters()
        if self._scripts is not None:
            self._scripts.shutdown()
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._played is not None and exception[0] is None:
            self._played.result()

    def wait_until_live(self, clients: int = 1, seconds: float = 10.0) -> None:
        """Waits until so many clients are sent every order as it happens. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ending or self._live() >= clients, seconds):
                raise TimeoutError(f"{self._live()} of {clients} clients follow after {seconds} s")

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    @property
    def head(self) -> int:
        """The last sequence given."""
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
        """Publishes a new position with one order; returns its sequence."""
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

        `lost`: it is not sent now, only to those who ask again.
        """
        beside = json.dumps(extra).encode() if extra else b""
        time_ms = timestamp_ms if timestamp_ms is not None else wall_ms() + self.clock_ahead_ms
        entries = [_entry(position, time_ms, late, beside) for position in positions]
        return self._run(self._publish(entries, lost))

    def skip(self, numbers: int) -> None:
        """Leaves a hole in the numbering that nobody can fill."""
        self._log.last += numbers

    # --- misbehaviour -------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Breaks every connection without a goodbye; returns when they are gone."""
        self._run(self._abort_all())

    def close_all(self, reason: CloseCode) -> None:
        self._run(self._apply_all(lambda session: session.close(reason)))

    def evict_all(self) -> None:
        """Takes every connection's place, as the sixth of a key does to the oldest."""
        self._run(self._apply_all(lambda session: session.evict()))

    def prune(self) -> None:
        """Forgets every order, so that nobody can resume."""
        self._log.entries.clear()
        self._log.oldest = self._log.last + 1

    def begin_anew(self, first_sequence: int | None = None) -> None:
        """Another log: a new epoch, and numbers from the beginning (or `first_sequence`)."""
        self._log = _Log(self._first if first_sequence is None else first_sequence)
        self.cut()

    def send_all(self, frame: str) -> None:
        """Sends any text to every connection."""
        self._run(self._send_all(frame))

    def heartbeat(self) -> None:
        """Sends a heartbeat now."""
        self._run(self._beat())

    # --- inside: everything below runs in the server's own loop -------------------------------------------

    async def _start(self) -> None:
        self._server = await serve(self._serve, self.host, self.port, ping_interval=None, close_timeout=0.2)
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        task = asyncio.create_task(self._beat_for_ever())
        self._tasks.add(task)

    async def _stop(self) -> None:
        await cancel_and_wait(self._tasks)
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, socket: ServerConnection) -> None:
        session = ServerSession(self._log, heartbeat_ms=self._heartbeat_ms, replay_window_ms=86_400_000)
        client = _Client(socket, session)
        self.clients.append(client)
        try:
            async for data in socket:
                with contextlib.suppress(ValueError):
                    client.frames.append(json.loads(data))
                if not self.deaf and not (self.mute and session.logged_in):
                    await self._carry_out(client, session.receive(self._as_understood(data), self._now()))
                self._tell_waiters()
        except ConnectionClosed:
            pass
        finally:
            self.clients.remove(client)
            client.gone.set()
            self._tell_waiters()

    def _as_understood(self, data: str | bytes) -> str | bytes:
        """An old server takes no notice of a version, nor of where a client left off."""
        if self.version == 2:
            return data
        try:
            frame = json.loads(data)
        except ValueError:
            return data
        if "api_key" not in frame:
            return data
        return json.dumps({"api_key": frame["api_key"]})

    async def _carry_out(self, client: _Client, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    await self._send(client, effect.frame)
                case CheckKey():
                    self.logins += 1
                    verdict = client.session.key_checked(self._tier(effect.api_key), self._now())
                    await self._carry_out(client, verdict)
                case CatchUp():
                    await self._catch_up(client, effect)
                case Close():
                    await client.socket.close(effect.reason.code, effect.reason.reason)

    async def _send(self, client: _Client, frame: msgspec.Struct) -> None:
        if self.version == 1 and isinstance(frame, AuthSuccess):
            old = {"status": "success", "message": frame.message, "tier": frame.tier}
            await client.socket.send(json.dumps(old | {"current_sequence": frame.current_sequence}))
        else:
            await client.socket.send(encode(frame).decode())

    async def _catch_up(self, client: _Client, effect: CatchUp) -> None:
        for sequence in itertools.count(effect.after + 1):
            if sequence > self._log.last:
                break
            client.replayed = sequence - 1
            if sequence in self._log.entries:
                await self._deliver(client, [sequence], replay=sequence <= effect.replay_until)
        client.replayed = None
        client.session.caught_up()

    async def _publish(self, entries: list[_Entry], lost: bool) -> int:
        sequences = []
        for entry in entries:
            self._log.last += 1
            self._log.entries[self._log.last] = entry
            sequences.append(self._log.last)
        for client in list(self.clients):
            if client.session.state is State.LIVE and not (lost or self.mute):
                await self._deliver(client, sequences)
        return self._log.last

    async def _deliver(self, client: _Client, sequences: list[int], *, replay: bool = False) -> None:
        wanted = client.session.subscription
        frames = [
            _frame(n, entry, client, replay)
            for n in sequences
            if wanted.matches((entry := self._log.entries[n]).miner, entry.trade_pair)
        ]
        if frames:
            frame = frames[0] if len(frames) == 1 else encode_batch(frames)
            await asyncio.sleep(self.slow)
            await self._say(client, frame.decode())

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_ms / 1000)
            if not self.mute:
                await self._beat()

    async def _beat(self) -> None:
        for client in list(self.clients):
            if client.session.logged_in and client.session.version == 2:
                head = self._log.last if client.replayed is None else client.replayed
                beat = Heartbeat(
                    head=head, revision=0, timestamp=self._now(), source_ms=None, stale=self.stale
                )
                await self._say(client, encode(beat).decode())

    async def _send_all(self, frame: str) -> None:
        for client in list(self.clients):
            await self._say(client, frame)

    async def _say(self, client: _Client, frame: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await client.socket.send(frame)

    async def _abort_all(self) -> None:
        cut = list(self.clients)
        for client in cut:
            client.socket.transport.abort()
        for client in cut:
            await client.gone.wait()

    async def _apply_all(self, what: Callable[[ServerSession], list[Effect]]) -> None:
        for client in list(self.clients):
            await self._carry_out(client, what(client.session))

    # --- small parts --------------------------------------------------------------------------------------

    def _tier(self, api_key: str) -> int | None:
        return 100 if api_key in self.keys else 50 if api_key in self.low_keys else None

    def _live(self) -> int:
        return sum(client.session.state is State.LIVE for client in self.clients)

    def _tell_waiters(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _play(self, script: Callable[[FakeServer], object]) -> None:
        self.wait_until_live(seconds=60.0)
        if not self._ending:
            script(self)

    def _now(self) -> int:
        return wall_ms() + self.clock_ahead_ms

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


def _entry(position: Mapping[str, Any], timestamp_ms: int, late: bool, extra: bytes) -> _Entry:
    parsed, text = parse_position(json.dumps(position).encode())
    return _Entry(timestamp_ms, text, parsed.miner_hotkey, pair_id(parsed.trade_pair), late, extra)


def _frame(sequence: int, entry: _Entry, client: _Client, replay: bool) -> bytes:
    session = client.session
    return encode_message(
        sequence=sequence,
        timestamp_ms=entry.timestamp_ms,
        text=entry.text,
        order=entry.text.orders[-1],
        n_orders=len(entry.text.orders),
        format=session.subscription.format,
        late=entry.late and session.version == 2,
        replay=replay and session.version == 2,
        extra=entry.extra,
    )
