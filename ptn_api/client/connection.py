"""The follower's motor: connects, keeps the session fed, and comes back after whatever ended it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from ptn_api.client.inbox import Inbox
from ptn_api.client.pace import Backoff, Pace
from ptn_api.client.reason import reason
from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import AuthenticationError
from ptn_api.tasks import cancel_and_wait
from ptn_api.wire.client_session import (
    ClientSession,
    Cursor,
    Disconnected,
    Event,
    Evicted,
    ProtocolWarning,
    Refused,
    State,
    StateChanged,
    StreamItem,
)
from ptn_api.wire.clock_offset import ClockOffset
from ptn_api.wire.close_codes import CLOSE_CODES, REPLACED, should_return
from ptn_api.wire.frames import Subscribe

__all__ = ["Connection", "Ending"]

logger = logging.getLogger("ptn_api.client")

_MAX_FRAME = 64 << 20
"""The longest frame taken, in bytes: a position with many thousand orders comes as one message."""


class Ending(NamedTuple):
    """How a connection ended."""

    kind: Literal["lost", "evicted", "refused"]
    detail: str


class Connection:
    """Follows one server for ever; what comes is put into the inbox.

    A refused login is tried again slowly, or, with `stop_on_auth_error`, ends it: the inbox is closed with
    AuthenticationError. `on_state` is called as things happen, ahead of what waits in the inbox.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        inbox: Inbox,
        *,
        cursor: Cursor,
        subscription: Subscribe | None,
        pace: Pace,
        on_state: Callable[[State], Awaitable[None]],
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
        self._pace = pace
        self._on_state = on_state
        self._stop_on_auth_error = stop_on_auth_error
        self._options = {} if ssl is None else {"ssl": ssl}
        self._clock = clock
        self._backoff = Backoff(pace)
        self._known_gap: int | None = None
        self._session: ClientSession | None = None
        self._outgoing = asyncio.Event()
        self._waiting = False
        self._ending: Ending | None = None
        self._broken = False

    async def run(self) -> None:
        """Until cancelled, or refused for good."""
        while True:
            await self._enter("connecting")
            ending = await self._attempt()
            if ending.kind == "refused" and self._stop_on_auth_error:
                self._inbox.close(AuthenticationError(ending.detail))
                return
            pause = self._pause(ending)
            logger.log(
                logging.ERROR if ending.kind == "refused" else logging.WARNING,
                "%s: %s; trying again in %.1f s",
                self._url,
                ending.detail,
                pause,
            )
            await asyncio.sleep(pause)

    async def stopped(self) -> None:
        """Says that it is over; to be called after `run` has ended."""
        await self._enter("stopped")

    def subscribe(self, subscription: Subscribe) -> None:
        """Changes the subscription, now and for later connections."""
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

    async def _attempt(self) -> Ending:
        begun = asyncio.get_running_loop().time()
        self._ending = None
        self._broken = False
        try:
            async with connect(
                self._url,
                open_timeout=self._pace.connect,
                close_timeout=self._pace.close,
                ping_interval=None,  # the session has pings of its own
                max_size=_MAX_FRAME,
                **self._options,
            ) as socket:
                ending = await self._converse(socket)
        except (OSError, EOFError, WebSocketException, asyncio.TimeoutError) as error:
            ending = self._ending or Ending("lost", f"no connection: {reason(error)}")
        self._backoff.lasted(asyncio.get_running_loop().time() - begun)
        return ending

    async def _converse(self, socket: ClientConnection) -> Ending:
        session = self._session = ClientSession(
            api_key=self._api_key,
            cursor=self.cursor,
            subscription=self.subscription,
            known_gap=self._known_gap,
            ping_ms=_ms(self._pace.ping),
            login_ms=_ms(self._pace.connect),
            clock_offset=self.clock_offset,
        )
        session.start()
        self._outgoing.set()
        read, watch, write = (
            asyncio.create_task(part(socket, session)) for part in (self._read, self._watch, self._write)
        )
        try:
            # A write that fails is no ending: what the server said before it closed is still to be read.
            await asyncio.wait((read, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._session = None
            results = await cancel_and_wait([read, watch, write])
            await socket.close()  # a goodbye, also where we are cancelled: `connect` would call that an error
        _raise_bugs(results)
        return _ending(self._ending, socket.protocol.close_code, socket.protocol.close_reason)

    async def _read(self, socket: ClientConnection, session: ClientSession) -> None:
        while not self._broken:
            self._waiting = True
            data = await socket.recv(decode=False)
            self._waiting = False
            await self._carry_out(session, session.receive(data, self._clock()))

    async def _write(self, socket: ClientConnection, session: ClientSession) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            for frame in session.to_send():
                await socket.send(frame)

    async def _watch(self, socket: ClientConnection, session: ClientSession) -> None:
        """Counts silence while frames are waited for: neither a slow handler nor a blocked loop is one."""
        while not self._broken:
            await asyncio.sleep(self._pace.tick)
            if self._waiting:
                await self._carry_out(session, session.tick(_ms(self._pace.tick), self._clock()))

    # --- what the session says ----------------------------------------------------------------------------

    async def _carry_out(self, session: ClientSession, events: list[Event]) -> None:
        self._outgoing.set()
        for event in events:
            match event:
                case StreamItem():
                    await self._inbox.put(event)
                    self.cursor = event.cursor
                case StateChanged():
                    await self._enter(event.state)
                case Refused():
                    self._ending = Ending("refused", f"login refused: {event.message}")
                case Evicted():
                    self._ending = Ending("evicted", event.message)
                case Disconnected():
                    if event.reason == "gap":
                        self._known_gap = session.cursor.sequence
                    self._ending = self._ending or Ending("lost", event.detail)
                    self._broken = True
                case ProtocolWarning():
                    logger.warning("%s: %s", self._url, event.message)

    async def _enter(self, state: State) -> None:
        if state != self.state:
            self.state = state
            await self._on_state(state)

    def _pause(self, ending: Ending) -> float:
        match ending.kind:
            case "refused":
                return self._backoff.refused()
            case "evicted":
                return self._backoff.evicted()
            case "lost":
                return self._backoff.lost()


def _ending(said: Ending | None, code: int | None, reason: str | None) -> Ending:
    """What to make of an ending: what the server said before, and its close code, which decides."""
    detail = f"closed with {code} {reason or ''}".rstrip() if code else "connection lost"
    if not should_return(code):
        return said or Ending("refused", f"login refused: {detail}")
    if code == REPLACED.code:
        return said or Ending("evicted", detail)
    if code in CLOSE_CODES and said is not None and said.kind == "refused":
        return Ending("lost", said.detail)
    return said or Ending("lost", detail)


def _raise_bugs(results: Sequence[BaseException | None]) -> None:
    """A connection that closed is an ending; anything else that a task raised is a fault of ours."""
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, (ConnectionClosed, OSError)):
            raise result


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
