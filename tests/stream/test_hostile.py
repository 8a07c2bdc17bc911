"""Hostile input over raw sockets: it costs its sender the connection, and no other client anything."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import zlib
from collections.abc import AsyncIterator

import pytest

from tests.stream.live import SOON_S, LiveStream, running, until

UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Origin: https://elsewhere.example\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)
LOGIN = b'{"api_key":"key-of-alice"}'


class Raw:
    """A raw WebSocket client; its masking key is zero."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self, payload: bytes, *, first: int = 0x81) -> None:
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", first, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", first, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", first, 0x80 | 127, size)
        self.writer.write(head + bytes(4) + payload)
        await self.writer.drain()

    async def read(self) -> tuple[int, bytes]:
        """The next frame: first byte and payload."""
        first, size = await asyncio.wait_for(self.reader.readexactly(2), SOON_S)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        return first, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """Reads up to the server's close frame."""
        while True:
            first, payload = await self.read()
            if first == 0x88:
                return int(struct.unpack("!H", payload[:2])[0])


async def _connect(live: LiveStream, extensions: bytes = b"") -> tuple[Raw, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    offer = b"Sec-WebSocket-Extensions: " + extensions + b"\r\n" if extensions else b""
    writer.write(UPGRADE + offer + b"\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return Raw(reader, writer), answer


@pytest.fixture
async def live() -> AsyncIterator[LiveStream]:
    async with running(message_limit_bytes=1 << 16, unread_close_ms=200) as stream:
        yield stream


async def _still_serves(live: LiveStream) -> None:
    async with live.client() as client:
        assert (await client.login())["status"] == "success"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", b"400"),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
    ],
)
async def test_a_request_without_an_upgrade_gets_a_short_error(
    live: LiveStream, request_bytes: bytes, status: bytes
) -> None:
    """A 4xx and the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(request_bytes)
    answer = await asyncio.wait_for(reader.read(), SOON_S)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert len(answer) < 500
    writer.close()


async def test_an_endless_handshake_is_cut_off(live: LiveStream) -> None:
    """The size of headers is limited."""
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 40_000)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), SOON_S) == b""
    writer.close()


@pytest.mark.parametrize(
    ("first", "payload", "code"),
    [
        (0x80, b"a continuation of nothing", 1002),
        (0xC1, b"compressed without an agreement", 1002),
        (0x83, b"an unknown opcode", 1002),
        (0x09, b"a ping in fragments", 1002),
        (0x81, b"x" * ((1 << 16) + 1), 1009),
    ],
)
async def test_malformed_frames_close_their_connection(
    live: LiveStream, first: int, payload: bytes, code: int
) -> None:
    """With the code of RFC 6455; other clients are unaffected."""
    raw, _ = await _connect(live)
    await raw.frame(LOGIN)
    await raw.frame(payload, first=first)
    assert await raw.close_code() == code
    raw.writer.close()
    await _still_serves(live)


async def test_a_message_inside_another_is_a_protocol_error(live: LiveStream) -> None:
    """A new text frame before the last fragment."""
    raw, _ = await _connect(live)
    await raw.frame(b'{"api', first=0x01)
    await raw.frame(LOGIN)
    assert await raw.close_code() == 1002
    raw.writer.close()


async def test_random_bytes_after_the_handshake_do_no_harm(live: LiveStream) -> None:
    """Seeded, before and after the login."""
    dice = random.Random(3)
    for login in (False, True) * 10:
        raw, _ = await _connect(live)
        if login:
            await raw.frame(LOGIN)
        raw.writer.write(dice.randbytes(dice.randrange(1, 3_000)))
        raw.writer.write_eof()
        await asyncio.wait_for(raw.reader.read(), SOON_S)
        raw.writer.close()
    await until(lambda: live.counters.clients == 0)
    await _still_serves(live)


async def test_a_deflate_bomb_is_closed_with_1009(live: LiveStream) -> None:
    """A few KiB that inflate to more than the limit."""
    raw, answer = await _connect(live, b"permessage-deflate; client_max_window_bits")
    assert b"permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n" in answer
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflater.compress(bytes(50_000_000)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 1 << 16
    await raw.frame(bomb[:-4], first=0xC1)
    assert await raw.close_code() == 1009
    raw.writer.close()


async def test_a_payload_that_is_not_deflated_is_closed(live: LiveStream) -> None:
    """With 1007, inconsistent data."""
    raw, _ = await _connect(live, b"permessage-deflate")
    await raw.frame(b"\xff" * 100, first=0xC1)
    assert await raw.close_code() == 1007
    raw.writer.close()


async def test_an_offer_with_a_small_window_is_declined(live: LiveStream) -> None:
    """An offer with server_max_window_bits below 15 gets no compression."""
    raw, answer = await _connect(live, b"permessage-deflate; server_max_window_bits=10")
    assert b"permessage-deflate" not in answer
    raw.writer.close()
    raw, answer = await _connect(
        live, b"permessage-deflate; server_max_window_bits=10, permessage-deflate; server_max_window_bits=15"
    )
    assert b"server_max_window_bits=15" in answer
    raw.writer.close()


async def test_unread_pongs_end_the_connection() -> None:
    """They count as unsent bytes, also before the login."""
    async with running(send_buffer_bytes=100_000, unread_close_ms=100, frames_per_minute=0) as live:
        raw, _ = await _connect(live)
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        frame = bytes([0x89, 0x80 | 125, 0, 0, 0, 0]) + bytes(125)
        with pytest.raises(ConnectionError):
            while True:
                raw.writer.write(frame * 500)
                await asyncio.wait_for(raw.writer.drain(), SOON_S)
        assert live.counters.slow_closes == 1
        raw.writer.close()


async def test_the_clients_own_close_is_answered(live: LiveStream) -> None:
    """With its code, or 1000 if it had none."""
    for payload, code in ((struct.pack("!H", 3_001), 3_001), (b"", 1_000)):
        raw, _ = await _connect(live)
        await raw.frame(LOGIN)
        await raw.frame(payload, first=0x88)
        assert await raw.close_code() == code
        assert await asyncio.wait_for(raw.reader.read(), SOON_S) == b""
        raw.writer.close()
    await until(lambda: live.counters.clients == 0)
