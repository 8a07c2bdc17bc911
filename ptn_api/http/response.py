"""Responses: what a handler returns, and the exchange in which it is sent (ETag, 304, HEAD, codings)."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

import msgspec

from ptn_api.http.body import Body, Coding, EncodedBody, EncodedStream, LiveBody, StreamedBody
from ptn_api.http.errors import HTTPError
from ptn_api.http.negotiation import matches_etag, negotiate_coding
from ptn_api.http.request import Request

__all__ = ["JSON", "Exchange", "Response", "error_message", "header_lines"]

JSON = "application/json"
_EMPTY = EncodedBody(())


class Response(msgspec.Struct, frozen=True):
    """A handler's response. For a HEAD request `body` may be left out (None), to save building it.

    `headers` are lines made by `header_lines`. `vary` names a request header that the response depends on,
    in addition to those that every response depends on. `cache_control` replaces the usual one.
    """

    body: Body | StreamedBody | LiveBody | None
    headers: bytes = b""
    vary: str = ""
    media_type: str = JSON
    status: int = 200
    cache_control: str = ""


class Exchange(msgspec.Struct, eq=False):
    """One request and what is sent in response."""

    request: Request
    abort: Callable[[], None] = lambda: None
    """Closes the connection at once, even in the middle of a response."""
    route: str = "unknown"
    """The route's path template, for metrics and the log."""
    user: Any = None
    """The user that the request authenticated as."""
    owner: Hashable = None
    """What the caps on downloads count the request under; None = the address of the peer."""
    status: int = 0
    headers: bytes = b""
    """Header lines, made by `header_lines`."""
    extra_headers: bytes = b""
    """Header lines to send with any response to this request, such as rate limits."""
    vary: str = ""
    """The request header that any response to this request depends on, if it is an unusual one."""
    coding: Coding = "identity"
    body: EncodedBody | EncodedStream | LiveBody = _EMPTY
    pace: AbstractAsyncContextManager[Any] | None = None
    """Entered for each chunk of the body: the handler's turn to work on it, if it takes turns."""
    sent_bytes: int = 0
    """Bytes of the body that have been written."""

    def respond(self, response: Response, *, private: bool, store: bool) -> bool:
        """Sets what is to be sent. False: the body is not compressed yet; let others run and call again.

        `private`: the response depends on the API key; `store`: caches may store it and revalidate.
        """
        request = self.request
        headers = response.headers + _cache_lines(
            response.vary, self.vary, private, store, response.cache_control
        )
        if response.body is None or isinstance(response.body, LiveBody):
            self.status = response.status
            self.headers = headers + header_lines({"content-type": response.media_type})
            self.body = response.body or self.body
            return True
        # HTTP/1.0 has no chunks: its clients take a body that was cut off for the whole.
        streamed_1_0 = isinstance(response.body, StreamedBody) and not request.http_1_1
        offered = ("identity",) if streamed_1_0 else response.body.codings
        accepted = request.headers.get("accept-encoding")
        coding = negotiate_coding(accepted, offered) if accepted else "identity"
        # Strong validators differ between codings (RFC 9110, 8.8.3.3).
        etag = f'"{response.body.tag}-{coding}"'
        if_none_match = request.headers.get("if-none-match")
        if if_none_match and response.status == 200 and matches_etag(if_none_match, etag):
            self.status, self.headers = 304, headers + _etag_line(etag)
            return True
        self.status, self.coding = response.status, coding
        head_lines = partial(_body_lines, etag, response.media_type, coding)
        if (
            request.method == b"HEAD"
            and isinstance(response.body, Body)
            and not response.body.is_encoded(coding)
        ):
            # Nothing is compressed for its length alone, which may be left out (RFC 9110, 8.6).
            self.headers = headers + head_lines(None)
            return True
        body = response.body.encode(coding)
        if body is None:
            return False
        self.headers = headers + head_lines(body.length)
        if request.method != b"HEAD":
            if body.length is None:
                self.headers += b"transfer-encoding: chunked\r\n"
            self.body = body
        return True

    def respond_with_error(self, error: HTTPError) -> None:
        self.status, self.coding = error.status.value, "identity"
        content, self.headers = _error_content(error)
        if self.vary:
            self.headers += header_lines({"vary": self.vary})
        self.body = _EMPTY if self.request.method == b"HEAD" else EncodedBody([content])

    def head(self, *, close: bool) -> bytes:
        """Returns the status line and headers; `close`: the connection closes after this response."""
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        return _status_lines(self.status) + self.headers + self.extra_headers + end


def error_message(error: HTTPError) -> bytes:
    """Returns the whole response to what could not be parsed as a request: the connection's last."""
    content, headers = _error_content(error)
    return _status_lines(error.status.value) + headers + _UNREAD + content


_UNREAD = (
    # The origin is unknown. It precedes the key, so every website may read it.
    b"access-control-allow-origin: *\r\naccess-control-expose-headers: Retry-After\r\n"
    b"connection: close\r\n\r\n"
)


def header_lines(headers: dict[str, str]) -> bytes:
    """Returns the headers as sent. Raises ValueError for text that is not ASCII or spans lines."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    # One line each: a value from outside must not be able to inject a header.
    if not (text.isascii() and text.count("\n") == text.count("\r") == len(headers) and "\0" not in text):
        raise ValueError(f"invalid header among {list(headers)}")
    return text.encode()


def _error_content(error: HTTPError) -> tuple[bytes, bytes]:
    """Returns (body, header lines)."""
    content = msgspec.json.encode(error.body())
    headers = {"content-type": JSON, "cache-control": "no-store", "content-length": str(len(content))}
    return content, header_lines(headers | error.headers)


# Few combinations of these occur, so nearly every head is joined from cached lines.

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def _status_lines(status: int) -> bytes:
    return _STATUS_LINES[status] + _date_line(int(time.time()))


@lru_cache(maxsize=1)
def _date_line(second: int) -> bytes:
    return f"date: {formatdate(second, usegmt=True)}\r\n".encode()


@lru_cache
def _cache_lines(vary: str, also_vary: str, private: bool, store: bool, cache_control: str) -> bytes:
    names = (vary, also_vary, "Accept-Encoding", "Authorization" if private else "")
    stored = "private, no-cache" if private else "no-cache"
    return header_lines(
        {
            "vary": ", ".join(filter(None, names)),
            "cache-control": cache_control or (stored if store else "no-store"),
        }
    )


@lru_cache(maxsize=1024)
def _etag_line(etag: str) -> bytes:
    return header_lines({"etag": etag})


@lru_cache(maxsize=1024)
def _body_lines(etag: str, media_type: str, coding: Coding, length: int | None) -> bytes:
    headers = {"etag": etag, "content-type": media_type}
    if length is not None:
        headers["content-length"] = str(length)
    return header_lines(headers if coding == "identity" else headers | {"content-encoding": coding})
