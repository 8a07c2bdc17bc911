"""Requests, and the reader that parses them: bytes in, requests out. No socket and no clock.

The parser is httptools. The reader adds limits, and rejects what httptools lets pass but a proxy in front
might read differently.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Hashable
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec

from ptn_api.http.errors import HTTPError

__all__ = ["BODY_LIMIT", "ConnectionInfo", "Limits", "Request", "RequestReader"]

BODY_LIMIT = 4096
"""Bytes of a request's body that are read. The server answers GET and HEAD, whose bodies are small."""

MAX_QUEUED = 64
"""Requests that may wait for the first one's response (pipelining)."""
_MAX_REPEATED_BYTES = 2_048
"""Longer requests are parsed again even if they repeat the one before."""
MAX_HEADERS = 100
"""Many short headers take a hundred times the memory of their bytes."""
_DIGITS = re.compile("[0-9]+")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(:[0-9]*)?")
"""A Host header that is not empty (RFC 9112, 3.2), without the comma that joins two."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a connection: times in ms, sizes in bytes.

    `minimum_rate` is in bytes per second, measured over `rate_window_ms`; 0 = no minimum. The last three are
    how many large downloads an owner may have, how many more wait, and for how long.
    """

    request_ms: int = 10_000
    target_bytes: int = 8_192
    head_bytes: int = 32_768
    minimum_rate: int = 1_024
    rate_window_ms: int = 10_000
    downloads: int = 8
    waiting_downloads: int = 32
    download_wait_ms: int = 30_000


class ConnectionInfo:
    """A connection as handlers see it: the address of the peer, and attributes that the handler may set."""

    __slots__ = ("client", "owner", "peer", "requests", "user")

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.client: Any = None
        """The client's address, which behind a proxy is not the peer's."""
        self.user: Any = None
        """The user who last authenticated. Connections without one are evicted first."""
        self.owner: Hashable = None
        """What connections are counted under if their number has to be reduced; None = a stranger."""
        self.requests = 0


class Request:
    """A parsed request; `body` is truncated to `BODY_LIMIT` + 1 bytes.

    Header names are in lower case; values of repeated headers are joined with commas. Raises HTTPError
    `bad_request` if the target or the body's length is malformed.
    """

    __slots__ = ("body", "connection", "headers", "http_1_1", "method", "path", "query", "state")

    def __init__(
        self, method: bytes, target: bytes, headers: dict[str, str], connection: ConnectionInfo
    ) -> None:
        self.method = method
        try:
            url = httptools.parse_url(target)
            path = url.path.decode("ascii") if url.path else ""
            if url.schema:  # absolute-form: Host is ignored (RFC 9112, 3.2.2)
                usual = url.schema.lower() in (b"http", b"https") and url.userinfo is None
                path = (path or "/") if usual else ""
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            path = ""
        if not path:
            raise _invalid()
        self.path = unquote(path) if "%" in path else path
        self.query = url.query or b""
        self.headers = headers
        self.connection = connection
        self.body = b""
        self.http_1_1 = True
        """Whether the client understands HTTP/1.1."""
        self.state: dict[str, Any] = {}
        """What the handler derives from the request. A request repeated byte for byte is the same object."""
        # Request smuggling: no length that a proxy in front might read differently (RFC 9112, 6.3).
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if coding is not None and (length is not None or coding.strip(" \t").lower() != "chunked"):
            raise _invalid()
        if length is not None and not _DIGITS.fullmatch(length.strip(" \t")):
            raise _invalid()


class RequestReader:
    """Parses one connection's bytes. Complete requests are appended to `queue`.

    After the connection's last request or after malformed input the reader is `closed` and ignores all
    further bytes: where a next request would begin is unknown. Malformed input appends an error to the queue.
    """

    def __init__(self, limits: Limits, connection: ConnectionInfo) -> None:
        self.queue: deque[Request | HTTPError] = deque()
        self.closed = False
        self.unread_input = False
        """Whether it closed before the end of a request, so that the client may still be sending."""
        self.started = 0
        """Number of requests whose first bytes have arrived."""
        self.incomplete = False
        """Whether part of a request has arrived."""
        self.expects_continue = False
        """Whether the client waits for `100 Continue` before it sends the body."""
        self._limits = limits
        self._connection = connection
        self._parser = httptools.HttpRequestParser(self)
        self._received_bytes = 0
        self._headers: dict[str, str] = {}
        self._fed = bytearray()
        """The bytes of an unfinished head, from the feed in which its request began."""
        self._request: Request | None = None
        self._previous: tuple[bytes, Request] | None = None
        """The last bytes fed, if they were exactly one request, and that request."""

    def feed(self, data: bytes) -> None:
        """Parses the bytes. Polling clients repeat themselves: a repeated request is not parsed again."""
        if self.closed:
            return
        # Not with a queue: only the parser's callbacks check its length.
        if self._previous is not None and self._previous[0] == data and not self.queue:
            self.queue.append(self._previous[1])
            return
        at_start, started = not self.incomplete, self.started
        self._received_bytes += len(data)
        self._fed += data
        try:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # No protocol to upgrade to: answered as an ordinary request, the connection's last.
                if self.incomplete:
                    self._read_body(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__  # raised by a callback below
            self.close(cause if isinstance(cause, HTTPError) else _invalid())
        # Unfinished headers, chunk extensions and trailers reach no callback that could count them.
        if self.incomplete and self._received_bytes > self._limits.head_bytes:
            self.close(_too_large())
        # Exactly one complete request without a body, from the first byte to the last: only then do the same
        # bytes mean the same request.
        one_request = at_start and self.started == started + 1 and not (self.incomplete or self.closed)
        request = self._request if one_request and len(data) <= _MAX_REPEATED_BYTES else None
        self._previous = None if request is None or request.body else (data, request)
        if not self.incomplete:
            # An idle connection keeps nothing of a large request.
            self._request, self._target, self._headers = None, b"", {}
        if self._request is not None or not self.incomplete:
            self._fed.clear()
        elif self.started != started:
            self._fed = bytearray(data[-self._limits.head_bytes :])

    def _read_body(self, start: bytes) -> None:
        """Reads the body of a request that asks for an upgrade. httptools takes it for the other protocol."""
        callbacks = SimpleNamespace(on_body=self.on_body, on_message_complete=self.on_message_complete)
        self._parser = httptools.HttpRequestParser(callbacks)
        length = self._headers.get("content-length")
        framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        self._parser.feed_data(f"GET / HTTP/1.1\r\n{framing}\r\n\r\n".encode() + start)

    def close(self, error: HTTPError | None = None) -> None:
        """Stops reading. Queued requests are still answered, then the error."""
        if self.closed:
            return
        self.closed, self.incomplete, self.expects_continue, self._previous = True, False, False, None
        if error is not None:
            self.unread_input = True
            self.queue.append(error)

    # --- the parser's callbacks -----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.closed:
            raise _invalid()  # stops the parser: the rest of the bytes is ignored
        self.started += 1
        self.incomplete = True
        self._request = None
        self._target = b""
        self._headers = {}
        self._header_count = 0
        self._head_bytes = 0

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > self._limits.target_bytes:
            raise HTTPError("uri_too_long", "Request target too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._request is not None:
            return  # A trailer after a chunked body: no header that the server uses is allowed there.
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.head_bytes:
            raise _too_large()
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._header_count += 1
        if self._header_count > MAX_HEADERS:
            raise HTTPError("headers_too_large", f"More than {MAX_HEADERS} request headers")
        previous = self._headers.get(key)
        self._headers[key] = text if previous is None else f"{previous}, {text}"

    def on_headers_complete(self) -> None:
        if len(self.queue) >= MAX_QUEUED:
            raise HTTPError("bad_request", "Too many pipelined requests")
        parser, method = self._parser, self._parser.get_method()
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise HTTPError("version_not_supported", "HTTP version not supported (use HTTP/1.1)")
        # httptools also reads RTSP, and does not report it.
        if b"%b %b HTTP/" % (method, self._target) not in self._fed:
            raise _invalid()
        http_1_1, host = version == "1.1", self._headers.get("host")
        if http_1_1 if host is None else not _HOST.fullmatch(host.strip(" \t")):
            raise HTTPError("bad_request", "Invalid HTTP request: one valid Host header is required")
        self._request = Request(method, self._target, self._headers, self._connection)
        self._request.http_1_1 = http_1_1
        upgrade = parser.should_upgrade()
        # No keep-alive for HTTP/1.0: proxies may forward that header blindly (RFC 9112, C.2.2).
        self._is_last = not (http_1_1 and parser.should_keep_alive()) or upgrade
        has_body = "transfer-encoding" in self._headers or int(self._headers.get("content-length", 0)) > 0
        self._upgrade_with_body = upgrade and has_body
        self.expects_continue = http_1_1 and self._headers.get("expect", "").lower() == "100-continue"
        if int(self._headers.get("content-length", 0)) > BODY_LIMIT:
            self._skip_body()

    def on_body(self, part: bytes) -> None:
        request = self._request
        if request is None or self.closed:
            return
        request.body = (request.body + part)[: BODY_LIMIT + 1]
        self.expects_continue = False
        if len(request.body) > BODY_LIMIT:
            self._skip_body()

    def _skip_body(self) -> None:
        """Answers a request whose body is too long without reading on, as the connection's last."""
        assert self._request is not None
        self.queue.append(self._request)
        self.unread_input = True
        self.close()

    def on_message_complete(self) -> None:
        if self._request is None or self.closed:
            return
        if self._upgrade_with_body:
            self._upgrade_with_body = False  # `_read_body` reads the rest
            return
        self.queue.append(self._request)
        self.incomplete = self.expects_continue = False
        self._received_bytes = 0
        if self._is_last:
            self.close()


def _invalid() -> HTTPError:
    return HTTPError("bad_request", "Invalid HTTP request")


def _too_large() -> HTTPError:
    return HTTPError("headers_too_large", "Request headers too large")
