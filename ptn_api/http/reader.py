"""Bytes in, requests out: httptools with limits, and strict where it is not. No socket, no clock."""

from __future__ import annotations

from collections import deque

import httptools
import msgspec

from ptn_api.http.errors import HTTPError
from ptn_api.http.request import BODY_LIMIT, Request
from ptn_api.http.visit import Visit

__all__ = ["Limits", "Reader"]

_MOST_IN_LINE = 64
"""Requests that may have come before the first of them is answered."""
_SMALL = 2_048


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Times in ms, sizes in bytes, `minimum_rate` in bytes per second (0 = none) over `rate_window_ms`."""

    request_ms: int = 10_000
    target_bytes: int = 8_192
    head_bytes: int = 32_768
    minimum_rate: int = 1_024
    rate_window_ms: int = 10_000


class Reader:
    """Reads one connection. Requests stand in `line` once they are complete.

    `ended`: nothing that comes from now on counts. The last request was the last one, or what came is none:
    then a refusal stands at the end of the line. Where a next request would begin is doubtful.
    """

    def __init__(self, limits: Limits, visit: Visit) -> None:
        self.line: deque[Request | HTTPError] = deque()
        self.ended = False
        self.begun = 0
        """How many requests have begun to come."""
        self.under_way = False
        """Whether part of one has."""
        self.awaits_go_ahead = False
        """Whether the client sends its body only when told to."""
        self._limits = limits
        self._visit = visit
        self._parser = httptools.HttpRequestParser(self)
        self._came_bytes = 0
        self._request: Request | None = None
        self._known: tuple[bytes, Request] | None = None
        """What came last, if it was one whole request, and what that was."""

    def feed(self, data: bytes) -> None:
        """Who polls asks the same again and again: what is known already is not read anew."""
        if self._known is not None and self._known[0] == data and not self.line:
            self.line.append(self._known[1])
            return
        between, begun = not self.under_way, self.begun
        self._feed(data)
        whole = between and self.begun == begun + 1 and not (self.under_way or self.ended)
        request = self._request if whole and len(data) <= _SMALL else None
        self._known = None if request is None or request.body else (data, request)

    def _feed(self, data: bytes) -> None:
        if self.ended:
            return
        self._came_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # to what we do not speak: answered like any other, and the last
        except httptools.HttpParserError as error:
            reason = error.__context__  # what a callback raised
            self.end(reason if isinstance(reason, HTTPError) else _invalid())
        if self.under_way and self._came_bytes > self._limits.head_bytes:
            self.end(_too_large())

    def end(self, refusal: HTTPError | None = None) -> None:
        """Reads no more. What stands in line is to be answered yet, then the refusal."""
        if self.ended:
            return
        self.ended, self.under_way, self.awaits_go_ahead, self._known = True, False, False, None
        if refusal is not None:
            self.line.append(refusal)

    # --- what the parser calls ------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.ended:
            raise _invalid()
        self.begun += 1
        self.under_way = True
        self._request = None
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > self._limits.target_bytes:
            raise HTTPError("uri_too_long", "Request target too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._request is not None:
            return  # behind a body in chunks: no header of ours may stand there
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.head_bytes:
            raise _too_large()
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        before = self._headers.get(key)
        self._headers[key] = text if before is None else f"{before}, {text}"

    def on_headers_complete(self) -> None:
        if len(self.line) >= _MOST_IN_LINE:
            raise HTTPError("bad_request", "Too many requests at once")
        parser = self._parser
        self._request = Request(parser.get_method(), self._target, self._headers, self._visit)
        current = parser.get_http_version() == "1.1"
        self._is_last = not (current and parser.should_keep_alive()) or parser.should_upgrade()
        self.awaits_go_ahead = current and self._headers.get("expect", "").lower() == "100-continue"
        if int(self._headers.get("content-length", 0)) > BODY_LIMIT:
            self._give_up_on_body()

    def on_body(self, part: bytes) -> None:
        request = self._request
        if request is None or self.ended:
            return
        request.body = (request.body + part)[: BODY_LIMIT + 1]
        self.awaits_go_ahead = False
        if len(request.body) > BODY_LIMIT:
            self._give_up_on_body()

    def _give_up_on_body(self) -> None:
        """It is too long for a key to be in it, and not waited for."""
        assert self._request is not None
        self.line.append(self._request)
        self.end()

    def on_message_complete(self) -> None:
        if self._request is None or self.ended:
            return
        self.line.append(self._request)
        self.under_way = self.awaits_go_ahead = False
        self._came_bytes = 0
        if self._is_last:
            self.end()


def _invalid() -> HTTPError:
    return HTTPError("bad_request", "Invalid HTTP request")


def _too_large() -> HTTPError:
    return HTTPError("headers_too_large", "Request headers too large")
