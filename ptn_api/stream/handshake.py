"""WebSocket handshakes: bytes in, the client's headers or a refusal out (RFC 6455, section 4.2). No socket.

The request is parsed as strictly as one to the REST port: what a proxy in front could read differently is
refused. picows, which answers a valid handshake, is given only the lines that it needs.
"""

from __future__ import annotations

import base64
import binascii
import re
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from ptn_api.http.errors import HTTPError
from ptn_api.http.request import ConnectionInfo, Limits, RequestReader

__all__ = ["HEAD_BYTES", "Handshake", "HandshakeReader"]

HEAD_BYTES = 8_192
"""The most that a handshake may hold: strangers send it, and it is kept until it is complete."""

_END = b"\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_VERSION = "13"
_KEY_BYTES = 16


class Handshake(NamedTuple):
    """`headers` have names in lower case; values of repeated ones are joined with commas."""

    headers: dict[str, str]
    rest: bytes
    """The bytes that followed: the client need not wait for the response."""

    def for_picows(self) -> bytes:
        """Returns the handshake without anything that picows need not see, or would keep."""
        key = self.headers["sec-websocket-key"]
        return (
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            f"Sec-WebSocket-Version: {_VERSION}\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ).encode()


class HandshakeReader:
    """Reads one connection's handshake."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Handshake | bytes | None:
        """Returns the handshake, or the HTTP response that refuses it; None while more bytes are due."""
        self._data += data
        head, end, rest = self._data.partition(_END)
        if len(head) > HEAD_BYTES:
            return _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Request headers too large")
        if _BARE_LF.search(head):
            return _refusal(HTTPStatus.BAD_REQUEST, "Invalid HTTP request")
        if not end:
            return None
        line, _, _ = head.partition(b"\r\n")
        if not line.endswith(b" HTTP/1.1"):
            known = re.fullmatch(rb"\S+ \S+ HTTP/\d(\.\d)?", line) is not None
            status = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if known else HTTPStatus.BAD_REQUEST
            return _refusal(status, "HTTP/1.1 is required" if known else "Invalid HTTP request")
        reader = RequestReader(Limits(head_bytes=HEAD_BYTES, target_bytes=HEAD_BYTES), ConnectionInfo(""))
        reader.feed(head + _END)
        # Without a request there is a body, which no handshake has.
        request = reader.queue[0] if reader.queue else HTTPError("bad_request", "A body is not allowed")
        if isinstance(request, HTTPError):
            return _refusal(request.status, str(request))
        headers = request.headers
        refusal = None if head.isascii() else "Only ASCII is allowed in headers"
        refusal = refusal or _fault(request.method, headers)
        if refusal is not None:
            return _refusal(HTTPStatus.BAD_REQUEST, refusal)
        if headers.get("upgrade", "").lower() != "websocket":
            return _refusal(HTTPStatus.UPGRADE_REQUIRED, "This port speaks WebSocket only", "websocket_only")
        if headers.get("sec-websocket-version") != _VERSION:
            return _refusal(HTTPStatus.UPGRADE_REQUIRED, f"WebSocket version {_VERSION} is required")
        if "upgrade" not in (token.strip() for token in headers.get("connection", "").lower().split(",")):
            return _refusal(HTTPStatus.BAD_REQUEST, "Connection: Upgrade is missing")
        if not _is_key(headers.get("sec-websocket-key", "")):
            return _refusal(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key is missing or malformed")
        return Handshake(headers, rest)


def _fault(method: bytes, headers: dict[str, str]) -> str | None:
    if method != b"GET":
        return "Only GET is allowed"
    if not headers.get("host") or "," in headers["host"]:
        return "Exactly one Host header is required"
    if headers.get("content-length", "0").strip("0") or "transfer-encoding" in headers:
        return "A body is not allowed"
    return None


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _refusal(status: HTTPStatus, message: str, code: str = "bad_handshake") -> bytes:
    body = msgspec.json.encode({"error": message, "code": code})
    upgrade = (
        f"Upgrade: websocket\r\nSec-WebSocket-Version: {_VERSION}\r\n"
        if status == HTTPStatus.UPGRADE_REQUIRED
        else ""
    )
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{upgrade}Connection: close\r\n\r\n"
    )
    return head.encode() + body
