"""Requests are read out of bytes, however these are cut; what is doubtful ends the reading."""

from __future__ import annotations

import pytest

from ptn_api.http.errors import HTTPError
from ptn_api.http.request import BODY_LIMIT, ConnectionInfo, Limits, Request, RequestReader

GET = b"GET /me?a=%2f&b HTTP/1.1\r\nHost: x\r\nX-Twice: 1\r\nx-twice: 2\r\n\r\n"
CHUNKED = b"GET /me HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def reader_of(*pieces: bytes) -> RequestReader:
    reader = RequestReader(Limits(), ConnectionInfo("127.0.0.1"))
    for piece in pieces:
        reader.feed(piece)
    return reader


def requests_in(reader: RequestReader) -> list[Request]:
    return [asked for asked in reader.queue if isinstance(asked, Request)]


def errors_in(reader: RequestReader) -> list[str]:
    assert not any(isinstance(asked, HTTPError) for asked in list(reader.queue)[:-1])
    return [asked.code for asked in reader.queue if isinstance(asked, HTTPError)]


def test_wherever_the_bytes_are_cut_the_request_is_the_same() -> None:
    """Names of headers in lower case, those that came twice joined; the path unescaped, the query not."""
    for at in range(1, len(GET) + 1):
        reader = reader_of(GET[:at], GET[at:], GET[:at])
        (request,) = requests_in(reader)[:1]
        assert (request.method, request.path, request.query) == (b"GET", "/me", b"a=%2f&b")
        assert request.headers == {"host": "x", "x-twice": "1, 2"}
        assert (reader.incomplete, len(reader.queue)) == ((True, 1) if at < len(GET) else (False, 2))
    escaped = reader_of(b"GET /a%20%C3%A9?x HTTP/1.1\r\n\r\n")
    assert requests_in(escaped)[0].path == "/a é"


def test_the_same_bytes_are_not_read_twice() -> None:
    """Whoever polls asks the same again; something else in between makes no difference to what it means."""
    reader = reader_of()
    asked = []
    for data in (GET, GET, GET.replace(b"/me", b"/docs"), GET):
        reader.feed(data)
        asked.append(reader.queue.popleft())
    assert asked[0] is asked[1]
    assert [request.path for request in asked if isinstance(request, Request)] == [
        "/me",
        "/me",
        "/docs",
        "/me",
    ]


@pytest.mark.parametrize("at", range(1, len(GET)))
def test_the_end_of_a_request_is_no_request(at: int) -> None:
    """Not even when it comes a second time."""
    reader = reader_of(GET[:at], GET[at:], GET[at:], b"\r\n\r\n")
    assert len(requests_in(reader)) == 1


def test_the_same_bytes_in_a_body_are_a_body() -> None:
    """What follows a head that announces a body belongs to it."""
    reader = reader_of(GET, b"GET /me HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(GET), GET, GET)
    assert [request.body for request in requests_in(reader)] == [b"", GET, b""]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 1\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 1",
        b"Content-Length: 1\r\nContent-Length: 1",
        b"Content-Length: 1, 1",
        b"Content-Length: +1",
        b"Content-Length:",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"X: y\r\n z",
        b"X\t: y",
        b"X: \x00",
        b"X y",
        b": y",
    ],
)
def test_what_proxies_understand_differently_is_refused(head: bytes) -> None:
    """And nothing after it is read."""
    reader = reader_of(b"GET /me HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n1\r\n1\r\n0\r\n\r\n" + GET, GET)
    assert (requests_in(reader), errors_in(reader)) == ([], ["bad_request"])


def test_a_body_in_chunks() -> None:
    """Its parts together; what stands behind it is none of the headers."""
    reader = reader_of(CHUNKED + b"3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nAuthorization: Bearer x\r\n\r\n" + GET)
    first, second = requests_in(reader)
    assert (first.body, second.body) == (b"abcd", b"")
    assert "authorization" not in first.headers
    assert "authorization" not in second.headers


@pytest.mark.parametrize(
    "endless", [b"0\r\n" + b"X: y\r\n" * 10_000, b"0\r\nX: " + b"y" * 60_000, b"1;" + b"x" * 60_000]
)
def test_what_surrounds_a_body_is_bounded_too(endless: bytes) -> None:
    """Lines behind it, notes on its chunks: whatever came, it was too much."""
    pieces = [endless[at : at + 1_000] for at in range(0, len(endless), 1_000)]
    assert errors_in(reader_of(CHUNKED, *pieces)) in (["headers_too_large"], ["bad_request"])


@pytest.mark.parametrize("size", [0, 1, BODY_LIMIT, BODY_LIMIT + 1, 1_000_000])
def test_a_body_is_taken_as_far_as_a_key_needs(size: int) -> None:
    """A larger one is not waited for, not even its beginning, and nothing is read any more."""
    head = b"GET /me HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size
    reader = reader_of(head)
    assert reader.closed == (size > BODY_LIMIT)
    reader.feed(b"x" * min(size, 5_000))
    reader.feed(GET)
    bodies = [len(request.body) for request in requests_in(reader)]
    assert bodies == ([size, 0] if size <= BODY_LIMIT else [0])


def test_a_body_in_chunks_is_taken_no_further() -> None:
    """How long it will be stands nowhere."""
    reader = reader_of(CHUNKED, b"800\r\n" + b"x" * 2_048 + b"\r\n", b"801\r\n" + b"x" * 2_049 + b"\r\n", GET)
    assert [len(request.body) for request in requests_in(reader)] == [BODY_LIMIT + 1]
    assert reader.closed


@pytest.mark.parametrize(
    "last",
    [
        b"GET /me HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /me HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /me HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /me HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_after_the_last_request_nothing_counts(last: bytes) -> None:
    """Whether it comes with it or later: no request, and no refusal either."""
    for pieces in ([last + GET + b"nonsense"], [last, GET, b"nonsense"]):
        reader = reader_of(*pieces)
        assert (len(requests_in(reader)), errors_in(reader), reader.closed) == (1, [], True)


def test_reading_can_be_ended() -> None:
    """What stands in line stays; known bytes are no request any more."""
    reader = reader_of(GET)
    reader.close(HTTPError("request_timeout", "..."))
    reader.feed(GET)
    reader.close(HTTPError("bad_request", "..."))
    assert (len(requests_in(reader)), errors_in(reader)) == (1, ["request_timeout"])
