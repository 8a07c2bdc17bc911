"""The key file: read, validated and swapped whole; never written by the server.

    {"alice": {"key": "...", "tier": 100},
     "bob": "...",
     "carol": {"key_sha256": "<64 hex digits>", "tier": 30}}

A plain string is the legacy form and means tier 100. `ptn keys add` stores only the hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.access.key_ring import TIERS, KeyRing, Tier
from ptn_api.errors import KeyFileError

__all__ = ["KeyFile", "add_key", "make_demo_keys", "parse_keys"]

MAX_BYTES = 16 << 20


class KeyEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One user's entry; `key` or `key_sha256` must be there."""

    tier: int
    key: str | None = None
    key_sha256: str | None = None


def parse_keys(content: bytes) -> list[tuple[str, str | bytes, Tier]]:
    """(alias, key or its SHA-256, tier) of every entry.

    Raises KeyFileError with a sentence that names the user at fault and never a key.
    """
    try:
        entries = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise KeyFileError("the key file is not a JSON object (half written?)", code="not_json") from None
    keys = [_parse_entry(alias, raw) for alias, raw in entries.items()]
    _refuse_ambiguous(keys)
    return keys


def _parse_entry(alias: str, raw: msgspec.Raw) -> tuple[str, str | bytes, Tier]:
    try:
        entry = msgspec.json.decode(raw, type=str | KeyEntry)
    except msgspec.ValidationError:
        raise KeyFileError(f'user "{alias}": expected a key, or an object with key and tier') from None
    if isinstance(entry, str):
        entry = KeyEntry(key=entry, tier=100)
    tier = next((t for t in TIERS if t == entry.tier), None)
    if tier is None:
        raise KeyFileError(f'user "{alias}": tier must be 0, 30, 50 or 100')
    if not alias.isprintable() or not alias:
        raise KeyFileError("a user's name is empty or has characters that cannot be printed")
    return alias, _key_of(alias, entry), tier


def _key_of(alias: str, entry: KeyEntry) -> str | bytes:
    if entry.key_sha256 is not None:
        try:
            digest = bytes.fromhex(entry.key_sha256)
        except ValueError:
            digest = b""
        if len(digest) != 32 or entry.key is not None:
            raise KeyFileError(f'user "{alias}": key_sha256 must be 64 hex digits, and stand without key')
        return digest
    if not entry.key or entry.key != entry.key.strip():
        raise KeyFileError(f'user "{alias}": the key is empty or has spaces around it')
    return entry.key


def _refuse_ambiguous(keys: list[tuple[str, str | bytes, Tier]]) -> None:
    first: dict[bytes, tuple[str, Tier]] = {}
    for alias, key, tier in keys:
        digest = key if isinstance(key, bytes) else hashlib.sha256(key.encode()).digest()
        other, other_tier = first.setdefault(digest, (alias, tier))
        if other_tier != tier:
            raise KeyFileError(f'users "{other}" and "{alias}" have the same key with different tiers')


class KeyFile:
    """Keeps a KeyRing equal to the file. Call `refresh` now and then; it costs a stat when nothing changed.

    A broken or half-written file keeps the last good keys and is read again at the next call. A file that
    is missing at two calls in a row is taken to be gone on purpose: then nobody gets in.
    """

    def __init__(self, path: Path, ring: KeyRing) -> None:
        self._path = path
        self._ring = ring
        self._stamp: tuple[int, ...] | None = None
        self._missing = 0
        self.problem: KeyFileError | None = None

    def refresh(self) -> bool:
        """Reads the file if it changed. True if the keys were swapped.

        Raises KeyFileError once for every new problem; `problem` holds it until it is mended.
        """
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return False
            keys = parse_keys(_read(self._path))
        except FileNotFoundError:
            return self._gone()
        except OSError as error:
            return self._report(KeyFileError(f"the key file cannot be read: {error.strerror}"))
        except KeyFileError as error:
            return self._report(error)
        self._stamp, self._missing, self.problem = stamp, 0, None
        self._ring.swap(keys)
        return True

    def _gone(self) -> bool:
        self._missing += 1
        had_keys = self._missing == 2 and len(self._ring) > 0
        if had_keys:
            self._stamp = None
            self._ring.swap([])
        self._report(KeyFileError("there is no key file: add a key with `ptn keys add`", code="no_key_file"))
        return had_keys

    def _report(self, problem: KeyFileError) -> bool:
        if self.problem is None or str(self.problem) != str(problem):
            self.problem = problem
            raise problem
        return False


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise KeyFileError("the key file is over 16 MiB")
    return content


# --- writing, for the command line only -------------------------------------------------------------------


def add_key(path: Path, alias: str, tier: Tier) -> str:
    """Adds a user and returns the new key, which is stored as its SHA-256 only.

    The file is replaced as a whole and keeps its mode; a new one is 0600. Raises KeyFileError if the user
    exists or the file cannot be used.
    """
    key = secrets.token_urlsafe(32)
    with _edit(path) as entries:
        if alias in entries:
            raise KeyFileError(f'there is already a user "{alias}"', code="exists")
        entries[alias] = KeyEntry(key_sha256=hashlib.sha256(key.encode()).hexdigest(), tier=tier)
    return key


def make_demo_keys(path: Path) -> None:
    """Writes random keys for every tier, readable by the owner only; an existing file is kept.

    Beside it, `demo-100.header` holds tier 100's key as the header line that `curl -H @FILE` reads, so that
    the key need not stand on a command line.
    """
    if not path.exists():
        with _edit(path) as entries:
            for tier in TIERS:
                entries[f"demo-{tier}"] = KeyEntry(key=secrets.token_urlsafe(32), tier=tier)
    best = next(key for _, key, tier in parse_keys(_read(path)) if tier == 100 and isinstance(key, str))
    _replace(path.with_name("demo-100.header"), f"Authorization: Bearer {best}\n".encode())


@contextmanager
def _edit(path: Path) -> Iterator[dict[str, Any]]:
    """The file's entries, written back as a whole on success; one editor at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            content = _read(path) if path.exists() else b"{}"
            parse_keys(content)
            entries = msgspec.json.decode(content, type=dict[str, Any])
            yield entries
            new = msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n"
            parse_keys(new)
            _replace(path, new)
        finally:
            os.close(directory)
    except OSError as error:
        raise KeyFileError(f"the key file cannot be written: {error.strerror}") from None


def _replace(path: Path, content: bytes) -> None:
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:  # whatever happened, no copy of the keys is left behind
        os.unlink(temporary)
        raise
