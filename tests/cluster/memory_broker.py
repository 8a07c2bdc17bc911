"""A broker in memory whose every promise that may be broken can be broken (ptn_api/cluster/broker.py)."""

from __future__ import annotations

import contextlib
import enum
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ptn_api.cluster.broker import Beat, Entry, SnapshotInfo
from ptn_api.errors import BrokerError, EntriesPurgedError, OutcomeUnknownError, PublishRefusedError

__all__ = ["Fault", "MemoryBroker"]


class Fault(enum.Enum):
    """What happens to one request."""

    NONE = "none"
    LOST = "lost"
    """It never arrives."""
    ACK_LOST = "ack lost"
    """It is carried out."""
    LATE = "late"
    """It is carried out at `deliver_late`."""
    DOUBLED = "doubled"
    """It arrives twice; the second answer is lost."""
    FIRST_ACK_LOST = "first ack lost"
    """It arrives twice; the first answer is lost."""
    REFUSED = "refused"
    """The broker has no leader."""
    DOWN = "down"
    """It cannot be sent."""


class MemoryBroker:
    """One stream. `faults` holds what happens to the next requests to publish; NONE once it is empty.

    A server that answers reads lags by `stale` entries. Without `checking`, the expectation of a request is
    ignored.
    """

    def __init__(self, *, checking: bool = True) -> None:
        self.entries: list[Entry] = []
        self.purged = 0
        self.faults: deque[Fault] = deque()
        self.stale = 0
        self.down = False
        self.checking = checking
        self.late: list[tuple[bytes, int]] = []
        self.stored: dict[str, tuple[SnapshotInfo, list[bytes]]] = {}
        self.beats: list[Beat] = []
        """Those that were announced."""
        self.silent = False
        """Whether beats and announcements of keys are lost."""
        self._listeners: list[Callable[[Beat], None]] = []
        self.leaderless = False
        """Whether the server that answers is cut off from the others."""
        self.shared_keys: Entry | None = None
        self.key_faults: deque[Fault] = deque()
        """What happens to the next edits of the keys."""
        self.records: dict[str, bytes] = {}
        """The usage records by name, the last one that was stored last."""
        self._presence_listeners: list[Callable[[bytes], None]] = []
        self._key_listeners: list[Callable[[], object]] = []
        self._changed = threading.Condition()

    def publish(self, payload: bytes, *, expected: int) -> int:
        with self._changed:
            fault = self.faults.popleft() if self.faults else Fault.NONE
            if self.down or fault is Fault.DOWN:
                raise BrokerError("no connection")
            if fault is Fault.REFUSED:
                raise PublishRefusedError("no leader")
            if fault is Fault.LATE:
                self.late.append((payload, expected))
            if fault in (Fault.LATE, Fault.LOST):
                raise OutcomeUnknownError("no answer")
            index = self._store(payload, expected)
            if fault is Fault.ACK_LOST:
                raise OutcomeUnknownError("no answer")
            if fault in (Fault.DOUBLED, Fault.FIRST_ACK_LOST):
                try:
                    second = self._store(payload, expected)
                except PublishRefusedError:
                    if fault is Fault.FIRST_ACK_LOST:
                        raise
                else:
                    index = second if fault is Fault.FIRST_ACK_LOST else index
            return index

    def deliver_late(self) -> None:
        """Carries out the requests that are late."""
        with self._changed:
            late, self.late = self.late, []
            for payload, expected in late:
                with contextlib.suppress(PublishRefusedError):
                    self._store(payload, expected)

    def _store(self, payload: bytes, expected: int) -> int:
        last = self.purged + len(self.entries)
        if self.checking and last != expected:
            raise PublishRefusedError(f"the last index is {last}, not {expected}")
        self.entries.append(Entry(last + 1, payload))
        self._changed.notify_all()
        return last + 1

    def read(self, after: int, max_bytes: int) -> list[Entry]:
        self._require_up()
        if after < self.purged:
            raise EntriesPurgedError(f"the entry {after + 1} was purged")
        known = self.entries[: max(len(self.entries) - self.stale, 0)]
        found: list[Entry] = []
        for entry in known[after - self.purged :]:
            if found and max_bytes <= 0:
                break
            found.append(entry)
            max_bytes -= len(entry.payload)
        return found

    def last(self) -> int:
        self._require_up()
        return max(self.purged + len(self.entries) - self.stale, 0)

    def wait(self, after: int, timeout_ms: int) -> None:
        with self._changed:
            # Later entries of the same thread cannot come: tests that need the wait publish in another one.
            self._changed.wait_for(lambda: self.purged + len(self.entries) > after, timeout_ms / 1000)

    def announce(self, beat: Beat) -> None:
        if not (self.down or self.silent):
            self.beats.append(beat)
            for heard in list(self._listeners):
                heard(beat)

    def listen(self, heard: Callable[[Beat], None]) -> None:
        self._listeners.append(heard)

    def purge(self, through: int) -> None:
        self._require_up()
        with self._changed:
            self.entries = [entry for entry in self.entries if entry.index > through]
            self.purged = max(self.purged, through)

    def put_snapshot(self, info: SnapshotInfo, pieces: Iterable[bytes]) -> None:
        self._require_up()
        self.stored[info.name] = (info, list(pieces))

    def snapshots(self) -> list[SnapshotInfo]:
        self._require_up()
        infos = [info for info, pieces in self.stored.values() if len(pieces) == info.pieces]
        return sorted(infos, key=lambda info: -info.index)

    def get_snapshot(self, info: SnapshotInfo) -> Iterator[bytes]:
        self._require_up()
        yield from self.stored[info.name][1]

    def delete_snapshot(self, info: SnapshotInfo) -> None:
        self._require_up()
        self.stored.pop(info.name, None)

    def delete_leftovers(self, kept: Iterable[SnapshotInfo]) -> None:
        self._require_up()
        first = min([*self.stored].index(info.name) for info in kept)
        for name in [*self.stored][:first]:
            del self.stored[name]

    def keys(self, after: int) -> Entry | None:
        self._require_up()
        found = self.shared_keys
        return found if found is not None and found.index > after else None

    def put_keys(self, payload: bytes, *, expected: int) -> int:
        self._require_up()
        fault = self.key_faults.popleft() if self.key_faults else Fault.NONE
        last = self.shared_keys.index if self.shared_keys else 0
        if fault is Fault.LOST:
            raise OutcomeUnknownError("no answer")
        if fault is Fault.REFUSED or last != expected:
            raise PublishRefusedError(f"the last index is {last}, not {expected}")
        self.shared_keys = Entry(last + 1, payload)
        for heard in [] if self.silent else self._key_listeners:
            heard()
        if fault is Fault.ACK_LOST:
            raise OutcomeUnknownError("no answer")
        return last + 1

    def hear_keys(self, heard: Callable[[], object]) -> None:
        self._key_listeners.append(heard)

    def send_presence(self, message: bytes) -> None:
        if not self.down:
            for heard in list(self._presence_listeners):
                heard(message)

    def hear_presence(self, heard: Callable[[bytes], None]) -> None:
        self._presence_listeners.append(heard)

    def put_usage(self, name: str, record: bytes) -> None:
        self._require_up()
        self.records.pop(name, None)
        self.records[name] = record

    def usage(self, names: str) -> Iterator[bytes]:
        self._require_up()
        wanted = re.compile(re.escape(names).replace(r"\*", "[^.]+"))
        yield from [record for name, record in self.records.items() if wanted.fullmatch(name)]

    def last_usage(self, names: str) -> bytes | None:
        return [None, *self.usage(names)][-1]

    def close(self) -> None:
        self.down = True

    def _require_up(self) -> None:
        if self.down:
            raise BrokerError("no connection")
