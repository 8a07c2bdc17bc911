"""Hostile input over raw sockets: it costs its sender the connection, and no other client anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.process.certificate import Certificate
from ptn_api.stream.handshake import HEAD_BYTES
from tests.stream.live import LiveStream, running, until
from tests.system.certificates import certificates
from tests.waiting import PATIENCE_S

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
        first, size = await asyncio.wait_for(self.reader.readexactly(2), PATIENCE_S)
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
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return Raw(reader, writer), answer


@pytest.fixture
async def live() -> AsyncIterator[LiveStream]:
    async with running(message_limit_bytes=1 << 16, unread_close_ms=200) as stream:
        yield stream


async def _still_serves(live: LiveStream) -> None:
    async with live.client() as client:
        assert (await client.login())["status"] == "success"


GET = b"GET / HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
WEBSOCKET = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
WITH_KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
WHOLE = GET + HOST + WEBSOCKET + WITH_KEY + VERSION
REFUSED = (
    {
        "not an upgrade": (GET + HOST, 426),
        "another upgrade": (GET + HOST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n", 426),
        "an older version": (GET + HOST + WEBSOCKET + WITH_KEY + b"Sec-WebSocket-Version: 8\r\n", 426),
        "no version": (GET + HOST + WEBSOCKET + WITH_KEY, 426),
        "a version twice": (WHOLE + VERSION, 426),
        "no key": (GET + HOST + WEBSOCKET + VERSION, 400),
        "a key twice": (WHOLE + WITH_KEY, 400),
        "a short key": (GET + HOST + WEBSOCKET + VERSION + b"Sec-WebSocket-Key: aGVsbG8=\r\n", 400),
        "no Connection": (GET + HOST + b"Upgrade: websocket\r\n" + WITH_KEY + VERSION, 400),
        "no host": (GET + WEBSOCKET + WITH_KEY + VERSION, 400),
        "an empty host": (GET + b"Host:\r\n" + WEBSOCKET + WITH_KEY + VERSION, 400),
        "a host twice": (WHOLE + HOST, 400),
        "a POST": (WHOLE.replace(b"GET", b"POST"), 400),
        "a body": (WHOLE + b"Content-Length: 2\r\n", 400),
        "a chunked body": (WHOLE + b"Transfer-Encoding: chunked\r\n", 400),
        "HTTP/1.0": (WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        "HTTP/2.0": (WHOLE.replace(b"HTTP/1.1", b"HTTP/2.0"), 505),
        "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n", 505),
        "RTSP": (WHOLE.replace(b"HTTP/1.1", b"RTSP/1.0"), 400),
        "no HTTP": (b"nonsense\r\n", 400),
        "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\r\n", 400),
        "NUL in a value": (WHOLE + b"X: a\0b\r\n", 400),
        "a folded line": (WHOLE + b"X: a\r\n b\r\n", 400),
        "a bare LF": (WHOLE + b"X: a\nY: b\r\n", 400),
        "only bare LFs": (WHOLE.replace(b"\r\n", b"\n"), 400),
        "no colon": (WHOLE + b"X\r\n", 400),
        "a space before the colon": (WHOLE + b"X : y\r\n", 400),
        "a large header": (WHOLE + b"X: " + b"y" * HEAD_BYTES + b"\r\n", 431),
        "a long path": (WHOLE.replace(b"/ ", b"/" + b"y" * HEAD_BYTES + b" "), 431),
        "headers without an end": (WHOLE + b"X: " + b"y" * 400_000, 431),
    }
    | {
        f"not ASCII in {name}": (WHOLE + name.encode() + b": \xff\xc3\xa9\r\n", 400)
        for name in ("X", "Authorization", "X-Forwarded-For", "Origin", "Sec-WebSocket-Extensions", "Upgrade")
    }
    | {
        "not ASCII in the version": (WHOLE.replace(b" 13", b" \xff"), 400),
        "not ASCII in the key": (WHOLE.replace(b"dGhl", b"\xc3\xa9"), 400),
        "not ASCII in the path": (WHOLE.replace(b"/ ", b"/\xff "), 400),
    }
)


@pytest.mark.parametrize("name", REFUSED)
async def test_a_malformed_handshake_gets_a_short_error(
    live: LiveStream, name: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON that repeats nothing of it; then the connection ends. Nothing is logged."""
    head, status = REFUSED[name]
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    with contextlib.closing(writer):
        writer.write(head + b"\r\n")
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert len(answer) < 500
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error", "code"}
    assert (b"Sec-WebSocket-Version: 13\r\n" in answer) == (status == 426)
    assert (caplog.text, capsys.readouterr().out) == ("", "")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_a_handshake_in_pieces_with_a_login_behind_it(secure: bool, tmp_path: Path) -> None:
    """Byte by byte, or all at once: the client need not wait for the response to send its frames."""
    context, options = tls(tmp_path) if secure else (None, {})
    ping = b'{"type":"ping","timestamp":7}'
    frames = b"".join(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text for text in (LOGIN, *[ping] * 300))
    sent = WHOLE + b"\r\n" + frames
    async with running(tls=context) as live:
        for size in (1, 7, 5_000, len(sent)):
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port, **options)
            raw = Raw(reader, writer)
            for n in range(0, len(sent), size):
                writer.write(sent[n : n + size])  # over TLS, a record each
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            assert json.loads((await raw.read())[1])["status"] == "success"
            for _ in range(300):
                assert json.loads((await raw.read())[1])["client_timestamp"] == 7
            writer.transport.abort()


def tls(folder: Path) -> tuple[ssl.SSLContext, dict[str, Any]]:
    """Returns the server's context and the client's options."""
    files = certificates(folder)
    client = ssl.create_default_context(cafile=files.authority)
    return Certificate(files.certificate, files.key).context, {"ssl": client, "server_hostname": "localhost"}


REFUSALS = {
    "a handshake that is none": (b"nonsense\r\n\r\n", 0),
    "headers without an end": (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000, 0),
    "an unknown key": (WHOLE + b"Authorization: Bearer unknown\r\n\r\n", 4101),
    "no key": (WHOLE + b"\r\n" + b"\x81\x82\0\0\0\0{}", 4100),
    "a bad frame": (WHOLE + b"\r\n" + b"\xb1\x82\0\0\0\0{}", 1002),
    "an unmasked frame": (WHOLE + b"\r\n" + b"\x81\x02{}", 1002),
    "a large frame": (WHOLE + b"\r\n" + b"\x81\xfe\xff\xff\0\0\0\0" + b"x" * 20_000, 1009),
    "a close frame": (WHOLE + b"\r\n" + b"\x88\x80\0\0\0\0", 1000),
}
UNFINISHED = {"silence": (WHOLE + b"\r\n", 4003), "half a handshake": (WHOLE, 0)}


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(("refusals", "timeout_ms"), [(REFUSALS, 600_000), (UNFINISHED, 2_000)])
async def test_the_server_ends_every_refused_connection_by_itself(
    secure: bool, tmp_path: Path, refusals: dict[str, tuple[bytes, int]], timeout_ms: int
) -> None:
    """Even if the client sends nothing more and closes nothing, not even TLS."""
    context, options = tls(tmp_path) if secure else (None, {})
    async with running(auth_timeout_ms=timeout_ms, unread_close_ms=200, tls=context) as live:
        received = await asyncio.gather(
            *(
                asyncio.to_thread(_read_to_end, live.port, sent, options.get("ssl"))
                for sent, _ in refusals.values()
            )
        )
    for (name, (_, code)), data in zip(refusals.items(), received, strict=True):
        assert not code or struct.pack("!H", code) in data, name


def _read_to_end(port: int, sent: bytes, context: ssl.SSLContext | None) -> bytes:
    """Returns all bytes up to the end of the TCP connection."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="localhost")
    received = b""
    with contextlib.suppress(ConnectionError):
        sock.sendall(sent)
        while chunk := sock.recv(1 << 16):
            received += chunk
    with socket.socket(fileno=sock.detach()) as below, contextlib.suppress(ConnectionError):
        below.settimeout(PATIENCE_S)
        while below.recv(1 << 16):
            pass  # what is left of TLS
    return received


@pytest.mark.parametrize(
    ("first", "payload", "code"),
    [
        (0x80, b"a continuation of nothing", 1002),
        (0xC1, b"compressed without an agreement", 1002),
        (0x83, b"an unknown opcode", 1002),
        (0x09, b"a ping in fragments", 1002),
        (0xA1, b"RSV2", 1002),
        (0x91, b"RSV3", 1002),
        (0xA9, b"RSV2 in a ping", 1002),
        (0xC9, b"RSV1 in a ping", 1002),
        (0x9A, b"RSV3 in a pong", 1002),
        (0xA8, b"", 1002),
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
        await asyncio.wait_for(raw.reader.read(), PATIENCE_S)
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
                await asyncio.wait_for(raw.writer.drain(), PATIENCE_S)
        assert live.counters.slow_closes == 1
        raw.writer.close()


async def test_the_clients_own_close_is_answered(live: LiveStream) -> None:
    """With its code, or 1000 if it had none."""
    for payload, code in ((struct.pack("!H", 3_001), 3_001), (b"", 1_000)):
        raw, _ = await _connect(live)
        await raw.frame(LOGIN)
        await raw.frame(payload, first=0x88)
        assert await raw.close_code() == code
        assert await asyncio.wait_for(raw.reader.read(), PATIENCE_S) == b""
        raw.writer.close()
    await until(lambda: live.counters.clients == 0)


async def test_a_handshake_must_come_in_time() -> None:
    """The connection ends without a response; each refused handshake is counted by its status, too."""
    for timeout_ms, handshakes, counted in (
        (100, (b"", WHOLE), {"timeout": 2}),
        (600_000, (GET + HOST + b"\r\n", b"nonsense\r\n\r\n"), {"426": 1, "400": 1}),
    ):
        async with running(auth_timeout_ms=timeout_ms) as live:
            for sent in handshakes:
                received = await asyncio.to_thread(_read_to_end, live.port, sent, None)
                assert (received == b"") == ("timeout" in counted)
            assert live.counters.refused_handshakes == counted


async def test_a_connection_beyond_the_rate_that_sends_nothing_is_closed() -> None:
    """With "reconnect", and then aborted: nobody need read the close frame."""
    async with running(connects_per_minute=1, trusted_proxies="127.0.0.1", unread_close_ms=100) as live:
        sent = WHOLE + b"X-Forwarded-For: 9.9.9.9\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(sent)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        received = await asyncio.to_thread(_read_to_end, live.port, sent, None)
        assert struct.pack("!H", 4006) in received
        assert live.counters.limited == {"connects": 1}
        writer.close()
