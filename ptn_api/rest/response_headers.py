"""The headers that answers carry, for the description: which, when, and what they mean."""

from __future__ import annotations

from typing import Any

from ptn_api.rest.route import Route

__all__ = ["HEADERS", "headers_of"]


def _header(text: str, example: Any) -> dict[str, Any]:
    kind = "integer" if isinstance(example, int) else "string"
    return {"description": text, "schema": {"type": kind}, "example": example}


_TAG = "9f86d081884c7d659a2feaa0c55ad015"
_EPOCH = "0b1f6d3a9c8e4f7782d4a1b2c3d4e5f6"

HEADERS: dict[str, dict[str, Any]] = {
    "ETag": _header("a hash of the document and its coding; the same on every server", f'"{_TAG}-gzip"'),
    "Vary": _header("the request headers that the answer depends on", "Accept-Encoding, Authorization"),
    "Cache-Control": _header("keep it and ask again, or (`no-store`) do not keep it", "private, no-cache"),
    "Content-Encoding": _header("`gzip` or `zstd`; absent: as it is", "gzip"),
    "X-PTN-Epoch": _header("tier 100: the log that the numbers are of", _EPOCH),
    "X-PTN-Sequence": _header("tier 100: every order up to this one is in the answer", 1_763_800_237),
    "X-PTN-Revision": _header("tier 100: every change up to this one is in the answer", 90_412),
    "X-PTN-As-Of": _header("lower tiers: everything up to then is shown, epoch ms", 1_763_713_901_000),
    "X-PTN-Next": _header("NDJSON: the `after` to ask with next", 1_763_800_237),
    "X-PTN-Head": _header("NDJSON: the newest sequence", 1_763_800_237),
    "WWW-Authenticate": _header("how to send the key", "Bearer"),
    "Retry-After": _header("seconds to wait before asking again", 2),
    "RateLimit": _header(
        "what is left of the key's requests, and seconds until it is renewed", '"key";r=599;t=60'
    ),
    "RateLimit-Policy": _header("how many requests the key may make in how many seconds", '"key";q=600;w=60'),
}
"""Name -> what it says."""

_STANDING = ("X-PTN-Epoch", "X-PTN-Sequence", "X-PTN-Revision", "X-PTN-As-Of")
_LIMITS = ("RateLimit", "RateLimit-Policy")


def headers_of(route: Route, status: int) -> dict[str, Any]:
    """The headers of a route's answers with this status, as references."""
    names = ["Cache-Control"]
    if status in (200, 304) or (route.failing and status == 503):
        names += ["ETag", "Vary"]
    if status == 200 or (route.failing and status == 503):
        names += ["Content-Encoding"]
    if status in (200, 304) and route.standing:
        names += _STANDING
    if status == 200 and route.line is not None:
        names += ["X-PTN-Next", "X-PTN-Head"]
    if status == 401:
        names.append("WWW-Authenticate")
    if status in (429, 503):
        names.append("Retry-After")
    if route.access != "anyone":
        names += _LIMITS
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
