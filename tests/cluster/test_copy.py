"""A machine's copy: how it is made, follows, and stops where it must."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from ptn_api.cluster import copy as copying
from ptn_api.cluster.adopt import adopt
from ptn_api.cluster.broker import Beat, SnapshotInfo
from ptn_api.cluster.commit import decode_part, encode_part, encode_rows
from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.cluster.snapshot import publish_snapshot
from ptn_api.errors import (
    BrokerError,
    LogFencedError,
    LogLockedError,
    LogMissingError,
    LogUnusableError,
    LogUnwritableError,
    OutcomeUnknownError,
    PublishRefusedError,
)
from ptn_api.event_log import PositionRemoved, open_reader, open_writer
from ptn_api.event_log.database import log_path, wal_path
from ptn_api.event_log.schema import SCHEMA_VERSION
from ptn_api.intake.directory import other_validator
from ptn_api.options import BEHIND_MS
from tests.cluster.conftest import Cluster
from tests.cluster.machines import content, machine
from tests.cluster.memory_broker import Fault, MemoryBroker
from tests.event_log.reading import NOW, numbers
from tests.event_log.test_sqlite_writer import file_size_limit
from tests.factories import MINER, T0, order, position, uuid, written
from tests.intake.validator_dir import ValidatorDir
from tests.waiting import until


def append(cluster: Cluster, *orders: int, **fields: object) -> None:
    for number in orders:
        cluster.writer.append([written(position(number, [order(number)]), **fields)], NOW)


def changed(cluster: Cluster, **fields: object) -> None:
    """Replaces the last commit in the stream by one with other fields."""
    entry = cluster.broker.entries.pop()
    part = msgspec.structs.replace(decode_part(entry.payload), **fields)
    cluster.broker.entries.append(msgspec.structs.replace(entry, payload=encode_part(part)))


# --- the first copy ---------------------------------------------------------------------------------------


def test_a_stream_begins_once(tmp_path: Path) -> None:
    """Of two machines that begin it, both get the log of the first, also without an acknowledgement."""
    broker = MemoryBroker()
    with pytest.raises(LogMissingError, match="no log yet"):
        open_copy(tmp_path / "a", broker, Copy)
    broker.faults.append(Fault.REFUSED)  # without a leader
    with pytest.raises(PublishRefusedError):
        found(broker, T0)
    broker.faults.append(Fault.ACK_LOST)
    with pytest.raises(OutcomeUnknownError):
        found(broker, T0)
    found(broker, T0 + 1)
    found(broker, T0 + 2)
    logs = [open_copy(tmp_path / name, broker, Copy) for name in "ab"]
    assert {log.epoch for log in logs} == {logs[0].epoch}
    assert {log.created_ms for log in logs} == {T0}
    assert not logs[0].ready()
    assert logs[0].behind_ms() is None
    for log in logs:
        log.close()


def test_a_directory_holds_one_log(cluster: Cluster, tmp_path: Path) -> None:
    """It is locked, and the log of a single machine is not taken for a copy."""
    with pytest.raises(LogLockedError):
        open_copy(tmp_path / "copy", cluster.broker, Copy)
    open_writer(tmp_path / "alone").close()
    before = content(tmp_path / "alone")
    with pytest.raises(LogUnusableError) as caught:
        open_copy(tmp_path / "alone", cluster.broker, Copy)
    assert caught.value.code == "not_joined"
    assert content(tmp_path / "alone") == before
    open_writer(tmp_path / "alone").close()


def test_a_deleted_copy_is_made_again(cluster: Cluster, tmp_path: Path) -> None:
    """Also if its write-ahead log was left, which SQLite would apply to the new file."""
    append(cluster, 1)
    shutil.copytree(cluster.folder / "writer", tmp_path / "new")
    log_path(tmp_path / "new").unlink()
    assert wal_path(log_path(tmp_path / "new")).stat().st_size
    again = open_copy(tmp_path / "new", cluster.broker, Copy)
    assert numbers(again) == []
    again.follow()
    assert content(tmp_path / "new") == content(cluster.folder / "writer")
    again.close()


def test_a_machine_waits_for_a_log_that_is_being_taken_over(tmp_path: Path) -> None:
    """The first commit of `ptn cluster init --from` says nothing without the snapshot that follows it."""

    class Interrupted(MemoryBroker):
        def put_snapshot(self, info: SnapshotInfo, pieces: Iterable[bytes]) -> None:
            raise BrokerError("lost")

    with contextlib.closing(open_writer(tmp_path / "alone")) as alone:
        alone.baseline([written(position(1, [order(1)]))], T0)
    broker = Interrupted()
    with pytest.raises(BrokerError, match="lost"):
        adopt(broker, tmp_path / "alone")
    with pytest.raises(BrokerError, match="no snapshot yet"):
        open_copy(tmp_path / "new", broker, Copy)
    broker.__class__ = MemoryBroker
    adopt(broker, tmp_path / "alone")
    with contextlib.closing(open_copy(tmp_path / "new", broker, Copy)) as copy:
        assert copy.confirm()
        assert content(tmp_path / "new") == content(tmp_path / "alone")


def test_a_copy_appears_when_it_is_complete(cluster: Cluster, tmp_path: Path) -> None:
    """A machine killed while it made its copy leaves a folder, which the next start removes."""
    data_dir = tmp_path / "new"
    (data_dir / "copy-killed").mkdir(parents=True)
    cluster.broker.down = True
    with pytest.raises(BrokerError):
        open_copy(data_dir, cluster.broker, Copy)
    assert list(data_dir.iterdir()) == []
    cluster.broker.down = False
    open_copy(data_dir, cluster.broker, Copy).close()
    reader = open_reader(data_dir)
    assert reader.epoch == cluster.writer.epoch
    reader.close()
    assert (log_path(data_dir).stat().st_mode & 0o777) == 0o600


# --- following --------------------------------------------------------------------------------------------


def test_commits_reach_the_readers(cluster: Cluster) -> None:
    """A reader of the copy sees the same, and the copy counts what it read."""
    append(cluster, 1, 2)
    reader = open_reader(cluster.folder / "copy")
    assert cluster.copy.follow() == 4  # taking over, the baseline and two orders
    assert numbers(reader) == [1, 2]
    assert cluster.copy.follow() == 0
    assert cluster.copy.counts == {"counts": 4}
    reader.close()


async def test_readers_are_notified(cluster: Cluster) -> None:
    """By commits of another machine as by those of the same."""
    listener = cluster.copy.commit_listener()
    append(cluster, 1)
    cluster.copy.follow()
    await listener.wait_for_commit(45_000)
    assert numbers(cluster.copy) == [1]
    listener.close()


def test_a_restarted_copy_goes_on(cluster: Cluster) -> None:
    """From its last commit, also without the broker."""
    append(cluster, 1)
    cluster.copy.follow()
    cluster.copy.close()
    append(cluster, 2)
    cluster.broker.down = True
    again = open_copy(cluster.folder / "copy", cluster.broker, Copy)
    assert numbers(again) == [1]
    again.close()
    cluster.broker.down = False
    again = open_copy(cluster.folder / "copy", cluster.broker, Copy)
    assert again.follow() == 1
    assert numbers(again) == [1, 2]
    again.close()


def test_a_failed_batch_is_repeated(cluster: Cluster) -> None:
    """Of a transaction that fails nothing remains, also not in memory."""
    append(cluster, 1, 2)
    assert cluster.copy._writer is not None
    (pages,) = cluster.copy._writer.execute("PRAGMA page_count").fetchone()
    cluster.copy._writer.execute(f"PRAGMA max_page_count = {pages}")
    cluster.writer.append([written(position(3, [order(3)], note="x" * 500_000))], NOW)
    for _ in range(2):
        with pytest.raises(LogUnwritableError):
            cluster.copy.follow()
    assert numbers(cluster.copy) == []
    cluster.copy._writer.execute("PRAGMA max_page_count = 1000000")
    cluster.copy.follow()
    assert numbers(cluster.copy) == [1, 2, 3]


def test_a_thread_follows(cluster: Cluster) -> None:
    """As soon as a commit is announced; an outage is logged once, and what came meanwhile is read."""
    stop = threading.Event()
    with capture_logs() as logs:
        thread = threading.Thread(target=cluster.copy.run, args=(stop,))
        thread.start()
        append(cluster, 1)
        until(lambda: numbers(cluster.copy) == [1])
        cluster.broker.down = True
        until(lambda: any(entry["event"] == "cluster_copy_stalled" for entry in logs))
        cluster.broker.down = False
        append(cluster, 2)
        until(lambda: numbers(cluster.copy) == [1, 2])
        until(lambda: any(entry["event"] == "cluster_copy_follows_again" for entry in logs))
        stop.set()
        thread.join()
    assert len([entry for entry in logs if entry["event"] == "cluster_copy_stalled"]) == 1


def test_a_copy_cannot_be_written(cluster: Cluster) -> None:
    """It would no longer be one."""
    before = content(cluster.folder / "copy")
    for write in (
        lambda: cluster.copy.append([written(position(1, [order(1)]))], NOW),
        lambda: cluster.copy.baseline([], NOW),
        lambda: cluster.copy.prune(NOW),
    ):
        with pytest.raises(LogFencedError):
            write()
    assert content(cluster.folder / "copy") == before


# --- how far behind ---------------------------------------------------------------------------------------


def test_a_copy_knows_how_far_behind_it_is(cluster: Cluster, tmp_path: Path) -> None:
    """Since it was last known to be complete, also in other processes; unknown at the start."""
    now = 1_000  # of the real clock, which the reader uses, and which starts with the machine
    copy = open_copy(tmp_path / "new", cluster.broker, Copy, monotonic=lambda: now)
    reader = open_reader(tmp_path / "new")
    assert reader.behind_ms() is None
    assert copy.confirm()
    with contextlib.closing(sqlite3.connect(log_path(tmp_path / "new"))) as db:
        (stored,) = db.execute("SELECT complete_ms FROM chain").fetchone()
    assert stored == now
    assert reader.behind_ms() is not None
    append(cluster, 1)
    cluster.broker.stale = 1  # of the order, the server that answers knows nothing
    now += 10
    assert copy.confirm()
    cluster.broker.stale = 0
    assert copy.confirm()
    assert numbers(copy) == [1]
    cluster.broker.down = True
    with pytest.raises(BrokerError):
        copy.confirm()
    reader.close()
    copy.close()
    again = open_copy(tmp_path / "new", cluster.broker, Copy)
    assert again.behind_ms() is None
    assert again._writer is not None
    again._writer.execute("UPDATE chain SET complete_ms = ?", (1 << 60,))
    assert again.behind_ms() is None  # the machine has restarted, and its clock with it
    again.close()


def test_beats_say_where_the_stream_ends(cluster: Cluster, tmp_path: Path) -> None:
    """While a server elects a leader, too; for three seconds, and not before the copy has read that far."""
    now = 1_000_000
    copy = open_copy(tmp_path / "new", cluster.broker, Copy, monotonic=lambda: now)
    assert copy.confirm()

    def beat(**fields: Any) -> None:
        tip = cluster.writer.tip()
        known = {"writer": b"w", "term": tip.term, "index": tip.index, "active": True}
        copy.hear(Beat(**known | fields))

    def complete_ms() -> int:
        with contextlib.closing(sqlite3.connect(log_path(tmp_path / "new"))) as db:
            found: int = db.execute("SELECT complete_ms FROM chain").fetchone()[0]
            return found

    def refuse() -> int:
        raise BrokerError("no leader")

    cluster.broker.last = refuse  # type: ignore[method-assign]
    append(cluster, 1)
    now += 1_000
    beat()
    now += 2_000
    assert copy.confirm()
    assert complete_ms() == 1_001_000
    append(cluster, 2)
    now += 500
    beat()
    cluster.broker.stale = 1  # the beat names a commit that cannot be read yet
    with pytest.raises(BrokerError):
        copy.confirm()
    assert complete_ms() == 1_001_000
    cluster.broker.stale = 0
    assert copy.confirm()
    now += 10_000
    for fields in ({"active": False}, {"term": 0}, {"index": 0}):
        beat(**fields)  # of a standby, of a former active machine, and one that was overtaken
    with pytest.raises(BrokerError):
        copy.confirm()
    copy.close()


def test_a_former_active_machine_proves_nothing(cluster: Cluster) -> None:
    """It does not know of its successor, as its disk is full, and this copy cannot read the commits yet."""
    assert cluster.copy.confirm()
    former = cluster.copy.tip()
    cluster.standby.take_over()
    cluster.broker.stale = 1
    tip = cluster.standby.tip()
    beats = [
        Beat(writer=each.writer, term=each.term, index=each.index, active=True) for each in (tip, former)
    ]
    for beat in beats:
        cluster.copy.hear(beat)
        assert not cluster.copy.confirm()
    cluster.broker.stale = 0
    assert cluster.copy.confirm()


def test_beats_count_for_a_while_without_a_leader(cluster: Cluster, tmp_path: Path) -> None:
    """The active machine may be cut off together with this one, while others elect a leader and go on."""
    now = 1_000_000
    copy = open_copy(tmp_path / "new", cluster.broker, Copy, monotonic=lambda: now)
    tip = cluster.writer.tip()
    beat = Beat(writer=b"w", term=tip.term, index=tip.index, active=True)
    assert copy.confirm()
    last = cluster.broker.last

    def refuse() -> int:
        raise BrokerError("no leader")

    cluster.broker.last = refuse  # type: ignore[method-assign]
    for seconds in range(1, 21):
        now = 1_000_000 + 1_000 * seconds
        copy.hear(beat)
        if seconds < 15:
            assert copy.confirm()
        else:
            with pytest.raises(BrokerError):
                copy.confirm()
    cluster.broker.last = last  # type: ignore[method-assign]
    assert copy.confirm()
    copy.close()


def test_each_server_is_asked_for_a_leader_before_the_copy_is_behind(
    cluster: Cluster, tmp_path: Path
) -> None:
    """After each failure the broker connects to the next server, whether it was asked or read from."""
    now = 1_000_000
    copy = open_copy(tmp_path / "new", cluster.broker, Copy, monotonic=lambda: now)
    tip = cluster.writer.tip()
    beat = Beat(writer=b"w", term=tip.term, index=tip.index, active=True)
    assert copy.confirm()
    failures, asked = 0, set()

    def fail(*wanted: int) -> Any:
        nonlocal failures
        failures += 1
        if not wanted:
            asked.add(failures % 2)  # of three servers, the one that led is down
        raise BrokerError("no answer")

    cluster.broker.read = cluster.broker.last = fail  # type: ignore[method-assign]
    while now < 1_000_000 + BEHIND_MS:
        now += 1_000
        copy.hear(beat)
        with pytest.raises(BrokerError):
            copy.confirm()
    assert asked == {0, 1}
    copy.close()


def test_a_copy_that_is_behind_waits_for_a_leader(cluster: Cluster, tmp_path: Path) -> None:
    """A server without one answers no reads for seconds, and then does again: the problem ends only once."""
    now = 1_000_000
    copy = open_copy(tmp_path / "new", cluster.broker, Copy, monotonic=lambda: now)
    tip = cluster.writer.tip()
    beat = Beat(writer=b"w", term=tip.term, index=tip.index, active=True)
    assert copy.confirm()
    read, last = cluster.broker.read, cluster.broker.last

    def refuse(*_: int) -> Any:
        raise BrokerError("no answer")

    cluster.broker.read = cluster.broker.last = refuse  # type: ignore[method-assign]
    for seconds in range(1, 13):
        now = 1_000_000 + 1_000 * seconds
        copy.hear(beat)
        if seconds == 7:
            cluster.broker.read = read  # type: ignore[method-assign]
        with pytest.raises(BrokerError):
            copy.confirm()
    cluster.broker.last = last  # type: ignore[method-assign]
    assert copy.confirm()
    copy.close()


def test_a_copy_that_gets_behind_while_it_asks(cluster: Cluster, tmp_path: Path) -> None:
    """Servers without a leader take their time, and reads that work again do not end what has just begun."""
    now = 1_000_000
    copy = open_copy(tmp_path / "new", cluster.broker, Copy, monotonic=lambda: now)
    tip = cluster.writer.tip()
    beat = Beat(writer=b"w", term=tip.term, index=tip.index, active=True)
    assert copy.confirm()
    read = cluster.broker.read

    def refuse(*_: int) -> Any:
        nonlocal now
        now += 1_000
        raise BrokerError("no answer")

    cluster.broker.read = cluster.broker.last = refuse  # type: ignore[method-assign]
    copy.hear(beat)
    with pytest.raises(BrokerError):
        copy.confirm()
    cluster.broker.read = read  # type: ignore[method-assign]
    now = 1_000_000 + BEHIND_MS - 500
    copy.hear(beat)
    with pytest.raises(BrokerError):
        copy.confirm()
    copy.close()


def test_a_broker_that_knows_less_than_the_copy(cluster: Cluster) -> None:
    """A lagging server, or one that lost entries: the copy stays as it is and is not complete meanwhile."""
    append(cluster, 1, 2)
    assert cluster.copy.confirm()
    entries, cluster.broker.entries = cluster.broker.entries, cluster.broker.entries[:-1]
    with capture_logs() as logs:
        for _ in range(3):
            assert not cluster.copy.confirm()
    assert cluster.copy.broker_behind
    assert [entry["event"] for entry in logs] == ["cluster_broker_behind"]
    assert numbers(cluster.copy) == [1, 2]
    with pytest.raises(LogUnwritableError):
        append(cluster, 3)
    cluster.broker.entries = entries
    assert cluster.copy.confirm()
    assert not cluster.copy.broker_behind


def test_a_copy_does_not_follow_another_validator(cluster: Cluster, tmp_path: Path) -> None:
    """Deleting it would be no remedy: it would be made again."""
    append(cluster, 1, 2, 3, 4, 5)
    assert cluster.copy.confirm()
    validator = ValidatorDir(tmp_path / "validator")
    assert other_validator(cluster.copy, "D", validator.path) == ""
    validator.write(position(50, [order(50)]))
    refusal = other_validator(cluster.copy, "D", validator.path)
    assert refusal.startswith("D holds the log of another validator, with none of the 1 positions in ")
    assert "the cluster's validator" in refusal
    assert "delete" not in refusal


# --- where a copy stops -----------------------------------------------------------------------------------


def test_a_newer_commit_stops_the_copy(cluster: Cluster) -> None:
    """What came before it is applied; the error says what to do, each time."""
    append(cluster, 1, 2)
    changed(cluster, schema=SCHEMA_VERSION + 1)
    for _ in range(2):
        with pytest.raises(LogUnusableError, match="upgrade") as caught:
            cluster.copy.follow()
        assert caught.value.code == "newer_commit"
        assert numbers(cluster.copy) == [1]


def test_a_damaged_commit_is_not_skipped(cluster: Cluster) -> None:
    """The copy waits until another server returns it undamaged; what came before it is applied."""
    append(cluster, 1, 2)
    entry = cluster.broker.entries[-1]
    cluster.broker.entries[-1] = msgspec.structs.replace(entry, payload=entry.payload[:-1] + b"?")
    for _ in range(2):
        with pytest.raises(BrokerError) as caught:
            cluster.copy.follow()
        assert caught.value.code == "damaged_commit"
        assert numbers(cluster.copy) == [1]
    cluster.broker.entries[-1] = entry
    cluster.copy.follow()
    assert numbers(cluster.copy) == [1, 2]


MALFORMED = (b"", b"\xc1", b"\x93\1\2\3")


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_commit_is_not_skipped(cluster: Cluster, content: bytes) -> None:
    """Though its writer sent it so: the copy waits, and the process goes on."""
    append(cluster, 1, 2)
    changed(cluster, body=b"?" + content)
    body = cluster.broker.entries[-1]
    payload = b"\1" + hashlib.blake2b(content, digest_size=8).digest() + content
    for entry in (body, msgspec.structs.replace(body, payload=payload)):
        cluster.broker.entries[-1] = entry
        with pytest.raises(BrokerError) as caught:
            cluster.copy.follow()
        assert caught.value.code == "damaged_commit"
        assert numbers(cluster.copy) == [1]


@pytest.mark.parametrize("fields", [{"before": (1, 1)}, {"after": (1, 1)}])
def test_a_commit_that_does_not_fit_stops_the_copy(cluster: Cluster, fields: dict[str, object]) -> None:
    """Sequences must go on where they were; nothing of the commit is applied."""
    append(cluster, 1, 2)
    changed(cluster, **fields)
    before = cluster.copy.head()
    with pytest.raises(LogUnusableError) as caught:
        cluster.copy.follow()
    assert caught.value.code == "diverged"
    assert numbers(cluster.copy) == [1]
    assert cluster.copy.head() > before


def test_a_row_that_contradicts_another_stops_the_copy(cluster: Cluster) -> None:
    """It is an error of the schema, and not solved by deleting the other row."""
    append(cluster, 1, 2)
    part = decode_part(cluster.broker.entries[-1].payload)
    rows = list(copying.decode_rows([part.body]))
    (positions,) = (table for table in rows if table.table == "positions")
    at = positions.columns.index("uuid")
    row = list(positions.rows[0])
    row[at] = uuid(1)
    positions.rows[0] = tuple(row)
    ((body, _),) = encode_rows(rows)
    changed(cluster, body=body)
    with pytest.raises(LogUnwritableError, match="UNIQUE"):
        cluster.copy.follow()
    assert numbers(cluster.copy) == []


def test_a_copy_of_another_stream_stops(cluster: Cluster, tmp_path: Path) -> None:
    """The broker was replaced, or restored from a backup and written since."""
    append(cluster, 1)
    cluster.copy.follow()
    cluster.broker.entries.clear()
    found(cluster.broker, T0)
    other = machine(tmp_path / "other", cluster.broker)
    other.take_over()
    other.baseline([], T0)
    for number in range(2, 5):
        other.append([written(position(number, [order(number)]))], NOW)
    with pytest.raises(LogUnusableError) as caught:
        cluster.copy.follow()
    assert caught.value.code == "forked"
    assert numbers(cluster.copy) == [1]
    cluster.copy.close()
    again = open_copy(tmp_path / "copy", cluster.broker, Copy)
    with pytest.raises(LogUnusableError, match="backup"):
        again.follow()
    again.close()
    other.close()


# --- snapshots --------------------------------------------------------------------------------------------


def test_a_new_machine_starts_from_a_snapshot(cluster: Cluster, tmp_path: Path) -> None:
    """The older entries are purged once there is a second snapshot; fingerprints stay where they belong."""
    append(cluster, 1, fingerprint="here")
    first = publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
    assert cluster.broker.purged == 0
    append(cluster, 2, fingerprint="here")
    publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
    append(cluster, 3, fingerprint="here")
    publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
    append(cluster, 4, fingerprint="here")
    assert len(cluster.broker.snapshots()) == 2
    assert cluster.broker.purged > first.index
    new = open_copy(tmp_path / "new", cluster.broker, Copy)
    assert numbers(new) == [1, 2, 3]
    assert new.follow() == 1
    assert content(tmp_path / "new") == content(cluster.folder / "writer")
    assert set(new.fingerprints().values()) == {""}
    assert b"here" not in log_path(tmp_path / "new").read_bytes()
    assert set(cluster.writer.fingerprints().values()) == {"here"}
    new.close()


def test_interrupted_snapshots_do_not_pile_up(cluster: Cluster) -> None:
    """What a killed machine stored of one is deleted once two later ones are there."""
    first = publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
    cluster.broker.stored = {"killed": (msgspec.structs.replace(first, name="killed"), [])}
    for number in (1, 2):
        append(cluster, number)
        publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
    assert [*cluster.broker.stored] == [info.name for info in cluster.broker.snapshots()][::-1]


def test_a_copy_that_lags_loads_a_snapshot_while_it_is_read(cluster: Cluster) -> None:
    """Into the open file, in one transaction: a reader stays connected and sees the old or the new state."""
    append(cluster, 1, 2, fingerprint="here")
    cluster.copy.follow()
    reader = open_reader(cluster.folder / "copy")
    assert numbers(reader) == [1, 2]
    removal = PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(1))
    cluster.writer.append([removal], NOW)
    for number in (3, 4):
        append(cluster, number)
        publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
    append(cluster, 5)
    with capture_logs() as logs:
        cluster.copy.follow()
    assert [entry["event"] for entry in logs] == ["cluster_snapshot_loaded"]
    assert numbers(reader) == [1, 2, 3, 4, 5]
    assert content(cluster.folder / "copy") == content(cluster.folder / "writer")
    reader.close()


def test_a_writer_that_lags_loads_a_snapshot(cluster: Cluster) -> None:
    """A machine that was off for a day takes over, and publishes only what it wrote afterwards."""
    append(cluster, 1)
    for number in (2, 3):
        append(cluster, number)
        publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
    cluster.standby.take_over()
    entries = len(cluster.broker.entries)
    cluster.standby.append([written(position(4, [order(4)]))], NOW)
    assert len(cluster.broker.entries) == entries + 1
    cluster.copy.follow()
    assert content(cluster.folder / "copy") == content(cluster.folder / "standby")
    assert numbers(cluster.copy) == [1, 2, 3, 4]


def test_a_snapshot_on_a_full_disk(cluster: Cluster, tmp_path: Path) -> None:
    """Neither making nor loading one harms the copy; a deleted log is not created by reading it."""
    for number in (1, 2):
        append(cluster, number)
        publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
    with file_size_limit(20_000):
        with pytest.raises(LogUnwritableError):
            publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
        with pytest.raises(LogUnwritableError):
            cluster.copy.follow()
    assert numbers(cluster.copy) == []
    cluster.copy.follow()
    assert numbers(cluster.copy) == [1, 2]
    with pytest.raises(LogUnwritableError):
        publish_snapshot(cluster.broker, log_path(tmp_path))
    assert not log_path(tmp_path).exists()


def test_purged_entries_without_a_snapshot(cluster: Cluster, tmp_path: Path) -> None:
    """The copy stays as it is; so does one whose snapshot is damaged, or of a newer version."""
    append(cluster, 1, 2)
    info = publish_snapshot(cluster.broker, log_path(cluster.folder / "writer"))
    append(cluster, 3)
    cluster.broker.purge(info.index)
    pieces = cluster.broker.stored[info.name][1]
    newer = msgspec.structs.replace(info, schema=SCHEMA_VERSION + 1)
    for stored, text in (
        ({}, "no snapshot"),
        ({info.name: (newer, pieces)}, "no snapshot"),
        ({info.name: (info, [pieces[0][:-9] + b"x" * 9])}, "damaged"),
        ({info.name: (info, [b"x"])}, "damaged"),
    ):
        cluster.broker.stored = stored
        with pytest.raises(BrokerError, match=text):
            cluster.copy.follow()
        with pytest.raises((BrokerError, LogMissingError)):
            open_copy(tmp_path / "new", cluster.broker, Copy)
        assert numbers(cluster.copy) == []
        assert not [path for path in cluster.copy._data_dir.iterdir() if path.name.startswith("copy-")]
    cluster.broker.stored = {info.name: (info, pieces)}
    cluster.copy.follow()
    assert numbers(cluster.copy) == [1, 2, 3]
