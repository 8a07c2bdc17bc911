"""One user's entry in the key file: its fields, and the keys that it makes valid."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from ptn_api.access.key_ring import Grant

__all__ = [
    "FIELDS",
    "Fault",
    "PreviousKey",
    "faults_of",
    "grants_of",
    "printable",
    "time_text",
    "unknown_fields",
]

_Time = Annotated[datetime, Meta(tz=True)]
_Digest = Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]
_Count = Annotated[int, Meta(ge=1)]
_LARGEST_TIER = 2**53
"""Readers of JSON may round larger numbers."""


class PreviousKey(msgspec.Struct, kw_only=True):
    """A key that was replaced and stays valid for a while."""

    key_sha256: _Digest
    expires: _Time


class _Field(NamedTuple):
    kind: Any
    expected: str


FIELDS = {
    "key": _Field(str, "text"),
    "key_sha256": _Field(_Digest, "64 hex digits"),
    "tier": _Field(Any, "a number"),
    "expires": _Field(_Time | None, "a time with its zone, such as 2027-01-01T00:00:00Z"),
    "max_connections": _Field(_Count | None, "a whole number of 1 or more"),
    "requests_per_minute": _Field(_Count | None, "a whole number of 1 or more"),
    "note": _Field(Any, "anything"),
    "previous": _Field(list[PreviousKey] | None, "a list of objects with key_sha256 and expires"),
}
"""The fields of an entry. One of `key` and `key_sha256` is required; without a tier it is 0."""


class Fault(NamedTuple):
    """A fault of an entry, and the field that has it, if one does. Never contains a key.

    A fatal one leaves the entry out: ignoring a malformed expiry, say, would grant more than was meant.
    """

    field: str | None
    sentence: str
    fatal: bool = True


def faults_of(alias: str, entry: Any) -> Iterator[Fault]:
    """Every fault of a user's entry, which is decoded JSON: a key, or an object."""
    if not alias or not alias.isprintable():
        yield Fault(None, f'the name "{printable(alias)}" is empty or has unprintable characters')
    if isinstance(entry, str):
        entry = {"key": entry, "tier": 100}
    user = f'user "{printable(alias)}"'
    if not isinstance(entry, dict):
        yield Fault(None, f"{user}: expected a key, or an object with key and tier")
        return
    for name, (kind, expected) in FIELDS.items():
        try:
            if name in entry:
                msgspec.convert(entry[name], kind)
        except (msgspec.ValidationError, UnicodeEncodeError):  # half a surrogate pair where no text belongs
            yield Fault(name, f"{user}: {name} must be {expected}")
    if _tier_of(entry) is None:
        yield Fault("tier", f"{user}: tier must be a number", fatal=False)
    if ("key" in entry) == ("key_sha256" in entry):
        yield Fault("key", f"{user}: exactly one of key and key_sha256 is required")
    key = entry.get("key")
    if isinstance(key, str) and (not key or key != key.strip()):
        yield Fault("key", f"{user}: the key is empty or has spaces around it")


def printable(name: str) -> str:
    """Returns a name from the file in a form for terminals and logs."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def unknown_fields(entry: Any) -> list[str]:
    """The names of unknown fields, which the server ignores."""
    return [name for name in entry if name not in FIELDS] if isinstance(entry, dict) else []


def grants_of(alias: str, entry: Any) -> list[Grant]:
    """Returns the user's key and its replaced keys that are still valid; the entry has no fatal fault."""
    if isinstance(entry, str):
        return [Grant(alias, entry, 100)]
    expires = entry.get("expires")
    grant = Grant(
        alias,
        entry["key"] if "key" in entry else bytes.fromhex(entry["key_sha256"]),
        _tier_of(entry) or 0,
        None if expires is None else _epoch_ms(msgspec.convert(expires, _Time)),
        entry.get("max_connections"),
        entry.get("requests_per_minute"),
    )
    grants = [grant]
    for previous in msgspec.convert(entry.get("previous") or [], list[PreviousKey]):
        ends_ms = _epoch_ms(previous.expires)
        if grant.expires_ms is not None:  # an old key does not outlive its user
            ends_ms = min(ends_ms, grant.expires_ms)
        grants.append(grant._replace(key=bytes.fromhex(previous.key_sha256), expires_ms=ends_ms))
    return grants


def _tier_of(entry: dict[str, Any]) -> float | None:
    """Returns the entry's tier, as int if whole; None unless it is a finite number (true does not count)."""
    tier = entry.get("tier", 0)
    if isinstance(tier, bool) or not isinstance(tier, (int, float)) or not abs(tier) < _LARGEST_TIER:
        return None
    return int(tier) if tier == int(tier) else tier


def _epoch_ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def time_text(ms: int) -> str:
    """Epoch milliseconds in the key file's format: `2027-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(ms // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
