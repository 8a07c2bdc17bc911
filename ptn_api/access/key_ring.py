"""Who may see what: API keys, by what is known of them, never by themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from ptn_api.clock import Clock, wall_ms
from ptn_api.model.tiers import Tier

__all__ = ["Grant", "KeyHolder", "KeyRing", "digest_of", "fingerprint"]


class Grant(NamedTuple):
    """What the key file says of one key. None: no end, or the server's own limit."""

    alias: str
    key: str | bytes
    """The key itself, or its SHA-256."""
    tier: Tier
    expires_ms: int | None = None
    max_connections: int | None = None
    requests_per_minute: int | None = None

    @property
    def digest(self) -> bytes:
        return self.key if isinstance(self.key, bytes) else digest_of(self.key)


class KeyHolder(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody with a key. `alias` is the user's name in the key file; `fingerprint` is safe to log."""

    alias: str
    tier: Tier
    fingerprint: str
    expires_ms: int | None = None
    max_connections: int | None = None
    requests_per_minute: int | None = None


def fingerprint(api_key: str) -> str:
    """The first 8 hex digits of the key's SHA-256: enough to tell keys apart, nothing to log in with."""
    return digest_of(api_key).hex()[:8]


def digest_of(api_key: str) -> bytes:
    """The key's SHA-256."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).digest()


class KeyRing:
    """The keys that are valid now. Handed to whoever asks "who is this?"; swapped whole.

    Keys are looked up by their SHA-256, so that the time a look-up takes tells nothing about a key.
    """

    def __init__(self, clock: Clock = wall_ms) -> None:
        self._clock = clock
        self._holders: dict[bytes, KeyHolder] = {}
        self._listeners: list[Callable[[], None]] = []

    def on_swap(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` after every change of the keys, until the function that is returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def swap(self, grants: Iterable[Grant | tuple[str, str | bytes, Tier]]) -> None:
        """Replaces all keys by these; (alias, key or its SHA-256, tier) will do."""
        whole = (grant if isinstance(grant, Grant) else Grant(*grant) for grant in grants)
        self._holders = {grant.digest: _holder(grant) for grant in whole}
        self._tell()

    def expire(self) -> bool:
        """Drops the keys whose time is over; True if there were any.

        `who` refuses them in any case. To be called once a second, so that those who listen hear of it.
        """
        valid = {digest: holder for digest, holder in self._holders.items() if self._holds(holder)}
        if len(valid) == len(self._holders):
            return False
        self._holders = valid
        self._tell()
        return True

    def who(self, api_key: str) -> KeyHolder | None:
        """The holder of this key; None if it is not (or no longer) valid. Ask again before every use."""
        return self.whose(digest_of(api_key))

    def whose(self, digest: bytes) -> KeyHolder | None:
        """The same by the key's SHA-256."""
        holder = self._holders.get(digest)
        return holder if holder is not None and self._holds(holder) else None

    def _holds(self, holder: KeyHolder) -> bool:
        return holder.expires_ms is None or self._clock() < holder.expires_ms

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()

    def __len__(self) -> int:
        return len(self._holders)


def _holder(grant: Grant) -> KeyHolder:
    return KeyHolder(
        alias=grant.alias,
        tier=grant.tier,
        fingerprint=grant.digest.hex()[:8],
        expires_ms=grant.expires_ms,
        max_connections=grant.max_connections,
        requests_per_minute=grant.requests_per_minute,
    )
