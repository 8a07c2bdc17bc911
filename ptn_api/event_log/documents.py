"""Documents in the SQLite log: compressed, and in chunks, so that a large one does not delay orders."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sqlite3
from typing import Any, NamedTuple

import zstandard

from ptn_api.event_log.contract import Document, DocumentWritten
from ptn_api.event_log.damage import CHECKED_COLUMNS, UNREPAIRED, DamagedRows, intact, row_checksum

__all__ = [
    "KINDS",
    "LARGE_BYTES",
    "PackedDocument",
    "damaged_documents",
    "delete_chunk",
    "has_chunks",
    "mark_damaged",
    "pack",
    "prune_deleted",
    "put_chunk",
    "put_document",
    "read_document",
    "stored_digest",
    "unused_chunks",
    "update_fingerprint",
]

LARGE_BYTES = 1 << 20
"""The chunks of a document this large are written before its transaction, each in a separate one."""
_CHUNK_BYTES = 512 << 10
_COLUMNS = CHECKED_COLUMNS["documents"]
KINDS = {document.value: document for document in Document}
"""Documents by name. A later version with this schema may have written others, which are ignored."""


class PackedDocument(NamedTuple):
    """A compressed document under a random `version`, not referenced until `put_document`.

    Without chunks the stored digest matched, and nothing was compressed.
    """

    version: int
    digest: bytes
    chunks: list[bytes]


def pack(content: bytes, *, stored: bytes | None = None) -> PackedDocument:
    """Compresses a document, unless its digest is the stored one."""
    digest = hashlib.blake2b(content, digest_size=16).digest()
    if digest == stored:
        return PackedDocument(0, digest, [])
    packed = zstandard.ZstdCompressor(level=1).compress(content)
    chunks = [packed[at : at + _CHUNK_BYTES] for at in range(0, len(packed), _CHUNK_BYTES)]
    return PackedDocument(secrets.randbits(62), digest, chunks)


def put_chunk(db: sqlite3.Connection, packed: PackedDocument, index: int) -> None:
    row = (packed.version, index, packed.chunks[index])
    db.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", (*row, row_checksum(*row)))


def has_chunks(db: sqlite3.Connection, packed: PackedDocument) -> bool:
    """Whether the document was compressed, and all its chunks are in the log."""
    count: int
    (count,) = db.execute("SELECT count(*) FROM chunks WHERE version = ?", (packed.version,)).fetchone()
    return 0 < len(packed.chunks) == count


def put_document(
    db: sqlite3.Connection,
    change: DocumentWritten,
    revision: int,
    packed: PackedDocument | None,
    now_ms: int,
) -> None:
    """Makes the document the one whose chunks have that version; None: the validator deleted it.

    The only chunk of a small document is deleted at once. Those of a large one become unused, because
    deleting them would delay orders.
    """
    key = (change.document.value, change.miner_hotkey)
    db.execute(
        "DELETE FROM chunks WHERE version = (SELECT version FROM documents WHERE name = ? AND miner = ?)"
        " AND NOT EXISTS (SELECT 1 FROM chunks AS other WHERE other.version = chunks.version AND number > 0)",
        key,
    )
    digest, version, removed_ms = (packed.digest, packed.version, None) if packed else (None, None, now_ms)
    row = (*key, revision, digest, version, removed_ms)
    db.execute(
        "INSERT OR REPLACE INTO documents (name, miner, revision, digest, version, removed_ms, crc,"
        " fingerprint) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*row, row_checksum(*row), change.fingerprint),
    )


def stored_digest(db: sqlite3.Connection, change: DocumentWritten) -> bytes | None:
    """Returns the digest of the document as stored before this change; None without an intact one."""
    row = _find(db, change.document.value, change.miner_hotkey)
    return row[3] if row and intact(row) else None


def _find(db: sqlite3.Connection, name: str, miner: str) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = db.execute(
        f"SELECT {_COLUMNS}, crc FROM documents WHERE name = ? AND miner = ?",  # noqa: S608 - constants
        (name, miner),
    ).fetchone()
    return row


def update_fingerprint(db: sqlite3.Connection, change: DocumentWritten) -> None:
    db.execute(
        "UPDATE documents SET fingerprint = ? WHERE name = ? AND miner = ? AND fingerprint <> ?",
        (change.fingerprint, change.document.value, change.miner_hotkey, change.fingerprint),
    )


def read_document(db: sqlite3.Connection, name: str, miner: str, damaged: DamagedRows) -> bytes | None:
    """Returns the document; None without one, or if it is damaged."""
    row = _find(db, name, miner)
    if row is None or (intact(row) and row[4] is None):
        return None
    chunks = db.execute(
        f"SELECT {CHECKED_COLUMNS['chunks']}, crc FROM chunks WHERE version = ? ORDER BY number",  # noqa: S608
        (row[4],),
    ).fetchall()
    if intact(row) and all(map(intact, chunks)):
        with contextlib.suppress(zstandard.ZstdError):  # raised if a chunk is missing
            return zstandard.ZstdDecompressor().decompress(b"".join(chunk[2] for chunk in chunks))
    damaged.add("documents", name, miner)
    return None


def mark_damaged(db: sqlite3.Connection, version: int) -> None:
    """Has the document with this version written again at its next change, even to the same content."""
    db.execute("UPDATE documents SET crc = ? WHERE version = ?", (UNREPAIRED, version))


def damaged_documents(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Returns name and miner of each document that is damaged or has no chunks."""
    rows = db.execute(f"SELECT {_COLUMNS}, crc FROM documents").fetchall()  # noqa: S608 - constants
    versions = {row[0] for row in db.execute("SELECT DISTINCT version FROM chunks")}
    return [row[:2] for row in rows if not intact(row) or (row[4] is not None and row[4] not in versions)]


def prune_deleted(db: sqlite3.Connection, *, oldest_ms: int) -> int:
    """Forgets the documents deleted before then. Returns the newest revision of these deletions, or 0.

    The last change of each kind is kept, so that the kind's revision never decreases.
    """
    rows = db.execute(
        f"SELECT {_COLUMNS}, crc FROM documents WHERE removed_ms < ?"  # noqa: S608 - constants
        " AND revision NOT IN (SELECT max(revision) FROM documents GROUP BY name)",
        (oldest_ms,),
    ).fetchall()
    rows = list(filter(intact, rows))
    db.executemany("DELETE FROM documents WHERE name = ? AND miner = ?", [row[:2] for row in rows])
    return max((row[2] for row in rows), default=0)


def unused_chunks(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """(version, index) of chunks without a document: of replaced documents, or left by a crash."""
    return db.execute(
        "SELECT version, number FROM chunks"
        " WHERE version NOT IN (SELECT version FROM documents WHERE version IS NOT NULL)"
    ).fetchall()


def delete_chunk(db: sqlite3.Connection, version: int, index: int) -> None:
    """Deletes a chunk, unless a document has taken over its version since."""
    db.execute(
        "DELETE FROM chunks WHERE version = ? AND number = ?"
        " AND NOT EXISTS (SELECT 1 FROM documents WHERE documents.version = chunks.version)",
        (version, index),
    )
