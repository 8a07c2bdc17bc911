"""Orders of a given size for the log, and clients that wait for them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptn_api.clock import wall_ms
from ptn_api.event_log import open_writer
from ptn_api.event_log.contract import EventLogWriter, PositionWritten
from tests import factories

__all__ = [
    "END",
    "client",
    "filled_log",
    "logged_in",
    "message",
    "position_with",
    "subscribe",
    "written",
]

END = "END-OF-THE-BENCHMARK"
"""A mark in the last order, by which the receiver knows that it is complete."""


def position_with(number: int, orders: int = 1, **fields: Any) -> dict[str, Any]:
    """Returns a position whose last order is current; its message has about 1 KB with one order."""
    now = time.time_ns() // 1_000_000
    listed = [
        factories.order(number * 1000 + place, 0.01, at=now - orders + place, price_sources=[_QUOTE])
        for place in range(orders)
    ]
    return factories.position(number, listed, miner=f"{factories.MINER[:-4]}{number % 250:04}", **fields)


_QUOTE = {
    "source": "Polygon_ws",
    "timespan_ms": 0,
    "open": 64321.5,
    "close": 64321.5,
    "vwap": 64321.5,
    "high": 64321.5,
    "low": 64321.5,
    "start_ms": 1_760_000_000_000,
    "websocket": True,
    "lag_ms": 12,
    "bid": 64321.0,
    "ask": 64322.0,
}


def written(number: int, orders: int = 1, **fields: Any) -> PositionWritten:
    return factories.written(position_with(number, orders, **fields))


def message(orders: int = 1, sequence: int = 1_760_000_001) -> bytes:
    """Returns the message that the stream sends for an order in format `full`."""
    body = position_with(1, orders)
    frame = {"sequence": sequence, "timestamp": 1_760_000_000_000, "data": {"position": body}}
    return json.dumps(frame, separators=(",", ":")).encode()


@contextmanager
def filled_log(folder: Path) -> Iterator[EventLogWriter]:
    """Creates an empty, ready log. Returns its writer."""
    log = open_writer(folder, clock=lambda: wall_ms() - 60_000)  # before the orders, which become events
    try:
        log.baseline([], time.time_ns() // 1_000_000)
        yield log
    finally:
        log.close()


def client(port: int, key: str, **login: Any) -> socket.socket:
    """Returns the raw socket of a client that has subscribed; orders follow."""
    one = logged_in(port, key, **login)
    subscribe(one)
    _until(one, b'"action":"subscribe"')
    return one


def logged_in(port: int, key: str, **login: Any) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port))
    one.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    _until(one, b"\r\n\r\n")
    _send(one, {"api_key": key, "last_sequence": -1} | login)
    return one


def subscribe(one: socket.socket) -> None:
    _send(one, {"type": "subscribe", "all": True})


def _send(one: socket.socket, frame: dict[str, Any]) -> None:
    payload = json.dumps(frame).encode()
    size = len(payload)
    head = bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0x80 | 126]) + size.to_bytes(2, "big")
    one.sendall(head + b"\0\0\0\0" + payload)  # a zero mask leaves the payload as it is


def _until(one: socket.socket, end: bytes) -> bytes:
    """Reads exactly up to the end of the header: the bytes after it belong to the next reader."""
    data = b""
    while end not in data:
        data += one.recv(1)
    if end.startswith(b'"'):
        while not data.endswith(b"}"):
            data += one.recv(1)
    return data
