"""One user's entry in the key file: what may stand in it, and which keys it makes valid."""

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

_Moment = Annotated[datetime, Meta(tz=True)]
_Digest = Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]
_Count = Annotated[int, Meta(ge=1)]


class PreviousKey(msgspec.Struct, kw_only=True):
    """A key that was replaced and stays valid for a while."""

    key_sha256: _Digest
    expires: _Moment


class _Field(NamedTuple):
    kind: Any
    wanted: str


_FIELDS = {
    "key": _Field(str, "text"),
    "key_sha256": _Field(_Digest, "64 hex digits"),
    "tier": _Field(Tier, "0, 30, 50 or 100"),
    "expires": _Field(_Moment | None, "a time with its zone, such as 2027-01-01T00:00:00Z"),
    "max_connections": _Field(_Count | None, "a whole number of 1 or more"),
    "requests_per_minute": _Field(_Count | None, "a whole number of 1 or more"),
    "note": _Field(str | None, "text"),
    "previous": _Field(list[PreviousKey] | None, "a list of objects with key_sha256 and expires"),
}
"""Every field of an entry; `key` or `key_sha256` and `tier` must be there."""


class Fault(NamedTuple):
    """What is wrong with an entry; `field` is to blame, if one is. Never holds a key."""

    field: str | None
    sentence: str


def faults_of(alias: str, entry: Any) -> Iterator[Fault]:
    """Everything that is wrong with a user's entry, which is plain JSON: a key, or an object."""
    if not alias or not alias.isprintable():
        yield Fault(None, "a user's name is empty or has characters that cannot be printed")
    if isinstance(entry, str):
        entry = {"key": entry, "tier": 100}
    if not isinstance(entry, dict):
        yield Fault(None, f'user "{alias}": expected a key, or an object with key and tier')
        return
    for field, sentence in _faults_of_fields(entry):
        yield Fault(field, f'user "{alias}": {sentence}')


def _faults_of_fields(entry: dict[str, Any]) -> Iterator[Fault]:
    for name, (kind, wanted) in _FIELDS.items():
        if name in entry and not _is(kind, entry[name]):
            yield Fault(name, f"{name} must be {wanted}")
    if "tier" not in entry:
        yield Fault(None, "tier is missing: 0, 30, 50 or 100")
    if ("key" in entry) == ("key_sha256" in entry):
        yield Fault("key", "exactly one of key and key_sha256 must be there")
    key = entry.get("key")
    if isinstance(key, str) and (not key or key != key.strip()):
        yield Fault("key", "the key is empty or has spaces around it")


def _is(kind: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def unknown_fields(entry: Any) -> list[str]:
    """Names in the entry that mean nothing; the server passes over them."""
    return [name for name in entry if name not in _FIELDS] if isinstance(entry, dict) else []


def grants_of(alias: str, entry: Any) -> list[Grant]:
    """The user's key, and those that it replaced and that are valid for a while yet.

    Raises KeyFileError with a sentence that names the user at fault and never a key.
    """
    fault = next(faults_of(alias, entry), None)
    if fault is not None:
        raise KeyFileError(fault.sentence)
    if isinstance(entry, str):
        return [Grant(alias, entry, 100)]
    grant = Grant(
        alias,
        entry["key"] if "key" in entry else bytes.fromhex(entry["key_sha256"]),
        next(tier for tier in TIERS if tier == entry["tier"]),
        _moment_ms(entry.get("expires")),
        entry.get("max_connections"),
        entry.get("requests_per_minute"),
    )
    previous = msgspec.convert(entry.get("previous") or [], list[PreviousKey])
    return [grant, *(_previous(grant, key) for key in previous)]


def _previous(grant: Grant, key: PreviousKey) -> Grant:
    """An old key ends when its user's does, at the latest."""
    expires_ms = _in_ms(key.expires)
    if grant.expires_ms is not None:
        expires_ms = min(expires_ms, grant.expires_ms)
    return grant._replace(key=bytes.fromhex(key.key_sha256), expires_ms=expires_ms)


def _moment_ms(text: str | None) -> int | None:
    return None if text is None else _in_ms(msgspec.convert(text, _Moment))


def _in_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def time_text(ms: int) -> str:
    """Epoch milliseconds as `2027-01-01T00:00:00Z`, as it stands in the key file."""
    return datetime.fromtimestamp(ms // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
