"""Clients that send what they like: bytes to the REST port, frames to the WebSocket port."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import zlib
from typing import NamedTuple

from tests.waiting import PATIENCE_S

__all__ = ["Answer", "RawSocket", "ask_raw", "deflated", "exchange", "frame"]

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")


class Answer(NamedTuple):
    status: int
    head: bytes
    body: bytes


def exchange(port: int, data: bytes, *, patience_s: float = PATIENCE_S) -> bytes:
    """Sends bytes to the REST port and nothing more; everything that comes until the server hangs up.

    When it has been silent for `patience_s`, it is told that nothing will follow.
    """
    received = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock,
        contextlib.suppress(ConnectionError),
    ):
        sock.sendall(data)
        sock.settimeout(patience_s)
        try:
            while chunk := sock.recv(1 << 16):
                received += chunk
        except TimeoutError:
            sock.settimeout(PATIENCE_S)
            sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(1 << 16):
                received += chunk
    return received


def ask_raw(port: int, data: bytes) -> list[Answer]:
    """The answers to requests, none of them a HEAD."""
    return _split(exchange(port, data))


def _split(received: bytes) -> list[Answer]:
    """Answers one after the other, by their lengths."""
    found = []
    while match := _STATUS.match(received):
        head, _, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        size = int(length[1]) if length and match[1] != b"304" else 0
        found.append(Answer(int(match[1]), head, rest[:size]))
        received = rest[size:]
    assert not received, f"no HTTP: {received[:200]!r}"
    return found


class RawSocket:
    """A WebSocket connection over a plain socket. `open` reads up to the server's answer to the handshake."""

    def __init__(self, port: int, extensions: bytes = b"", *, forwarded: bytes = b"") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        more = b"Sec-WebSocket-Extensions: " + extensions + b"\r\n" if extensions else b""
        more += b"X-Forwarded-For: " + forwarded + b"\r\n" if forwarded else b""
        self.sock.sendall(UPGRADE + more + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            chunk = self.sock.recv(1)
            assert chunk, answer
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """As much as the server takes."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.sock.sendall(data)

    def read(self) -> tuple[int, bytes] | None:
        """The next frame: first byte and payload; None at the end of the connection."""
        try:
            first, size = self._exactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", self._exactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self._exactly(8))
            return first, self._exactly(size)
        except (ConnectionError, EOFError):
            return None

    def close_code(self) -> int:
        """Reads to the end of the connection: the code of the close frame, 0 without one."""
        code = 0
        while (got := self.read()) is not None:
            if got[0] == 0x88:
                code = int(struct.unpack("!H", got[1][:2])[0]) if len(got[1]) >= 2 else 1005
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_WR)
        return code

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.sock.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data


def frame(payload: bytes, *, first: int = 0x81, claimed: int | None = None, masked: bool = True) -> bytes:
    """A client's frame, masked by zeros; `claimed` is the length that it says it has."""
    size = len(payload) if claimed is None else claimed
    bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (bytes(4) if masked else b"") + payload


def deflated(payload: bytes) -> bytes:
    """As permessage-deflate sends it."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
