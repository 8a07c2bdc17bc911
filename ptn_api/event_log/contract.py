"""What an event log promises; every implementation is held to it by one test suite.

The log is the one ordered history. Intake is its only writer, REST and stream only read it.

Two counters, never mixed up:

- `sequence` counts orders, and orders only. It grows by exactly 1 and is never reused. A new log has a
  random `epoch` and starts counting at its creation time in Unix seconds, so that a number remembered from
  another log lies below the floor instead of meaning something else.
- `revision` counts every change of the served state: a position's new, changed or removed text, a document.

An event is one order, and its identity is (miner_hotkey, order_uuid), nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from ptn_api.model.position import Position, PositionText

__all__ = [
    "Change",
    "CommitListener",
    "Document",
    "DocumentWritten",
    "Event",
    "EventLog",
    "EventLogWriter",
    "Head",
    "LoggedPosition",
    "PositionRemoved",
    "PositionWritten",
    "RemovedPosition",
    "SourceStatus",
]


class Document(str, enum.Enum):
    """The validator's files that are served whole, by the name they have in the log."""

    ELIMINATIONS = "eliminations"
    STATISTICS = "statistics"
    PERF_LEDGERS = "perf_ledgers"
    CHALLENGEPERIOD = "challengeperiod"
    MINERS = "miners"
    """A JSON list of hotkeys: the directories under validation/miners."""


# --- what intake hands to the log -------------------------------------------------------------------------


class PositionWritten(msgspec.Struct, frozen=True, kw_only=True):
    """The position as it stands now. Orders in it that were never seen before become events."""

    position: Position
    text: PositionText
    fingerprint: str = ""
    """What the source needs to recognise this version again (for a file: inode, ctime and size)."""
    extra: bytes = b""
    """Other keys that came beside `position` on the embedded queue: a JSON object, or nothing."""


class PositionRemoved(msgspec.Struct, frozen=True, kw_only=True):
    miner_hotkey: str
    position_uuid: str


class DocumentWritten(msgspec.Struct, frozen=True, kw_only=True):
    document: Document
    content: bytes | None
    """Compact or not, the JSON as it will be served; None: the validator no longer has it."""
    fingerprint: str = ""


Change = PositionWritten | PositionRemoved | DocumentWritten


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How fresh the source is. `swept_ms`: end of the last completed sweep; None without a directory.

    `stale` says that the state may no longer be the validator's (root vanished, mass removal held back);
    `reason` is a word for `/health`. `invalid` counts the files that are skipped at present, `watching`
    is False when inotify watches ran out and intake sweeps instead.
    """

    swept_ms: int | None = None
    stale: bool = False
    reason: str = ""
    invalid: int = 0
    watching: bool = True


# --- what readers get -------------------------------------------------------------------------------------


class Head(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Where the log stands: the last sequence given and the last revision made."""

    sequence: int
    revision: int


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One order as announced, once, for ever.

    `header`/`orders_at` are the position after this order in the form of `PositionText`; `n_orders` is the
    place of the order in its list, from 1. `orders` are the position's orders up to this one, which is last,
    as the log knows them now (corrections included); empty unless asked for.
    """

    sequence: int
    revision: int
    """Of the position's text that brought this order."""
    timestamp_ms: int
    """When intake first saw the order."""
    miner_hotkey: str
    position_uuid: str
    trade_pair: str
    order_uuid: str
    processed_ms: int
    order: bytes
    header: bytes
    orders_at: int
    n_orders: int
    late: bool = False
    extra: bytes = b""
    orders: tuple[bytes, ...] = ()

    @property
    def text(self) -> PositionText:
        """The position after this order."""
        return PositionText(header=self.header, orders_at=self.orders_at, orders=self.orders)


class LoggedPosition(msgspec.Struct, frozen=True, kw_only=True):
    """A position's present text. `close_ms` is None while open.

    `order_revisions[i]` is the revision at which `text.orders[i]` last changed or came; `layout_revision`
    the one at which orders were last dropped, moved or inserted before the end. With them the difference
    to any older revision can be told without a history.
    """

    miner_hotkey: str
    position_uuid: str
    revision: int
    close_ms: int | None
    text: PositionText
    order_revisions: tuple[int, ...]
    layout_revision: int


class RemovedPosition(msgspec.Struct, frozen=True, kw_only=True):
    """A tombstone, kept as long as events are."""

    miner_hotkey: str
    position_uuid: str
    revision: int


class CommitListener(Protocol):
    """A reader's notifications of commits. A lost one costs a second, never an event."""

    async def wait_for_commit(self, timeout_ms: int = 1_000) -> None:
        """Returns after the next commit (at once after one since the last wait), or after the timeout."""
        ...

    def close(self) -> None: ...


class EventLog(Protocol):
    """Reading. Every call is short and holds no transaction open afterwards.

    Raises LogError where the log cannot be read.
    """

    @property
    def epoch(self) -> str: ...

    @property
    def created_ms(self) -> int: ...

    def ready(self) -> bool:
        """Whether the baseline is complete; before that the log holds nothing worth serving."""
        ...

    def head(self) -> Head: ...

    def floor(self) -> int:
        """The oldest readable sequence; head + 1 where none is. Events from here on can all be read."""
        ...

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        """Events with sequence > `after`, in order, at most `limit`.

        Raises LogPrunedError if `after` + 1 lies below the floor: never a partial answer.
        """
        ...

    def first_timestamp_after(self, sequence: int) -> int | None:
        """`timestamp_ms` of the first event after `sequence`; None if there is none."""
        ...

    def hotkeys(self) -> list[str]:
        """Miners that have a position in the log, sorted."""
        ...

    def positions(self, *, miner: str | None = None, since_revision: int = 0) -> Iterator[LoggedPosition]:
        """Positions changed after `since_revision`, all or one miner's, in the order of their revisions.

        Read in parts: a position that changes meanwhile comes (again) with its newer revision, and one that
        is removed meanwhile may have come. Take the head first, and what changed since then afterwards.
        """
        ...

    def positions_of(self, miner: str, *, open_or_closed_since_ms: int) -> list[LoggedPosition]:
        """One miner's positions that are open or closed at or after that time."""
        ...

    def position(self, miner: str, position_uuid: str) -> LoggedPosition | None: ...

    def removed(self, since_revision: int) -> list[RemovedPosition]:
        """Positions removed after `since_revision` (and not back), in the order of their revisions.

        Raises LogPrunedError if tombstones that young may have been dropped.
        """
        ...

    def oldest_revision(self) -> int:
        """The oldest `since_revision` for which `removed` still answers."""
        ...

    def changes(self, since_revision: int) -> tuple[Head, list[LoggedPosition], list[RemovedPosition]]:
        """The head, the positions changed and those removed after `since_revision`, of one instant.

        Raises LogPrunedError as `removed` does.
        """
        ...

    def document(self, document: Document) -> bytes | None: ...

    def document_revision(self, document: Document) -> int:
        """The revision at which the document last changed; 0 if it was never there."""
        ...

    def source(self) -> SourceStatus: ...

    def counters(self) -> dict[str, int]:
        """Counts since creation: `events`, how many of them `late`, `conflicts` (a seen uuid with another
        time or leverage; the first stands), `pruned` events."""
        ...

    def commit_listener(self) -> CommitListener:
        """A new listener for this reader, bound to the running asyncio loop."""
        ...

    def close(self) -> None: ...


class EventLogWriter(EventLog, Protocol):
    """Writing: one process at a time; LogLockedError for the second one."""

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        """The first scan of a new log, all of it in one transaction: begun again if its
        end was not committed.

        State and seen orders; events only for orders with processed_ms after the log's creation (that holds
        for an append before the baseline too). On a log whose baseline is complete it is an append.
        """
        ...

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        """Applies the changes in one transaction and returns when they are durable.

        Idempotent: a change that changes nothing makes no revision. The events of one call are ordered by
        (largest processed_ms so far in the position's list, position_uuid, place in the list).
        Raises LogUnwritableError, having changed nothing; the log is usable afterwards.

        Several threads may append to the SQLite log. A large document takes a second to be packed and
        written: appended on its own, from a thread of its own, it lets orders in between its pieces.
        """
        ...

    def fingerprints(self) -> dict[tuple[str, str], str]:
        """(miner_hotkey, position_uuid) -> fingerprint of every position in the log.

        Documents stand under ("", document name).
        """
        ...

    def seen(self, miner: str, order_uuids: Iterable[str]) -> set[str]:
        """Which of those orders were seen before."""
        ...

    def set_source(self, status: SourceStatus) -> None:
        """Says how fresh the source is; makes no revision."""
        ...

    def prune(self, now_ms: int) -> int:
        """Drops events and tombstones that are too old or too much; returns the new floor."""
        ...
