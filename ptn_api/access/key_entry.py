"""One user's entry in the key file: its fields, and the keys that it makes valid."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from ptn_api.access.key_ring import Grant
from ptn_api.errors import KeyFileError
from ptn_api.model.tiers import TIERS, Tier

__all__ = ["Fault", "PreviousKey", "faults_of", "grants_of", "time_text", "unknown_fields"]

_Time = Annotated[datetime, Meta(tz=True)]
_Digest = Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]
_Count = Annotated[int, Meta(ge=1)]


class PreviousKey(msgspec.Struct, kw_only=True):
    """A key that was replaced and stays valid for a while."""

    key_sha256: _Digest
    expires: _Time


class _Field(NamedTuple):
    kind: Any
    expected: str


_FIELDS = {
    "key": _Field(str, "text"),
    "key_sha256": _Field(_Digest, "64 hex digits"),
    "tier": _Field(Tier, "0, 30, 50 or 100"),
    "expires": _Field(_Time | None, "a time with its zone, such as 2027-01-01T00:00:00Z"),
    "max_connections": _Field(_Count | None, "a whole number of 1 or more"),
    "requests_per_minute": _Field(_Count | None, "a whole number of 1 or more"),
    "note": _Field(str | None, "text"),
    "previous": _Field(list[PreviousKey] | None, "a list of objects with key_sha256 and expires"),
}
"""The fields of an entry. `tier`, and one of `key` and `key_sha256`, are required."""


class Fault(NamedTuple):
    """A fault of an entry, and the field that has it, if one does. Never contains a key."""

    field: str | None
    sentence: str


def faults_of(alias: str, entry: Any) -> Iterator[Fault]:
    """Every fault of a user's entry, which is decoded JSON: a key, or an object."""
    if not alias or not alias.isprintable():
        yield Fault(None, "a user's name is empty or has unprintable characters")
    if isinstance(entry, str):
        entry = {"key": entry, "tier": 100}
    user = f'user "{alias}"'
    if not isinstance(entry, dict):
        yield Fault(None, f"{user}: expected a key, or an object with key and tier")
        return
    for name, (kind, expected) in _FIELDS.items():
        try:
            if name in entry:
                msgspec.convert(entry[name], kind)
        except msgspec.ValidationError:
            yield Fault(name, f"{user}: {name} must be {expected}")
    if "tier" not in entry:
        yield Fault(None, f"{user}: tier is missing: 0, 30, 50 or 100")
    if ("key" in entry) == ("key_sha256" in entry):
        yield Fault("key", f"{user}: exactly one of key and key_sha256 is required")
    key = entry.get("key")
    if isinstance(key, str) and (not key or key != key.strip()):
        yield Fault("key", f"{user}: the key is empty or has spaces around it")


def unknown_fields(entry: Any) -> list[str]:
    """The names of unknown fields, which the server ignores."""
    return [name for name in entry if name not in _FIELDS] if isinstance(entry, dict) else []


def grants_of(alias: str, entry: Any) -> list[Grant]:
    """The user's key, and the replaced keys that are still valid.

    Raises KeyFileError, whose sentence names the user and never a key.
    """
    fault = next(faults_of(alias, entry), None)
    if fault is not None:
        raise KeyFileError(fault.sentence)
    if isinstance(entry, str):
        return [Grant(alias, entry, 100)]
    expires = entry.get("expires")
    grant = Grant(
        alias,
        entry["key"] if "key" in entry else bytes.fromhex(entry["key_sha256"]),
        next(tier for tier in TIERS if tier == entry["tier"]),
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


def _epoch_ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def time_text(ms: int) -> str:
    """Epoch milliseconds in the key file's format: `2027-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(ms // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
