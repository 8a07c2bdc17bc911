"""Hostile WebSocket clients: malformed frames, JSON and handshakes, and bombs."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.process.settings import Settings
from ptn_api.wire.client_frames import SMALL_FRAME_BYTES
from ptn_api.wire.close_codes import INTERNAL_ERROR
from tests.hostile.fortress import FRAMES_PER_MINUTE, Fortress
from tests.hostile.raw import RawSocket, deflated, frame
from tests.properties import tries
from tests.waiting import PATIENCE_S

ALLOWED = {0, 1000, 1001, 1002, 1003, 1005, 1007, 1009, 3000, 4006, 4100, 4101, 4102}
"""Close codes that a hostile client may get; 0 means no close frame. 4002 would be a fault of the server."""
LIMIT = Settings().stream.message_limit_bytes


def login(fortress: Fortress, **fields: Any) -> bytes:
    return frame(json.dumps({"api_key": fortress.keys[100], **fields}).encode())


def expect_close(fortress: Fortress, sent: bytes, *codes: int, extensions: bytes = b"") -> None:
    """Opens a connection, sends this and reads to the end."""
    with RawSocket(fortress.ws_port, extensions) as attacker:
        attacker.send(sent)
        assert attacker.close_code() in codes


# --- frames -----------------------------------------------------------------------------------------------

_PAYLOADS = st.one_of(
    st.binary(max_size=200), st.just(b"\0" * 70_000), st.just(b'{"type":"ping"}'), st.just(b"\xff\xfe")
)
_FRAMES = st.builds(
    frame,
    _PAYLOADS,
    first=st.one_of(
        st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80, 0xC1, 0x88, 0x89, 0x8A, 0x83, 0xF1]),
        st.integers(0, 255),
    ),
    claimed=st.one_of(
        st.none(),
        st.none(),
        st.sampled_from([0, 125, 126, 65_536, 1 << 20, (1 << 20) + 1, 1 << 40, (1 << 64) - 1]),
    ),
    masked=st.sampled_from([True, True, True, False]),
)


@tries(60)
@given(logged_in=st.booleans(), deflate=st.booleans(), frames=st.lists(_FRAMES, max_size=5))
def attack_with_frames(fortress: Fortress, logged_in: bool, deflate: bool, frames: list[bytes]) -> None:
    with RawSocket(fortress.ws_port, b"permessage-deflate" if deflate else b"") as attacker:
        attacker.send((login(fortress, version=2) if logged_in else b"") + b"".join(frames))
        attacker.send(frame(struct.pack("!H", 3000), first=0x88))
        with contextlib.suppress(OSError):
            attacker.sock.shutdown(socket.SHUT_WR)
        code = attacker.close_code()
        # From 3000 on it may be the attacker's own, echoed; 4002 would be a fault of ours.
        assert code in ALLOWED or (3_000 <= code < 5_000 and code != INTERNAL_ERROR.code)


def test_frames_that_are_almost_frames(fortress: Fortress) -> None:
    """Wrong opcodes, lengths, bits and masks, before and after the login, end their connection at most."""
    attack_with_frames(fortress)


# --- what is in them --------------------------------------------------------------------------------------

_NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([10**18, 2**63, 2**64, 10**30, -(10**30), -1]),
    st.floats(allow_nan=False, allow_infinity=False),
)
_LEAVES = st.one_of(
    st.none(), st.booleans(), _NUMBERS, st.text(max_size=100), st.sampled_from(["\0", "\ud800", "delta"])
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = [
    *("all", "sender_timestamp", "miners", "trade_pairs", "format", "updates", "revision", "timestamp"),
    *("api_key", "last_sequence", "version", "epoch", "type"),
]
_REQUESTS = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.one_of(st.sampled_from(["subscribe", "unsubscribe", "ping", "batch", "heartbeat"]), _VALUES),
    st.dictionaries(st.sampled_from(_FIELDS[:8]), _VALUES, max_size=4),
)
_LOGINS = st.dictionaries(st.sampled_from(_FIELDS[9:12]), _VALUES, max_size=3)


@tries(80)
@given(
    fields=_LOGINS, version=st.sampled_from([1, 2, None]), requests=st.lists(_REQUESTS | _VALUES, max_size=6)
)
def attack_with_values(fortress: Fortress, fields: Any, version: int | None, requests: list[Any]) -> None:
    fields = fields | ({} if version is None else {"version": version})
    with RawSocket(fortress.ws_port) as attacker:
        attacker.send(login(fortress, **fields))
        attacker.send(b"".join(frame(json.dumps(request).encode()) for request in requests))
        attacker.send(frame(struct.pack("!H", 3000), first=0x88))
        first = attacker.read()
        assert first is not None
        if first[0] == 0x81:
            assert b'"success"' in first[1]
            assert attacker.close_code() == 3000
        else:  # no JSON: half a character
            assert struct.unpack("!H", first[1][:2]) == (4100,)


def test_values_of_every_kind_in_every_field(fortress: Fortress) -> None:
    """A reply, an error frame or nothing: a client that has logged in is not closed for a bad value."""
    attack_with_values(fortress)


@tries(40)
@given(
    value=st.one_of(
        _VALUES.map(lambda v: json.dumps(v).encode()),
        st.binary(max_size=300),
        st.dictionaries(st.sampled_from(_FIELDS), _VALUES).map(lambda v: json.dumps(v).encode()),
    )
)
def attack_as_a_stranger(fortress: Fortress, value: bytes) -> None:
    expect_close(fortress, frame(value), 4100, 4101)


def test_first_frames_of_every_kind(fortress: Fortress) -> None:
    """Anything but a login with a valid key is refused."""
    attack_as_a_stranger(fortress)


TEXTS = [
    b"[" * 500_000,
    b"[" * 100_000,
    b"[" * 4_000,
    b'{"a":' * 20_000,
    b"[" + b"[]," * 40_000 + b"[]]",
    b'{"api_key":[' + b"[]," * 1_300 + b"[]]}",
    b"[" * 900 + b"]" * 900,
    b'{"type":"subscribe","miners":' + b"[" * 100_000,
    b'{"type":"ping","timestamp":' + b"[" * 950 + b"]" * 950 + b"}",
    b'{"type":"ping","timestamp":1' + b"0" * 5_000 + b"}",
    b'{"type":"ping","timestamp":1e400}',
    b'{"type":"ping","timestamp":"' + b"\\u0000" * 20 + b'"}',
    b'{"type":"ping","timestamp":"\xff\xfe"}',
    b'{"type":"ping","timestamp":"\xed\xa0\x80"}',
    b'{"type":"subscribe","miners":[' + b'"x",' * 30_000 + b'"x"]}',
    b'{"type":"subscribe","miners":[' + b'"x",' * 200_000 + b'"x"]}',
    b"\0" * 1_000,
    b"",
]


def test_json_that_is_deep_or_long_or_malformed(fortress: Fortress) -> None:
    """It ends the connection before the login, but not after it, unless it is too long."""
    goodbye = frame(struct.pack("!H", 3000), first=0x88)
    for text in TEXTS:
        expect_close(fortress, frame(text), 1009 if len(text) > SMALL_FRAME_BYTES else 4100)
        for version, limit in ((1, SMALL_FRAME_BYTES), (2, LIMIT)):
            code = 1009 if len(text) > limit else 3000
            expect_close(fortress, login(fortress, version=version) + frame(text) + goodbye, code)


def test_more_than_the_limit_is_not_held(fortress: Fortress) -> None:
    """In one frame, in fragments, in fragments that never end."""
    expect_close(fortress, frame(b"x" * 10, claimed=LIMIT + 1), 1009, 1002)
    fragment = frame(b"x" * 60_000, first=0x00)
    expect_close(fortress, frame(b"x", first=0x01) + fragment * 18, 1009)
    expect_close(
        fortress,
        login(fortress)
        + frame(b"", first=0x01)
        + frame(b"", first=0x00) * 5_000
        + frame(b"]" * LIMIT, first=0x80)
        + fragment,
        4006,
    )


def test_bombs_do_not_go_off(fortress: Fortress) -> None:
    """Deflated messages that inflate a thousandfold: closed with 1009, many at once."""
    bomb = frame(deflated(bytes(64 << 20)), first=0xC1)
    fragments = frame(deflated(bytes(200 << 20))[:60_000], first=0x41) + frame(
        deflated(bytes(64 << 20)), first=0x80
    )
    assert len(bomb) < LIMIT
    lists = frame(deflated(b"[" + b"[]," * 348_999 + b"[]]"), first=0xC1)
    assert len(lists) < SMALL_FRAME_BYTES
    for sent in (bomb, login(fortress) + bomb, fragments, lists, login(fortress) + lists):
        expect_close(fortress, sent, 1009, 1007, extensions=b"permessage-deflate")
    with contextlib.ExitStack() as stack:
        many = []
        for _ in range(100):  # each sends at once: the time to log in is short
            many.append(stack.enter_context(RawSocket(fortress.ws_port, b"permessage-deflate")))
            many[-1].send(bomb)
        assert {attacker.close_code() for attacker in many} == {1009}


def test_bombs_below_the_limit_cost_as_much_as_many_frames(fortress: Fortress) -> None:
    """Messages that inflate to just below the limit: a few of them use up a minute's frames."""
    small = frame(deflated(b"[" * (LIMIT - 1)), first=0xC1)
    with RawSocket(fortress.ws_port, b"permessage-deflate") as attacker:
        attacker.send(login(fortress, version=2) + small * 300)
        errors = 0
        while (got := attacker.read()) is not None and got[0] == 0x81:
            errors += b'"bad_frame"' in got[1]
        assert 0 < errors <= FRAMES_PER_MINUTE * SMALL_FRAME_BYTES // LIMIT
        assert got is not None
        assert struct.unpack("!H", got[1][:2]) == (4006,)


_HANDSHAKES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    b"Host: x",
                    b"Upgrade: websocket",
                    b"Connection: Upgrade",
                    b"Connection: keep-alive, Upgrade",
                ),
                *(
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                    b"Sec-WebSocket-Key: \xff",
                    b"Sec-WebSocket-Version: 13",
                ),
                *(
                    b"Sec-WebSocket-Version: x",
                    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\0",
                ),
                *(
                    b"Sec-WebSocket-Extensions: " + b"permessage-deflate," * 500,
                    b"Content-Length: 99999999999",
                ),
                *(
                    b"Transfer-Encoding: chunked",
                    b"X-Forwarded-For: \xff\xfe, ;",
                    b"X: " + b"y" * 9_000,
                    b"no colon",
                    b": x",
                ),
            ]
        ),
        st.binary(max_size=40),
    ),
    max_size=9,
)


@tries(80)
@given(
    line=st.sampled_from(
        [b"GET / HTTP/1.1", b"GET /\xff\0 HTTP/1.1", b"POST / HTTP/1.1", b"GET", b"\x16\x03\x01", b""]
    ),
    headers=_HANDSHAKES,
    rest=st.binary(max_size=60),
)
def attack_with_handshakes(fortress: Fortress, line: bytes, headers: list[bytes], rest: bytes) -> None:
    with (
        socket.create_connection(("127.0.0.1", fortress.ws_port), timeout=PATIENCE_S) as sock,
        contextlib.suppress(OSError),
    ):
        sock.sendall(line + b"\r\n" + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + rest)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := sock.recv(1 << 16):
            received += chunk
        assert b"HTTP/1.1 5" not in received


def test_handshakes_that_are_almost_handshakes(fortress: Fortress) -> None:
    """Refused with a 4xx or accepted, never a 5xx."""
    attack_with_handshakes(fortress)
