"""Cross-origin requests (CORS): which websites' scripts may read responses in a browser.

Browsers enforce it, so it protects nothing from other clients. API keys are sent in a header that scripts
set, never in cookies, so responses do not allow credentials.
"""

from __future__ import annotations

import re

from ptn_api.errors import SettingsError
from ptn_api.http.response import Exchange, header_lines

__all__ = ["CrossOrigin", "allow_preflight", "is_preflight"]

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_DEFAULT_PORT = re.compile(r"(?<=^http://)(.*):0*80$|(?<=^https://)(.*):0*443$")
_EXPOSED = (
    "ETag, RateLimit, RateLimit-Policy, Retry-After, X-PTN-As-Of, X-PTN-Epoch, X-PTN-Head, X-PTN-Next, "
    "X-PTN-Revision, X-PTN-Sequence, X-PTN-Unknown-Miners"
)
"""The headers of responses that scripts may read besides the few that browsers always show them."""
_PREFLIGHT = header_lines(
    {
        "access-control-allow-methods": "GET, HEAD",
        "access-control-allow-headers": "Authorization, Cache-Control, If-None-Match, Last-Event-ID",
        "access-control-max-age": "7200",  # the longest that Chrome honours
        "cache-control": "no-store",
    }
)


class CrossOrigin:
    """The allowed origins, and the headers that allow them."""

    def __init__(self, origins: str) -> None:
        """`origins` are separated by commas; `*` is any. Raises SettingsError."""
        allowed = {origin.strip().lower().rstrip("/") for origin in origins.split(",")} - {""}
        self._any = "*" in allowed
        for origin in sorted(allowed - {"*"}):
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"--cors-origins {origin!r}: expected an origin such as https://app.example.com, without "
                    "a path, or *"
                )
        # Browsers leave out a scheme's default port.
        sent = {_DEFAULT_PORT.sub(r"\1\2", origin) for origin in allowed}
        self._lines = {origin: _allowing(origin) for origin in sent}
        self.enabled = bool(allowed)

    def mark(self, exchange: Exchange, *, public: bool) -> bool:
        """Adds headers to the response; returns whether the request's origin may read it.

        `public`: every origin may.
        """
        if self._any or public:
            exchange.extra_headers += _ANY
            return True
        # Also without an Origin: a cache must not hand that response to a browser.
        exchange.vary = "Origin"
        lines = self._lines.get(exchange.request.headers.get("origin", ""))
        exchange.extra_headers += lines or b""
        return lines is not None


def is_preflight(exchange: Exchange) -> bool:
    """Whether a browser asks before it sends the request itself."""
    request = exchange.request
    return request.method == b"OPTIONS" and "access-control-request-method" in request.headers


def allow_preflight(exchange: Exchange) -> None:
    """Responds to it: the request may follow."""
    exchange.status, exchange.headers = 204, _PREFLIGHT
    if exchange.vary:
        exchange.headers += header_lines({"vary": exchange.vary})


def _allowing(origin: str) -> bytes:
    return header_lines({"access-control-allow-origin": origin, "access-control-expose-headers": _EXPOSED})


_ANY = _allowing("*")
