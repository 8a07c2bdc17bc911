"""A machine's copy of the log: the newest snapshot, then the commits that follow it in the stream.

Readers open it as they open the log of a single machine. What the stream delivers is applied in batches, each
in one local transaction together with the copy's place in the chain, so a crash repeats or loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog

from ptn_api.backoff import Backoff
from ptn_api.clock import Monotonic, monotonic_ms, wall_ms
from ptn_api.cluster.broker import Beat, Broker, Entry
from ptn_api.cluster.chain import START, Link, Tip, Verdict, advance, start_at
from ptn_api.cluster.commit import (
    Part,
    TableRows,
    decode_part,
    decode_rows,
    encode_part,
    encode_rows,
    new_id,
)
from ptn_api.cluster.snapshot import (
    fetch_snapshot,
    load_tip,
    newest_snapshot,
    remove_leftovers,
    temporary_folder,
)
from ptn_api.cluster.tape import Table, put_rows, shared_tables
from ptn_api.errors import (
    BrokerError,
    EntriesPurgedError,
    LogDamagedError,
    LogError,
    LogFencedError,
    LogMissingError,
    LogReplacedError,
    LogUnusableError,
    LogUnwritableError,
    PublishRefusedError,
)
from ptn_api.event_log.contract import Lost
from ptn_api.event_log.database import connect_writer, log_path, make_file, writing
from ptn_api.event_log.schema import SCHEMA_VERSION, complete_rows, create_or_migrate
from ptn_api.event_log.sqlite_log import lock_directory
from ptn_api.event_log.sqlite_writer import SqliteWriter
from ptn_api.options import BEHIND_MS, LATE_MS, RETENTION_BYTES, RETENTION_MS
from ptn_api.problems import Findings

__all__ = ["Copy", "Incoming", "found", "open_copy", "save_tip"]

C = TypeVar("C", bound="Copy")

logger = structlog.get_logger()
_READ_BYTES = 4 << 20
"""Read from the broker, and applied in one transaction, at a time."""
_BEAT_MS = 3_000
"""Beats come each second: after three lost ones the broker is asked instead."""
_ASK_MS = 5_000
"""The broker is asked at this interval even if beats come."""
_LEADER_MS = 15_000
"""Beats prove nothing once the broker has had no leader for this long, which is longer than an election.

The machine that sends them may be cut off from the others together with this one."""
_LOST_MS = 60_000
"""A broker that has less than a copy for this long has lost entries."""
_SKEW_MS = 1_000
_LOOK_MS = 1_000
"""Look for commits at this interval even if none is announced."""


class Incoming:
    """Entries of the stream on their way into a copy: the chain, and the parts of an incomplete commit."""

    def __init__(self, tip: Tip, tables: Mapping[str, Table]) -> None:
        self.chain = start_at(tip)
        self._tables = tables
        self._bodies: list[bytes] = []

    def apply(self, db: sqlite3.Connection, entry: Entry) -> Verdict:
        """Reads the next entry, within a transaction. Raises LogUnusableError if a copy must stop there."""
        part = decode_part(entry.payload)
        self.chain, verdict = advance(self.chain, entry.index, part.link)
        if verdict in (Verdict.COUNTS, Verdict.PART):
            if part.link.number == 0:
                self._bodies = []
            self._bodies.append(part.body)
        if verdict is Verdict.COUNTS:
            _require_head(db, part.before, entry.index)
            orders, seen = [], []
            for rows in decode_rows(self._bodies):
                put_rows(db, self._tables, rows)
                if part.schema < SCHEMA_VERSION:
                    orders += [row[0] for row in rows.rows if rows.table == "orders"]
                    seen += [row[:2] for row in rows.rows if rows.table == "seen"]
            if part.schema < SCHEMA_VERSION:
                sequences = (part.before[0] + 1, part.after[0])
                complete_rows(db, part.schema, orders=orders, seen=seen, sequences=sequences)
            _require_head(db, part.after, entry.index)
            save_tip(db, self.chain.tip)
            self._bodies = []
        return verdict


class Copy(SqliteWriter):
    """A log that follows the stream. Threads may share it, as they may share the log of a single machine.

    It changes only by what the stream brings: writing to it raises LogFencedError. `ClusterWriter` can write.
    """

    def __init__(
        self,
        data_dir: Path,
        lock: int,
        *,
        broker: Broker,
        pause_ms: int,
        check_ms: int,
        monotonic: Monotonic,
        **options: Any,
    ) -> None:
        """Takes ownership of `lock`, and the other options, as SqliteWriter does; the file exists."""
        super().__init__(data_dir, lock, clock=wall_ms, **options)
        self._broker = broker
        self._pause_ms = pause_ms
        self._check_ms = check_ms
        self._monotonic = monotonic
        self._incoming: Incoming | None = None
        self.counts: Counter[str] = Counter()
        """Of entries read, by verdict."""
        self.broker_behind = False
        """Whether the broker, when it last answered, had less than this copy: stale, or it lost entries."""
        self.snapshot_ms: int | None = None
        """When this machine last published a snapshot (epoch ms); its caller knows."""
        self.clock_skew_ms: int | None = None
        """How far this machine's clock is ahead of the broker's; its caller knows."""
        self._broker_behind_since = 0
        self._unreachable = False
        self._forked = False
        self._tables: dict[str, Table] = {}
        self.former_id = b""
        """The `writer_id` of the process that had this copy before, and has certainly ended."""
        self._asked_ms = self._leader_ms = -_LEADER_MS
        """When the broker was last asked where the stream ends, and when it last knew."""
        self._complete_ms = -BEHIND_MS
        """When this copy was last known to be complete."""
        self._beat: tuple[int, int] | None = None
        """The index of the active writer's last beat, and when it was heard."""
        self._beat_term = 0

    @property
    def writer_id(self) -> bytes:
        """Names this machine in the commits that it writes; empty, as it writes none."""
        return b""

    @property
    def findings(self) -> Findings:
        """The problems between this copy and the broker; how far the copy is behind is in the log itself.

        A broker with less than this copy lost entries if that lasts: servers lag for seconds.
        """
        lost_ms = self._monotonic() - self._broker_behind_since if self.broker_behind else 0
        return {
            "cluster_unreachable": self._unreachable,
            "cluster_forked": self._forked or lost_ms >= _LOST_MS,
            "cluster_clock_skew": abs(self.clock_skew_ms or 0) > _SKEW_MS,
        }

    def prepare(self) -> None:
        """Checks, once, that the file is a copy. Raises LogUnusableError."""
        with self._write_lock, writing():
            db = self.connected()
            if load_tip(db) is None:
                raise LogUnusableError(
                    f"the log in {self._data_dir} is not a copy of a cluster's: use another data directory",
                    code="not_joined",
                )
            self._tables = shared_tables(db)
            with self.committed(db):
                db.execute("UPDATE chain SET complete_ms = NULL")  # it may be of an earlier boot
                row = db.execute("SELECT writer FROM machine").fetchone()
                self.former_id = row[0] if row else b""
                db.execute("INSERT OR REPLACE INTO machine VALUES (1, ?)", (self.writer_id,))

    def tip(self) -> Tip:
        """The last commit that this copy contains."""
        with self._snapshot() as db:
            tip = load_tip(db)
        assert tip is not None  # checked when it was opened
        return tip

    def follow(self, stop: threading.Event | None = None) -> int:
        """Applies the commits that the stream has after this copy; returns their number.

        Catching up may take half a minute, so it ends between two batches once `stop` is set. Raises
        BrokerError without an answer, LogUnwritableError if this machine cannot store them, LogUnusableError
        if it must not: a newer version's commit, or one that does not fit this copy.
        """
        applied, more = 0, True
        while more and not (stop is not None and stop.is_set()):
            with self._write_lock, writing():
                count, more = self.read_on(self.connected())
            applied += count
        return applied

    def confirm(self, stop: threading.Event | None = None) -> bool:
        """Follows, and records when this copy was known to be complete; returns whether it is.

        The active writer's beats say where the stream ends, also while its servers elect a leader. Without
        them, or once the copy is behind, the broker is asked. Its answer may be too old, so it is asked
        before the copy reads on.
        """
        asked_ms, beat = self._monotonic(), self._beat
        if beat is not None and asked_ms - beat[1] >= _BEAT_MS:
            beat = None
        try:
            if beat is not None:
                if asked_ms - self._asked_ms >= _ASK_MS:
                    # After a failure, another server is asked. If reading came next, the two would take
                    # turns, as two servers that are left of three do: one would never be asked.
                    for _ in "ab":
                        with contextlib.suppress(BrokerError):
                            self._ask(asked_ms)
                            break
                if self._leader_ms < asked_ms and self._monotonic() - self._complete_ms > BEHIND_MS:
                    # The outage is reported by now, perhaps while servers were asked. One without a leader
                    # may answer reads again, after seconds in which it did not; the beats would end the
                    # problem, only for it to begin again.
                    self._leader_ms = -_LEADER_MS
                if asked_ms - self._leader_ms < _LEADER_MS:
                    self.follow(stop)
                    if self._complete_at(*beat):
                        self._unreachable = False
                        return True
            with self._write_lock, writing():
                read = self.place(self.connected()).chain.read
            last = self._ask(asked_ms)
            self.follow(stop)
        except BrokerError:
            self._unreachable = True
            self._asked_ms = asked_ms - _ASK_MS  # ask again at once
            raise
        self._unreachable = False
        complete = read <= last and self._complete_at(max(last, beat[0] if beat else 0), asked_ms)
        if last < read and not self.broker_behind:
            logger.warning("cluster_broker_behind", broker=last, copy=read)
            self._broker_behind_since = asked_ms
        self.broker_behind = last < read
        return complete

    def _ask(self, now_ms: int) -> int:
        self._asked_ms = now_ms
        last = self._broker.last()
        self._leader_ms = now_ms
        return last

    def _complete_at(self, last: int, time_ms: int) -> bool:
        """Records that the stream ended there at that time, if this copy has read it; returns whether."""
        with self._write_lock, writing():
            db = self.connected()
            complete = last <= self.place(db).chain.read
            if complete:
                with self.committed(db):
                    db.execute("UPDATE chain SET complete_ms = ?", (time_ms,))
                self._complete_ms = time_ms
        return complete

    def hear(self, beat: Beat) -> None:
        """Takes a beat of the active writer; one that is behind this copy proves nothing.

        Nor does one of a writer that does not know of its successor, which this copy has heard.
        """
        incoming = self._incoming
        if incoming is None or not beat.active:
            return
        term = max(incoming.chain.tip.term, self._beat_term)
        if beat.term >= term and beat.index >= incoming.chain.tip.index:
            self._beat = (beat.index, self._monotonic())
            self._beat_term = beat.term
            self.broker_behind = False

    def repair(self) -> Lost:
        """Replaces a damaged copy by what the cluster has, so nothing is lost, and nothing published."""
        self._restored()
        return Lost()

    def _restored(self) -> bool:
        """Returns whether the copy was damaged. Raises BrokerError if it still is."""
        if not self.report_damage():
            return False
        # What takes long needs no lock: orders are written meanwhile, as far as the damage permits.
        with self._new_file() as (new, incoming), self._write_lock, writing():
            self.replace_content(self.connected(), new, incoming)
        self.damaged_rows.found.clear()
        self._checkpoint()
        return True

    def run(self, stop: threading.Event) -> None:
        """Follows the stream until `stop` is set, and keeps the file intact.

        Raises LogUnusableError, LogReplacedError.
        """
        threading.Thread(target=self.keep_intact, args=(stop,), daemon=True).start()
        self._broker.listen(self.hear)
        stalled = False
        pause = Backoff(first_ms=self._pause_ms, max_ms=_LOOK_MS)
        check_at = self._monotonic()
        while not stop.is_set():
            try:
                if self._monotonic() >= check_at:
                    check_at = self._monotonic() + _LOOK_MS
                    progress = self.confirm(stop)
                else:
                    progress = self.follow(stop) > 0
            except LogReplacedError:
                raise
            except LogError as error:
                if isinstance(error, LogUnusableError):
                    if not (isinstance(error, LogDamagedError) or error.code == "diverged"):
                        raise
                    with contextlib.suppress(BrokerError, LogUnwritableError):  # repaired in another round
                        if not self._restored():
                            raise
                if not stalled and not stop.is_set():
                    logger.error("cluster_copy_stalled", code=error.code, reason=str(error))
                stalled, progress = True, False
            else:
                if stalled:
                    logger.info("cluster_copy_follows_again")
                stalled = False
            incoming = self._incoming
            if progress and incoming is not None:
                pause.reset()
                self._broker.wait(incoming.chain.read, max(check_at - self._monotonic(), 0))
            else:  # without the pause, an entry that was announced and is not readable yet would keep it busy
                stop.wait(pause.next_ms() / 1000)

    def keep_intact(self, stop: threading.Event) -> None:
        """Repairs the copy periodically until `stop` is set, since commits must come while a file is read."""
        while not stop.is_set():
            try:
                self.repair()
            except LogError as error:
                if not stop.is_set():
                    logger.warning("log_not_checked", reason=str(error))
            stop.wait(self._check_ms / 1000)

    # --- under the write lock -----------------------------------------------------------------------------

    def connect(self, path: Path) -> sqlite3.Connection:
        db = connect_writer(path)
        # After a power loss this copy may lack the last commits. The stream has them.
        db.execute("PRAGMA synchronous = NORMAL")
        return db

    def commits_lost(self, db: sqlite3.Connection, lost: int, now_ms: int) -> None:
        logger.warning("copy_commits_lost", commits=lost, reason="they are read from the cluster again")

    def before_begin(self, db: sqlite3.Connection) -> None:
        raise LogFencedError("another machine writes this log: this one has a copy")

    def place(self, db: sqlite3.Connection) -> Incoming:
        """Where this copy is in the stream. Starts at the stored tip if anything went wrong since."""
        tip = load_tip(db)
        assert tip is not None  # checked when it was opened
        if self._incoming is None or self._incoming.chain.tip != tip:
            self._require_same_stream(tip)
            self._incoming = Incoming(tip, self._tables)
        return self._incoming

    def read_on(self, db: sqlite3.Connection) -> tuple[int, bool]:
        """Reads and applies a batch; returns the number of commits, and whether there may be more entries."""
        incoming = self.place(db)
        try:
            entries = self._broker.read(incoming.chain.read, _READ_BYTES)
        except EntriesPurgedError:
            self.load_again(db)
            return 1, True
        return (self.apply_entries(db, incoming, entries), True) if entries else (0, False)

    def apply_entries(self, db: sqlite3.Connection, incoming: Incoming, entries: list[Entry]) -> int:
        """Applies a batch; if the copy must stop at an entry, those before it are applied first."""
        self._incoming = None  # after an error it no longer fits the stored tip
        counts: Counter[str] = Counter()
        failure: BrokerError | LogUnusableError | None = None
        suspect = False
        with self.committed(db):
            for entry in entries:
                db.execute("SAVEPOINT entry")
                before = incoming.chain
                try:
                    verdict = incoming.apply(db, entry)
                except (BrokerError, LogUnusableError) as error:
                    db.execute("ROLLBACK TO entry")
                    incoming.chain = before
                    failure = error
                db.execute("RELEASE entry")
                if failure is not None:
                    break
                counts[verdict.value] += 1
                suspect = suspect or verdict is Verdict.SUSPECT
        self.counts += counts
        applied = counts[Verdict.COUNTS.value]
        if applied:
            self._notifier.notify()
        if failure is not None:
            raise failure
        if suspect:
            self._require_same_stream(incoming.chain.tip)
        self._incoming = incoming
        return applied

    def _require_same_stream(self, tip: Tip) -> None:
        """Raises LogUnusableError if the stream has another commit in the tip's place."""
        if tip == START:
            return
        try:
            entries = self._broker.read(tip.index - 1, 1)
        except EntriesPurgedError:
            return
        self._forked = bool(entries) and decode_part(entries[0].payload).link.commit_id != tip.commit_id
        if self._forked:
            raise LogUnusableError(
                f"the broker's commit {tip.index} is not the one of this copy: the broker was restored from a"
                " backup or replaced, or this data directory belongs to another cluster",
                code="forked",
            )

    def load_again(self, db: sqlite3.Connection) -> None:
        """Replaces the content of the open file by what the cluster has; its readers go on from there."""
        with self._new_file() as (new, incoming):
            self.replace_content(db, new, incoming)

    def replace_content(self, db: sqlite3.Connection, new: sqlite3.Connection, incoming: Incoming) -> None:
        """Replaces the content in one transaction, which rewrites every page, damaged ones too.

        Readers never see an older state.
        """
        self._read_to_end(new, incoming)
        tip = load_tip(db) or START
        if incoming.chain.tip.index < tip.index:
            raise BrokerError(f"the broker has no commits up to {tip.index}, which this copy has")
        (complete_ms,) = db.execute("SELECT complete_ms FROM chain").fetchone()
        new.execute("UPDATE chain SET complete_ms = ?", (complete_ms,))
        new.execute("INSERT OR REPLACE INTO machine VALUES (1, ?)", (self.writer_id,))
        new.backup(db)
        self._tables = shared_tables(new)  # the schema may have been what was damaged
        self._incoming = None
        self._notifier.notify()
        logger.info("cluster_snapshot_loaded", commit=incoming.chain.tip.index)

    @contextlib.contextmanager
    def _new_file(self) -> Iterator[tuple[sqlite3.Connection, Incoming]]:
        """A temporary copy from the newest snapshot and the commits after it, and its place in the stream.

        Needs no lock. Raises BrokerError, LogUnusableError for another log's snapshot.
        """
        with temporary_folder(self._data_dir) as folder:
            file = folder / "log"
            _make_file(file, self._broker)
            with contextlib.closing(connect_writer(file)) as new:
                (epoch,) = new.execute("SELECT epoch FROM log").fetchone()
                self._forked = epoch != self.epoch
                if self._forked:
                    raise LogUnusableError("the cluster's snapshot is of another log", code="forked")
                incoming = Incoming(load_tip(new) or START, shared_tables(new))
                self._read_to_end(new, incoming)
                yield new, incoming

    def _read_to_end(self, new: sqlite3.Connection, incoming: Incoming) -> None:
        while entries := self._broker.read(incoming.chain.read, _READ_BYTES):
            new.execute("BEGIN")
            for entry in entries:
                incoming.apply(new, entry)
            new.execute("COMMIT")


def found(broker: Broker, created_ms: int) -> None:
    """Makes the first commit of a stream, with a new epoch; does nothing if there is one.

    Raises BrokerError if the outcome is not known, or the broker has no leader: call it again.
    """
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        create_or_migrate(db, Path(), created_ms)
        columns = shared_tables(db)["log"].columns
        row = db.execute(f"SELECT {', '.join(columns)} FROM log").fetchone()  # noqa: S608 - of the schema
    ((body, _),) = encode_rows([TableRows("log", columns, [row], [])])
    link = Link(new_id(), START.commit_id, START.index, START.term, START.writer)
    head = (row[columns.index("sequence")], row[columns.index("revision")])
    try:
        broker.publish(encode_part(Part(link, SCHEMA_VERSION, (0, 0), head, body)), expected=0)
    except PublishRefusedError:
        if not broker.last():
            raise


def open_copy(
    data_dir: Path,
    broker: Broker,
    kind: type[C],
    *,
    late_ms: int = LATE_MS,
    retention_ms: int = RETENTION_MS,
    retention_bytes: int = RETENTION_BYTES,
    pause_ms: int = 50,
    check_ms: int = 600_000,
    monotonic: Monotonic = monotonic_ms,
) -> C:
    """Opens this machine's copy in the directory, as a `Copy` or a `ClusterWriter`; makes it if necessary.

    The file appears when it is complete, so its readers never see another epoch. A copy that exists is opened
    without the broker. `pause_ms` is the pause before another attempt, where the broker would answer at once.

    Raises what `open_writer` raises, LogMissingError if the cluster has no log yet, LogUnusableError
    (`not_joined`) for the log of a single machine, BrokerError.
    """
    data_dir = data_dir.absolute()
    try:
        lock = lock_directory(data_dir)
        try:
            remove_leftovers(data_dir)
            path = log_path(data_dir)
            if not path.exists() or not path.stat().st_size:
                with temporary_folder(data_dir) as folder:
                    file = folder / path.name
                    _make_file(file, broker)
                    for suffix in ("-wal", "-shm"):  # of a deleted file: SQLite would apply them
                        path.with_name(path.name + suffix).unlink(missing_ok=True)
                    file.replace(path)
            copy = kind(
                data_dir,
                lock,
                broker=broker,
                late_ms=late_ms,
                retention_ms=retention_ms,
                retention_bytes=retention_bytes,
                pause_ms=pause_ms,
                check_ms=check_ms,
                monotonic=monotonic,
            )
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise LogUnwritableError(f"the log in {data_dir} cannot be written: {error}") from error
    try:
        copy.prepare()
    except BaseException:
        copy.close()
        raise
    return copy


def _make_file(file: Path, broker: Broker) -> None:
    """Makes a log as of the newest snapshot, or of the stream's first commit if there is none."""
    info = newest_snapshot(broker)
    if info is not None:
        fetch_snapshot(broker, info, file)
        return
    make_file(file)
    with writing(), contextlib.closing(connect_writer(file)) as db:
        create_or_migrate(db, file, 0)
        db.execute("BEGIN")
        db.execute("DELETE FROM log")
        db.execute("INSERT INTO chain VALUES (1, 0, x'', 0, x'', NULL)")
        incoming = Incoming(START, shared_tables(db))
        try:
            entries = iter(broker.read(0, 1))
        except EntriesPurgedError as error:
            raise BrokerError("the first commits were purged, and no snapshot contains them") from error
        while incoming.chain.tip == START:
            entry = next(entries, None)
            if entry is None:
                raise LogMissingError("the cluster has no log yet")
            if decode_part(entry.payload).before != (0, 0):  # `adopt` has not published the rest yet
                raise BrokerError("the cluster's log is being taken over, and has no snapshot yet")
            incoming.apply(db, entry)
        db.execute("COMMIT")


def save_tip(db: sqlite3.Connection, tip: Tip) -> None:
    db.execute(
        "UPDATE chain SET tip = ?, commit_id = ?, term = ?, writer = ?",
        (tip.index, tip.commit_id, tip.term, tip.writer),
    )


def _require_head(db: sqlite3.Connection, head: tuple[int, int], index: int) -> None:
    row = db.execute("SELECT sequence, revision FROM log").fetchone() or (0, 0)
    if row != head:
        raise LogUnusableError(
            f"commit {index} does not fit this copy: it is at sequence and revision {row}, the commit {head}."
            " Delete the copy, and it is made again",
            code="diverged",
        )
