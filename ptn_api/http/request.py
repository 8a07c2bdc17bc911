"""A request as it came, understood no further than every request has to be."""

from __future__ import annotations

import re
from urllib.parse import unquote

import httptools

from ptn_api.http.errors import HTTPError
from ptn_api.http.visit import Visit

__all__ = ["BODY_LIMIT", "Request"]

BODY_LIMIT = 4096
"""Bytes of a body that are taken, to find a key in."""


_DIGITS = re.compile("[0-9]+")


class Request:
    """`body` is cut off after `BODY_LIMIT` and one byte.

    Names of headers are in lower case; one that came several times stands once, joined by commas.
    Raises HTTPError `bad_request` for a target that is none, or a body of doubtful length.
    """

    __slots__ = ("body", "headers", "key_digest", "method", "path", "query", "visit")

    def __init__(self, method: bytes, target: bytes, headers: dict[str, str], visit: Visit) -> None:
        self.method = method
        self.path, self.query = _split(target)
        self.headers = headers
        self.visit = visit
        self.body = b""
        self.key_digest: bytes | None = None
        """Of the key in it, once that was looked for; empty: there is none."""
        if "transfer-encoding" in headers or "content-length" in headers:
            _check_length(headers)

    @property
    def key_in_body(self) -> bool:
        """Whether a key can stand in its body only: the header wins."""
        return "authorization" not in self.headers


def _split(target: bytes) -> tuple[str, bytes]:
    """(path, query)."""
    try:
        url = httptools.parse_url(target)
        if url.path:
            path = url.path.decode("ascii")
            return unquote(path) if "%" in path else path, url.query or b""
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        pass
    raise _bad()


def _check_length(headers: dict[str, str]) -> None:
    """A proxy in front must not take another end of the body than the parser does (RFC 9112, 6.3)."""
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None and (length is not None or coding.strip(" \t").lower() != "chunked"):
        raise _bad()
    if length is not None and not _DIGITS.fullmatch(length.strip(" \t")):
        raise _bad()


def _bad() -> HTTPError:
    return HTTPError("bad_request", "Invalid HTTP request")
