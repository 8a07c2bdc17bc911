"""Damage of the log's file: found, named, left out, and written again; nothing wrong is ever served."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ptn_api.errors import LogError, LogReplacedError
from ptn_api.event_log import (
    Document,
    DocumentWritten,
    EventLog,
    EventLogWriter,
    PositionRemoved,
    SourceStatus,
    open_reader,
    open_writer,
)
from ptn_api.event_log.database import log_path
from tests.factories import MINER, OTHER_MINER, T0, order, position, uuid, written
from tests.properties import tries

POSITIONS = {
    n: written(
        position(n, [order(10 * n + k) for k in range(3)], miner=MINER if n % 2 else OTHER_MINER),
        fingerprint=f"file {n}",
    )
    for n in range(1, 13)
}
REMOVED = 12
DOCUMENTS = {
    Document.STATISTICS: json.dumps({"data": list(range(5_000))}).encode(),
    Document.ELIMINATIONS: b'{"eliminations": []}',
}


def fill(log: EventLogWriter) -> None:
    """Positions in several texts, an order that was dropped from its list, a removal, and documents."""
    log.baseline([POSITIONS[1]], T0)
    for n, change in POSITIONS.items():
        miner = MINER if n % 2 else OTHER_MINER
        dropped = order(10 * n + 5)
        log.append([written(position(n, [order(10 * n), dropped], miner=miner))], T0 + n)
        log.append([change], T0 + n)
    log.append([PositionRemoved(miner_hotkey=OTHER_MINER, position_uuid=uuid(REMOVED))], T0 + 100)
    for document, content in DOCUMENTS.items():
        log.append([DocumentWritten(document=document, content=content, fingerprint="f")], T0 + 100)
    for miner in (MINER, OTHER_MINER):
        snapshots = DocumentWritten(document=Document.SNAPSHOTS, content=b"[]", miner_hotkey=miner)
        log.append([snapshots], T0 + 100)
    log.set_source(SourceStatus(swept_ms=T0))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a log that was closed, all of it in one file."""
    data_dir = tmp_path_factory.mktemp("original")
    log = open_writer(data_dir, clock=lambda: T0 - 1)
    fill(log)
    log.close()
    return data_dir


@pytest.fixture
def data_dir(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def change(data_dir: Path, *statements: str) -> None:
    """Changes the file behind the log's back, as a disk does."""
    db = sqlite3.connect(log_path(data_dir))
    db.text_factory = bytes
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def reads(log: EventLog) -> dict[str, Callable[[], Any]]:
    """Every way to read the log, by name; what each returns is comparable."""
    first = log.created_ms + 1

    def events(*, orders: bool) -> dict[Any, Any]:
        found = {}
        after = first - 1
        while after < log.head().sequence:
            found.update({event.sequence: event for event in log.read(after, 7, orders=orders)})
            after += 7
        return found

    return {
        "ready": log.ready,
        "head": log.head,
        "floor": log.floor,
        "counters": log.counters,
        "source": log.source,
        "events": lambda: events(orders=True),
        "deltas": lambda: events(orders=False),
        "positions": lambda: {(p.miner_hotkey, p.position_uuid): p for p in log.positions()},
        "of miner": lambda: {p.position_uuid: p for p in log.positions(miner=MINER)},
        "open": lambda: {p.position_uuid: p for p in log.positions_of(MINER, open_or_closed_since_ms=0)},
        "single": lambda: {
            n: log.position(MINER if n % 2 else OTHER_MINER, uuid(n))
            for n in POSITIONS
            if log.position(MINER if n % 2 else OTHER_MINER, uuid(n))
        },
        "removed": lambda: {r.position_uuid: r for r in log.removed(0)},
        "changes": lambda: {p.position_uuid: p for p in log.changes(0)[1]},
        "documents": lambda: {d: log.document(d) for d in DOCUMENTS if log.document(d) is not None},
        "first": lambda: log.first_timestamp_after(first - 1),
        "hotkeys": lambda: dict.fromkeys(log.hotkeys(), True),
        "revisions": lambda: log.document_revisions(Document.SNAPSHOTS),
    }


def compare(log: EventLog, truth: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Returns the names of the reads that differ from the truth, and of those that are wrong.

    A read may fail with a LogError, or lack something.
    """
    lacking, wrong = [], []
    for name, read in reads(log).items():
        try:
            result = read()
        except LogError:
            lacking.append(name)
            continue
        expected = truth[name]
        if result == expected:
            continue
        lacking.append(name)
        if name == "first":  # the timestamp of the next event, if the first one is damaged
            continue
        if not isinstance(result, dict) or any(expected.get(key) != value for key, value in result.items()):
            wrong.append(name)
    return lacking, wrong


def flipped(data: bytes, random_: random.Random) -> bytes:
    damaged = bytearray(data)
    damaged[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    return bytes(damaged)


@contextlib.contextmanager
def reader_of(data_dir: Path) -> Iterator[EventLog]:
    with contextlib.closing(open_reader(data_dir)) as log:
        yield log


def truth_of(data_dir: Path) -> dict[str, Any]:
    with reader_of(data_dir) as log:
        return {name: read() for name, read in reads(log).items()}


def try_damage(data_dir: Path, truth: dict[str, Any]) -> str:
    """Reads and writes a damaged log, returns what came of it. Anything but a LogError is raised."""
    try:
        log = open_reader(data_dir)
    except LogError:
        return "refused"
    with contextlib.closing(log):
        lacking, wrong = compare(log, truth)
        assert not wrong
        log.damaged()
        checked = log.find_damage()
        assert checked or not lacking, lacking
    try:
        writer = open_writer(data_dir)
    except LogError:
        assert checked
        return "unwritable"
    with contextlib.closing(writer):
        try:
            lost = writer.repair()
            missing = POSITIONS.keys() - {REMOVED}
            known = writer.fingerprints()
            again = [
                POSITIONS[n]
                for n in missing
                if (key := (MINER if n % 2 else OTHER_MINER, uuid(n))) in lost.positions or key not in known
            ]
            head = writer.append(again, T0 + 200)
            writer.append(
                [
                    DocumentWritten(document=d, content=DOCUMENTS[d])
                    for d, _ in lost.documents
                    if d in DOCUMENTS
                ],
                T0 + 200,
            )
            writer.append([written(position(50, [order(900)]))], T0 + 200)
        except LogError:
            assert checked
            return "unwritable"
        assert head.sequence == truth["head"].sequence, "an old order was announced again"
        try:
            found = {(p.miner_hotkey, p.position_uuid): p.text for p in writer.positions()}
        except LogError:
            assert checked
            return "unreadable"
        found.pop((MINER, uuid(50)), None)
        expected = {key: p.text for key, p in truth["positions"].items()}
        if not lacking and not checked:
            assert found == expected
            return "harmless"
        assert found.items() <= expected.items()
        return "restored" if found == expected and not writer.find_damage() else "reported"


def test_no_flipped_bit_is_served(original: Path, tmp_path: Path) -> None:
    """Wherever it is: reads return the truth, lack something that is reported, or raise a LogError."""
    truth, data = truth_of(original), log_path(original).read_bytes()
    random_ = random.Random(1)
    for _ in range(tries(150).max_examples):
        data_dir = tmp_path / "data"
        data_dir.mkdir()
        log_path(data_dir).write_bytes(flipped(data, random_))
        with capture_logs():
            try_damage(data_dir, truth)
        shutil.rmtree(data_dir)


def test_damaged_events_are_left_out_and_counted(data_dir: Path) -> None:
    """Each is named once; a page ends where it would have ended with them, and pruning goes on."""
    truth = truth_of(data_dir)
    first = truth["floor"]
    damaged = (first, first + 3)
    change(data_dir, f"UPDATE events SET timestamp_ms = timestamp_ms + 1 WHERE sequence IN {damaged}")
    with capture_logs() as logs, reader_of(data_dir) as log:
        for _ in range(2):
            assert compare(log, truth) == (["events", "deltas"], [])
        assert [event.sequence for event in log.read(first - 1, 5)] == [first + 1, first + 2, first + 4]
        assert log.damaged() == 2
    assert [(entry["table"], entry["key"]) for entry in logs] == [("events", str(n)) for n in damaged]
    with contextlib.closing(open_writer(data_dir, retention_ms=0)) as writer:
        assert writer.repair().positions == frozenset()
        assert writer.damaged() == 2
        assert writer.prune(T0 + 10**9) == truth["head"].sequence + 1
        assert (writer.damaged(), writer.find_damage()) == (0, [])


def test_a_damaged_young_event_does_not_stop_pruning(data_dir: Path) -> None:
    """Its time may be wrong, so that it would be kept forever, and all later ones with it."""
    events = truth_of(data_dir)["deltas"]
    first = min(events)
    kept = min(n for n, event in events.items() if event.timestamp_ms >= T0 + 3)
    change(data_dir, f"UPDATE events SET timestamp_ms = 1 << 50 WHERE sequence = {first}")
    with contextlib.closing(open_writer(data_dir, retention_ms=0)) as writer:
        assert writer.prune(T0 + 3) == kept


def wal_of(data_dir: Path, tmp_path: Path) -> Path:
    """A copy of a log whose writer was killed: all commits since its creation are in the write-ahead log."""
    log = open_writer(data_dir, clock=lambda: T0 - 1)
    log.baseline([], T0)
    for n in range(1, 9):
        log.append([POSITIONS[n]], T0 + n)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in data_dir.glob("log.sqlite3*"):
        shutil.copyfile(path, copy / path.name)
    log.close()
    return copy


@pytest.mark.parametrize("part", ["header", "salt", "page"])
def test_lost_commits_change_the_epoch(part: str, tmp_path: Path) -> None:
    """SQLite ignores a write-ahead log from its first damaged frame on: sequences would be assigned twice."""
    data_dir = wal_of(tmp_path / "data", tmp_path)
    wal = data_dir / "log.sqlite3-wal"
    data = bytearray(wal.read_bytes())
    frame = 32 + 60 * (24 + 4096)
    data[{"header": 17, "salt": frame + 9, "page": frame + 500}[part]] ^= 4
    wal.write_bytes(data)
    with capture_logs() as logs, contextlib.closing(open_writer(data_dir, clock=lambda: T0 + 500)) as log:
        assert (log.head().sequence, log.floor()) == (T0 + 500, T0 + 501)
        assert log.find_damage() == []
        log.append([written(position(50, [order(900)]))], T0 + 600)
        assert [event.sequence for event in log.read(T0 + 500, 10)] == [T0 + 501]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["log_commits_lost"]


def with_lost_commits(tmp_path: Path) -> Path:
    """A data directory whose write-ahead log is damaged in a page."""
    data_dir = wal_of(tmp_path / "data", tmp_path)
    wal = data_dir / "log.sqlite3-wal"
    data = bytearray(wal.read_bytes())
    data[32 + 60 * (24 + 4096) + 500] ^= 4
    wal.write_bytes(data)
    return data_dir


def test_a_reader_that_has_come_and_gone_leaves_what_shows_lost_commits(tmp_path: Path) -> None:
    """As intake itself, which looks whether the log is a copy, or `ptn doctor` after a crash."""
    data_dir = with_lost_commits(tmp_path)
    with contextlib.closing(open_reader(data_dir)) as log:
        epoch = log.epoch
        assert log.find_damage() == []
    with contextlib.closing(open_writer(data_dir, clock=lambda: T0 + 500)) as log:
        assert log.epoch != epoch
        assert log.head().sequence == T0 + 500


def test_a_reader_that_was_faster_than_the_writer_is_told_of_the_new_epoch(tmp_path: Path) -> None:
    """All processes start at once. With the old epoch, a cursor would be taken for one of new revisions."""
    data_dir = with_lost_commits(tmp_path)
    with contextlib.closing(open_reader(data_dir)) as early:
        since = early.head()
        with contextlib.closing(open_writer(data_dir, clock=lambda: T0 + 500)) as log:
            assert early.epoch != log.epoch
            calls: list[Callable[[], object]] = [
                early.ready,
                early.head,
                early.floor,
                early.oldest_revision,
                lambda: early.read(since.sequence, 1),
                lambda: early.changes(since.revision),
                lambda: early.removed(since.revision),
            ]
            for call in calls:
                with pytest.raises(LogReplacedError):
                    call()
            with contextlib.closing(open_reader(data_dir)) as later:
                assert later.head() == log.head()


@pytest.mark.parametrize("cut", [0, 2_000])
def test_a_killed_writers_log_keeps_its_epoch(cut: int, tmp_path: Path) -> None:
    """With an intact write-ahead log, and one whose last commit was cut short by a power failure."""
    data_dir = wal_of(tmp_path / "data", tmp_path)
    wal = data_dir / "log.sqlite3-wal"
    wal.write_bytes(wal.read_bytes()[: -cut or None])
    with capture_logs() as logs, contextlib.closing(open_writer(data_dir)) as log:
        assert len(list(log.positions())) == 8 - bool(cut)
        assert log.floor() == T0
    assert logs == []


def test_a_damaged_shared_memory_file_is_made_again(tmp_path: Path) -> None:
    """Whoever opens the log first does not trust it."""
    data_dir = wal_of(tmp_path / "data", tmp_path)
    (data_dir / "log.sqlite3-shm").write_bytes(b"\xff" * 32_768)
    with contextlib.closing(open_writer(data_dir)) as log:
        assert log.find_damage() == []
        assert len(list(log.positions())) == 8


def test_an_empty_file_is_a_new_log(data_dir: Path) -> None:
    """Nothing is left to read: a new epoch begins, which is logged."""
    epoch = truth_of(data_dir)
    log_path(data_dir).write_bytes(b"")
    with capture_logs() as logs, contextlib.closing(open_writer(data_dir)) as log:
        assert not log.ready()
        assert log.head() != epoch["head"]
    assert logs[0]["event"] == "log_empty"


def break_index(data_dir: Path, name: str) -> None:
    with contextlib.closing(sqlite3.connect(log_path(data_dir))) as db:
        [(page,)] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchall()
        [(size,)] = db.execute("PRAGMA page_size").fetchall()
    with log_path(data_dir).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def test_damaged_names_of_miners_are_not_listed(data_dir: Path) -> None:
    """A miner is listed if any of its positions is intact; the others are reported."""
    change(
        data_dir,
        f"UPDATE positions SET miner = 'nonsense' WHERE uuid IN ('{uuid(1)}', '{uuid(3)}')",
        f"UPDATE positions SET miner = CAST(x'ff' AS TEXT) WHERE uuid = '{uuid(5)}'",
        f"UPDATE positions SET removed_ms = NULL, miner = 'gone' WHERE uuid = '{uuid(REMOVED)}'",
    )
    for open_log in (open_reader, open_writer):
        with contextlib.closing(open_log(data_dir)) as log:
            with contextlib.suppress(LogError):  # text that is not UTF-8: the next attempt succeeds
                log.hotkeys()
            assert log.hotkeys() == sorted([MINER, OTHER_MINER])
            assert log.damaged() >= 3


def test_a_damaged_revision_hides_no_change(data_dir: Path) -> None:
    """Not those of other miners' documents; the damaged document has none in the list."""
    with reader_of(data_dir) as log:
        before = log.document_revision(Document.SNAPSHOTS)
        whole = log.document_revision(Document.STATISTICS)
    for nonsense in ("1 << 60", "'text'", "x'ff'", "-1"):
        change(
            data_dir,
            f"UPDATE documents SET revision = {nonsense} WHERE name = 'snapshots' AND miner = '{MINER}'",
            f"UPDATE documents SET removed_ms = {nonsense} WHERE name = 'statistics'",
        )
        with contextlib.closing(open_writer(data_dir)) as log:
            assert log.document_revision(Document.SNAPSHOTS) <= before
            assert list(log.document_revisions(Document.SNAPSHOTS)) == [OTHER_MINER]
            # What readers keep of it stays valid: its content has not changed.
            assert log.document_revision(Document.STATISTICS) == whole
            fields = {"document": Document.SNAPSHOTS, "miner_hotkey": OTHER_MINER}
            head = log.append([DocumentWritten(content=f"[{nonsense!r:.1}]".encode(), **fields)], T0 + 200)
            head = log.append([DocumentWritten(content=b"[]", **fields)], T0 + 200)
            assert log.document_revision(Document.SNAPSHOTS) == head.revision
            before = head.revision


@pytest.mark.parametrize("name", ["sqlite_autoindex_chunks_1", "documents_by_revision", "chunks"])
def test_what_cannot_be_mended_is_reported_once(data_dir: Path, name: str) -> None:
    """However often the log is checked; meanwhile everything else is mended."""
    change(data_dir, f"UPDATE positions SET header = 'x' WHERE uuid = '{uuid(1)}'")
    break_index(data_dir, name)
    with capture_logs() as logs, contextlib.closing(open_writer(data_dir)) as log:
        lost = log.repair()
        assert lost.structure
        assert lost.positions == {(MINER, uuid(1))}
        for _ in range(2):
            log.append([POSITIONS[1]], T0 + 200)
            reported = len([line for line in logs if line["event"] == "log_damaged"])
            assert not log.repair().positions
        assert len([line for line in logs if line["event"] == "log_damaged"]) == reported
        assert log.damaged() >= 1


def damage_name(data_dir: Path, name: str) -> None:
    """Changes a byte of a position's UUID in the table; the index keeps it."""
    path, encoded, at = log_path(data_dir), name.encode(), -1
    whole = path.read_bytes()
    query = "SELECT id FROM positions NOT INDEXED WHERE uuid = ?"
    found: object = True
    while found:
        at = whole.index(encoded, at + 1)
        path.write_bytes(whole[:at] + b"X" + whole[at + 1 :])
        with contextlib.closing(sqlite3.connect(path)) as db:
            found = db.execute(query, (name,)).fetchone()


def test_a_killed_repair_is_done_by_the_next(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After whichever transaction it is killed: names that only an index has are not lost."""
    damage_name(data_dir, uuid(1))
    ended = False
    for survived in itertools.count():
        copy = shutil.copytree(data_dir, tmp_path / str(survived))
        left = iter(range(survived))

        def killed(_: object, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        with (
            contextlib.closing(open_writer(copy)) as log,
            contextlib.suppress(KeyboardInterrupt),
            monkeypatch.context() as patch,
        ):
            patch.setattr(log, "before_begin", killed)
            log.repair()
            ended = True
        with contextlib.closing(open_writer(copy)) as log:
            assert log.repair().positions <= {(MINER, uuid(1))}, survived
            assert (MINER, uuid(1)) in log.fingerprints()
            log.append([POSITIONS[1]], T0 + 200)
            assert not log.find_damage()
        if ended:
            break
    assert survived > 1


def test_a_log_whose_chunks_cannot_be_read_takes_orders(data_dir: Path) -> None:
    """The cleanup at the start, which reads the index of the chunks, is put off."""
    break_index(data_dir, "sqlite_autoindex_chunks_1")
    with contextlib.closing(open_writer(data_dir)) as log:
        before = log.head().sequence
        log.append([written(position(20, [order(200)]), fingerprint="file 20")], T0 + 200)
        assert log.head().sequence == before + 1
        assert "" in {damage.table for damage in log.find_damage()}


def test_a_log_that_cannot_be_opened_is_not_left_locked(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise LogError("the log cannot be read: disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("ptn_api.event_log.sqlite_writer.SqliteWriter.delete_unused_chunks", fail)
        with pytest.raises(LogError, match="disk I/O error"):
            open_writer(data_dir)
    open_writer(data_dir).close()


def test_counting_many_damaged_rows_is_cheap(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call, of which strangers cause one with every /health, looks at a few rows; all get their turn."""
    monkeypatch.setattr("ptn_api.event_log.sqlite_reader._MOST_RECHECKED", 2)
    change(data_dir, "UPDATE positions SET header = x'ff' WHERE removed_ms IS NULL")
    with contextlib.closing(open_writer(data_dir)) as log:
        assert list(log.positions()) == []
        found = log.damaged()
        assert found == len(POSITIONS) - 1
        log.append(list(POSITIONS.values()), T0 + 200)
        assert [log.damaged() for _ in range(6)] == [9, 7, 5, 3, 1, 0]
