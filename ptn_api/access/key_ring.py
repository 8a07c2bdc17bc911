"""Who may see what: API keys, by what is known of them, never by themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

__all__ = ["TIERS", "KeyHolder", "KeyRing", "Tier", "fingerprint"]

Tier = Literal[0, 30, 50, 100]
TIERS: tuple[Tier, ...] = (0, 30, 50, 100)
"""0 = everything 24 h late; 30, 50 = that share of positions live; 100 = everything live, and the stream."""


class KeyHolder(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody with a key. `alias` is the user's name in the key file; `fingerprint` is safe to log."""

    alias: str
    tier: Tier
    fingerprint: str


def fingerprint(api_key: str) -> str:
    """The first 8 hex digits of the key's SHA-256: enough to tell keys apart, nothing to log in with."""
    return _digest(api_key).hex()[:8]


def _digest(api_key: str) -> bytes:
    return hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).digest()


class KeyRing:
    """The keys that are valid now. Handed to whoever asks "who is this?"; swapped whole.

    Keys are looked up by their SHA-256, so that the time a look-up takes tells nothing about a key.
    """

    def __init__(self) -> None:
        self._holders: dict[bytes, KeyHolder] = {}
        self._listeners: list[Callable[[], None]] = []

    def on_swap(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` after every swap, until the function that is returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def swap(self, holders: Iterable[tuple[str, str | bytes, Tier]]) -> None:
        """Replaces all keys by these (alias, key or its SHA-256, tier)."""
        digests = (
            (alias, key if isinstance(key, bytes) else _digest(key), tier) for alias, key, tier in holders
        )
        self._holders = {
            digest: KeyHolder(alias=alias, tier=tier, fingerprint=digest.hex()[:8])
            for alias, digest, tier in digests
        }
        for listener in list(self._listeners):
            listener()

    def who(self, api_key: str) -> KeyHolder | None:
        """The holder of this key; None if it is not (or no longer) valid. Ask again before every use."""
        return self._holders.get(_digest(api_key))

    def __len__(self) -> int:
        return len(self._holders)
