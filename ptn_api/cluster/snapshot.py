"""Snapshots of a copy: what a new machine starts from, so that the stream need not be kept forever.

A snapshot is the SQLite file as of one commit, without what belongs to its machine, compressed and cut into
pieces. The newest two are kept: entries are purged only up to the older one, so a machine that is loading it
can go on from there while a new one is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import zstandard

from ptn_api.cluster.broker import PART_BYTES, Broker, SnapshotInfo
from ptn_api.cluster.chain import Tip
from ptn_api.cluster.tape import delete_local
from ptn_api.errors import BrokerError, LogDamagedError, LogUnwritableError
from ptn_api.event_log.damage import check_file
from ptn_api.event_log.database import accept_damaged_text, connect_writer, writing
from ptn_api.event_log.schema import SCHEMA_VERSION, create_or_migrate

__all__ = [
    "fetch_snapshot",
    "load_tip",
    "newest_snapshot",
    "publish_snapshot",
    "remove_leftovers",
    "temporary_folder",
]

_KEPT = 2
_TEMPORARY = "copy-"
_LEVEL = 1


def load_tip(db: sqlite3.Connection, schema: str = "main") -> Tip | None:
    """Returns the last commit that a copy contains; None for the log of a single machine."""
    row = db.execute(f"SELECT tip, commit_id, term, writer FROM {schema}.chain").fetchone()  # noqa: S608
    return Tip(*row) if row else None


def publish_snapshot(broker: Broker, path: Path) -> SnapshotInfo:
    """Publishes the copy in this file as it is now; deletes older ones, and entries that none needs.

    Reads the file through another connection, so the copy may be written meanwhile. Raises BrokerError,
    LogUnwritableError, LogDamagedError.
    """
    with temporary_folder(path.parent) as folder:
        file, packed = folder / "log", folder / "packed"
        with writing():
            with contextlib.closing(connect_writer(path)) as db:
                db.execute("VACUUM INTO ?", (str(file),))
            with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
                db.execute("PRAGMA secure_delete = ON")
                delete_local(db)
                tip = load_tip(db)
                accept_damaged_text(db)
                if damage := check_file(db):
                    raise LogDamagedError(f"no snapshot is made of a damaged copy: {damage[0].table}")
        assert tip is not None  # only copies are published
        with open(file, "rb") as source, open(packed, "wb") as target:
            zstandard.ZstdCompressor(level=_LEVEL).copy_stream(source, target)
        digest = hashlib.blake2b(digest_size=16)
        for piece in _pieces(packed):
            digest.update(piece)
        size = packed.stat().st_size
        info = SnapshotInfo(
            name=secrets.token_hex(8),
            index=tip.index,
            commit_id=tip.commit_id,
            schema=SCHEMA_VERSION,
            pieces=-(-size // PART_BYTES),
            size=size,
            digest=digest.digest(),
        )
        broker.put_snapshot(info, _pieces(packed))
    for old in broker.snapshots()[_KEPT:]:
        broker.delete_snapshot(old)
    kept = broker.snapshots()[:_KEPT]
    if len(kept) == _KEPT:
        broker.purge(kept[-1].index)
        broker.delete_leftovers(kept)
    return info


def newest_snapshot(broker: Broker) -> SnapshotInfo | None:
    """Returns the newest snapshot that this version can read, if there is one. Raises BrokerError."""
    return next((info for info in broker.snapshots() if info.schema <= SCHEMA_VERSION), None)


def fetch_snapshot(broker: Broker, info: SnapshotInfo, file: Path) -> None:
    """Writes the snapshot to a new file, with this version's schema. Raises BrokerError if it is damaged."""
    digest = hashlib.blake2b(digest_size=16)
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    with (
        contextlib.suppress(zstandard.ZstdError),  # the digest differs
        open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as output,
    ):
        for piece in broker.get_snapshot(info):
            digest.update(piece)
            output.write(decompressor.decompress(piece))
        os.fsync(output.fileno())
    if digest.digest() != info.digest:
        raise BrokerError(f"the snapshot of commit {info.index} is damaged")
    with writing(), contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        create_or_migrate(db, file, 0)


@contextlib.contextmanager
def temporary_folder(data_dir: Path) -> Iterator[Path]:
    """A folder in the data directory during the block. Turns OSError into LogUnwritableError."""
    try:
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=_TEMPORARY) as folder:
            yield Path(folder)
    except OSError as error:
        raise LogUnwritableError(f"cannot write a copy in {data_dir}: {error.strerror}") from error


def remove_leftovers(data_dir: Path) -> None:
    """Deletes the temporary folders of killed processes; under the lock of the directory."""
    for folder in data_dir.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _pieces(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as source:
        while piece := source.read(PART_BYTES):
            yield piece
