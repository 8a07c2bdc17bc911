"""The connection to one server: it feeds the session, reconnects after every failure, and fills the inbox."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from ptn_api.client.arguments import ReconnectBackoff, Timing
from ptn_api.client.connection_errors import failure_text, proxy_note, redirect_text, shown_url
from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import AuthenticationError
from ptn_api.problems import PROBLEMS, Code
from ptn_api.tasks import cancel_and_wait
from ptn_api.wire.client_session import (
    ClientSession,
    Cursor,
    Disconnected,
    Event,
    Evicted,
    LoggedIn,
    ProtocolWarning,
    Refused,
    State,
    StateChanged,
    StreamItem,
)
from ptn_api.wire.clock_offset import ClockOffset
from ptn_api.wire.close_codes import CLOSE_CODES, REPLACED, SHUTTING_DOWN, should_return
from ptn_api.wire.frames import Heartbeat, Subscribe

__all__ = ["CaughtUp", "Connection", "Inbox", "OnState", "StreamProblem", "StreamState"]

logger = logging.getLogger("ptn_api.client")

# websockets' debug messages quote the login and the headers, which contain the key. So its logger is not in
# the logging tree, where a program might enable it.
_discarding_logger = logging.Logger("websockets.client", logging.CRITICAL + 1)

_MAX_FRAME = 64 << 20
"""Longest accepted frame in bytes: a position with many thousand orders is one message."""


class _Connect(connect):
    """Follows no redirect: the login would give the key to another address."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class CaughtUp(StreamItem):
    """A heartbeat that did not arrive during a replay: everything up to its time came before it."""


class Inbox:
    """Received items in order, bounded: the connection waits while it is full.

    For one producer and one consumer in one event loop. Several may share the event `filled`.
    """

    def __init__(self, limit: int = 1_000, *, filled: asyncio.Event | None = None) -> None:
        self._items: deque[StreamItem] = deque()
        self._limit = limit
        self._filled = filled or asyncio.Event()
        self._drained = asyncio.Event()
        self._closed = False
        self._error: BaseException | None = None

    async def put(self, item: StreamItem) -> None:
        """Appends an item; waits while the inbox is full."""
        # The socket is not read meanwhile, so TCP slows the server down.
        while len(self._items) >= self._limit:
            self._drained.clear()
            await self._drained.wait()
        self._items.append(item)
        self._filled.set()

    async def first(self) -> StreamItem | None:
        """Waits for the next item and leaves it in place; None after `close`. Raises the error of `close`."""
        while not self._items and not self._closed:
            self._filled.clear()
            await self._filled.wait()
        if not self._items and self._error is not None:  # not before the items that came first
            raise self._error
        return self.peek()

    def peek(self) -> StreamItem | None:
        """Returns the next item without waiting."""
        return self._items[0] if self._items else None

    @property
    def error(self) -> BaseException | None:
        """The error of `close`, after the items that came first."""
        return None if self._items else self._error

    def drop(self, item: StreamItem) -> None:
        """Removes the first item; does nothing if `close` removed it already."""
        if self._items and self._items[0] is item:
            self._items.popleft()
            self._drained.set()

    def close(self, error: BaseException | None = None) -> None:
        """Ends the inbox. Without an error queued items are discarded; before an error they are delivered."""
        if self._closed:
            return
        self._closed = True
        self._error = error
        if error is None:
            self._items.clear()
        self._filled.set()


class StreamProblem(NamedTuple):
    """Something that is wrong: with the connection, the cursor, or, as its heartbeats tell, the server."""

    code: str
    sentence: str
    remedy: str


class StreamState(str):
    """A state's text, equal to it, with the `problems` of the moment; what `on_state` gets."""

    problems: tuple[StreamProblem, ...] = ()
    servers: Mapping[str, StreamState] = MappingProxyType({})
    """Of a stream of several servers: the state of each, by URL."""

    @property
    def connection(self) -> Literal["connected", "stale", "reconnecting", "stopped"]:
        """The state in fewer words."""
        match str(self):
            case "connecting":
                return "reconnecting"
            case "stale":
                return "stale"
            case "stopped":
                return "stopped"
        return "connected"


OnState = Callable[[State], Any] | Callable[[StreamState], Any]

_REMEDIES = {
    "unreachable": "Check the address, the network and any proxy between; the client goes on trying",
    "login_refused": "Check the API key; the server's operator can tell whether it is valid, and its tier",
    "evicted": "Run fewer connections with this key, or ask the operator for a higher limit",
    "server_restarting": "Nothing: the server is restarted, and the client connects again",
    "server_silent": "Nothing, if it passes: the client connects again; otherwise ask the operator",
}
"""By the code of a problem of the connection."""
_KINDS = {
    "lost": "unreachable",
    "restarting": "server_restarting",
    "evicted": "evicted",
    "refused": "login_refused",
}


_RESTART_S = 60.0
"""How long a server that announced its restart may be unreachable."""


def server_problems(beat: Heartbeat) -> tuple[StreamProblem, ...]:
    """What a heartbeat says, in the words of the server's own table."""
    codes = beat.problems or (["source_stale"] if beat.stale else [])
    problems = []
    for code in codes:
        known = PROBLEMS.get(cast(Code, code))
        sentence = known.sentence if known else f"The server reports the problem {code}"
        remedy = known.remedy if known else "Ask the server's operator"
        problems.append(StreamProblem(code, sentence, remedy))
    return tuple(problems)


class Ending(NamedTuple):
    """The way a connection ended."""

    kind: Literal["lost", "restarting", "evicted", "refused", "again"]
    detail: str


class Connection:
    """A connection that is kept up until it is cancelled.

    A refused login is retried slowly, or, with `stop_on_auth_error`, closes the inbox with
    AuthenticationError. `on_state` is called at once, ahead of the items that wait in the inbox. `on_login`
    gets the log's epoch and the user; it may return a cursor, from which a new connection resumes.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        inbox: Inbox,
        *,
        cursor: Cursor,
        subscription: Subscribe | None,
        timing: Timing,
        on_state: Callable[[StreamState], Awaitable[None]],
        other_problems: Callable[[], tuple[StreamProblem, ...]] = tuple,
        on_login: Callable[[str | None, str], Cursor | None] = lambda epoch, user: None,
        stop_on_auth_error: bool = False,
        ssl: Any = None,
        clock: Clock = wall_ms,
    ) -> None:
        self.cursor = cursor
        self.subscription = subscription
        self.clock_offset = ClockOffset()
        self.state: State = "stopped"
        self._url = url
        self._api_key = api_key
        self._inbox = inbox
        self._timing = timing
        self._on_state = on_state
        self._on_login = on_login
        self._other_problems = other_problems
        self._link_problem: tuple[StreamProblem, ...] = ()
        self._server_problems: tuple[StreamProblem, ...] = ()
        self._reported: tuple[State, list[str]] = "stopped", []
        self._stop_on_auth_error = stop_on_auth_error
        self._options = {} if ssl is None else {"ssl": ssl}
        self._clock = clock
        self._backoff = ReconnectBackoff(timing)
        self._restart_ends = 0.0
        self._known_gap: int | None = None
        self._session: ClientSession | None = None
        self._outgoing = asyncio.Event()
        self._receiving = False
        self._ending: Ending | None = None
        self._disconnected = False
        self._retried = False
        """Whether the log says that the client tries to connect."""

    async def run(self) -> None:
        """Connects and reconnects until cancelled, or until a refusal is final."""
        while True:
            await self._enter("connecting")
            ending = await self._connect_once()
            if ending.kind == "again":
                continue
            code = _KINDS[ending.kind]
            now = asyncio.get_running_loop().time()
            if ending.kind == "restarting":
                self._restart_ends = now + _RESTART_S
            before = self._link_problem[0].code if self._link_problem else ""
            if before == "server_silent" or (
                before == "server_restarting" and ending.kind == "lost" and now < self._restart_ends
            ):
                code = before
            sentence = f"Not connected: {ending.detail}"
            self._link_problem = (StreamProblem(code, sentence, _REMEDIES[code]),)
            self._server_problems = ()
            if ending.kind == "refused" and self._stop_on_auth_error:
                await self._report()
                error = AuthenticationError(ending.detail)
                error.remedy = _REMEDIES[code]
                self._inbox.close(error)
                return
            await self._enter("connecting")
            match ending.kind:
                case "refused":
                    level, delay = logging.ERROR, self._backoff.refused()
                case "evicted":
                    level, delay = logging.WARNING, self._backoff.evicted()
                case "lost" | "restarting":
                    level, delay = logging.WARNING, self._backoff.lost()
            self._retried = True
            logger.log(
                level,
                "%s: %s; retrying in %.1f s",
                shown_url(self._url),
                ending.detail.removesuffix("."),
                delay,
                extra={"also_reported": True},  # by on_state
            )
            await asyncio.sleep(delay)

    async def report_stopped(self) -> None:
        """Reports the final state, without problems; called after `run` has ended."""
        self._link_problem = self._server_problems = ()
        self._other_problems = tuple
        await self._enter("stopped")

    def subscribe(self, subscription: Subscribe) -> None:
        """Changes the subscription, for this and later connections."""
        self.subscription = subscription
        if self._session is not None:
            self._session.subscribe(subscription, self._clock())
            self._outgoing.set()

    def unsubscribe(self) -> None:
        self.subscription = None
        if self._session is not None:
            self._session.unsubscribe(self._clock())
            self._outgoing.set()

    # --- one connection -----------------------------------------------------------------------------------

    async def _connect_once(self) -> Ending:
        started = asyncio.get_running_loop().time()
        self._ending = None
        self._disconnected = False
        try:
            async with _Connect(
                self._url,
                open_timeout=self._timing.connect,
                close_timeout=self._timing.close,
                ping_interval=None,  # the session sends its own pings
                max_size=_MAX_FRAME,
                logger=_discarding_logger,
                # A validator's own server takes the key from the header only, and answers at once. The other
                # header asks ours to wait for the login frame.
                additional_headers={"Authorization": f"Bearer {self._api_key}", "X-PTN-Protocol": "2"},
                **self._options,
            ) as socket:
                ending = await self._run_session(socket)
        except (OSError, EOFError, WebSocketException, asyncio.TimeoutError) as error:
            problem = failure_text(error)
            if isinstance(error, InvalidStatus) and (location := error.response.headers.get("location")):
                problem = redirect_text(self._url, "", location)
            ending = self._ending or Ending("lost", f"no connection: {problem}{proxy_note(self._url)}")
        self._backoff.connected_for(asyncio.get_running_loop().time() - started)
        return ending

    async def _run_session(self, socket: ClientConnection) -> Ending:
        session = self._session = ClientSession(
            api_key=self._api_key,
            cursor=self.cursor,
            subscription=self.subscription,
            known_gap=self._known_gap,
            ping_ms=_ms(self._timing.ping),
            login_ms=_ms(self._timing.connect),
            clock_offset=self.clock_offset,
        )
        session.start()
        self._outgoing.set()  # the login
        read, watch, write = (
            asyncio.create_task(part(socket, session)) for part in (self._read, self._watch, self._write)
        )
        try:
            # A failed write does not end the session: the server's last frames and its close code, which
            # say why, are still to be read.
            await asyncio.wait((read, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._session = None
            results = await cancel_and_wait([read, watch, write])
            # Closes with 1000 even when this task is being cancelled; `connect` would close with an error.
            await socket.close()
        for result in results:
            # A closed connection is an ending. Any other exception is a bug of this library.
            if isinstance(result, Exception) and not isinstance(result, (ConnectionClosed, OSError)):
                raise result
        return _ending(self._ending, socket.protocol.close_code, socket.protocol.close_reason)

    async def _read(self, socket: ClientConnection, session: ClientSession) -> None:
        while not self._disconnected:
            self._receiving = True
            data = await socket.recv(decode=False)
            self._receiving = False
            await self._handle_events(session, session.receive(data, self._clock()))

    async def _write(self, socket: ClientConnection, session: ClientSession) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            for frame in session.to_send():
                await socket.send(frame)

    async def _watch(self, socket: ClientConnection, session: ClientSession) -> None:
        # Counts ticks during which the reader waits for a frame, not wall time: a slow handler or a blocked
        # event loop must not pass for a silent server.
        while not self._disconnected:
            await asyncio.sleep(self._timing.tick)
            if not self._receiving:
                await self._report()
            else:
                await self._handle_events(session, session.tick(_ms(self._timing.tick), self._clock()))

    # --- session events -----------------------------------------------------------------------------------

    async def _handle_events(self, session: ClientSession, events: list[Event]) -> None:
        self._outgoing.set()
        # The last event; it is known before the change of state that comes with it.
        if events and isinstance(last := events[-1], Disconnected) and last.reason == "silent":
            sentence, remedy = f"The server is silent: {last.detail}", _REMEDIES["server_silent"]
            self._link_problem = (StreamProblem("server_silent", sentence, remedy),)
        for event in events:
            match event:
                case StreamItem():
                    # The session's state is that of the frame; ours may be ahead of what waits in the inbox.
                    if isinstance(event.value, Heartbeat) and session.state in ("live", "stale"):
                        event = CaughtUp(*event)
                    # In this order: a cancellation while the inbox is full must not skip the item.
                    await self._inbox.put(event)
                    self.cursor = event.cursor
                    if isinstance(event.value, Heartbeat):
                        self._server_problems = server_problems(event.value)
                case LoggedIn():
                    if (cursor := self._on_login(event.epoch, event.user)) is not None:
                        self.cursor = cursor
                        self._ending = Ending("again", "the cursor of this user is known")
                        self._disconnected = True
                        return
                case StateChanged():
                    if event.state != "stale":
                        self._link_problem = ()
                        if self._retried:
                            self._retried = False
                            url = shown_url(self._url)
                            logger.warning("%s: connected again", url, extra={"also_reported": True})
                    await self._enter(event.state)
                case Refused():
                    self._ending = Ending("refused", f"login refused: {event.message}")
                case Evicted():
                    self._ending = Ending("evicted", event.message)
                case Disconnected():
                    # The next connection resumes before the gap; if it is there again, it is permanent.
                    if event.reason == "gap":
                        self._known_gap = session.cursor.sequence
                    self._ending = self._ending or Ending("lost", event.detail)
                    self._disconnected = True
                case ProtocolWarning():
                    logger.warning("%s: %s", shown_url(self._url), event.message)
        await self._report()

    async def _enter(self, state: State) -> None:
        self.state = state
        await self._report()

    @property
    def problems(self) -> tuple[StreamProblem, ...]:
        """The present problems of the connection, the server and the cursor."""
        return *self._link_problem, *self._server_problems, *self._other_problems()

    async def _report(self) -> None:
        """Calls `on_state` if the state or its problems are other ones than before."""
        problems = self.problems
        now = self.state, [problem.code for problem in problems]
        if now != self._reported:
            self._reported = now
            state = StreamState(self.state)
            state.problems = problems
            await self._on_state(state)


def _ending(reported: Ending | None, code: int | None, reason: str | None) -> Ending:
    """Combines what the server reported before closing with its close code, which takes precedence."""
    detail = f"closed with {code} {reason or ''}".rstrip() if code else "connection lost"
    # A code that forbids a return is a refusal, also without an answer to the login.
    if not should_return(code):
        return reported or Ending("refused", f"login refused: {detail}")
    if code == SHUTTING_DOWN.code:
        return Ending("restarting", detail)
    if code == REPLACED.code:
        return reported or Ending("evicted", detail)
    # A refusal with a code that invites a return is temporary: the server is full, or shutting down.
    if code in CLOSE_CODES and reported is not None and reported.kind == "refused":
        return Ending("lost", reported.detail)
    return reported or Ending("lost", detail)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
