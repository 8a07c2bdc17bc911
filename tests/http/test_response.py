"""The head of a response holds the given headers, and no injected line."""

from __future__ import annotations

import pytest

from ptn_api.http.request import ConnectionInfo, Request
from ptn_api.http.response import Exchange, header_lines


def test_a_head() -> None:
    """Status, date, headers; whether the connection closes."""
    exchange = Exchange(Request(b"GET", b"/", {}, ConnectionInfo("127.0.0.1")))
    exchange.status, exchange.headers = 404, header_lines({"etag": '"x"'})
    exchange.extra_headers = b"retry-after: 1\r\n"
    first, date, *others = exchange.head(close=True).split(b"\r\n")
    assert (first, date[:6]) == (b"HTTP/1.1 404 Not Found", b"date: ")
    assert others == [
        b'etag: "x"',
        b"retry-after: 1",
        b"connection: close",
        b"",
        b"",
    ]
    assert b"connection" not in exchange.head(close=False)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX: 1", "a\rb", "\r\n", "a\0b", "é", "\x85"])
def test_no_header_can_be_injected(value: str) -> None:
    """A value that spans lines is an error of the caller."""
    with pytest.raises(ValueError, match="invalid header"):
        header_lines({"etag": "x", "x-ptn-epoch": value})
