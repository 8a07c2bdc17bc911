"""Server-Sent Events: the version 2 messages of the WebSocket as `text/event-stream` (docs/protocol.md, 8).

One event per message. Its id is a cursor, `<epoch>:<sequence>:<revision>`: everything up to there that
matches was sent before, or with it. A client that reconnects sends the last id that it got.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ptn_api.fanout.encoding import Change, Message, Shared
from ptn_api.http.body import LiveBody
from ptn_api.wire import codec
from ptn_api.wire.close_codes import SHUTTING_DOWN, SLOW_CONSUMER, CloseCode
from ptn_api.wire.frames import Auth, AuthFailure, Error, Heartbeat, ResumeFailed, Subscribe

if TYPE_CHECKING:
    from ptn_api.fanout.hub import Hub

__all__ = ["EVENT_STREAM", "EventCursor", "EventFraming", "EventStream", "read_cursor"]

EVENT_STREAM = "text/event-stream"
RETRY_MS = 1_000
"""How long a client waits before it reconnects to a server that is being restarted."""

_CURSOR = re.compile(r"([0-9A-Za-z_-]{1,64}):([0-9]{1,18})(?::([0-9]{1,18}))?")
_LEFT = CloseCode(1006, "closed by the client")


class EventCursor(NamedTuple):
    """A client's place in the log; no revision: it does not follow position changes."""

    epoch: str
    sequence: int
    revision: int | None = None


def read_cursor(text: str) -> EventCursor | None:
    """Returns the cursor, or None if the text is not one."""
    match = _CURSOR.fullmatch(text)
    if match is None:
        return None
    epoch, sequence, revision = match.groups()
    return EventCursor(epoch, int(sequence), None if revision is None else int(revision))


class EventFraming(NamedTuple):
    """The `Framing` of an event stream."""

    epoch: str

    def orders(self, messages: Sequence[Message], revision: int, shared: Shared) -> list[bytes]:
        return [self._shared("order", message, sequence, revision, shared) for sequence, message in messages]

    def variant(self, revision: int) -> Hashable:
        return self, revision

    def changes(
        self, changes: Sequence[Change], sequence: int, revisions: tuple[int, int], shared: Shared
    ) -> list[bytes]:
        last = len(changes) - 1
        return [
            self._shared(kind, frame, sequence, revisions[n == last], shared)
            for n, (kind, frame) in enumerate(changes)
        ]

    def single(self, frame: msgspec.Struct, revision: int) -> bytes:
        match frame:
            case Heartbeat():
                return self._event("heartbeat", codec.encode(frame), frame.head, revision)
            case ResumeFailed():
                return self._event("gap", codec.encode(frame), frame.head, revision)
            case AuthFailure() | Error():
                return _comment(frame.message)
        return b""

    def _shared(self, name: str, data: bytes, sequence: int, revision: int, shared: Shared) -> bytes:
        if shared is None:
            return self._event(name, data, sequence, revision)
        key = (data, sequence, revision)
        event = shared.get(key)
        if event is None:
            event = shared[key] = self._event(name, data, sequence, revision)
        return event

    def _event(self, name: str, data: bytes, sequence: int, revision: int) -> bytes:
        # The log's texts are compact JSON, so a message is one line.
        return b"event: %b\nid: %b:%d:%d\ndata: %b\n\n" % (
            name.encode(),
            self.epoch.encode(),
            sequence,
            revision,
            data,
        )


def _comment(text: str) -> bytes:
    return b": %b\n\n" % " ".join(text.split()).encode()


class EventStream(LiveBody):
    """One client: the body of its response, and the `Socket` of its `Connection`.

    `log_in` first: until it is decided, the response may still be an error. `run` then sends the stream.
    """

    address_group = None  # the HTTP server counts connections
    idle_heartbeats = False  # before it has subscribed, a client is sent no id

    def __init__(self, hub: Hub, epoch: str, address: str) -> None:
        self.framing = EventFraming(epoch)
        self.address = address
        self.refusal: CloseCode | None = None
        """Why the stream has been closed."""
        self.high_water_bytes = min(self.high_water_bytes, hub.options.send_buffer_bytes // 2)
        self._hub = hub
        self._transport: asyncio.Transport | None = None
        self._decided = asyncio.Event()
        self._closed = asyncio.Event()
        self._connection = hub.connect(self)

    async def log_in(self, api_key: str, cursor: EventCursor | None, subscribe: Subscribe) -> bool:
        """Returns whether the client may have the stream, which then begins after the cursor."""
        login = Auth(api_key=api_key, version=2)
        if cursor is not None:
            login.epoch, login.last_sequence = cursor.epoch, cursor.sequence
        self._subscribe = subscribe
        try:
            self._connection.received(codec.encode(login))
            await self._decided.wait()
        except BaseException:  # cancelled: the client has left
            self.ended()
            raise
        if self.refusal is not None:
            self.ended()
        return self.refusal is None

    # --- LiveBody ---

    async def run(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        if self.refusal is None:
            self._connection.received(codec.encode(self._subscribe))
        if self.refusal is None and self._connection.session.subscribed_before:
            self._hub.send_heartbeat(self._connection)  # a first id
        await self._closed.wait()

    def congested(self) -> None:
        self._connection.congested()

    def drained(self) -> None:
        self._connection.drained()

    def ended(self) -> None:
        self._hub.disconnected(self._connection, _LEFT)

    # --- Socket ---

    def write(self, data: bytes) -> None:
        # uvloop's transport raises once its socket is closed, which may be before `ended` is called.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def unsent_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self, reason: CloseCode) -> None:
        self.refusal = reason
        self._decided.set()
        self._closed.set()
        if self._transport is not None and reason == SLOW_CONSUMER:
            self._transport.abort()
            return
        if reason == SHUTTING_DOWN:
            self.write(b"retry: %d\n" % RETRY_MS)
        self.write(_comment(reason.reason))

    def authenticated(self, *, filters: bool) -> None:
        pass  # the HTTP server has authenticated the request

    def logged_in(self) -> None:
        self._decided.set()

    def abort_if_closing(self) -> None:
        pass  # the HTTP server ends the connection
