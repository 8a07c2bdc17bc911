"""The valid API keys and their holders, found by the keys' hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from ptn_api.clock import Clock, wall_ms
from ptn_api.model.tiers import Tier, data_tier

__all__ = ["Grant", "KeyHolder", "KeyRing", "digest_of", "fingerprint", "key_in_header"]


_UNLIMITED_TIER = 200


class Grant(NamedTuple):
    """One key as the key file has it. None: no expiry, or the server's default limit."""

    alias: str
    key: str | bytes
    """The key, or its SHA-256."""
    tier: float
    expires_ms: int | None = None
    max_connections: int | None = None
    requests_per_minute: int | None = None

    @property
    def digest(self) -> bytes:
        return self.key if isinstance(self.key, bytes) else digest_of(self.key)


class KeyHolder(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated user. `alias` is the name in the key file; `fingerprint` is safe to log.

    `tier` is the key file's number; what the user sees of positions is `data_tier`.
    """

    alias: str
    tier: float
    fingerprint: str
    expires_ms: int | None = None
    max_connections: int | None = None
    requests_per_minute: int | None = None

    @property
    def data_tier(self) -> Tier:
        return data_tier(self.tier)

    def connection_limit(self, default: int) -> int | None:
        """Returns the limit of connections to the stream; None = unlimited, the default from tier 200 on."""
        if self.max_connections is None and self.tier < _UNLIMITED_TIER:
            return default
        return self.max_connections


def fingerprint(api_key: str) -> str:
    """The first 8 hex digits of the key's SHA-256: they tell keys apart and authenticate nothing."""
    return digest_of(api_key).hex()[:8]


def digest_of(api_key: str) -> bytes:
    """The key's SHA-256."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).digest()


def key_in_header(authorization: str) -> str | None:
    """Returns the key of an Authorization header: after `Bearer`, or alone. None without one."""
    scheme, _, key = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return key.strip() or None
    return None if key else scheme or None


class KeyRing:
    """The keys that are valid now, replaced as a whole when the key file changes.

    Keys are looked up by their SHA-256, so that the duration of a look-up reveals nothing about a key.
    """

    def __init__(self, clock: Clock = wall_ms) -> None:
        self._clock = clock
        self._holders: dict[bytes, KeyHolder] = {}
        self._expired: set[bytes] = set()
        """The keys that `expire` has found expired."""
        self._listeners: list[Callable[[], None]] = []
        self.left_out = 0
        """Number of entries of the key file that cannot be used."""

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls the listener after every change of the keys. Returns a function that unregisters it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def replace(self, grants: Iterable[Grant | tuple[str, str | bytes, float]], *, left_out: int = 0) -> None:
        """Replaces all keys. A plain tuple is (alias, key or its SHA-256, tier)."""
        self.left_out = left_out
        self._holders = {
            grant.digest: KeyHolder(
                alias=grant.alias,
                tier=grant.tier,
                fingerprint=grant.digest.hex()[:8],
                expires_ms=grant.expires_ms,
                max_connections=grant.max_connections,
                requests_per_minute=grant.requests_per_minute,
            )
            for grant in (grant if isinstance(grant, Grant) else Grant(*grant) for grant in grants)
        }
        self._notify()

    def expire(self) -> bool:
        """Tells the listeners if keys have expired since the last call; returns whether any have.

        `lookup` rejects them in any case; calling this every second lets the listeners end open sessions. The
        keys stay in the ring: if the clock was set forward by mistake, they are valid again once it is right.
        """
        before = self._expired
        self._expired = {digest for digest, holder in self._holders.items() if not self._is_valid(holder)}
        if self._expired <= before:
            return False
        self._notify()
        return True

    def lookup(self, api_key: str) -> KeyHolder | None:
        """The holder of the key; None for an unknown or expired key. Call again for every use."""
        return self.lookup_digest(digest_of(api_key))

    def lookup_digest(self, digest: bytes) -> KeyHolder | None:
        """The holder of the key with this SHA-256."""
        holder = self._holders.get(digest)
        return holder if holder is not None and self._is_valid(holder) else None

    def _is_valid(self, holder: KeyHolder) -> bool:
        return holder.expires_ms is None or self._clock() < holder.expires_ms

    def _notify(self) -> None:
        for listener in list(self._listeners):
            listener()

    def __len__(self) -> int:
        """The number of keys that are valid now."""
        return sum(map(self._is_valid, self._holders.values()))
