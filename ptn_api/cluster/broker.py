"""The broker: a replicated, durable stream of entries, and the snapshots of the log.

The calls block, because their callers must: `append` holds SQLite's transaction open until the entry is
acknowledged, in one of intake's worker threads, and a copy applies entries in a thread as well. An
implementation with an asyncio client runs its loop in a thread (ptn_api/loop_thread.py), so only that module
deals with both. Any thread may call; `close` makes calls in other threads raise BrokerError.

Every call returns or raises within a timeout of the implementation (`publish` within the ack timeout, about
0.5 s; the others within a few seconds) and none retries: the callers read on, roll back or wait first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

__all__ = ["PART_BYTES", "Beat", "Broker", "Entry", "SnapshotInfo"]

PART_BYTES = 512 << 10
"""Most content of one entry, and of a piece of a snapshot. Headers may add 1 KiB."""


class Entry(msgspec.Struct, frozen=True):
    """One payload of the stream, at an index that no other one ever has."""

    index: int
    payload: bytes


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A complete snapshot of the log, as of the commit at `index`."""

    name: str
    """Random, in [0-9a-f]: two machines may write a snapshot of the same index at the same time."""
    index: int
    commit_id: bytes
    """The id of the commit at `index`."""
    schema: int
    """The version of the log's schema (event_log/schema.py)."""
    pieces: int
    size: int
    """The size of all pieces."""
    digest: bytes
    """blake2b of all pieces, 16 bytes."""


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """A sign of life of a machine that can write, once a second (turns.py). Not stored; may be lost."""

    writer: bytes
    term: int
    """The term of the last commit that the machine knows."""
    index: int
    """The index of that commit."""
    active: bool
    """Whether the machine is the active one, as far as it knows."""
    leaving: bool = False
    """Whether it was the active one until now: another one need not wait for silence."""


class Broker(Protocol):
    """A total order of entries, from index 1 on.

    Everything rests on two properties. An index has one payload, the same for every reader, for as long as
    the stream exists. An acknowledged entry is durable, on a majority of the servers.

    Everything else is allowed to go wrong: acknowledgements may be lost, requests may be carried out after
    they timed out or twice, and reads may be answered by a server that lags. The callers cope.
    """

    def publish(self, payload: bytes, *, expected: int) -> int:
        """Appends an entry after index `expected`; returns its index once it is durable.

        Raises PublishRefusedError if the stream has another last index, or if the broker could not take the
        entry now (no leader). Raises OutcomeUnknownError if no answer came, also if the connection broke: the
        entry is stored, or not, or will be. Raises BrokerError if the request was certainly not sent. The
        writer reads on after any of them, so a wrong one costs time and no correctness.

        The check against `expected` saves void entries and is not needed for safety: a broker without it
        returns a larger index, and the caller reads on to find out whether its entry counts.
        """
        ...

    def read(self, after: int, max_bytes: int) -> list[Entry]:
        """The entries that follow index `after`, in order and without a gap, up to about `max_bytes`.

        At least one entry, if the server that answers has one. A stale server may return fewer entries than
        exist, or none. Raises EntriesPurgedError if the entry at `after` + 1 was purged, BrokerError without
        an answer. Must never skip an entry that exists: an
        answer that begins later than `after` + 1 means that entries were purged.
        """
        ...

    def last(self) -> int:
        """The last index of the stream, 0 if it is empty, as far as the server that answers knows.

        Asks each time, since a remembered answer would hide that this machine is cut off. The answer may be
        too small: a server that was cut off, or that has just started, does not know better. An answer below
        an index that the caller has read therefore means "not known yet". Raises BrokerError without one, and
        if the server knows of no leader.
        """
        ...

    def wait(self, after: int, timeout_ms: int) -> None:
        """Returns when an entry after index `after` was announced, or after the timeout.

        Announcements may be lost or early; readers also look once a second. Never raises BrokerError: without
        a connection it waits for the timeout.
        """
        ...

    def announce(self, beat: Beat) -> None:
        """Sends the beat to all machines that listen now, this one included; drops it without a connection.

        Does not wait, and raises no BrokerError.
        """
        ...

    def listen(self, heard: Callable[[Beat], None]) -> None:
        """Has the function called with each beat from now on, in a thread that it must not block."""
        ...

    def purge(self, through: int) -> None:
        """Deletes the entries up to and including index `through`. Indexes are not reused."""
        ...

    def put_snapshot(self, info: SnapshotInfo, pieces: Iterable[bytes]) -> None:
        """Stores a snapshot; it is listed once all of its pieces are durable.

        Iterates over `pieces` once, without holding all of them. Raises BrokerError; what was stored until
        then is not listed, and is deleted if the broker can be reached, otherwise by `delete_leftovers`.
        """
        ...

    def snapshots(self) -> list[SnapshotInfo]:
        """The complete snapshots, newest index first. A stale server may leave out new ones."""
        ...

    def get_snapshot(self, info: SnapshotInfo) -> Iterator[bytes]:
        """The snapshot's pieces, in order. Raises BrokerError, also if one is missing."""
        ...

    def delete_snapshot(self, info: SnapshotInfo) -> None:
        """Deletes a snapshot with its pieces, also one that is incomplete or gone."""
        ...

    def delete_leftovers(self, kept: Iterable[SnapshotInfo]) -> None:
        """Deletes what was stored before all of these snapshots: pieces of those that were interrupted.

        If a stale server answers, that is left to the next call.
        """
        ...

    def close(self) -> None: ...
