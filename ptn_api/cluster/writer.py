"""The writer of a cluster's log: publishes what a transaction wrote, then commits it.

    BEGIN, apply the changes as on a single machine, publish, wait for the acknowledgement, COMMIT

The calls block, as those of the single machine's writer do: intake appends in worker threads, and a
transaction stays open in its thread until the outcome is known.

An entry that is refused or not acknowledged rolls the transaction back. Then the writer reads on and applies
the changes again. Since an append is idempotent, it does not matter whether the entry was stored: if it was,
the changes are there and nothing is left to publish. The same bytes are never sent twice. If the local COMMIT
fails after the acknowledgement, the stored tip shows it, and the next transaction begins with reading on.

One writer is active: the one of the last commit that counted. `take_over` makes this one active with a commit
of a higher term; every later commit of the former one is void, and its writer gets LogFencedError.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import structlog

from ptn_api.cluster.broker import Broker, Entry
from ptn_api.cluster.chain import Link, Verdict, advance
from ptn_api.cluster.commit import Part, encode_part, encode_rows, new_id
from ptn_api.cluster.copy import Copy, Incoming, open_copy, save_tip
from ptn_api.cluster.tape import Tape, require_intact
from ptn_api.errors import BrokerError, LogFencedError, LogUnwritableError, PublishRefusedError
from ptn_api.event_log.contract import Change, Head, SourceStatus
from ptn_api.event_log.database import writing
from ptn_api.event_log.schema import SCHEMA_VERSION

__all__ = ["ClusterWriter", "open_cluster_writer"]

logger = structlog.get_logger()

T = TypeVar("T")

_ATTEMPTS = 3


class _UnsettledError(LogUnwritableError):
    """The entry was refused, or its outcome is not known."""

    code = "broker_error"


class ClusterWriter(Copy):
    """An `EventLogWriter` (see event_log/contract.py) over a copy; stands by until `take_over`.

    While it stands by, it follows the stream as any copy does, and stores fingerprints.
    """

    def __init__(self, data_dir: Path, lock: int, **options: Any) -> None:
        self._writer_id = secrets.token_bytes(8)
        self._tape: Tape | None = None
        self._taking_over_from: int | None = None
        """The term that `take_over` is about to end."""
        self._head = (0, 0)
        self.failing_since: int | None = None
        """Since when this machine, not the broker, fails to store what is written; None if it does not."""
        super().__init__(data_dir, lock, **options)

    @property
    def writer_id(self) -> bytes:
        return self._writer_id

    @property
    def active(self) -> bool:
        """Whether this is the active writer, as far as this copy knows."""
        return self.tip().writer == self._writer_id

    @property
    def term(self) -> int:
        return self.tip().term

    def take_over(self, ending: int | None = None) -> None:
        """Makes this writer the active one; with `ending`, only if that is the present term.

        Raises LogFencedError if another machine takes over at the same time, or has done so since that term;
        LogUnwritableError if the broker does not answer: call it again, or stand by.
        """
        try:
            self.follow()
        except BrokerError as error:
            raise LogUnwritableError(
                f"the cluster's broker cannot be read: {error}", code=BrokerError.code
            ) from error
        with self._write_lock, writing():
            db = self.connected()
            with self.committed(db):  # a disk that is full shows it now, not once all others stand by
                db.execute("UPDATE chain SET complete_ms = complete_ms")

        def begin_term() -> None:
            with self._transaction():
                pass

        self._taking_over_from = self.term if ending is None else ending
        try:
            self._retried(begin_term)
        finally:
            self._taking_over_from = None
        if not self.active:
            raise LogFencedError("another machine has just taken over")
        logger.info("cluster_writer_active", term=self.term)

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        with self._noting_failures():
            return super().baseline(changes, now_ms)

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        changes = list(changes)
        return self._retried(lambda: super(ClusterWriter, self).append(changes, now_ms))

    def set_source(self, status: SourceStatus) -> None:
        """Tries once: a newer status follows soon, and orders wait in the meantime."""
        with self._noting_failures():
            super().set_source(status)

    def prune(self, now_ms: int) -> int:
        return self._retried(lambda: super(ClusterWriter, self).prune(now_ms))

    def _retried(self, write: Callable[[], T]) -> T:
        """Not for a baseline, whose changes can be read only once; its caller begins again."""
        with self._noting_failures():
            for _ in range(_ATTEMPTS - 1):
                try:
                    return write()
                except _UnsettledError:
                    time.sleep(self._pause_ms / 1000)  # a broker without a leader refuses at once
            return write()

    @contextlib.contextmanager
    def _noting_failures(self) -> Iterator[None]:
        try:
            yield
        except LogUnwritableError as error:
            if error.code == LogUnwritableError.code and self.failing_since is None:
                self.failing_since = self._monotonic()
            raise
        self.failing_since = None

    # --- under the write lock -----------------------------------------------------------------------------

    def before_begin(self, db: sqlite3.Connection) -> None:
        try:
            known = self._incoming
            if self.place(db) is not known:
                while self.read_on(db)[1]:
                    pass
        except BrokerError as error:
            raise LogUnwritableError(
                f"the cluster's broker cannot be read: {error}", code=BrokerError.code
            ) from error
        if self._tape is None or self._tape.db is not db:
            self._tape = Tape(db)
        self._head = db.execute("SELECT sequence, revision FROM log").fetchone()

    def before_commit(self, db: sqlite3.Connection) -> None:
        assert self._tape is not None
        assert self._incoming is not None
        tip = self._incoming.chain.tip
        taking_over = tip.term == self._taking_over_from
        if self._tape.empty and not taking_over:
            return  # nothing that the machines share
        if not taking_over and tip.writer != self._writer_id:
            raise LogFencedError("another machine writes this log, or none does yet: this one stands by")
        self._publish(db, self._tape, self._incoming, tip.term + taking_over)

    def _publish(self, db: sqlite3.Connection, tape: Tape, incoming: Incoming, term: int) -> None:
        """Publishes the transaction as a commit of that term. Raises _UnsettledError."""
        self._incoming = None  # unless all parts are acknowledged, read on from the stored tip
        chain = incoming.chain
        tip, commit_id = chain.tip, new_id()
        head = db.execute("SELECT sequence, revision FROM log").fetchone()
        for number, (body, last) in enumerate(encode_rows(require_intact(tape.rows()))):
            link = Link(commit_id, tip.commit_id, tip.index, term, self._writer_id, number, last)
            payload = encode_part(Part(link, SCHEMA_VERSION, self._head, head, body))
            try:
                index = self._broker.publish(payload, expected=chain.read)
            except PublishRefusedError as error:
                self.counts["refused"] += 1
                raise _UnsettledError(f"the cluster's broker refused a commit: {error}") from error
            except BrokerError as error:
                self.counts["unknown"] += 1
                raise _UnsettledError(f"the outcome of a commit is not known: {error}") from error
            if index != chain.read + 1:  # a broker that does not check, and entries in between
                raise _UnsettledError("the cluster's broker has entries that were not read")
            chain, verdict = advance(chain, index, link)
        assert verdict is Verdict.COUNTS
        tape.clear()
        save_tip(db, chain.tip)
        incoming.chain = chain
        self._incoming = incoming
        self.counts["published"] += 1

    def apply_entries(self, db: sqlite3.Connection, incoming: Incoming, entries: list[Entry]) -> int:
        self._stop_recording(db)
        return super().apply_entries(db, incoming, entries)

    def replace_content(self, db: sqlite3.Connection, new: sqlite3.Connection, incoming: Incoming) -> None:
        self._stop_recording(db)
        super().replace_content(db, new, incoming)

    def _stop_recording(self, db: sqlite3.Connection) -> None:
        """Rows from the stream must not be published; the next transaction records again."""
        if self._tape is not None and self._tape.db is db:
            self._tape.remove()
        self._tape = None


def open_cluster_writer(data_dir: Path, broker: Broker, **options: Any) -> ClusterWriter:
    """Opens this machine's copy for writing; it stands by. Raises what `open_copy` raises."""
    return open_copy(data_dir, broker, ClusterWriter, **options)
