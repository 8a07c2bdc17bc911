"""Requests are parsed from bytes in any fragments; ambiguous input ends the reading."""

from __future__ import annotations

import tracemalloc

import pytest

from ptn_api.http.errors import HTTPError
from ptn_api.http.request import (
    BODY_LIMIT,
    MAX_HEADERS,
    MAX_QUEUED,
    ConnectionInfo,
    Limits,
    Request,
    RequestReader,
)

GET = b"GET /me?a=%2f&b HTTP/1.1\r\nHost: x\r\nX-Twice: 1\r\nx-twice: 2\r\n\r\n"
CHUNKED = b"GET /me HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def reader_of(*pieces: bytes) -> RequestReader:
    reader = RequestReader(Limits(), ConnectionInfo("127.0.0.1"))
    for piece in pieces:
        reader.feed(piece)
    return reader


def requests_in(reader: RequestReader) -> list[Request]:
    return [queued for queued in reader.queue if isinstance(queued, Request)]


def errors_in(reader: RequestReader) -> list[str]:
    assert not any(isinstance(queued, HTTPError) for queued in list(reader.queue)[:-1])
    return [queued.code for queued in reader.queue if isinstance(queued, HTTPError)]


def test_fragmentation_does_not_change_a_request() -> None:
    """Header names in lower case, repeated headers joined; the path unescaped, the query not."""
    for at in range(1, len(GET) + 1):
        reader = reader_of(GET[:at], GET[at:], GET[:at])
        (request,) = requests_in(reader)[:1]
        assert (request.method, request.path, request.query) == (b"GET", "/me", b"a=%2f&b")
        assert request.headers == {"host": "x", "x-twice": "1, 2"}
        assert (reader.incomplete, len(reader.queue)) == ((True, 1) if at < len(GET) else (False, 2))
    escaped = reader_of(b"GET /a%20%C3%A9?x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert requests_in(escaped)[0].path == "/a é"


def test_a_repeated_request_is_not_parsed_again() -> None:
    """A polling client sends the same bytes; other requests in between change nothing."""
    reader = reader_of()
    queued = []
    for data in (GET, GET, GET.replace(b"/me", b"/docs"), GET):
        reader.feed(data)
        queued.append(reader.queue.popleft())
    assert queued[0] is queued[1]
    assert [request.path for request in queued if isinstance(request, Request)] == [
        "/me",
        "/me",
        "/docs",
        "/me",
    ]


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAE\r\n"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 7\r\n", b'{"a":1}'),
        (b"Transfer-Encoding: chunked\r\n", b'3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n'),
        (b"Content-Length: 0\r\n", b""),
        (b"", b""),
    ],
)
def test_a_request_that_offers_an_upgrade_keeps_its_body(framing: bytes, body: bytes) -> None:
    """As Java's HttpClient and `curl --http2` send it. What follows it is ignored."""
    sent = b"GET /me HTTP/1.1\r\nHost: x\r\n" + UPGRADE + framing + b"\r\n" + body
    for at in range(1, len(sent) + 1):
        reader = reader_of(sent[:at], sent[at:] + GET)
        (request,) = requests_in(reader)
        assert request.body == (b'{"a":1}' if body else b"")
        assert (errors_in(reader), reader.closed, reader.incomplete) == ([], True, False)


def test_a_malformed_body_of_a_request_that_offers_an_upgrade_is_an_error() -> None:
    """Nothing is passed on, and nothing else is read."""
    reader = reader_of(
        b"GET /me HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", GET
    )
    assert (requests_in(reader), errors_in(reader)) == ([], ["bad_request"])
    too_long = b"Content-Length: %d\r\n\r\n" % (BODY_LIMIT + 1)
    assert reader_of(b"GET /me HTTP/1.1\r\nHost: x\r\n" + UPGRADE + too_long + b" " * BODY_LIMIT).unread_input


@pytest.mark.parametrize("at", range(1, len(GET)))
def test_the_tail_of_a_request_is_not_a_request(at: int) -> None:
    """Not even if it is repeated."""
    reader = reader_of(GET[:at], GET[at:], GET[at:], b"\r\n\r\n")
    assert len(requests_in(reader)) == 1


def test_the_same_bytes_in_a_body_are_a_body() -> None:
    """Bytes after a head that announces a body belong to the body."""
    reader = reader_of(GET, b"GET /me HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(GET), GET, GET)
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
def test_input_that_proxies_may_read_differently_is_rejected(head: bytes) -> None:
    """And no bytes after it are read."""
    reader = reader_of(b"GET /me HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n1\r\n1\r\n0\r\n\r\n" + GET, GET)
    assert (requests_in(reader), errors_in(reader)) == ([], ["bad_request"])


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (b"GET /me HTTP/1.1", "bad_request"),
        (b"GET /me HTTP/1.1\r\nHost: x\r\nHost: x", "bad_request"),
        (b"GET /me HTTP/1.1\r\nHost: x\r\nX: y\r\nhost: y", "bad_request"),
        (b"GET /me HTTP/1.0\r\nHost: x\r\nHost: y", "bad_request"),
        (b"GET http://x/me HTTP/1.1", "bad_request"),
        *(
            (b"GET /me HTTP/1.%d\r\nHost:%b" % (n % 2, host), "bad_request")
            for n, host in enumerate(
                (
                    b"",
                    b" ",
                    b" a b",
                    b" a\tb",
                    b" a,b",
                    b" a/b",
                    b" u@a",
                    b" a:b",
                    b" a:1:2",
                    b" [::1",
                    b" \xe4",
                    b" a?b",
                    b" a\\b",
                    b" <a>",
                    b' "a"',
                    b" :80",
                )
            )
        ),
        (b"GET /me HTTP/2.0\r\nHost: x", "version_not_supported"),
        (b"GET /me HTTP/0.9\r\nHost: x", "version_not_supported"),
        (b"GET /me\r\nHost: x", "version_not_supported"),
        (b"GET /me HTTP/1.2\r\nHost: x", "bad_request"),
        (b"GET /me HTTP/3.0\r\nHost: x", "bad_request"),
        (b"GET /me HTTP/11\r\nHost: x", "bad_request"),
        (b"GET /me RTSP/1.0\r\nHost: x", "bad_request"),
        (b"OPTIONS /me RTSP/1.1\r\nHost: x", "bad_request"),
        (b"PLAY /me RTSP/2.0\r\nHost: x", "version_not_supported"),
        (b"SOURCE /me ICE/1.0\r\nHost: x", "bad_request"),
        (b"GET /me ICE/1.0\r\nHost: x", "bad_request"),
        (b"get /me HTTP/1.1\r\nHost: x", "bad_request"),
        (b"Get /me HTTP/1.1\r\nHost: x", "bad_request"),
        (b"GET /me http/1.1\r\nHost: x", "bad_request"),
        (b"GET  /me HTTP/1.1\r\nHost: x", "bad_request"),
        (b"GET /me  HTTP/1.1\r\nHost: x", "bad_request"),
        (b"GET ftp://x/me HTTP/1.1\r\nHost: x", "bad_request"),
        (b"GET http://u:p@x/me HTTP/1.1\r\nHost: x", "bad_request"),
        (b"GET http:///me HTTP/1.1\r\nHost: x", "bad_request"),
        (b"GET me HTTP/1.1\r\nHost: x", "bad_request"),
        (
            b"GET /me HTTP/1.1\r\nHost: x" + b"".join(b"\r\nX%d: y" % n for n in range(100)),
            "headers_too_large",
        ),
    ],
)
def test_what_a_proxy_refuses_is_refused(lines: bytes, error: str) -> None:
    """Missing, repeated and invalid hosts, other protocols and versions, in any fragments (RFC 9112, 3)."""
    sent = lines + b"\r\n\r\n"
    for pieces in ((sent, GET), (GET + sent + GET,), tuple(sent[at : at + 1] for at in range(len(sent)))):
        reader = reader_of(*pieces)
        assert len(requests_in(reader)) == (pieces[0] == GET + sent + GET)
        assert errors_in(reader) == [error]


@pytest.mark.parametrize(
    "lines",
    [
        b"GET / HTTP/1.0",
        b"GET / HTTP/1.0\r\nHost: x",
        *(
            b"GET / HTTP/1.1\r\nHost: " + host
            for host in (b"x:80", b"x:", b"api.example.com.", b"127.0.0.1:1", b"[::1]:48888", b"a_b", b" x ")
        ),
        b"GET http://x HTTP/1.1\r\nHost: y",
        b"GET HTTPS://x:1/ HTTP/1.1\r\nHost: y",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: x",
        b"GET / HTTP/1.1\r\nHost: x\r\nVia: RTSP/1.0 x" + b"".join(b"\r\nX%d: y" % n for n in range(98)),
    ],
)
def test_usual_hosts_and_targets(lines: bytes) -> None:
    """HTTP/1.0 needs no Host; the server of an absolute target is ignored, as Host is."""
    sent = lines + b"\r\n\r\n"
    for pieces in (
        (sent,),
        (CHUNKED + b"0\r\n", b"\r\n" + sent),
        tuple(sent[n : n + 1] for n in range(len(sent))),
    ):
        reader = reader_of(*pieces)
        assert errors_in(reader) == []
        assert requests_in(reader)[-1].path == "/"


def test_an_idle_connection_keeps_nothing_of_a_large_request() -> None:
    """Thousands may be open, of which each was sent 30 kB."""
    large = GET[:-2] + b"X: " + b"y" * 30_000 + b"\r\n\r\n"
    tracemalloc.start()
    try:
        reader = reader_of(large[:20_000], large[20_000:])
        reader.queue.clear()
        assert tracemalloc.get_traced_memory()[0] < 15_000
    finally:
        tracemalloc.stop()


def test_a_chunked_body() -> None:
    """Its chunks are joined; trailers are not headers."""
    reader = reader_of(CHUNKED + b"3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nAuthorization: Bearer x\r\n\r\n" + GET)
    first, second = requests_in(reader)
    assert (first.body, second.body) == (b"abcd", b"")
    assert "authorization" not in first.headers
    assert "authorization" not in second.headers


@pytest.mark.parametrize(
    "endless", [b"0\r\n" + b"X: y\r\n" * 10_000, b"0\r\nX: " + b"y" * 60_000, b"1;" + b"x" * 60_000]
)
def test_trailers_and_chunk_extensions_are_bounded(endless: bytes) -> None:
    """They count towards the size of the head."""
    pieces = [endless[at : at + 1_000] for at in range(0, len(endless), 1_000)]
    assert errors_in(reader_of(CHUNKED, *pieces)) in (["headers_too_large"], ["bad_request"])


@pytest.mark.parametrize("size", [0, 1, BODY_LIMIT, BODY_LIMIT + 1, 1_000_000])
def test_a_body_is_read_up_to_the_limit(size: int) -> None:
    """The request is complete once a longer body is announced; nothing more is read."""
    head = b"GET /me HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    reader = reader_of(head)
    assert reader.closed == (size > BODY_LIMIT)
    reader.feed(b"x" * min(size, 5_000))
    reader.feed(GET)
    bodies = [len(request.body) for request in requests_in(reader)]
    assert bodies == ([size, 0] if size <= BODY_LIMIT else [0])


def test_a_chunked_body_is_read_up_to_the_limit() -> None:
    """Its length is not announced."""
    reader = reader_of(CHUNKED, b"800\r\n" + b"x" * 2_048 + b"\r\n", b"801\r\n" + b"x" * 2_049 + b"\r\n", GET)
    assert [len(request.body) for request in requests_in(reader)] == [BODY_LIMIT + 1]
    assert reader.closed


@pytest.mark.parametrize(
    "last",
    [
        b"GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /me HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /me HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /me HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_bytes_after_the_last_request_are_ignored(last: bytes) -> None:
    """Whether they arrive with it or later: no request, and no error."""
    for pieces in ([last + GET + b"nonsense"], [last, GET, b"nonsense"]):
        reader = reader_of(*pieces)
        assert (len(requests_in(reader)), errors_in(reader), reader.closed) == (1, [], True)


def test_closing_the_reader() -> None:
    """Queued requests stay; repeated bytes are ignored."""
    reader = reader_of(GET)
    reader.close(HTTPError("request_timeout", "..."))
    reader.feed(GET)
    reader.close(HTTPError("bad_request", "..."))
    assert (len(requests_in(reader)), errors_in(reader)) == (1, ["request_timeout"])


# --- at the limits ----------------------------------------------------------------------------------------


def test_a_target_up_to_the_limit_is_accepted() -> None:
    """With its query; a byte more is 414."""
    most = Limits().target_bytes
    for size, errors in ((most, []), (most + 1, ["uri_too_long"])):
        target = b"/me?" + b"x" * (size - 4)
        assert errors_in(reader_of(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)) == errors


def test_headers_up_to_the_limits_are_accepted() -> None:
    """In bytes, each counted as `name: value` with its line end, and in number; beyond them it is 431."""
    start, most = b"GET /me HTTP/1.1\r\nHost: x\r\n", Limits().head_bytes - len("Host: x\r\nX: \r\n")
    for size, errors in ((most, []), (most + 1, ["headers_too_large"])):
        assert errors_in(reader_of(start + b"X: " + b"y" * size + b"\r\n\r\n")) == errors
    for count, errors in ((MAX_HEADERS - 1, []), (MAX_HEADERS, ["headers_too_large"])):  # and Host
        assert errors_in(reader_of(start + b"X: y\r\n" * count + b"\r\n")) == errors


def test_pipelined_requests_up_to_the_limit_are_queued() -> None:
    """One more is an error, behind those."""
    one = b"GET /me HTTP/1.1\r\nHost: x\r\n\r\n"
    reader = reader_of(one * MAX_QUEUED)
    assert (len(requests_in(reader)), errors_in(reader)) == (MAX_QUEUED, [])
    reader = reader_of(one * (MAX_QUEUED + 1))
    assert (len(requests_in(reader)), errors_in(reader)) == (MAX_QUEUED, ["bad_request"])
