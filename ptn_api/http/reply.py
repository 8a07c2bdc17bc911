"""What goes out for one request, and what is counted of it."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from ptn_api.access.key_ring import KeyHolder
from ptn_api.access.limits import WINDOW_MS, Allowance
from ptn_api.http.body import EncodedBody

__all__ = ["Reply", "limit_lines", "lines"]

_NOTHING = EncodedBody(())


class Reply:
    """Filled in as it becomes known. `sent_bytes` is the body's length as far as it was sent."""

    __slots__ = ("body", "coding", "headers", "holder", "limits", "route", "sent_bytes", "status")

    def __init__(self) -> None:
        self.holder: KeyHolder | None = None
        """Who asked, once that is known and allowed."""
        self.route = "unknown"
        """The path without what stands in it, for counters and the log."""
        self.limits = b""
        """Lines that say what is left of the key's requests, whatever the answer is."""
        self.status = 0
        self.headers = b""
        """Lines, made by `lines`."""
        self.coding = "identity"
        self.body = _NOTHING
        self.sent_bytes = 0

    def head(self, *, close: bool) -> bytes:
        """Status line and headers; `close`: the connection ends after it."""
        begin = _STATUS_LINES[self.status] + _date_line(int(time.time()))
        return begin + self.headers + self.limits + (b"connection: close\r\n\r\n" if close else b"\r\n")


_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def lines(headers: dict[str, str]) -> bytes:
    """Headers as they stand in a head. Whatever they come from, none is more than one line of text."""
    found = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not (found.isascii() and found.count("\n") == found.count("\r") == len(headers) and "\0" not in found):
        raise ValueError(f"no headers: {list(headers)}")
    return found.encode()


def limit_lines(allowance: Allowance) -> bytes:
    """As draft-ietf-httpapi-ratelimit-headers has them."""
    said = (allowance.limit, WINDOW_MS // 1000, allowance.remaining, allowance.reset_s)
    return b'ratelimit-policy: "key";q=%d;w=%d\r\nratelimit: "key";r=%d;t=%d\r\n' % said


@lru_cache(maxsize=1)
def _date_line(second: int) -> bytes:
    return f"date: {formatdate(second, usegmt=True)}\r\n".encode()
