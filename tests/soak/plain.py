"""A follower that was written against the protocol and not against our client.

It records exactly what is on the wire, and repairs nothing. It decodes as little as possible, so that a
hundred of them cost a tenth of a processor.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from urllib.parse import urlsplit

import msgspec

from ptn_api.clock import wall_ms
from tests.soak.report import BotConfig, BotReport, End, Record, kind_of

__all__ = ["PlainBot"]

TICK_S = 1.0
PATIENCE_TICKS = 10
"""How long a connection may be silent: several heartbeats, or pings of version 1."""
LONGEST_PAUSE_S = 2.0

_TEXT, _CLOSE, _PING = 0x1, 0x8, 0x9


class _Order(msgspec.Struct):
    order_uuid: str
    processed_ms: int


class _Position(msgspec.Struct):
    orders: list[_Order] = []


class _Data(msgspec.Struct):
    position: _Position
    order: _Order | None = None


class _Message(msgspec.Struct):
    sequence: int = 0
    timestamp: int = 0
    data: _Data | None = None
    late: bool = False
    replay: bool = False


class _Frame(_Message):
    """Any frame, with the fields that are checked."""

    type: str = ""
    status: str = ""
    messages: list[_Message] = []
    current_sequence: int = -1
    epoch: str = ""
    head: int = -1
    reason: str = ""


_frame = msgspec.json.Decoder(_Frame)


class PlainBot:
    """Follows until stopped; reconnects with its last sequence after any fault."""

    def __init__(self, number: int, config: BotConfig) -> None:
        kind = kind_of(number)
        self.report = BotReport(number, kind, f"{config.folder}/{number}.received")
        self.live = asyncio.Event()
        self.record = Record(self.report)
        self.version = 1 if kind == "version 1" else 2
        self.format = "delta" if kind == "plain delta" else "full"
        self.api_key = config.api_keys[number]
        self.epoch = ""
        self.connected_ms = 0
        address = urlsplit(config.stream_url)
        self._host, self._port = address.hostname or "", address.port
        self._stopped = asyncio.Event()
        self._conversation: _Conversation | None = None

    async def run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            begun = time.monotonic()
            await self._converse()
            failures = 0 if time.monotonic() - begun > LONGEST_PAUSE_S else failures + 1
            await self._pause(random.uniform(0.0, min(LONGEST_PAUSE_S, 0.2 * 2.0**failures)))
        self.record.close()

    async def _converse(self) -> None:
        conversation = _Conversation(self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: conversation, self._host, self._port)
        except OSError:
            return
        self._conversation = conversation
        if self._stopped.is_set():
            conversation.leave()
        await conversation.ended.wait()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except asyncio.TimeoutError:
            return

    async def ready(self) -> None:
        await self.live.wait()

    def has_reached(self, end: End) -> bool:
        return self.report.last >= end.head

    def stop(self) -> None:
        self._stopped.set()
        if self._conversation is not None:
            self._conversation.leave()


class _Conversation(asyncio.Protocol):
    """One connection: the necessary part of RFC 6455, without compression."""

    def __init__(self, bot: PlainBot) -> None:
        self.ended = asyncio.Event()
        self._bot = bot
        self._buffer = bytearray()
        self._upgraded = False
        self._silent_ticks = 0

    # --- the socket ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._bot.report.connections += 1
        self._bot.connected_ms = wall_ms()
        transport.write(
            b"GET / HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._silent_ticks = 0
        self._buffer += data
        try:
            self._read()
        except (ValueError, msgspec.MsgspecError):  # as after bytes that came twice
            self._bot.report.broken_off += 1
            self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    def leave(self) -> None:
        self._buffer.clear()
        self._transport.abort()

    def _watch(self) -> None:
        """Leaves when nothing has come for long; meanwhile says that it is there.

        Ticks are counted, not seconds: a loop that is late has not looked, either.
        """
        if self.ended.is_set():
            return
        self._silent_ticks += 1
        if self._silent_ticks > PATIENCE_TICKS:
            self.leave()
        elif self._upgraded and self._bot.version == 1 and self._silent_ticks % 3 == 0:
            self._send({"type": "ping", "timestamp": time.time_ns() // 1_000_000})
        asyncio.get_running_loop().call_later(TICK_S, self._watch)

    # --- frames ---

    def _read(self) -> None:
        if not self._upgraded and not self._read_upgrade():
            return
        while (frame := self._next_frame()) is not None and not self._transport.is_closing():
            opcode, payload = frame
            if opcode == _TEXT:
                self._take(_frame.decode(payload))
            elif opcode == _CLOSE:
                self.leave()
            elif opcode != _PING:
                raise ValueError(f"opcode {opcode}")

    def _read_upgrade(self) -> bool:
        head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 101"):
            raise ValueError("no upgrade")
        self._buffer = bytearray(rest)
        self._upgraded = True
        self._log_in()
        return True

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if buffer[0] & 0x70 or not buffer[0] & 0x80 or buffer[1] & 0x80:
            raise ValueError("not a whole, plain frame of a server")
        start, size = 2, buffer[1]
        if size >= 126:
            start, form = (4, "!H") if size == 126 else (10, "!Q")
            if len(buffer) < start:
                return None
            size = struct.unpack_from(form, buffer, 2)[0]
        if len(buffer) < start + size:
            return None
        payload = bytes(buffer[start : start + size])
        opcode = buffer[0] & 0x0F
        del buffer[: start + size]
        return opcode, payload

    def _send(self, frame: dict[str, object]) -> None:
        """Masked with zeros, which leaves the text unchanged."""
        payload = msgspec.json.encode(frame)
        size = bytes([0x80 | len(payload)]) if len(payload) < 126 else struct.pack("!BH", 0xFE, len(payload))
        self._transport.write(b"\x81" + size + bytes(4) + payload)

    # --- the protocol ---

    def _log_in(self) -> None:
        bot = self._bot
        login: dict[str, object] = {"api_key": bot.api_key, "last_sequence": bot.report.last}
        if bot.version == 2:
            login |= {"version": 2} | ({"epoch": bot.epoch} if bot.epoch else {})
        self._send(login)

    def _take(self, frame: _Frame) -> None:
        if frame.type == "batch":
            for message in frame.messages:
                self._order(message)
        elif frame.data is not None:
            self._order(frame)
        elif frame.status == "success" and not frame.type:
            self._accepted(frame)
        elif frame.type == "subscription_status":
            self._bot.live.set()
        elif frame.type == "resume_failed":
            self._gap(frame.reason, frame.head)

    def _accepted(self, frame: _Frame) -> None:
        bot = self._bot
        bot.epoch = frame.epoch
        if bot.report.last < 0:
            bot.report.last = frame.current_sequence
        elif bot.version == 1 and frame.current_sequence != bot.report.last:
            self._gap("not replayed", frame.current_sequence)
        subscribe: dict[str, object] = {"type": "subscribe", "all": True}
        self._send(subscribe | ({"format": bot.format} if bot.version == 2 else {}))

    def _gap(self, reason: str, head: int) -> None:
        self._bot.report.gaps.append(f"{reason} {self._bot.report.last}-{head}")
        self._bot.report.last = head

    def _order(self, message: _Message) -> None:
        data = message.data
        if data is None or message.sequence != self._bot.report.last + 1:
            raise ValueError(f"{message.sequence} after {self._bot.report.last}")
        order = data.order or data.position.orders[-1]
        self._bot.record.add(
            message.sequence,
            order.order_uuid,
            message.timestamp,
            order.processed_ms,
            message.late,
            message.replay,
            self._bot.connected_ms,
        )
