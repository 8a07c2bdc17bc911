"""The key file that all machines of a cluster share: SHA-256, tier and limits of each key, not the key.

The broker stores it as one value, which `ptn keys` replaces unless another edit came first. Each machine has
a copy in its data directory, in the form of a key file, which rest and stream read (access/key_file.py). A
machine that starts while it cannot reach the broker has the keys that it had before.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import zstandard

from ptn_api.access import Entries, write_key_file
from ptn_api.access.key_file import MAX_BYTES
from ptn_api.cluster.broker import PART_BYTES, Entry
from ptn_api.cluster.options import shared_key_file
from ptn_api.errors import BrokerError, KeyFileError

__all__ = ["KeyBroker", "KeyCopy", "SharedKeyStore", "read_shared_keys"]

_EDIT_S = 5.0
_EDITS_KEPT = 20
"""More than are made within that time."""
_ORIGINS_KEPT = 20
_PAUSE_S = 0.05
_CHECK_POLLS = 25
"""Each time after this number of polls, look whether the broker still has what the copy has."""


class KeyBroker(Protocol):
    """One value in a replicated stream: each new one replaces the one before."""

    def keys(self, after: int) -> Entry | None:
        """The value if its index is above `after`; a stale server may not have it yet. Raises BrokerError."""
        ...

    def put_keys(self, payload: bytes, *, expected: int) -> int:
        """Stores the value if the last one's index is `expected`, 0 without one; raises as `publish` does."""
        ...


class SharedKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The value. Of two with one `origin`, the one with the higher revision is newer."""

    origin: str
    """Random, from the first edit of a new cluster on."""
    revision: int
    edits: list[str]
    """Random names of the last edits: an edit without an answer finds out whether it was stored."""
    entries: Entries
    replaced: list[str] = []
    """The last origins that this one has replaced: values with them are older."""


class _Known(msgspec.Struct, frozen=True):
    """Which value the copy has."""

    origin: str = ""
    revision: int = 0
    replaced: list[str] = []


def encode(keys: SharedKeys) -> bytes:
    """Raises KeyFileError if there are too many keys."""
    content = msgspec.json.encode(keys)
    payload = zstandard.compress(content)
    if len(payload) > PART_BYTES or len(content) > MAX_BYTES:
        raise KeyFileError(f"the keys take more than {PART_BYTES >> 10} KiB: remove users or notes")
    return payload


def decode(payload: bytes) -> SharedKeys:
    """Raises KeyFileError."""
    try:
        content = zstandard.decompress(payload, max_output_size=MAX_BYTES)
        return msgspec.json.decode(content, type=SharedKeys)
    except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeError) as error:
        raise KeyFileError(f"the cluster's keys cannot be read: {error}", code="damaged") from None


def read_shared_keys(broker: KeyBroker) -> Entries:
    """Returns the entries as the broker has them. Raises BrokerError, KeyFileError."""
    entry = broker.keys(0)
    return {} if entry is None else decode(entry.payload).entries


class SharedKeyStore:
    """The shared keys, for edits (a `KeyStore`, see access/key_edit.py)."""

    def __init__(self, broker: KeyBroker, *, pause_s: float = _PAUSE_S) -> None:
        self._broker = broker
        self._pause_s = pause_s

    def edit(self, change: Callable[[Entries], None], *, new_origin: bool = False) -> None:
        """Changes the entries, after a concurrent edit once more. Raises KeyFileError, BrokerError.

        `new_origin`: machines take them even if they have a later revision, from before a restore.
        """
        edit, sent = secrets.token_hex(8), False
        deadline = time.monotonic() + _EDIT_S
        while True:
            try:
                entry = self._broker.keys(0)
                keys = SharedKeys(origin=secrets.token_hex(8), revision=0, edits=[], entries={})
                if entry is not None:
                    keys = decode(entry.payload)
                if edit in keys.edits:  # stored, though the answer was lost
                    return
                change(keys.entries)
                edits = [*keys.edits[1 - _EDITS_KEPT :], edit]
                new = msgspec.structs.replace(keys, revision=keys.revision + 1, edits=edits)
                if new_origin:
                    replaced = [*keys.replaced[1 - _ORIGINS_KEPT :], keys.origin]
                    new = msgspec.structs.replace(new, origin=secrets.token_hex(8), replaced=replaced)
                payload, sent = encode(new), True
                self._broker.put_keys(payload, expected=0 if entry is None else entry.index)
                return
            except BrokerError as error:
                if not sent or error.code == "forbidden":
                    raise
                if time.monotonic() > deadline:
                    raise BrokerError(f"perhaps the keys were not changed: {error}") from error
            time.sleep(self._pause_s)


class KeyCopy:
    """This machine's copy, which `update` brings up to date."""

    def __init__(self, broker: KeyBroker, data_dir: Path) -> None:
        self._broker = broker
        self._path = shared_key_file(data_dir)
        self._known_path = self._path.with_suffix(".version")
        self._taken = Entry(0, b"")
        """The value that this process has taken."""
        self._polls = 0
        self._known = _Known()
        # Without it, the copy is taken from the broker as it is.
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            self._known = msgspec.json.decode(self._known_path.read_bytes(), type=_Known)

    def update(self) -> bool:
        """Takes over new keys; returns whether there were any. Raises BrokerError, KeyFileError, OSError."""
        self._polls += 1
        # Without this check, one that was restored would go unnoticed until its indexes are above the former.
        after = self._taken.index if self._polls % _CHECK_POLLS else 0
        entry = self._broker.keys(after)
        if entry is None or entry == self._taken:
            return False
        keys = decode(entry.payload)
        # A server that lags or was restored may answer: older keys must not make a revoked one valid again.
        known = self._known
        is_same_origin = keys.origin == known.origin
        if keys.origin in known.replaced or (is_same_origin and keys.revision < known.revision):
            self._taken = Entry(0, b"")
            raise KeyFileError("the broker has older keys than this machine", code="older")
        self._known = _Known(keys.origin, keys.revision, keys.replaced)
        # First, and atomically too: after a kill in between, older keys are refused all the same.
        write_key_file(self._known_path, msgspec.to_builtins(self._known))
        write_key_file(self._path, keys.entries)
        self._taken = entry
        return True
