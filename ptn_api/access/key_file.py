"""The key file: read, validated and swapped whole; never written by the server.

    {"alice": {"key": "...", "tier": 100},
     "bob": "...",
     "carol": {"key_sha256": "<64 hex digits>", "tier": 30, "expires": "2027-01-01T00:00:00Z",
               "max_connections": 5, "requests_per_minute": 600, "note": "..."}}

A plain string is the legacy form and means tier 100. `ptn keys` writes only hashes (key_edit.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.access.key_entry import grants_of
from ptn_api.access.key_ring import Grant, KeyRing
from ptn_api.errors import KeyFileError

__all__ = ["KeyFile", "exposed_to", "parse_keys", "read_key_file"]

MAX_BYTES = 16 << 20


def parse_keys(content: bytes) -> list[Grant]:
    """What every entry grants.

    Raises KeyFileError with a sentence that names the user at fault and never a key.
    """
    try:
        entries = msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise KeyFileError("the key file is not a JSON object (half written?)", code="not_json") from None
    grants = [grant for alias, entry in entries.items() for grant in grants_of(alias, entry)]
    _refuse_ambiguous(grants)
    return grants


def _refuse_ambiguous(grants: Iterable[Grant]) -> None:
    first: dict[bytes, Grant] = {}
    for grant in grants:
        other = first.setdefault(grant.digest, grant)
        if other.tier != grant.tier:
            names = f'users "{other.alias}" and "{grant.alias}"'
            raise KeyFileError(f"{names} have the same key with different tiers")


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
        self.reloads: Counter[str] = Counter()
        """How often it was `read`, and how often that `failed`."""

    def refresh(self) -> bool:
        """Reads the file if it changed. True if the keys were swapped.

        Raises KeyFileError once for every new problem; `problem` holds it until it is mended.
        """
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                self._missing, self.problem = 0, None
                return False
            grants = parse_keys(read_key_file(self._path))
        except FileNotFoundError:
            return self._gone()
        except OSError as error:
            return self._report(KeyFileError(f"the key file cannot be read: {error.strerror}"))
        except KeyFileError as error:
            return self._report(error)
        self._stamp, self._missing, self.problem = stamp, 0, None
        self._ring.swap(grants)
        self.reloads["read"] += 1
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
            self.reloads["failed"] += 1
            raise problem
        return False


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def read_key_file(path: Path) -> bytes:
    """The file's bytes. Raises OSError; KeyFileError if it is far too large."""
    # O_NONBLOCK: a FIFO in its place must not hang the server.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise KeyFileError("the key file is over 16 MiB")
    return content


def exposed_to(path: Path) -> str:
    """Who can read or write the file besides its owner and group; empty: nobody, as it should be."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    verbs = [verb for bit, verb in ((0o004, "read"), (0o002, "written")) if mode & bit]
    return f"the key file can be {' and '.join(verbs)} by every user of this system" if verbs else ""
