"""A reader of the SQLite log; any number of processes may have one, whether or not a writer runs."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.clock import monotonic_ms
from ptn_api.errors import LogDamagedError, LogError, LogPrunedError, LogReplacedError
from ptn_api.event_log.commit_notifier import SocketCommitListener, listener_folder
from ptn_api.event_log.contract import (
    CopyStatus,
    Document,
    Event,
    Head,
    LoggedOrder,
    LoggedPosition,
    OrderKey,
    RemovedPosition,
    SourceStatus,
)
from ptn_api.event_log.damage import CHECKED_COLUMNS, Damage, DamagedRows, check_file, intact
from ptn_api.event_log.database import (
    FileIdentity,
    accept_damaged_text,
    adapt_to,
    connect_reader,
    log_path,
    reading,
)
from ptn_api.event_log.documents import KINDS, read_document
from ptn_api.event_log.order_pages import orders_before
from ptn_api.event_log.rows import (
    POSITION_COLUMNS,
    LogState,
    events_after,
    is_damaged,
    logged_position,
)

__all__ = ["SqliteReader"]

_FIRST_BATCH = 32
_LARGEST_BATCH = 1_024
"""Positions read in one transaction: few at first, because many callers stop early."""
_PRESENT = "removed_ms IS NULL"

_FEW_CHANGES = 2_000
"""So many positions are read quickly, to find the removed ones among them."""

_MOST_RECHECKED = 100
"""Damaged rows that a call of `damaged` reads again, to see whether they have been repaired."""

_source = msgspec.json.Decoder(SourceStatus)


class SqliteReader:
    """An `EventLog` (see contract.py) over a SQLite file; threads may share it.

    Any call raises LogReplacedError once the log was deleted or replaced: everything that this process
    derived from it is void, and it should start again. So do calls that read the head, once a writer that
    lost commits has given the log a new epoch.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = log_path(data_dir)
        self._lock = threading.Lock()
        self.damaged_rows = DamagedRows()
        self._identity = FileIdentity(self._path)
        self._db = connect_reader(self._path)
        try:
            with self._snapshot() as db:
                state = LogState.load(db)
        except BaseException:
            self._db.close()
            raise
        self.epoch: str = state.epoch
        self.created_ms: int = state.created_ms

    def ready(self) -> bool:
        return bool(self._state().ready)

    def head(self) -> Head:
        state = self._state()
        return Head(sequence=state.sequence, revision=state.revision)

    def floor(self) -> int:
        return self._state().floor

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        with self._snapshot() as db:
            state = self._load(db)
            if after + 1 < state.floor:
                raise LogPrunedError(f"events after {after} are gone, the oldest is {state.floor}")
            last = min(after + limit, state.sequence)
            return events_after(db, after, last, self.damaged_rows, orders=orders)

    def first_timestamp_after(self, sequence: int) -> int | None:
        with self._snapshot() as db:
            state = self._load(db)
            for candidate in range(max(sequence + 1, state.floor), state.sequence + 1):
                events = events_after(db, candidate - 1, candidate, self.damaged_rows, orders=False)
                if events:  # nearly always the first
                    return events[0].timestamp_ms
        return None

    def hotkeys(self) -> list[str]:
        with self._snapshot() as db:
            rows = db.execute("SELECT DISTINCT miner FROM positions WHERE removed_ms IS NULL").fetchall()
            return sorted(row[0] for row in rows if self._has_position(db, row[0]))

    def removed_hotkeys(self, *, removed_after_ms: int) -> list[str]:
        with self._snapshot() as db:
            # A damaged name is that of a miner without intact positions.
            query = "SELECT DISTINCT miner FROM positions WHERE removed_ms > ? AND header <> x''"
            return sorted(row[0] for row in db.execute(query, (removed_after_ms,)) if isinstance(row[0], str))

    def positions(self, *, miner: str | None = None, since_revision: int = 0) -> Iterator[LoggedPosition]:
        if miner is None:
            return self._in_batches(_PRESENT, (), since_revision)
        return self._in_batches(f"{_PRESENT} AND miner = ?", (miner,), since_revision)

    def removed_positions(self, miner: str, *, removed_after_ms: int) -> Iterator[LoggedPosition]:
        where = "miner = ? AND removed_ms > ? AND header <> x''"
        return self._in_batches(where, (miner, removed_after_ms))

    def _in_batches(
        self, where: str, values: Sequence[Any], since_revision: int = 0
    ) -> Iterator[LoggedPosition]:
        size = _FIRST_BATCH
        while True:
            with self._snapshot() as db:
                rows = _position_rows(db, since_revision, where, values, limit=size)
                batch = self._intact(db, rows)
            # No transaction is open here, however long the caller takes. A position that changes in the
            # meantime gets a larger revision and appears in a later batch.
            yield from batch
            if len(rows) < size:
                return
            # Where no row is intact, their revisions may be wrong: this can skip others, but it ends.
            revisions = [position.revision for position in batch] or [
                row[3] for row in rows if isinstance(row[3], int) and row[3] > since_revision
            ]
            if not revisions:
                return
            since_revision = max(revisions)
            size = min(2 * size, _LARGEST_BATCH)

    def positions_of(self, miner: str, *, open_or_closed_since_ms: int) -> list[LoggedPosition]:
        with self._snapshot() as db:
            rows = db.execute(
                f"SELECT {POSITION_COLUMNS} FROM positions WHERE miner = ? AND removed_ms IS NULL"  # noqa: S608
                " AND (close_ms IS NULL OR close_ms >= ?) ORDER BY revision",
                (miner, open_or_closed_since_ms),
            ).fetchall()
            return self._intact(db, rows)

    def position(self, miner: str, position_uuid: str) -> LoggedPosition | None:
        with self._snapshot() as db:
            row = db.execute(
                f"SELECT {POSITION_COLUMNS} FROM positions"  # noqa: S608 - constant column names
                " WHERE miner = ? AND uuid = ? AND removed_ms IS NULL",
                (miner, position_uuid),
            ).fetchone()
            return logged_position(db, row, self.damaged_rows) if row else None

    def orders_before(
        self,
        before: OrderKey | None,
        limit: int,
        *,
        miners: Collection[str] = (),
        trade_pairs: Collection[str] = (),
    ) -> tuple[list[LoggedOrder], OrderKey | None]:
        with self._snapshot() as db:
            return orders_before(db, before, limit, self.damaged_rows, miners=miners, trade_pairs=trade_pairs)

    def removed(self, since_revision: int) -> list[RemovedPosition]:
        with self._snapshot() as db:
            return self._removed(db, since_revision)

    def oldest_revision(self) -> int:
        return self._state().tombstone_floor

    def changes(self, since_revision: int) -> tuple[Head, list[LoggedPosition], list[RemovedPosition]]:
        with self._snapshot() as db:
            state = self._load(db)
            removed = self._removed(db, since_revision)
            changed = self._intact(db, _position_rows(db, since_revision))
        return Head(sequence=state.sequence, revision=state.revision), changed, removed

    def document(self, document: Document, miner_hotkey: str = "") -> bytes | None:
        with self._snapshot() as db:
            return read_document(db, document.value, miner_hotkey, self.damaged_rows)

    def document_revision(self, document: Document) -> int:
        with self._snapshot() as db:
            rows = db.execute(
                f"SELECT {CHECKED_COLUMNS['documents']}, crc FROM documents"  # noqa: S608 - constants
                " WHERE name = ? ORDER BY revision DESC",
                (document.value,),
            ).fetchall()
        # A damaged revision must not hide changes of other miners. Where it is the only one, it is harmless.
        revisions = [row[2] for row in rows if isinstance(row[2], int)]
        return next((row[2] for row in rows if intact(row)), revisions[0] if revisions else 0)

    def document_revisions(self, document: Document) -> dict[str, int]:
        with self._snapshot() as db:
            rows = db.execute(
                f"SELECT {CHECKED_COLUMNS['documents']}, crc FROM documents"  # noqa: S608 - constants
                " WHERE name = ? AND version IS NOT NULL ORDER BY miner",
                (document.value,),
            ).fetchall()
        for row in rows:
            if not intact(row):
                self.damaged_rows.add("documents", *row[:2])
        return {row[1]: row[2] for row in rows if intact(row)}

    def documents_changed(self, since_revision: int) -> set[tuple[Document, str]]:
        with self._snapshot() as db:
            rows = db.execute("SELECT name, miner FROM documents WHERE revision > ?", (since_revision,))
            return {(KINDS[name], miner) for name, miner in rows if name in KINDS}

    def source(self) -> SourceStatus:
        with self._snapshot() as db:
            row = db.execute("SELECT source, source_crc FROM log").fetchone()
        if row is None or not intact(row):
            raise LogDamagedError("the log is damaged: its source's status, which the next sweep rewrites")
        return _source.decode(row[0])

    def behind_ms(self) -> int | None:
        with self._snapshot() as db:
            row = db.execute("SELECT complete_ms FROM chain").fetchone()
        return 0 if row is None else _age_ms(row[0])

    def copy_status(self) -> CopyStatus | None:
        with self._snapshot() as db:
            row = db.execute(
                "SELECT tip, term, complete_ms, chain.writer IS machine.writer"
                " FROM chain LEFT JOIN machine ON machine.id = chain.id"
            ).fetchone()
        if row is None:
            return None
        return CopyStatus(index=row[0], term=row[1], active=bool(row[3]), behind_ms=_age_ms(row[2]))

    def counters(self) -> dict[str, int]:
        state = self._state()
        return {name: getattr(state, name) for name in ("events", "late", "conflicts", "pruned", "skipped")}

    def commit_listener(self) -> SocketCommitListener:
        return SocketCommitListener(listener_folder(self._data_dir))

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def damaged(self) -> int:
        found = self.damaged_rows.found
        # A few per call, in turn: /health asks for it at every request.
        for damage in list(found)[:_MOST_RECHECKED]:
            with contextlib.suppress(LogError), self._snapshot() as db:
                still_damaged = is_damaged(db, damage)
                found.pop(damage, None)
                if still_damaged:
                    found[damage] = None
        return len(found)

    def find_damage(self) -> list[Damage]:
        # A separate connection: other reads do not wait for this one.
        with reading(), contextlib.closing(connect_reader(self._path)) as db:
            accept_damaged_text(db)
            return check_file(db)

    def _has_position(self, db: sqlite3.Connection, miner: str) -> bool:
        """Returns whether the miner's name is real: the first of its rows that is intact says so."""
        rows = db.execute(
            f"SELECT {POSITION_COLUMNS} FROM positions WHERE miner = ? AND removed_ms IS NULL",  # noqa: S608
            (miner,),
        )
        for row in rows:
            if intact(row):
                return True
            self.damaged_rows.add("positions", *row[:3])
        return False

    def _intact(self, db: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> list[LoggedPosition]:
        positions = (logged_position(db, row, self.damaged_rows) for row in rows)
        return [position for position in positions if position is not None]

    def _removed(self, db: sqlite3.Connection, since_revision: int) -> list[RemovedPosition]:
        state = self._load(db)
        if since_revision < state.tombstone_floor:
            raise LogPrunedError(f"removals after revision {since_revision} are gone")
        # SQLite would always take the first: after an old revision it has every position.
        index = "positions_by_revision" if state.revision - since_revision < _FEW_CHANGES else "tombstones"
        rows = db.execute(
            f"SELECT {POSITION_COLUMNS} FROM positions INDEXED BY {index}"  # noqa: S608 - constants
            " WHERE revision > ? AND removed_ms IS NOT NULL ORDER BY revision",
            (since_revision,),
        ).fetchall()
        for row in rows:
            if not intact(row):
                self.damaged_rows.add("positions", *row[:3])
        return [
            RemovedPosition(miner_hotkey=row[1], position_uuid=row[2], revision=row[3])
            for row in rows
            if intact(row)
        ]

    def _state(self) -> LogState:
        with self._snapshot() as db:
            return self._load(db)

    def _load(self, db: sqlite3.Connection) -> LogState:
        state = LogState.load(db)
        if state.epoch != self.epoch:
            raise LogReplacedError(f"the log {self._path} has lost commits and has a new epoch")
        return state

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """A consistent state of the log during the block.

        Keep the block short: the write-ahead log is not checkpointed beyond what the oldest reader sees.
        """
        with self._lock, reading():
            # Without this check SQLite would keep reading a file that was deleted.
            self._identity.check()
            # Deferred: the snapshot begins with the first read, and takes no lock that a writer waits for.
            self._db.execute("BEGIN")
            try:
                yield self._db
            except sqlite3.Error as error:
                adapt_to(error, self._db)
                raise
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


def _position_rows(
    db: sqlite3.Connection,
    since_revision: int,
    where: str = _PRESENT,
    values: Sequence[Any] = (),
    *,
    limit: int = -1,
) -> list[tuple[Any, ...]]:
    query = f"SELECT {POSITION_COLUMNS} FROM positions WHERE {where}"  # noqa: S608 - constants
    query += " AND revision > ? ORDER BY revision LIMIT ?"
    return db.execute(query, (*values, since_revision, limit)).fetchall()


def _age_ms(complete_ms: int | None) -> int | None:
    # After a restart of the machine its clock may be behind the stored time.
    now_ms = monotonic_ms()
    return now_ms - complete_ms if complete_ms is not None and complete_ms <= now_ms else None
