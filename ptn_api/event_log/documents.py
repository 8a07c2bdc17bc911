"""Documents in the SQLite log: compressed, and in pieces, so that a large one does not hold up orders."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from typing import NamedTuple

import zstandard

__all__ = [
    "LARGE_BYTES",
    "PackedDocument",
    "drop_piece",
    "pack",
    "put_document",
    "put_piece",
    "read_document",
    "refresh_fingerprint",
    "stored_digest",
    "unused_pieces",
]

LARGE_BYTES = 1 << 20
"""From this size on a document is written ahead of its transaction, each piece in one of its own."""
_PIECE_BYTES = 512 << 10


class PackedDocument(NamedTuple):
    """A document ready to be stored under a random `version`, which is not yet anybody's.

    Without pieces it was recognised by its digest, and nothing was packed.
    """

    version: int
    digest: bytes
    pieces: list[bytes]


def pack(content: bytes, *, unless: bytes | None = None) -> PackedDocument:
    """Compresses the document, unless that is its digest."""
    digest = _digest_of(content)
    if digest == unless:
        return PackedDocument(0, digest, [])
    packed = zstandard.ZstdCompressor(level=3).compress(content)
    pieces = [packed[at : at + _PIECE_BYTES] for at in range(0, len(packed), _PIECE_BYTES)]
    return PackedDocument(secrets.randbits(62), digest, pieces)


def _digest_of(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def put_piece(db: sqlite3.Connection, packed: PackedDocument, place: int) -> None:
    db.execute("INSERT INTO pieces VALUES (?, ?, ?)", (packed.version, place, packed.pieces[place]))


def put_document(
    db: sqlite3.Connection, name: str, revision: int, fingerprint: str, packed: PackedDocument | None
) -> None:
    """From now on the document is the one whose pieces are stored under that version; None: there is none."""
    db.execute(
        "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?)",
        (name, revision, fingerprint, packed and packed.digest, packed and packed.version),
    )


def stored_digest(db: sqlite3.Connection, name: str) -> bytes | None:
    """None if there is no such document."""
    row = db.execute("SELECT digest FROM documents WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def refresh_fingerprint(db: sqlite3.Connection, name: str, fingerprint: str) -> None:
    db.execute(
        "UPDATE documents SET fingerprint = ? WHERE name = ? AND fingerprint <> ?",
        (fingerprint, name, fingerprint),
    )


def read_document(db: sqlite3.Connection, name: str) -> bytes | None:
    rows = db.execute(
        "SELECT content FROM documents JOIN pieces USING (version) WHERE name = ? ORDER BY place", (name,)
    ).fetchall()
    packed = b"".join(row[0] for row in rows)
    return zstandard.ZstdDecompressor().decompress(packed) if packed else None


def unused_pieces(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """(version, place) of pieces that belong to no document: replaced ones, and ones left by a crash."""
    return db.execute(
        "SELECT version, place FROM pieces"
        " WHERE version NOT IN (SELECT version FROM documents WHERE version IS NOT NULL)"
    ).fetchall()


def drop_piece(db: sqlite3.Connection, version: int, place: int) -> None:
    """Drops a piece, unless its version became a document's meanwhile."""
    db.execute(
        "DELETE FROM pieces WHERE version = ? AND place = ?"
        " AND NOT EXISTS (SELECT 1 FROM documents WHERE documents.version = pieces.version)",
        (version, place),
    )
