"""The contract of an event log; one test suite holds every implementation to it.

The log is the one ordered history. Intake is its only writer; REST and stream only read it. Several machines
may hold copies of one log (ptn_api/cluster); one of them writes at a time.

Two counters:

- `sequence` counts orders only. It grows by exactly 1 and is never reused. A new log has a random `epoch` and
  starts counting at its creation time in epoch ms, so that a sequence remembered from another log lies below
  the floor instead of naming a different event.
- `revision` counts every change of the served state: a position's text written or removed, a document.

An event is one order. Its identity is (miner_hotkey, order_uuid) alone.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple, Protocol

import msgspec

from ptn_api.event_log.damage import Damage
from ptn_api.model.position import Position, PositionText
from ptn_api.problems import Code, Findings

__all__ = [
    "PER_MINER",
    "Change",
    "CommitListener",
    "CopyStatus",
    "Document",
    "DocumentWritten",
    "Event",
    "EventLog",
    "EventLogWriter",
    "Head",
    "LoggedOrder",
    "LoggedPosition",
    "Lost",
    "OrderKey",
    "PositionRemoved",
    "PositionWritten",
    "RemovedPosition",
    "SourceStatus",
    "known_ms",
]


class Document(str, enum.Enum):
    """The validator's files that are served as documents, by their names in the log.

    There is one of each, except for those in PER_MINER, of which each miner may have one.
    """

    ELIMINATIONS = "eliminations"
    STATISTICS = "statistics"
    PERF_LEDGERS = "perf_ledgers"
    DEBT_LEDGERS = "debt_ledgers"
    EMISSIONS_LEDGERS = "emissions_ledgers"
    PENALTY_LEDGERS = "penalty_ledgers"
    CHALLENGEPERIOD = "challengeperiod"
    ACCOUNT_SIZES = "account_sizes"
    ASSET_SELECTIONS = "asset_selections"
    ENTITIES = "entities"
    MINERS = "miners"
    """A JSON list of hotkeys: the directories under validation/miners."""
    LIMIT_ORDERS = "limit_orders"
    """Per miner: a JSON list of `LimitOrderFile` objects (model/limit_order.py)."""
    ARCHIVED_POSITIONS = "archived_positions"
    """Per miner: a JSON list of positions, as in their files."""
    SNAPSHOTS = "snapshots"
    """Per miner: a JSON list of the last lines of snapshots.jsonl, oldest first."""


PER_MINER = frozenset({Document.LIMIT_ORDERS, Document.ARCHIVED_POSITIONS, Document.SNAPSHOTS})
"""Documents of which each miner may have one."""


# --- what intake writes -----------------------------------------------------------------------------------


class PositionWritten(msgspec.Struct, frozen=True, kw_only=True):
    """A position's present text. Its orders that were never seen before become events."""

    position: Position
    text: PositionText
    fingerprint: str = ""
    """Identifies this version of the source (for a file: inode, ctime and size)."""
    extra: bytes = b""
    """Keys next to `position` in an item of the embedded queue: a JSON object, or empty."""


class PositionRemoved(msgspec.Struct, frozen=True, kw_only=True):
    miner_hotkey: str
    position_uuid: str


class DocumentWritten(msgspec.Struct, frozen=True, kw_only=True):
    document: Document
    content: bytes | None
    """The JSON as it will be served, compact or not; None: the validator deleted it."""
    miner_hotkey: str = ""
    """Whose document it is; empty for documents that are not in PER_MINER."""
    fingerprint: str = ""


Change = PositionWritten | PositionRemoved | DocumentWritten


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How fresh the source is.

    `swept_ms` is the end of the last completed sweep, None without a directory. `stale`: the state may differ
    from the validator's (root vanished, mass removal held back, most position files refused), and `reason` is
    the code for `/health`. `invalid` counts all files skipped at present, `invalid_documents` those of them
    that are no position files, `refused_items` the malformed items of a queue without a directory, which
    `invalid` counts too. `watching` is False while intake sweeps instead, since inotify watches ran out
    or, `events_missing`, since events do not come. `steady_ms` is the time of this status by intake's steady
    clock (`clock.py`); logs of earlier versions have none.
    """

    swept_ms: int | None = None
    stale: bool = False
    reason: str = ""
    invalid: int = 0
    watching: bool = True
    invalid_documents: int = 0
    events_missing: bool = False
    refused_items: int = 0
    steady_ms: int | None = None

    @property
    def findings(self) -> Findings:
        """The problems of the source, those that are absent included."""
        by_reason: dict[Code, bool] = {code: self.reason == code for code in ("root_missing", "mass_removal")}
        return by_reason | {
            "source_stale": self.stale,
            "files_refused": self.invalid - self.invalid_documents - self.refused_items,
            "documents_refused": self.invalid_documents,
            "not_watching": not self.watching and not self.events_missing,
            "events_missing": self.events_missing,
        }


# --- what readers receive ---------------------------------------------------------------------------------


class Head(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The last sequence and the last revision assigned."""

    sequence: int
    revision: int


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One order, announced once.

    `header` and `orders_at` show the position after this order, as in `PositionText`. `n_orders` is the
    order's number in its list, from 1. `orders` are the position's orders up to and including this one, as
    they are now (corrections included); empty unless requested.
    """

    sequence: int
    revision: int
    """The revision of the position's text that brought this order."""
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
    """A position's present text; an open one has no `close_ms`.

    `order_revisions[i]` is the revision at which `text.orders[i]` was added or last changed,
    `layout_revision` the one at which orders were last removed, moved or inserted before the end. They give
    the difference to any older revision without a stored history.
    """

    miner_hotkey: str
    position_uuid: str
    revision: int
    close_ms: int | None
    text: PositionText
    order_revisions: tuple[int, ...]
    layout_revision: int


class OrderKey(NamedTuple):
    """An order's place among all orders by time, the same in every copy of the log.

    Two positions may contain an order with the same uuid; `trade_pair` and `id`, the log's own, decide then.
    """

    processed_ms: int
    order_uuid: str
    trade_pair: str
    id: int


class LoggedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order of a position, as it is now; `sequence` is that of its event, None if it was not announced."""

    miner_hotkey: str
    position_uuid: str
    trade_pair: str
    order_uuid: str
    processed_ms: int
    sequence: int | None
    text: bytes


class RemovedPosition(msgspec.Struct, frozen=True, kw_only=True):
    """A tombstone, kept as long as events."""

    miner_hotkey: str
    position_uuid: str
    revision: int


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of the log has found damaged.

    `positions` and `documents` can be written again from the validator's files. `structure`: positions may
    be missing whose keys are unknown.
    """

    positions: frozenset[tuple[str, str]] = frozenset()
    documents: frozenset[tuple[Document, str]] = frozenset()
    structure: bool = False


class CopyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine's copy of a cluster's log contains.

    `index` is that of the last commit in the cluster's stream, `term` the one of its writer, and `active`
    whether this machine is that writer. `behind_ms` as in `EventLog`.
    """

    index: int
    term: int
    active: bool
    behind_ms: int | None


class CommitListener(Protocol):
    """A reader's notifications of commits. A lost one costs a second, never an event."""

    async def wait_for_commit(self, timeout_ms: int = 1_000) -> None:
        """Returns after the next commit (at once after one since the last wait), or after the timeout."""
        ...

    def close(self) -> None: ...


class EventLog(Protocol):
    """The reader's side. Every call is short and leaves no transaction open.

    Any call raises LogError if the log is unreadable.
    """

    @property
    def epoch(self) -> str: ...

    @property
    def created_ms(self) -> int: ...

    def ready(self) -> bool:
        """Whether the baseline is complete; until then the log must not be served."""
        ...

    def head(self) -> Head: ...

    def floor(self) -> int:
        """The oldest readable sequence, or head + 1 without events. All later events are readable."""
        ...

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        """At most `limit` events with sequence > `after`, in order.

        Damaged events are left out, so the page ends at `after` + `limit` or at the head, not at its last
        event. Raises LogPrunedError if `after` + 1 lies below the floor, rather than returning a part.
        """
        ...

    def first_timestamp_after(self, sequence: int) -> int | None:
        """`timestamp_ms` of the first event after `sequence`, or None."""
        ...

    def hotkeys(self) -> list[str]:
        """Miners with a position in the log, sorted."""
        ...

    def positions(self, *, miner: str | None = None, since_revision: int = 0) -> Iterator[LoggedPosition]:
        """Positions changed after `since_revision`, of all miners or one, in order of revision.

        They are read in batches. A position that changes during the iteration appears (again) with its newer
        revision, and one that is removed may already have appeared. So read the head first, and afterwards
        the changes since then.
        """
        ...

    def positions_of(self, miner: str, *, open_or_closed_since_ms: int) -> list[LoggedPosition]:
        """One miner's positions that are open, or closed at or after that time."""
        ...

    def position(self, miner: str, position_uuid: str) -> LoggedPosition | None: ...

    def removed_hotkeys(self, *, removed_after_ms: int) -> list[str]:
        """Miners with `removed_positions`, sorted."""
        ...

    def removed_positions(self, miner: str, *, removed_after_ms: int) -> Iterator[LoggedPosition]:
        """One miner's positions that were removed after that time, as they were last, in order of revision.

        They are kept as long as tombstones, and read as `positions` are.
        """
        ...

    def orders_before(
        self,
        before: OrderKey | None,
        limit: int,
        *,
        miners: Collection[str] = (),
        trade_pairs: Collection[str] = (),
    ) -> tuple[list[LoggedOrder], OrderKey | None]:
        """At most `limit` orders of present positions, newest first by (processed_ms, uuid), and the place to
        go on from; None: there are no more.

        A call examines a limited number of orders, so it may return fewer, or none, before the end.
        """
        ...

    def removed(self, since_revision: int) -> list[RemovedPosition]:
        """Positions removed after `since_revision` and not written since, in order of revision.

        Raises LogPrunedError if tombstones after that revision may have been pruned.
        """
        ...

    def oldest_revision(self) -> int:
        """The oldest `since_revision` that `removed` accepts."""
        ...

    def changes(self, since_revision: int) -> tuple[Head, list[LoggedPosition], list[RemovedPosition]]:
        """The head, and the positions changed and removed after `since_revision`, in one snapshot.

        Raises LogPrunedError as `removed` does.
        """
        ...

    def document(self, document: Document, miner_hotkey: str = "") -> bytes | None:
        """The document's JSON; `miner_hotkey` names the miner for documents in PER_MINER."""
        ...

    def document_revision(self, document: Document) -> int:
        """The revision at which the document last changed, of any miner; 0 if it was never written."""
        ...

    def document_revisions(self, document: Document) -> dict[str, int]:
        """For a document in PER_MINER: the miners that have one, with the revision of each."""
        ...

    def documents_changed(self, since_revision: int) -> set[tuple[Document, str]]:
        """(document, miner_hotkey) of the documents written or deleted after `since_revision`.

        Deletions are kept as long as tombstones: since `oldest_revision`.
        """
        ...

    def source(self) -> SourceStatus: ...

    def behind_ms(self) -> int | None:
        """How long ago this machine's copy of the log was known to be complete; None if that is unknown.

        Always 0 for the log of a single machine. Of several machines, a copy that is up to date returns up to
        a few seconds, and one that is cut off returns more and more.
        """
        ...

    def copy_status(self) -> CopyStatus | None:
        """The state of this machine's copy; None for the log of a single machine."""
        ...

    def counters(self) -> dict[str, int]:
        """Counts since creation: `events`, `late` events, `conflicts`, `pruned` events and `skipped` changes.

        A conflict is an order that came back with another time or leverage; the first version is kept. A
        skipped change is one that the log's schema refused, which is a bug.
        """
        ...

    def damaged(self) -> int:
        """The number of damaged rows that reads have left out and that are still damaged."""
        ...

    def find_damage(self) -> list[Damage]:
        """Reads the whole log; returns what is damaged. Takes about a second for 100 MB."""
        ...

    def commit_listener(self) -> CommitListener:
        """A new listener for this reader, bound to the running asyncio loop."""
        ...

    def close(self) -> None: ...


def known_ms(log: EventLog) -> int:
    """Returns the latest time that has certainly passed, as far as the log can tell. Raises LogError."""
    source = log.source()
    if source.steady_ms is not None:
        return source.steady_ms
    # A log of an earlier version, or one whose writer has not completed a sweep yet.
    newest_ms = log.first_timestamp_after(log.head().sequence - 1)
    return max(log.created_ms, source.swept_ms or 0, newest_ms or 0)


class EventLogWriter(EventLog, Protocol):
    """The writer's side, for one process at a time; a second one gets LogLockedError."""

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        """Writes the first scan in one transaction; if that did not commit, the next start repeats it.

        It records the state and the seen orders. Once the baseline is complete, this is an append.
        """
        ...

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        """Applies the changes in one transaction and returns when they are durable.

        Idempotent: a change without effect does not increase the revision. Orders processed at or before the
        log's creation (`created_ms`) are state and never events, whenever they are first seen, except new
        ones while the clock is behind that time. The events of one call are sorted by (largest processed_ms
        so far in the position's list, position_uuid, index in the list).

        Raises LogUnwritableError, having changed nothing, or its outcome is not known: the log of several
        machines may have taken the changes although no acknowledgement came. The next call finds out, so the
        caller appends the same changes again. The log remains usable. A change that the schema refuses is a
        bug: it is logged, counted and skipped, and all others are applied.

        Several threads may append to the SQLite log. Compressing and writing a large document takes about a
        second: append it alone, from a separate thread, so that orders are written between its chunks.
        """
        ...

    def fingerprints(self) -> dict[tuple[str, str], str]:
        """(miner_hotkey, position_uuid) -> fingerprint, for every position.

        Fingerprints belong to this machine's files: empty where another machine wrote the position.
        """
        ...

    def document_fingerprints(self) -> dict[tuple[Document, str], str]:
        """(document, miner_hotkey) -> fingerprint, for every document that was not deleted.

        It is empty where another machine wrote the document.
        """
        ...

    def seen(self, miner: str, order_uuids: Iterable[str]) -> set[str]:
        """The subset of these orders that were seen before."""
        ...

    def repair(self) -> Lost:
        """Checks the log, repairs what it can by itself, and returns what is to be written again."""
        ...

    def set_source(self, status: SourceStatus) -> None:
        """Stores the status of the source, without a new revision."""
        ...

    def prune(self, now_ms: int) -> int:
        """Deletes events and tombstones past the retention's age or size; returns the new floor."""
        ...
