"""A head holds what was put into it, and not a line more."""

from __future__ import annotations

import pytest

from ptn_api.access.limits import Allowance
from ptn_api.http.reply import Reply, limit_lines, lines


def test_a_head() -> None:
    """Status, date, headers, limits; how the connection goes on."""
    reply = Reply()
    reply.status, reply.headers = 404, lines({"etag": '"x"'})
    reply.limits = limit_lines(Allowance(60, 59, 1, 0))
    first, date, *others = reply.head(close=True).split(b"\r\n")
    assert (first, date[:6]) == (b"HTTP/1.1 404 Not Found", b"date: ")
    assert others == [
        b'etag: "x"',
        b'ratelimit-policy: "key";q=60;w=60',
        b'ratelimit: "key";r=59;t=1',
        b"connection: close",
        b"",
        b"",
    ]
    assert b"connection" not in reply.head(close=False)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX: 1", "a\rb", "\r\n", "a\0b", "é", "\x85"])
def test_no_value_makes_a_line_of_its_own(value: str) -> None:
    """It is an error of ours if one tries to."""
    with pytest.raises(ValueError, match="no headers"):
        lines({"etag": "x", "x-ptn-epoch": value})
