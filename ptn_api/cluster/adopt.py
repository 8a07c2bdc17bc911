"""From a single machine to a cluster and back, with the log's epoch, sequences and revisions.

The stream's first commit writes nothing: it names the log, and only a copy that is at its head can apply it.
Everything is in the snapshot after it, which every machine starts from.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tempfile
import threading
from pathlib import Path

from ptn_api.cluster.broker import Broker, SnapshotInfo
from ptn_api.cluster.chain import START, Link, Tip
from ptn_api.cluster.commit import Part, decode_part, encode_part, encode_rows
from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.cluster.snapshot import load_tip, publish_snapshot
from ptn_api.errors import (
    BrokerError,
    EntriesPurgedError,
    LogError,
    LogMissingError,
    LogUnusableError,
    OutcomeUnknownError,
    PublishRefusedError,
)
from ptn_api.event_log.database import connect_writer, log_path, writing
from ptn_api.event_log.schema import SCHEMA_VERSION, create_or_migrate
from ptn_api.event_log.sqlite_log import lock_directory

__all__ = ["adopt", "complete", "leave"]


def adopt(broker: Broker, data_dir: Path) -> SnapshotInfo:
    """Publishes the log in this directory, which no process may write meanwhile, to an empty stream.

    The directory keeps its log, which is not a copy of the cluster's. If this was interrupted, it can be
    called again for the same log. Raises LogLockedError, LogMissingError, LogError if the stream has another
    log or this one is not ready, and BrokerError.
    """
    path = log_path(data_dir.absolute())
    if not path.exists():
        raise LogMissingError(f"no log in {data_dir}")
    lock = lock_directory(data_dir.absolute())
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="copy-") as folder:
            file = Path(folder) / path.name
            with writing():
                part = _make_first_copy(path, file)
            try:
                broker.publish(encode_part(part), expected=0)
            except (PublishRefusedError, OutcomeUnknownError):
                try:
                    entries = broker.read(0, 1)
                except EntriesPurgedError:
                    entries = []
                if not entries or decode_part(entries[0].payload).link.commit_id != part.link.commit_id:
                    raise LogError(
                        "the log was not taken over: the cluster has another log, or does not answer",
                        code="not_empty",
                    ) from None
                if done := broker.snapshots():
                    return done[0]
            return publish_snapshot(broker, file)
    finally:
        os.close(lock)


def complete(broker: Broker, data_dir: Path, *, listen_ms: int) -> None:
    """Reads what this copy lacks, before it leaves a cluster in which no intake runs any more.

    Otherwise the cluster, or another machine that has left it, would give the same numbers to other orders.
    Listens for intakes for that long. Raises LogError if it hears one (`intake_active`) or the copy may still
    lack something, and what `leave` raises.
    """
    if not log_path(data_dir.absolute()).exists():
        raise LogMissingError(f"no log in {data_dir}")
    heard = threading.Event()
    try:
        broker.last()  # connects
        broker.listen(lambda _beat: heard.set())
        if heard.wait(listen_ms / 1000):
            raise LogError(
                "an intake of the cluster is running: stop all machines with intake first",
                code="intake_active",
            )
        with contextlib.closing(open_copy(data_dir, broker, Copy)) as copy:
            is_complete = copy.confirm()
    except BrokerError as error:
        raise BrokerError(f"{error}. If the cluster is gone for good, give --force") from error
    if not is_complete:
        raise LogError(
            "the NATS server that answered has less than this copy: try again, or give --force", code="behind"
        )


def leave(data_dir: Path) -> Tip:
    """Makes this machine's copy the log of a single machine; returns the last commit that it contains.

    The cluster is not told. Raises LogLockedError while a server runs, LogMissingError, and LogUnusableError
    (`not_joined`) for a log that is not a copy.
    """
    path = log_path(data_dir.absolute())
    if not path.exists():
        raise LogMissingError(f"no log in {data_dir}")
    lock = lock_directory(data_dir.absolute())
    try:
        with writing(), contextlib.closing(connect_writer(path)) as db:
            create_or_migrate(db, path, 0)
            tip = load_tip(db)
            if tip is None:
                raise LogUnusableError(
                    f"the log in {data_dir} is not a copy of a cluster's", code="not_joined"
                )
            db.execute("DELETE FROM machine")
            db.execute("DELETE FROM chain")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return tip
    finally:
        os.close(lock)


def _make_first_copy(path: Path, file: Path) -> Part:
    """Writes the log as a copy at the stream's first commit, which is returned."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("VACUUM INTO ?", (str(file),))
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        create_or_migrate(db, file, 0)
        epoch, ready, *head = db.execute("SELECT epoch, ready, sequence, revision FROM log").fetchone()
        if not ready:
            raise LogError(f"the log in {path.parent} has no content yet", code="not_ready")
        # The same for the same log, so that a second attempt recognizes the first one's commit.
        commit_id = hashlib.blake2b(repr((epoch, head)).encode(), digest_size=16).digest()
        link = Link(commit_id, START.commit_id, START.index, START.term, START.writer)
        db.execute("DELETE FROM chain")
        db.execute("INSERT INTO chain VALUES (1, 1, ?, 0, x'', NULL)", (commit_id,))
    ((body, _),) = encode_rows([])
    sequence, revision = head
    return Part(link, SCHEMA_VERSION, (sequence, revision), (sequence, revision), body)
