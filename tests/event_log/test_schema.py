"""Migrations of the schema, tried with a data directory that version 0.1.0 made (tests/data/README.md)."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ptn_api.errors import LogMissingError, LogUnusableError, LogUnwritableError
from ptn_api.event_log import EventLog, open_reader, open_writer, schema
from ptn_api.event_log.database import log_path
from ptn_api.event_log.schema import MIGRATIONS, SCHEMA_VERSION
from tests.data.make_log_0_1_0 import dump
from tests.event_log.reading import announced
from tests.factories import MINER, OTHER_MINER, T0, order, position, uuid, written

ARCHIVE = Path(__file__).parents[1] / "data/log_0_1_0.zip"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    shutil.unpack_archive(ARCHIVE, tmp_path)
    return tmp_path / "data"


def expected(data_dir: Path) -> dict[str, Any]:
    """What 0.1.0 read from its log."""
    content: dict[str, Any] = json.loads((data_dir.parent / "expected.json").read_text())
    content["counters"]["skipped"] = 0
    return content


def structure(data_dir: Path) -> tuple[int, list[tuple[str, str]]]:
    """The version, and every table and index with its definition, apart from spaces and quotes."""
    db = sqlite3.connect(log_path(data_dir))
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        rows = db.execute("SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name").fetchall()
    finally:
        db.close()
    return version, [(name, re.sub(r'[\s"]+', "", sql)) for name, sql in rows]


def test_a_log_of_0_1_0_opens_with_everything_kept(data_dir: Path) -> None:
    """Epoch, sequences, revisions, events, state, removals and documents; said once, also after a restart."""
    with capture_logs() as logs:
        for _ in range(2):
            open_writer(data_dir).close()
    assert [entry for entry in logs if entry["event"] == "log_migrated"] == [
        {"event": "log_migrated", "log_level": "info", "from_schema": 1, "to_schema": SCHEMA_VERSION}
    ]
    reader = open_reader(data_dir)
    assert dump(reader) == expected(data_dir)
    reader.close()


def test_orders_seen_by_0_1_0_are_not_announced_again(data_dir: Path) -> None:
    """Not even one that was dropped from its list; the next order gets the next sequence."""
    log = open_writer(data_dir)
    head = log.head()
    seen = log.seen(MINER, [uuid(1000 + n) for n in (1, 2, 3, 6, 7, 31, 32, 33)])
    assert seen == {uuid(1000 + n) for n in (1, 2, 3, 6, 31, 32, 33)}
    log.append([written(position(4, [order(6), order(31)])), written(position(6, [order(1)]))], T0)
    assert log.head().sequence == head.sequence
    log.append([written(position(5, [order(n) for n in (51, 52, 53, 54)], miner=OTHER_MINER))], T0)
    assert [event.order_uuid for event in log.read(head.sequence, 10)] == [uuid(1054)]
    log.close()


def test_a_migrated_log_has_the_schema_of_a_new_one(data_dir: Path, tmp_path: Path) -> None:
    """SCHEMA and MIGRATIONS must not drift apart."""
    assert structure(data_dir)[0] == 1
    open_writer(data_dir).close()
    open_writer(tmp_path / "new").close()
    assert structure(data_dir) == structure(tmp_path / "new")


def test_readers_wait_for_the_migration(data_dir: Path) -> None:
    """Until the writer has migrated the log, it is missing for them."""
    with pytest.raises(LogMissingError, match="schema 1") as caught:
        open_reader(data_dir)
    assert caught.value.code == "older_schema"
    readers: list[EventLog] = []
    thread = threading.Thread(target=lambda: readers.append(open_reader(data_dir, wait_ms=30_000)))
    thread.start()
    writer = open_writer(data_dir)
    thread.join()
    assert readers[0].epoch == writer.epoch
    readers[0].close()
    writer.close()


def test_a_failed_migration_changes_nothing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is still the older version's, and the next start migrates it."""
    before = structure(data_dir)
    with monkeypatch.context() as patched:
        patched.setattr(
            schema,
            "MIGRATIONS",
            (MIGRATIONS[0] + "INSERT INTO log (id, epoch, created_ms, sequence) VALUES (2, 0, 0, 0);\n",),
        )
        with pytest.raises(LogUnwritableError, match="constraint"):
            open_writer(data_dir)
    assert structure(data_dir) == before
    log = open_writer(data_dir)
    assert len(announced(log)) == len(expected(data_dir)["events"])
    log.close()


@pytest.mark.parametrize("damage", ["UPDATE orders SET text = ", "UPDATE events SET order_uuid = "])
def test_an_older_log_with_damaged_text_ends_in_an_error(data_dir: Path, damage: str) -> None:
    """It names what to do, and a retry would not help; the file stays as it was."""
    with contextlib.closing(sqlite3.connect(log_path(data_dir))) as db:
        db.execute(damage + "CAST(x'61ff' AS TEXT)")
        db.commit()
    before = structure(data_dir)
    for _ in range(2):
        with pytest.raises(LogUnusableError, match=r"cannot be migrated.*move.*away") as raised:
            open_writer(data_dir)
        assert raised.value.code == "not_migrated"
    assert structure(data_dir) == before
