"""Documents in the SQLite log: compressed, and in chunks, so that a large one does not delay orders."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from typing import NamedTuple

import zstandard

from ptn_api.event_log.contract import DocumentWritten

__all__ = [
    "LARGE_BYTES",
    "PackedDocument",
    "delete_chunk",
    "pack",
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
    packed = zstandard.ZstdCompressor(level=3).compress(content)
    chunks = [packed[at : at + _CHUNK_BYTES] for at in range(0, len(packed), _CHUNK_BYTES)]
    return PackedDocument(secrets.randbits(62), digest, chunks)


def put_chunk(db: sqlite3.Connection, packed: PackedDocument, index: int) -> None:
    db.execute("INSERT INTO pieces VALUES (?, ?, ?)", (packed.version, index, packed.chunks[index]))


def put_document(
    db: sqlite3.Connection, change: DocumentWritten, revision: int, packed: PackedDocument | None
) -> None:
    """Makes the document the one whose chunks have that version; None: the validator deleted it."""
    digest, version = (packed.digest, packed.version) if packed else (None, None)
    db.execute(
        "INSERT OR REPLACE INTO documents (name, miner, revision, fingerprint, digest, version)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (change.document.value, change.miner_hotkey, revision, change.fingerprint, digest, version),
    )


def stored_digest(db: sqlite3.Connection, change: DocumentWritten) -> bytes | None:
    """The digest of the document as stored before this change; None without a document."""
    row = db.execute(
        "SELECT digest FROM documents WHERE name = ? AND miner = ?",
        (change.document.value, change.miner_hotkey),
    ).fetchone()
    return row[0] if row else None


def update_fingerprint(db: sqlite3.Connection, change: DocumentWritten) -> None:
    db.execute(
        "UPDATE documents SET fingerprint = ?1 WHERE name = ?2 AND miner = ?3 AND fingerprint <> ?1",
        (change.fingerprint, change.document.value, change.miner_hotkey),
    )


def read_document(db: sqlite3.Connection, name: str, miner: str) -> bytes | None:
    rows = db.execute(
        "SELECT content FROM documents JOIN pieces USING (version) WHERE name = ? AND miner = ?"
        " ORDER BY place",
        (name, miner),
    ).fetchall()
    packed = b"".join(row[0] for row in rows)
    return zstandard.ZstdDecompressor().decompress(packed) if packed else None


def unused_chunks(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """(version, index) of chunks without a document: of replaced documents, or left by a crash."""
    return db.execute(
        "SELECT version, place FROM pieces"
        " WHERE version NOT IN (SELECT version FROM documents WHERE version IS NOT NULL)"
    ).fetchall()


def delete_chunk(db: sqlite3.Connection, version: int, index: int) -> None:
    """Deletes a chunk, unless a document has taken over its version since."""
    db.execute(
        "DELETE FROM pieces WHERE version = ? AND place = ?"
        " AND NOT EXISTS (SELECT 1 FROM documents WHERE documents.version = pieces.version)",
        (version, index),
    )
