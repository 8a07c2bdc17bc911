"""The checks of a request, for peers in Python: key, tier, rate limit, usage, coding, If-None-Match.

Written as a good server in a framework does it: plain functions and dicts, no library per check. Peers
serve what was captured from the service, so that bytes and headers are the same.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter
from pathlib import Path

import msgspec

__all__ = ["Captured", "Checks", "Holder", "Refused", "Setup", "accepts", "has", "read_setup"]

_WINDOW_S = 60
_DAY_S = 86_400


class Holder(msgspec.Struct):
    alias: str
    tier: int | float
    expires_s: float | None = None


class Captured(msgspec.Struct):
    """A response of the service: its body is in a file."""

    file: str
    headers: dict[str, str]


class Setup(msgspec.Struct):
    """What a peer is started with: the users by the SHA-256 of their keys, and the documents by path."""

    holders: dict[str, Holder]
    requests_per_minute: int
    documents: dict[str, Captured]


def read_setup() -> Setup:
    return msgspec.json.decode(Path(os.environ["PTN_BENCH_SETUP"]).read_bytes(), type=Setup)


class Refused(Exception):  # noqa: N818 - as the framework's own HTTPException
    def __init__(self, status: int, **headers: str) -> None:
        self.status = status
        self.headers = headers


class Checks:
    def __init__(self, setup: Setup) -> None:
        self._holders = {bytes.fromhex(digest): holder for digest, holder in setup.holders.items()}
        self._per_minute = setup.requests_per_minute
        self._full_at: dict[str, float] = {}
        self.usage: Counter[tuple[str, int]] = Counter()
        """Requests by user and day."""
        self.sent_bytes: Counter[tuple[str, int]] = Counter()
        self.responses: Counter[tuple[str, int]] = Counter()
        """By path and status, for metrics."""

    def admit(self, authorization: str | None, *, lowest_tier: int = 0) -> tuple[Holder, dict[str, str]]:
        """Returns the holder of the key, and the headers of the rate limit."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode()).digest() if scheme.lower() == "bearer" else b""
        holder = self._holders.get(digest)
        if holder is None or (holder.expires_s is not None and holder.expires_s <= time.time()):
            raise Refused(401, **{"www-authenticate": "Bearer"})
        now, limit = time.monotonic(), self._per_minute
        wait_s = min(max(self._full_at.get(holder.alias, 0.0) - now, 0.0), _WINDOW_S)
        after_s = wait_s + _WINDOW_S / limit
        if after_s > _WINDOW_S:
            raise Refused(429, **{"retry-after": str(math.ceil(after_s - _WINDOW_S))})
        self._full_at[holder.alias] = now + after_s
        if holder.tier < lowest_tier:
            raise Refused(403)
        remaining = int((_WINDOW_S - after_s) * limit / _WINDOW_S)
        return holder, {
            "ratelimit-policy": f'"key";q={limit};w={_WINDOW_S}',
            "ratelimit": f'"key";r={remaining};t={math.ceil(after_s)}',
        }

    def count(self, holder: Holder, path: str, status: int, sent_bytes: int) -> None:
        today = (holder.alias, int(time.time() // _DAY_S))
        self.usage[today] += 1
        self.sent_bytes[today] += sent_bytes
        self.responses[path, status] += 1


def accepts(accept_encoding: str | None, coding: str) -> bool:
    """Whether a client accepts the coding."""
    return coding in {part.partition(";")[0].strip() for part in (accept_encoding or "").split(",")}


def has(if_none_match: str | None, etag: str) -> bool:
    """Whether a client has the content with this tag already."""
    if not if_none_match:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
