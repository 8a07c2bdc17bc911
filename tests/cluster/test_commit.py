"""Commits as they travel: encoding, parts and damage; and the rows that a transaction wrote."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator

import pytest

from ptn_api.cluster import commit
from ptn_api.cluster.chain import Link
from ptn_api.cluster.commit import (
    Part,
    TableRows,
    decode_part,
    decode_rows,
    encode_part,
    encode_rows,
)
from ptn_api.cluster.tape import Tape, put_rows, shared_tables
from ptn_api.errors import BrokerError, LogUnusableError
from ptn_api.event_log.schema import SCHEMA, SCHEMA_VERSION

PART = Part(Link(b"id", b"previous", 7, 3, b"writer"), SCHEMA_VERSION, (1, 2), (3, 4), b"body")


def test_a_part_survives_the_journey() -> None:
    """Every field is as before."""
    assert decode_part(encode_part(PART)) == PART


@pytest.mark.parametrize("place", [1, 5, 12, -1])
def test_a_damaged_part_is_recognised(place: int) -> None:
    """A flipped bit anywhere after the version, or a missing end; the copy stops instead of skipping it."""
    payload = bytearray(encode_part(PART))
    payload[place] ^= 1
    for damaged in (bytes(payload), encode_part(PART)[:place], b""):
        with pytest.raises(BrokerError) as caught:
            decode_part(damaged)
        assert caught.value.code == "damaged_commit"


def test_a_newer_versions_part_is_recognised() -> None:
    """By the format, whose content may be anything, or by the schema of the rows."""
    newer = Part(PART.link, SCHEMA_VERSION + 1, PART.before, PART.after, PART.body)
    for payload in (encode_part(newer), b"\x02anything"):
        with pytest.raises(LogUnusableError, match="newer version") as caught:
            decode_part(payload)
        assert caught.value.code == "newer_commit"


@pytest.mark.parametrize("size", [0, 100, 600_000, 3_000_000])
def test_rows_of_any_size_travel_in_small_parts(size: int) -> None:
    """Also a row that is larger than a part, and one that does not compress; all but the last are full."""
    tables = [
        TableRows("orders", ("id", "text"), [(1, os.urandom(size)), (2, b"x" * size)], []),
        TableRows("seen", ("miner", "leverage"), [("m", 0.5), ("n", None)], [("o",), (1 << 62,)]),
    ]
    bodies = list(encode_rows(tables))
    assert [last for _, last in bodies] == [False] * (len(bodies) - 1) + [True]
    assert {len(body) for body, _ in bodies[:-1]} <= {commit.PART_BYTES}
    assert 0 < len(bodies[-1][0]) <= commit.PART_BYTES
    assert len(bodies) >= size // commit.PART_BYTES
    assert list(decode_rows(body for body, _ in bodies)) == tables


def test_no_rows_travel_too() -> None:
    """Taking over is a commit without any."""
    assert list(decode_rows(body for body, _ in encode_rows([]))) == []


# --- recorded rows ----------------------------------------------------------------------------------------


@pytest.fixture
def databases() -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """Two empty logs."""
    found = [sqlite3.connect(":memory:", isolation_level=None) for _ in range(2)]
    for db in found:
        db.executescript(SCHEMA)
    yield found[0], found[1]
    for db in found:
        db.close()


ORDER = "INSERT OR REPLACE INTO orders (id, uuid, revision, text) VALUES (?, ?, ?, ?)"
DOCUMENT = "INSERT OR REPLACE INTO documents (name, miner, revision, fingerprint) VALUES (?, ?, ?, ?)"


def recorded(tape: Tape) -> dict[str, tuple[int, list[tuple[object, ...]]]]:
    """Table -> (number of rows, deleted keys)."""
    found: dict[str, tuple[int, list[tuple[object, ...]]]] = {}
    for rows in tape.rows():
        count, deleted = found.get(rows.table, (0, []))
        found[rows.table] = (count + len(rows.rows), deleted + rows.deleted)
    return found


def test_every_kind_of_write_is_recorded(databases: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """By one row or many, replaced or deleted, and no read; a row that came and went is a deleted one."""
    db, _ = databases
    db.executemany(ORDER, [(n, "u", 1, b"t") for n in range(10)])
    tape = Tape(db)
    assert tape.empty
    db.execute("BEGIN")
    db.executemany(ORDER, [(n, "v", 2, b"t") for n in (1, 20, 21)])
    db.execute("UPDATE orders SET revision = 3 WHERE id BETWEEN 2 AND 4")
    db.execute("DELETE FROM orders WHERE id >= 8")
    db.execute("SELECT * FROM orders").fetchall()
    db.execute("COMMIT")
    assert recorded(tape) == {"orders": (4, [(8,), (9,), (20,), (21,)])}
    tape.clear()
    assert tape.empty


def test_what_is_rolled_back_is_not_recorded(
    databases: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """Neither to a savepoint, as a refused change is, nor at all."""
    db, _ = databases
    tape = Tape(db)
    db.execute("BEGIN")
    db.execute(ORDER, (1, "u", 1, b""))
    db.execute("SAVEPOINT change")
    db.execute(ORDER, (2, "u", 1, b""))
    db.execute("ROLLBACK TO change")
    assert recorded(tape) == {"orders": (1, [])}
    db.execute("ROLLBACK")
    assert tape.empty


def test_fingerprints_are_not_recorded(databases: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """They belong to this machine: changing one alone publishes nothing, and rows travel without it."""
    db, _ = databases
    db.execute(DOCUMENT, ("statistics", "", 1, "here"))
    tape = Tape(db)
    db.execute("UPDATE documents SET fingerprint = 'new'")
    assert tape.empty
    db.execute("UPDATE documents SET fingerprint = 'newer', revision = 2")
    (rows,) = tape.rows()
    assert "fingerprint" not in rows.columns
    assert "newer" not in rows.rows[0]


def test_a_tape_can_be_removed(databases: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """What the stream brings is not recorded; a new tape begins empty."""
    db, _ = databases
    Tape(db).remove()
    db.execute(ORDER, (1, "u", 1, b""))
    tape = Tape(db)
    assert tape.empty
    db.execute(ORDER, (2, "u", 1, b""))
    assert not tape.empty


def test_recorded_rows_make_another_database_equal(
    databases: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """Every table of the schema, with numbers, texts, bytes and NULL; fingerprints there become empty."""
    db, other = databases
    other.execute(DOCUMENT, ("statistics", "", 1, "there"))
    tape = Tape(db)
    db.execute("INSERT INTO log (id, epoch, created_ms, sequence) VALUES (1, 'e', 5, 6)")
    db.execute(
        "INSERT INTO positions (miner, uuid, fingerprint, revision, layout_revision, last_sequence,"
        " orders_at, header) VALUES ('m', 'u', 'f', 1, 1, 1, 1, x'00ff')"
    )
    db.executemany(ORDER, [(n, "é", 1 << 61, b"t" * 100) for n in range(3_000)])
    db.execute(
        "INSERT INTO removed_orders (position, uuid, before, removed_ms)"
        " VALUES (1, 'u', NULL, 2), (1, 'v', 'u', 2)"
    )
    db.execute(
        "INSERT INTO seen (miner, uuid, processed_ms, leverage)"
        " VALUES ('m', 'u', 1, 0.1), ('m', 'v', 1, NULL)"
    )
    db.execute(
        "INSERT INTO events (sequence, revision, timestamp_ms, position, miner, position_uuid, trade_pair,"
        " order_uuid, processed_ms, n_orders, late, orders_at, order_text, header, extra)"
        " VALUES (1, 1, 1, 1, 'm', 'u', 'BTCUSD', 'o', 1, 1, 0, 1, x'01', x'02', x'')"
    )
    db.execute(DOCUMENT, ("statistics", "", 2, "here"))
    db.execute("INSERT INTO chunks (version, number, content) VALUES (5, 0, x'03'), (5, 1, x'04')")
    for _ in range(2):
        tables = shared_tables(other)
        for rows in decode_rows([body for body, _ in encode_rows(tape.rows())]):
            put_rows(other, tables, rows)
        tape.clear()
        for table in tables.values():
            columns = ", ".join(table.columns)
            rows = [d.execute(f"SELECT {columns} FROM {table.name}").fetchall() for d in databases]
            assert rows[0] == rows[1], table.name
        assert other.execute("SELECT fingerprint FROM documents").fetchall() == [("",)]
        # Again, with the unique name of a deleted position at another id.
        db.execute("DELETE FROM positions")
        db.execute(
            "INSERT INTO positions (id, miner, uuid, fingerprint, revision, layout_revision, last_sequence,"
            " orders_at, header) VALUES (7, 'm', 'u', 'f', 1, 1, 1, 1, x'00')"
        )
        db.execute("DELETE FROM orders WHERE id > 5")
        db.execute("DELETE FROM seen WHERE uuid = 'v'")


def test_unknown_tables_and_columns_are_refused(
    databases: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """They can come only from a newer version; their names are never part of a statement."""
    db, _ = databases
    for table, columns in (("chain", ("id",)), ("orders", ("id", "text) VALUES (1)--")), ("x", ("id",))):
        with pytest.raises(LogUnusableError) as caught:
            put_rows(db, shared_tables(db), TableRows(table, columns, [(1,) * len(columns)], []))
        assert caught.value.code == "newer_commit"
