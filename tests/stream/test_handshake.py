"""Handshakes as bytes; tests/stream/test_hostile.py sends malformed ones to a real server."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.stream.handshake import HEAD_BYTES, Handshake, HandshakeReader
from tests.properties import tries

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
LINES = (
    b"Host: x",
    b"Upgrade: WebSocket",
    b"Connection: keep-alive, Upgrade",
    b"Sec-WebSocket-Key: " + KEY.encode(),
    b"Sec-WebSocket-Version: 13",
)


def test_a_handshake_is_read_with_what_follows() -> None:
    """Names in lower case, repeated values joined; picows sees neither the path nor any other header."""
    sent = b"GET /any?path HTTP/1.1\r\n" + b"\r\n".join([*LINES, b"X-A: 1", b"x-a: 2"]) + b"\r\n\r\nrest"
    found = HandshakeReader().feed(sent)
    assert isinstance(found, Handshake)
    assert (found.headers["x-a"], found.rest) == ("1, 2", b"rest")
    assert found.for_picows().decode().split("\r\n") == [
        "GET / HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Connection: upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        "",
        "",
    ]


_LINE = st.sampled_from(
    [*LINES, b"Origin: y", b"X: \xff", b"X: " + b"y" * HEAD_BYTES, b"X", b" folded", b"a\nb"]
)


@tries(100)
@given(
    first=st.sampled_from([b"GET / HTTP/1.1", b"GET /\0 HTTP/1.1", b"POST / HTTP/1.1", b"GET / HTTP/3", b""]),
    lines=st.permutations(LINES) | st.lists(_LINE, max_size=8),
    more=st.lists(_LINE | st.binary(max_size=20), max_size=2),
    rest=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 300), max_size=4),
)
def test_it_does_not_matter_how_a_handshake_arrives(
    first: bytes, lines: list[bytes], more: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    """In any pieces, it is accepted or refused alike, and never an exception."""
    sent = b"\r\n".join([first, *lines, *more]) + b"\r\n\r\n" + rest
    whole = HandshakeReader().feed(sent)
    reader, found, end = HandshakeReader(), None, 0
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(sent)], strict=True):
        if found is None:
            found = reader.feed(sent[start:end])
            rest = sent[end:]
    if isinstance(whole, Handshake):
        assert isinstance(found, Handshake)
        assert (found.headers, found.rest + rest) == whole
    else:
        assert isinstance(found, bytes)
        assert isinstance(whole, bytes)
        assert len(found) < 500


def test_a_handshake_up_to_the_limit_is_read() -> None:
    """A byte more is 431, before it is complete."""
    start = b"GET / HTTP/1.1\r\n" + b"\r\n".join([*LINES, b"X: "])
    whole = start + b"y" * (HEAD_BYTES - len(start))
    assert HandshakeReader().feed(whole) is None
    assert isinstance(HandshakeReader().feed(whole + b"\r\n\r\n"), Handshake)
    refusal = HandshakeReader().feed(whole + b"y\r\n\r\n")
    assert isinstance(refusal, bytes)
    assert refusal.startswith(b"HTTP/1.1 431 ")
