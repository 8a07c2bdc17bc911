"""Edits of the keys, for the command line. Those of a file are atomic and keep its mode and owner.

A cluster keeps the same entries in its broker instead, without the keys themselves (cluster/key_copy.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ptn_api.access.key_content import parse_keys
from ptn_api.access.key_entry import FIELDS, PreviousKey, faults_of, grants_of, time_text
from ptn_api.access.key_file import load_key_file, missing_key_file
from ptn_api.access.key_ring import digest_of
from ptn_api.errors import KeyFileError
from ptn_api.file_lock import take_lock
from ptn_api.model.tiers import TIERS

__all__ = [
    "Entries",
    "KeyStore",
    "add_key",
    "hashed_entries",
    "make_demo_keys",
    "revoke_key",
    "rotate_key",
    "write_key_file",
]

Entries = dict[str, Any]
"""The decoded content of a key file: an entry for each user."""

logger = logging.getLogger("ptn_api.access")


_NONBLOCKING = 0 if sys.platform == "win32" else os.O_CLOEXEC | os.O_NONBLOCK


class KeyStore(Protocol):
    """Keys that are not in a file."""

    def edit(self, change: Callable[[Entries], None]) -> None:
        """Stores the entries as `change` leaves them; calls it again after another edit at the same time."""
        ...


def add_key(
    keys: Path | KeyStore, alias: str, tier: float, *, expires_ms: int | None = None, **others: Any
) -> str:
    """Adds a user and returns the new key, of which only the SHA-256 is stored.

    `others` are further fields of the entry. A file keeps its mode and, if permitted, its owner; a new file
    has mode 0600 and, if permitted, the owner and group of its directory: root creates it for the service's
    user, who must read it. Raises KeyFileError if the user exists, its name is unusable, or the file is.
    """
    key = _new_key()

    def add(entries: Entries) -> None:
        if alias in entries:
            raise KeyFileError(f'user "{alias}" already exists (see `ptn keys rotate`)', code="exists")
        entry = {"key_sha256": digest_of(key).hex(), "tier": tier}
        if expires_ms is not None:
            entry["expires"] = time_text(expires_ms)
        entries[alias] = entry | {name: value for name, value in others.items() if value is not None}
        for fault in faults_of(alias, entries[alias]):
            raise KeyFileError(fault.sentence)

    _change(keys, add, create=True)
    return key


def rotate_key(
    keys: Path | KeyStore, alias: str, *, grace_ms: int, now_ms: int, expires_ms: int | None = None
) -> str:
    """Gives a user a new key and returns it. Older keys stay valid for at most `grace_ms`.

    `expires_ms` changes the expiry; the new key inherits the old one's by default. Raises KeyFileError.
    """
    key = _new_key()

    def rotate(entries: Entries) -> None:
        entry = _entry_of(entries, alias)
        for fault in faults_of(alias, entry):
            if fault.fatal:
                raise KeyFileError(fault.sentence)
        current, *older = grants_of(alias, entry)
        last_ms = now_ms + grace_ms
        ends = [(old.digest, min(last_ms, old.expires_ms or last_ms)) for old in (*older, current)]
        previous = [
            {"key_sha256": digest.hex(), "expires": time_text(end_ms)}
            for digest, end_ms in ends
            if end_ms > now_ms
        ]
        kept = {name: entry[name] for name in entry if name not in ("key", "key_sha256", "previous")}
        entries[alias] = {"key_sha256": digest_of(key).hex(), **kept}
        if previous:
            entries[alias]["previous"] = previous
        if expires_ms is not None:
            entries[alias]["expires"] = time_text(expires_ms)

    _change(keys, rotate)
    return key


def revoke_key(keys: Path | KeyStore, alias: str) -> None:
    """Removes a user with all keys. Raises KeyFileError."""

    def revoke(entries: Entries) -> None:
        _entry_of(entries, alias)
        del entries[alias]

    _change(keys, revoke)


def hashed_entries(content: bytes) -> Entries:
    """Returns a key file's entries with the SHA-256 of each key in its place, and without unknown fields.

    Raises KeyFileError if an entry has a problem, or if a name or note contains a key.
    """
    for line, sentence in parse_keys(content).problems:
        raise KeyFileError(f"line {line}: {sentence}. Correct the file first: `ptn keys check` lists all")
    entries: Entries = json.loads(content)
    keys = []
    for alias in entries:
        entry = _entry_of(entries, alias)
        hashed = {name: value for name, value in entry.items() if name in FIELDS and name != "key"}
        if "key" in entry:
            keys.append(entry["key"])
            hashed = {"key_sha256": digest_of(entry["key"]).hex(), **hashed}
        if hashed.get("previous"):
            older = msgspec.convert(hashed["previous"], list[PreviousKey])  # without other fields
            hashed["previous"] = msgspec.to_builtins(older)
        entries[alias] = hashed
    for alias, entry in entries.items():
        texts = (alias, json.dumps(entry.get("note"), ensure_ascii=False))
        if any(key in text for key in keys for text in texts):
            raise KeyFileError("a user's name or note contains a key", code="key_in_text")
    return entries


def make_demo_keys(path: Path) -> None:
    """Writes random keys for every tier, readable by the owner only. An existing file is kept.

    `demo-100.header` in the same directory holds the header line with the key of tier 100, for
    `curl -H @FILE`, which keeps the key off the command line.
    """
    if not path.exists():
        with _edit(path, create=True) as entries:
            for tier in TIERS:
                entries[f"demo-{tier}"] = {"key": _new_key(), "tier": tier}
    header = path.with_name("demo-100.header")
    usable = [grant for grant in load_key_file(path)[1].grants if grant.tier == 100 and not grant.expires_ms]
    with contextlib.suppress(OSError, UnicodeError):
        kept = header.read_text().removeprefix("Authorization: Bearer ").strip()
        if digest_of(kept) in {grant.digest for grant in usable}:
            return
    best = next((grant.key for grant in usable if isinstance(grant.key, str)), None)
    if best is None:  # rotated, revoked or expired; a rotated key is printed only once, and stored as a hash
        best = _new_key()
        with _edit(path) as entries:
            names = ("demo-100", *(f"demo-100-{n}" for n in range(2, len(entries) + 3)))
            alias = next(name for name in names if name not in entries)
            entries[alias] = {"key": best, "tier": 100}
    _replace(header, f"Authorization: Bearer {best}\n".encode())


def _new_key() -> str:
    return secrets.token_urlsafe(32)


def _entry_of(entries: Entries, alias: str) -> dict[str, Any]:
    """The user's entry as an object."""
    if alias not in entries:
        raise KeyFileError(f'unknown user "{alias}" (`ptn keys list` prints all)', code="no_user")
    entry = entries[alias]
    return {"key": entry, "tier": 100} if isinstance(entry, str) else entry


def _change(keys: Path | KeyStore, change: Callable[[Entries], None], *, create: bool = False) -> None:
    if isinstance(keys, Path):
        with _edit(keys, create=create) as entries:
            change(entries)
    else:
        keys.edit(change)


@contextlib.contextmanager
def _edit(path: Path, *, create: bool = False) -> Iterator[Entries]:
    """The file's entries, written back if the block succeeds. Only one process edits at a time."""
    path = path.resolve()  # edit the target of a symbolic link, not the link
    try:
        if create:
            _create_if_missing(path)
        with _locked(path):
            content, _ = load_key_file(path)  # faulty entries are kept as they are
            entries: Entries = json.loads(content)
            yield entries
            write_key_file(path, entries)
    except FileNotFoundError:
        raise KeyFileError(f"{missing_key_file([path])} (see --api-keys-file)", code="no_file") from None
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be written: {error.strerror}") from None


def _create_if_missing(path: Path) -> None:
    """Creates an empty key file atomically, with the owner of its directory."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        _give(folder, folder.parent.stat())
    if path.exists():
        return
    with _temporary_file(path, b"{}\n") as temporary:
        _give(temporary, path.parent.stat())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # another process was faster
        except OSError:  # a file system without hard links
            os.replace(temporary, path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock of the key file. Raises FileNotFoundError.

    The directory cannot be locked instead: it may be the data directory, whose lock a running server holds.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | _NONBLOCKING)
        except PermissionError:  # who may write the directory may replace a read-only file
            descriptor = os.open(path, os.O_RDONLY | _NONBLOCKING)
        try:
            if error := take_lock(descriptor, wait=True):
                logger.warning(
                    "no file locks at %s (%s): edit it in one place at a time", path, error.strerror
                )
            # While we waited, the holder may have replaced the file: then our lock is on the old one.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                yield
                return
        finally:
            os.close(descriptor)


def write_key_file(path: Path, entries: Entries) -> None:
    """Replaces the file atomically; a new one has mode 0600. Raises OSError."""
    content = json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
    _replace(path, content.encode(errors="backslashreplace"))  # a lone surrogate becomes JSON's \uXXXX


def _replace(path: Path, content: bytes) -> None:
    """Replaces the file atomically: a reader finds the old content or the new one."""
    with _temporary_file(path, content) as temporary:
        if path.exists():
            before = path.stat()
            _give(temporary, before)
            os.chmod(temporary, before.st_mode & 0o777)
        os.replace(temporary, path)


def _give(path: Path | str, like: os.stat_result) -> None:
    """Gives a new file the owner and group of another one, if permitted: only root may."""
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):
            os.chown(path, like.st_uid, like.st_gid)


@contextlib.contextmanager
def _temporary_file(path: Path, content: bytes) -> Iterator[str]:
    """A file of mode 0600 in the same directory, deleted at the end: no copy of the keys is left behind."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):  # it was renamed
            os.unlink(temporary)
