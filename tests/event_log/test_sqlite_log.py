"""The SQLite log: opening it, concurrent readers, and kill -9."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from ptn_api.errors import (
    LogError,
    LogLockedError,
    LogMissingError,
    LogReplacedError,
    LogUnusableError,
    LogUnwritableError,
)
from ptn_api.event_log import EventLog, EventLogWriter, database, open_reader, open_writer, sqlite_reader
from ptn_api.event_log.database import log_path
from ptn_api.event_log.schema import SCHEMA_VERSION
from tests.event_log.writer_process import text_with
from tests.factories import T0, order, position, written
from tests.properties import tries

ROOT = Path(__file__).parents[2]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLogWriter]:
    log = open_writer(tmp_path / "data", clock=lambda: T0 - 1)
    log.baseline([], T0)
    yield log
    log.close()


def integrity(data_dir: Path) -> str:
    db = sqlite3.connect(log_path(data_dir))
    try:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        db.close()


# --- opening ----------------------------------------------------------------------------------------------


def test_a_file_system_without_a_write_ahead_log_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would silently fall back to a journal that blocks readers during a write."""
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda file, **options: connect(f"{file}&vfs=unix-dotfile", **options)
    )
    with pytest.raises(LogUnusableError, match="local disk") as caught:
        open_writer(tmp_path / "data")
    assert caught.value.code == "no_wal"


def test_a_caller_that_stops_early_reads_few_positions(
    log: EventLogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that catches up reads 25 at a time, and live clients take their turn in between."""
    log.append([written(position(n, [order(n)])) for n in range(200)], T0)
    read, original = [], sqlite_reader.logged_position
    monkeypatch.setattr(sqlite_reader, "logged_position", lambda *row: read.append(row) or original(*row))
    reader = open_reader(tmp_path / "data")
    assert len(list(islice(reader.positions(), 25))) == 25
    assert len(read) < 50
    assert len(list(reader.positions())) == 200
    reader.close()


def test_a_reader_without_a_log(tmp_path: Path) -> None:
    """It raises LogMissingError until a writer has created the log, with and without a directory."""
    with pytest.raises(LogMissingError):
        open_reader(tmp_path / "nowhere")
    with pytest.raises(LogMissingError):
        open_reader(tmp_path, wait_ms=30)


def test_a_file_without_a_schema_is_a_missing_log(tmp_path: Path) -> None:
    """Its writer was killed while creating it."""
    log_path(tmp_path).touch()
    with pytest.raises(LogMissingError):
        open_reader(tmp_path)
    open_writer(tmp_path).close()
    open_reader(tmp_path).close()


def test_reader_waits_for_the_writer(tmp_path: Path) -> None:
    """Processes start at the same time, and a reader may be first."""
    readers: list[EventLog] = []
    thread = threading.Thread(target=lambda: readers.append(open_reader(tmp_path / "d", wait_ms=30_000)))
    thread.start()
    writer = open_writer(tmp_path / "d")
    thread.join()
    assert readers[0].epoch == writer.epoch
    readers[0].close()
    writer.close()


def test_a_second_writer_is_locked_out(log: EventLogWriter, tmp_path: Path) -> None:
    """Its error names the directory; the first writer continues."""
    with pytest.raises(LogLockedError, match="data"):
        open_writer(tmp_path / "data")
    log.append([text_with(1)], T0)
    log.close()
    open_writer(tmp_path / "data").close()


def test_files_are_private_to_their_owner(log: EventLogWriter, tmp_path: Path) -> None:
    """0600 in a 0700 directory, under any umask."""
    log.append([text_with(1)], T0)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert set(modes) == {"log.sqlite3", "log.sqlite3-wal", "log.sqlite3-shm"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_a_log_is_the_same_after_a_restart(log: EventLogWriter, tmp_path: Path) -> None:
    """Epoch, creation time, head and state are durable."""
    head = log.append([text_with(1)], T0)
    log.close()
    again = open_writer(tmp_path / "data", clock=lambda: T0 + 999_999)
    assert (again.epoch, again.created_ms, again.head(), again.ready()) == (log.epoch, T0 - 1, head, True)
    again.close()


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (f"PRAGMA user_version = {SCHEMA_VERSION + 1}", "newer_schema"),
        ("PRAGMA application_id = 7", "not_a_log"),
    ],
)
def test_unsupported_files_are_refused(
    log: EventLogWriter, tmp_path: Path, statement: str, code: str
) -> None:
    """A newer version's log, or another program's database, is left unchanged."""
    log.close()
    db = sqlite3.connect(log_path(tmp_path / "data"))
    db.execute(statement)
    db.close()
    for open_it in (open_writer, open_reader):
        with pytest.raises(LogUnusableError) as caught:
            open_it(tmp_path / "data")
        assert caught.value.code == code


def test_a_damaged_file_is_refused(log: EventLogWriter, tmp_path: Path) -> None:
    """A file that is not a database is `corrupt`: a retry would not help."""
    log.close()
    log_path(tmp_path / "data").write_bytes(b"\0garbage" * 1_000)
    for open_it in (open_writer, open_reader):
        with pytest.raises(LogUnusableError) as caught:
            open_it(tmp_path / "data")
        assert caught.value.code == "corrupt"


def test_a_directory_that_cannot_be_created(tmp_path: Path) -> None:
    """A path that leads through a file is reported as unwritable."""
    (tmp_path / "file").touch()
    with pytest.raises(LogUnwritableError, match="cannot be written"):
        open_writer(tmp_path / "file" / "data")


def test_a_directory_without_permission(tmp_path: Path) -> None:
    """Another user's directory is unwritable and remains empty."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        with pytest.raises(LogUnwritableError):
            open_writer(tmp_path / "data")
    finally:
        os.seteuid(user)
    assert list((tmp_path / "data").iterdir()) == []


# --- concurrent readers -----------------------------------------------------------------------------------


def test_a_reader_follows_the_writer(log: EventLogWriter, tmp_path: Path) -> None:
    """A commit is visible at once through another connection."""
    reader = open_reader(tmp_path / "data")
    for number in range(5):
        head = log.append([text_with(number)], T0)
        assert reader.head() == head
        assert len(reader.read(reader.floor() - 1, 100)) == number + 1
    reader.close()


def test_a_reader_outlives_the_writer(log: EventLogWriter, tmp_path: Path) -> None:
    """Open readers and new ones work while no writer runs."""
    head = log.append([text_with(1)], T0)
    reader = open_reader(tmp_path / "data")
    log.close()
    assert reader.head() == head
    reader.close()
    late = open_reader(tmp_path / "data")
    assert late.head() == head
    late.close()


def test_a_replaced_log_is_detected(log: EventLogWriter, tmp_path: Path) -> None:
    """Deleted and created again, or only deleted: readers and writer get LogReplacedError."""
    reader = open_reader(tmp_path / "data")
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(LogReplacedError):
        reader.head()
    other = open_writer(tmp_path / "data")
    assert other.epoch != log.epoch
    for call in (reader.floor, lambda: log.append([text_with(1)], T0), lambda: log.read(0, 1)):
        with pytest.raises(LogReplacedError):
            call()
    reader.close()
    other.close()


def test_a_log_that_cannot_be_accessed_is_not_replaced(
    log: EventLogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without permission the file may still be the same: readers retry instead of starting again."""
    reader = open_reader(tmp_path / "data")

    def refuse(path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(database.os, "stat", refuse)
        with pytest.raises(LogError, match="Permission denied") as caught:
            reader.head()
    assert not isinstance(caught.value, LogReplacedError)
    assert reader.head() == log.head()
    reader.close()


def test_reading_after_close_is_an_error(log: EventLogWriter, tmp_path: Path) -> None:
    """SQLite's errors are raised as LogError."""
    reader = open_reader(tmp_path / "data")
    reader.close()
    with pytest.raises(LogError):
        reader.head()


def test_readers_never_see_part_of_a_transaction(log: EventLogWriter, tmp_path: Path) -> None:
    """Positions written together are read together, with their events."""
    rounds = 60
    problems: list[str] = []

    def compare(reader: EventLog) -> None:
        while True:
            head, positions, _ = reader.changes(0)
            stamps = {len(p.text.orders) for p in positions}
            if len(stamps) > 1 or len(positions) not in (0, 10):
                problems.append(f"{len(positions)} positions with {stamps} orders")
            events = head.sequence - reader.created_ms
            if events != sum(len(p.text.orders) for p in positions):
                problems.append(f"{events} events")
            if stamps == {rounds} or problems:
                return

    readers = [open_reader(tmp_path / "data") for _ in range(2)]
    threads = [threading.Thread(target=compare, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for n in range(1, rounds + 1):
        log.append([written(position(p, [order(p * 100 + k) for k in range(n)])) for p in range(10)], T0)
    for thread, reader in zip(threads, readers, strict=True):
        thread.join()
        reader.close()
    assert problems == []


# --- kill -9 ----------------------------------------------------------------------------------------------


class Killed:
    """Runs writers in separate processes, kills them, and records what they acknowledged."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.acknowledged: dict[int, int] = {}
        """Order number -> sequence."""

    def run_and_kill(self, after_s: float, *, at_least: int) -> None:
        first = max(self.acknowledged, default=-1) + 1
        command = [sys.executable, "-m", "tests.event_log.writer_process", str(self.data_dir), str(first)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(at_least)]
        time.sleep(after_s)  # not a wait for a condition: the moment of the kill is random
        process.kill()
        lines += process.stdout.readlines()
        process.stdout.close()
        assert process.wait() == -9
        for line in lines:
            if line.endswith(b"\n"):
                number, sequence = map(int, line.split())
                self.acknowledged[number] = sequence

    def check(self, log: EventLog) -> None:
        """Nothing acknowledged is lost, repeated or renumbered; at most one more order was committed."""
        events = log.read(log.floor() - 1, 1_000_000)
        sequences = [event.sequence for event in events]
        assert sequences == list(range(log.created_ms + 1, log.head().sequence + 1))
        found = {int(e.order_uuid[-6:], 16) - 1000: e.sequence for e in events}
        assert len(found) == len(events)
        assert {n: found.get(n) for n in self.acknowledged} == self.acknowledged
        assert len(found) <= len(self.acknowledged) + 1


def test_kill_9_loses_repeats_and_renumbers_nothing(tmp_path: Path) -> None:
    """Writers are killed at random moments; every acknowledged append is there exactly once."""
    killed = Killed(tmp_path / "data")
    delays = random.Random(8)
    killed.run_and_kill(0, at_least=1)
    watcher = open_reader(tmp_path / "data")
    runs = tries(24).max_examples
    for n in range(runs):
        # Some are killed while they open the log, or before.
        killed.run_and_kill(
            delays.uniform(0.1, 0.5) if n % 4 == 0 else delays.uniform(0, 0.1), at_least=n % 4
        )
        killed.check(watcher)
        fresh = open_reader(tmp_path / "data")
        killed.check(fresh)
        fresh.close()
    watcher.close()
    assert integrity(tmp_path / "data") == "ok"
    assert len(killed.acknowledged) > runs
    log = open_writer(tmp_path / "data")
    killed.check(log)
    log.close()


def test_a_killed_writers_log_is_read_without_a_writer(tmp_path: Path) -> None:
    """The first reader recovers the write-ahead log that a killed writer left."""
    killed = Killed(tmp_path / "data")
    killed.run_and_kill(0, at_least=5)
    assert (tmp_path / "data" / "log.sqlite3-wal").stat().st_size > 0
    reader = open_reader(tmp_path / "data")
    killed.check(reader)
    reader.close()
