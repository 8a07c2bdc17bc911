"""Floods and slow connections: unauthenticated ones wait, authenticated ones notice nothing."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from ptn_api.process.settings import Settings
from tests.hostile.fortress import TIMEOUT_MS, Fortress, raise_file_limit
from tests.hostile.raw import UPGRADE, RawSocket, frame
from tests.waiting import PATIENCE_S, until

HALF_OPEN = 5_000
SPARE = 500
"""Descriptors for everything else, here and there."""
MOST = Settings().stream.max_waiting_connections
assert Settings().rest.max_rest_connections == MOST


@contextlib.contextmanager
def half_open(port: int, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Opens connections that send `first` and then nothing."""
    opened: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
            with contextlib.suppress(ConnectionError):
                sock.sendall(first)
            opened.append(sock)
        yield opened


def log_in(fortress: Fortress) -> None:
    """Logs in as a client that arrives during the flood."""
    with connect(fortress.server.stream, open_timeout=PATIENCE_S) as client:
        client.send(json.dumps({"api_key": fortress.keys[100]}))
        assert '"success"' in str(client.recv(timeout=PATIENCE_S))


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHo"], ids=["silent", "half a line"])
@pytest.mark.parametrize("context", ["stream", "rest"])
def test_thousands_of_half_open_connections(fortress: Fortress, context: str, first: bytes) -> None:
    """Memory is bounded; clients that arrive are served, connected ones notice nothing."""
    raise_file_limit(HALF_OPEN + SPARE)
    port = fortress.ws_port if context == "stream" else fortress.rest_port
    process = fortress.server.children()[context]
    with half_open(port, HALF_OPEN, first):
        until(lambda: process.num_fds() <= MOST + SPARE, what="the oldest gave way")
        log_in(fortress)
        assert fortress.call("/me").status_code == 200
        fortress.check_served()
    until(lambda: process.num_fds() < SPARE, what="all gone")


def test_thousands_that_upgrade_and_do_not_log_in(fortress: Fortress) -> None:
    """The handshake alone authenticates no client."""
    raise_file_limit(HALF_OPEN + SPARE)
    process = fortress.server.children()["stream"]
    with half_open(fortress.ws_port, HALF_OPEN, UPGRADE + b"\r\n"):
        until(lambda: process.num_fds() <= MOST + SPARE, what="the oldest gave way")
        log_in(fortress)
        fortress.check_served()
    until(lambda: process.num_fds() < SPARE, what="all gone")


def test_a_slow_loris_is_disconnected(fortress: Fortress) -> None:
    """Byte by byte on both ports, in every phase, until the timeout of a request or a login."""
    get = b"GET /me HTTP/1.1\r\nHost: x\r\n"
    drips = {
        "a line": (fortress.rest_port, b"G"),
        "headers": (fortress.rest_port, get + b"X: "),
        "a body": (fortress.rest_port, get + b"Content-Length: 4000\r\n\r\n"),
        "chunks": (fortress.rest_port, get + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n"),
        "a body after the answer": (
            fortress.rest_port,
            get.replace(b"me", b"health") + b"Content-Length: 4000\r\n\r\n",
        ),
        "a second request": (fortress.rest_port, get.replace(b"me", b"health") + b"\r\nGET /"),
        "a handshake": (fortress.ws_port, UPGRADE + b"X: "),
        "a login": (fortress.ws_port, UPGRADE + b"\r\n" + frame(b"{", claimed=4_000)),
        "fragments": (fortress.ws_port, UPGRADE + b"\r\n" + frame(b"{", first=0x01)),
    }
    with contextlib.ExitStack() as stack:
        dripping = {}
        for name, (port, first) in drips.items():
            for _ in range(20):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
                sock.sendall(first)
                dripping[sock] = name
        until(
            lambda: _drip(dripping),
            seconds=3 * TIMEOUT_MS / 1000 + PATIENCE_S,
            what=f"the end of {set(dripping.values())}",
        )
        log_in(fortress)


def _drip(dripping: dict[socket.socket, str]) -> bool:
    """Sends one more byte on each. Returns whether the server has closed them all."""
    with selectors.DefaultSelector() as selector:
        for sock in dripping:
            selector.register(sock, selectors.EVENT_READ)
        ended = [key.fileobj for key, _ in selector.select(timeout=0.1) if _has_ended(key.fileobj)]
    for sock in ended:
        del dripping[sock]
    for sock, name in list(dripping.items()):
        byte = frame(b"", first=0x00) if name == "fragments" else b"x"
        try:
            sock.send(byte)
        except ConnectionError:
            del dripping[sock]
    return not dripping


def _has_ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1 << 16) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("kind", ["one frame", "fragments", "handshake"])
def test_unfinished_messages_of_strangers_hold_no_memory(fortress: Fortress, kind: str) -> None:
    """Hundreds of connections that announce a large message and send most of it."""
    sent = {
        "one frame": UPGRADE + b"\r\n" + frame(b"x" * 300_000, claimed=1 << 20),
        "fragments": UPGRADE + b"\r\n" + frame(b"x", first=0x01) + frame(b"x" * 4_000, first=0x00) * 75,
        "handshake": UPGRADE + b"X: " + b"x" * 300_000,
    }[kind]
    process = fortress.server.children()["stream"]
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", fortress.ws_port), PATIENCE_S))
            with contextlib.suppress(ConnectionError):
                sock.sendall(sent)
        fortress.check_served()
        assert process.memory_info().rss - before < 400 * 100_000


def test_unread_responses_block_nothing(fortress: Fortress) -> None:
    """Hundreds of pipelined requests whose responses are not read: bounded, and others are served."""
    one = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with half_open(fortress.rest_port, 50) as sockets:
        for sock in sockets:
            sock.settimeout(0.05)
            with contextlib.suppress(TimeoutError, ConnectionError):
                sock.sendall(one * 2_000)
        fortress.check_served()


def test_pings_and_frames_of_many_that_read_nothing(fortress: Fortress) -> None:
    """Unread pongs end the connection that requested them."""
    ping = frame(b"x" * 125, first=0x89)
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(RawSocket(fortress.ws_port)) for _ in range(20)]
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            for attacker in attackers:
                attacker.sock.settimeout(0.01)
                attacker.send(ping * 500)
        fortress.check_served()
