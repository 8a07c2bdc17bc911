"""Hostile HTTP: fuzzed from the description, malformed bytes, request smuggling."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
import requests
import schemathesis
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from descriptions.openapi import openapi_document
from ptn_api.rest.routes import ROUTES
from tests.contract import answer_problems
from tests.hostile.fortress import Fortress
from tests.hostile.raw import ask_raw, exchange
from tests.properties import tries
from tests.waiting import PATIENCE_S

# Clients in other threads draw random numbers too.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

DOCUMENT = openapi_document(ROUTES)
OPERATIONS = [result.ok() for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]


class Decoded:
    """A `requests` response, with zstd decoded: the fuzzer requests any coding.

    Of an event stream, which has no end, the beginning.
    """

    def __init__(self, response: requests.Response) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        endless = response.headers.get("content-type", "").startswith("text/event-stream")
        self.content = next(response.iter_content(1), b"") if endless else response.content
        response.close()
        if response.headers.get("content-encoding") == "zstd" and self.content[:4] == zstandard.FRAME_HEADER:
            reader = zstandard.ZstdDecompressor().stream_reader(self.content, read_across_frames=True)
            self.content = reader.read()

    def json(self) -> Any:
        return json.loads(self.content)


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_every_response_is_as_described(fortress: Fortress, path: str) -> None:
    """For valid and invalid parameters and headers of every route: a documented status, never 500."""
    operations = [operation for operation in OPERATIONS if operation.path == path]
    with requests.Session() as session:

        @tries(20)
        @given(st.data())
        def attack(data: st.DataObject) -> None:
            operation = data.draw(st.sampled_from(operations))
            mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
            case = data.draw(operation.as_strategy(mode))
            request = case.as_transport_kwargs(base_url=fortress.server.rest)
            key = data.draw(st.sampled_from([*fortress.keys.values(), None]))
            if key is not None:
                request["headers"]["Authorization"] = f"Bearer {key}"
            response = Decoded(session.request(**request, timeout=PATIENCE_S, stream=True))
            assert response.status_code != 500
            elsewhere = "%2F" in request["url"] or request["method"] not in ("GET", "HEAD")
            if not (elsewhere and response.status_code in (404, 405)):
                assert answer_problems(DOCUMENT, path, operation.method, response) == []

        attack()


# --- bytes ------------------------------------------------------------------------------------------------

_ODD = st.sampled_from(
    [
        b"",
        b" ",
        b"\t",
        b"\0",
        b"\r",
        b"\n",
        b"\xff",
        b"\x80\xc3\x28",
        b"%00",
        b"%ff%fe",
        b"..",
        b"\x7f",
        b"\xe2\x82",
    ]
)
_TEXT = st.lists(
    st.one_of(_ODD, st.binary(max_size=8), st.sampled_from([b"a", b"key", b"=", b",", b";q=nan"])), max_size=6
).map(b"".join)
_METHODS = st.one_of(
    st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"CONNECT", b"PRI", b"get", b"G\0T"]), _TEXT
)
_TARGETS = st.one_of(
    st.sampled_from([route.path.encode() for route in ROUTES]),
    st.sampled_from(
        [b"*", b"//", b"http://elsewhere/me", b"/me?", b"/me#x", b"/statistics/%2e%2e", b"/\xff", b"/%"]
    ),
    st.tuples(
        st.sampled_from(
            [
                b"/miner-positions/",
                b"/messages?after=",
                b"/miner-positions?since=",
                b"/statistics?checkpoints=",
            ]
        ),
        _TEXT,
    ).map(b"".join),
)
_NAMES = st.one_of(
    st.sampled_from(
        [
            *(
                b"Host",
                b"Authorization",
                b"Content-Length",
                b"Transfer-Encoding",
                b"Accept-Encoding",
                b"Accept",
            ),
            *(
                b"If-None-Match",
                b"Expect",
                b"Upgrade",
                b"Connection",
                b"X-Forwarded-For",
                b"Content-Type",
                b"Range",
            ),
        ]
    ),
    _TEXT,
)
_VALUES = st.one_of(
    _TEXT,
    st.sampled_from(
        [
            *(
                b"chunked",
                b"chunked, chunked",
                b"identity",
                b"0",
                b"3",
                b"-1",
                b"+1",
                b"1_0",
                b"99999999999999999999",
            ),
            *(
                b"Bearer",
                b"Bearer  ",
                b"bearer x",
                b"Basic x",
                b"gzip;q=nan",
                b"zstd;q=1e400, *;q=-0",
                b"*;q=0",
            ),
            *(
                b"100-continue",
                b"websocket",
                b"h2c",
                b"close, upgrade",
                b'W/"',
                b"*",
                b"::1, ;, \xff",
                b"bytes=0-",
            ),
            b"x" * 40_000,
        ]
    ),
)
_REQUESTS = st.tuples(
    _METHODS,
    _TARGETS,
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 x", b"http/1.1", b""]),
    st.lists(
        st.tuples(_NAMES, st.sampled_from([b": ", b":", b" : ", b""]), _VALUES).map(b"".join), max_size=5
    ),
    st.sampled_from([b"\r\n", b"\n", b"\r"]),
    st.one_of(
        st.just(b""),
        _TEXT,
        st.just(b'{"api_key": "x"}'),
        st.just(b"3\r\nabc\r\n0\r\n\r\n"),
        st.just(b"x" * 9_000),
    ),
)
LAST = b"\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""After it the server closes the connection."""


@tries(120)
@given(parts=st.lists(_REQUESTS, min_size=1, max_size=3))
def attack_with_bytes(fortress: Fortress, parts: list[tuple[Any, ...]]) -> None:
    sent = b""
    for method, target, version, headers, end, body in parts:
        sent += b" ".join((method, target, version)) + end + b"".join(h + end for h in headers) + end + body
    assert b"HTTP/1.1 500" not in exchange(fortress.rest_port, sent + LAST, patience_s=0.2), sent


def test_bytes_that_are_almost_requests(fortress: Fortress) -> None:
    """Broken lines, headers, encodings and bodies, several in a row: never a 500."""
    attack_with_bytes(fortress)


# --- smuggling--------------------------------------------------------------------------------------------

SMUGGLED = b"GET /docs/stream HTTP/1.1\r\nHost: x\r\n\r\n"
TRICKS = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n",
    "two lengths in one": b"Content-Length: 0, %d\r\n\r\n",
    "length and chunks": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n",
    "a coding after chunked": b"Transfer-Encoding: chunked, identity\r\nX: %d\r\n\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\nX: %d\r\n\r\n",
    "a sign": b"Content-Length: +%d\r\n\r\n",
    "hexadecimal": b"Content-Length: 0x%d\r\n\r\n",
    "a space before the colon": b"Content-Length : %d\r\n\r\n",
    "a folded line": b"X: y\r\n Content-Length: %d\r\n\r\n",
    "a NUL in a header": b"X: \0\r\nContent-Length: %d\r\n\r\n",
    "a chunk without end": b"Transfer-Encoding: chunked\r\nX: %d\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
}


def test_a_request_cannot_be_smuggled_in_the_body_of_another(fortress: Fortress) -> None:
    """An ambiguous length is rejected, and the bytes after it are not read as a request."""
    for trick, headers in TRICKS.items():
        sent = b"GET /me HTTP/1.1\r\nHost: x\r\n" + headers % len(SMUGGLED) + SMUGGLED
        responses = ask_raw(fortress.rest_port, sent)
        assert [response.status for response in responses] == [400], trick
        assert b"connection: close" in responses[0].head, trick


def test_a_body_is_not_a_request(fortress: Fortress) -> None:
    """With a length or in chunks it is read as a body, and the key in it is found."""
    for body in (SMUGGLED, b'{"api_key": "%b"}' % fortress.keys[0].encode()):
        status = 401 if body is SMUGGLED else 200
        with_length = b"GET /me HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        in_chunks = b"GET /me HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        for sent in (with_length, in_chunks % (len(body), body)):
            responses = ask_raw(fortress.rest_port, sent + LAST.lstrip())
            assert [response.status for response in responses] == [status, 200], sent


@pytest.mark.parametrize("how", [b"Content-Length: 50000000", b"Transfer-Encoding: chunked"])
def test_a_body_that_is_too_large_is_not_read(fortress: Fortress, how: bytes) -> None:
    """After 4 KiB the connection ends, without a search for a key, for any announced length."""
    body = b"x" * 5_000 if how.startswith(b"C") else b"1388\r\n" + b"x" * 5_000 + b"\r\n"
    (response,) = ask_raw(fortress.rest_port, b"GET /me HTTP/1.1\r\nHost: x\r\n" + how + b"\r\n\r\n" + body)
    assert response.status == 401
    assert b"connection: close" in response.head.lower()


@pytest.mark.parametrize(
    "deep",
    [b"[" * 4_000, b'{"api_key":' * 350, b'{"api_key": "' + b"\xff" * 90 + b'"}', b'{"api_key": "\0"}'],
)
def test_a_body_without_a_key(fortress: Fortress, deep: bytes) -> None:
    """Deeply nested, not UTF-8, NUL: 401."""
    sent = b"GET /me HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(deep), deep)
    assert [response.status for response in ask_raw(fortress.rest_port, sent + LAST.lstrip())] == [401, 200]


HOTKEYS = [
    *(
        "..",
        "../..",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f",
        "..%5c..",
        "....//",
        ".;/",
        "%00",
        "a%00b",
        "%ff%fe%80",
    ),
    *(
        "%c0%ae%c0%ae",
        "%0d%0aX-Evil:%201",
        "a%0aX-Evil:%201",
        "%E2%80%A8",
        "{hotkey}",
        "__class__",
        "' OR 1=1 --",
    ),
    *(
        "%252e%252e",
        "a" * 7_000,
        quote("💥x"),
        "<script>alert(1)</script>",
        "%3Cb%3E",
        "*",
        "%",
        "%zz",
        "~root",
    ),
]


@pytest.mark.parametrize("route", ["/miner-positions/", "/statistics/", "/perf-ledger/"])
def test_a_hotkey_is_never_a_path(fortress: Fortress, route: str) -> None:
    """404 that repeats nothing of the request, neither in the body nor in headers."""
    for hotkey in HOTKEYS:
        target = (route + hotkey).replace(" ", "%20").encode()
        key = fortress.keys[100].encode()
        sent = b"GET %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nConnection: close\r\n\r\n" % (
            target,
            key,
        )
        (response,) = ask_raw(fortress.rest_port, sent)
        assert response.status in (400, 404), (hotkey, response)
        assert b"evil" not in response.head.lower()
        assert json.loads(response.body)["error"] in (
            "Miner ID not found",
            "Statistics data not found",
            "Not found",
            "Invalid HTTP request",
        )


def test_no_header_can_be_injected(fortress: Fortress) -> None:
    """A client's parameters and headers never return as a header."""
    evil = "%0d%0aX-Evil:%201%0d%0a"
    for target in (
        f"/miner-positions?since={evil}:1",
        f"/messages?epoch={evil}&after=5",
        f"/me?{evil}={evil}",
        f"/{evil}",
    ):
        for header in ("If-None-Match", "Accept", "Accept-Encoding", "X-Forwarded-For", "Origin"):
            response = requests.get(
                fortress.server.rest + target,
                headers={"Authorization": f"Bearer {fortress.keys[100]}", header: "a\x0bX-Evil: 1"},
                timeout=PATIENCE_S,
            )
            assert response.status_code < 500
            assert "x-evil" not in response.headers
