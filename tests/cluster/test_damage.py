"""Damage of a machine's file: the copy is loaded again, and the damage reaches no other machine."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ptn_api.cluster.broker import Entry
from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.cluster.snapshot import publish_snapshot
from ptn_api.errors import BrokerError, LogDamagedError, LogError, LogUnusableError
from ptn_api.event_log import open_reader
from ptn_api.event_log.contract import Lost
from ptn_api.event_log.damage import CHECKED_COLUMNS, row_checksum
from ptn_api.event_log.database import log_path
from tests.cluster.conftest import Cluster
from tests.cluster.machines import content, machine
from tests.cluster.memory_broker import MemoryBroker
from tests.event_log.reading import FIRST, NOW, announced
from tests.event_log.test_damage import change, fill, flipped
from tests.event_log.test_sqlite_writer import file_size_limit
from tests.factories import T0, order, position, written
from tests.intake.running import running
from tests.intake.validator_dir import ValidatorDir
from tests.properties import tries
from tests.waiting import PATIENCE_S, until

COLUMNS = {
    "log": "sequence = sequence + 1",
    "positions": "header = '{}'",
    "orders": "text = '{}'",
    "removed_orders": "before = before + 1",
    "seen": "processed_ms = 7",
    "events": "order_text = '{}'",
    "documents": "digest = x'00'",
    "chunks": "content = x'00'",
}
"""A change of each table's rows behind the log's back."""


@pytest.fixture
def filled(cluster: Cluster) -> Cluster:
    """A cluster with something in every table, and every machine complete."""
    fill(cluster.writer)
    for log in (cluster.standby, cluster.copy):
        log.confirm()
    return cluster


def contents(cluster: Cluster) -> list[object]:
    return [content(cluster.folder / name) for name in ("writer", "standby", "copy")]


@pytest.mark.parametrize("with_snapshot", [True, False])
def test_no_flipped_bit_outlives_a_repair(tmp_path: Path, with_snapshot: bool) -> None:
    """Wherever it is: the copy is equal to the other one again, and nothing was published.

    A file that cannot be opened is reported, and made again once it was moved away.
    """
    broker = MemoryBroker()
    found(broker, T0)
    writer = machine(tmp_path / "writer", broker)
    writer.take_over()
    fill(writer)
    if with_snapshot:
        publish_snapshot(broker, log_path(tmp_path / "writer"))
        broker.purge(broker.last() - 2)
        publish_snapshot(broker, log_path(tmp_path / "writer"))
    writer.append([written(position(50, [order(900)]))], NOW)
    truth, entries = checked(tmp_path / "writer"), len(broker.entries)
    original = open_copy(tmp_path / "copy2", broker, Copy)
    original.follow()
    original.close()
    data, random_ = log_path(tmp_path / "copy2").read_bytes(), random.Random(1)
    outcomes: Counter[str] = Counter()
    for n in range(tries(80).max_examples):
        data_dir = tmp_path / f"damaged-{n}"
        data_dir.mkdir()
        log_path(data_dir).write_bytes(flipped(data, random_))
        with capture_logs():
            outcomes[mended(data_dir, broker)] += 1
        assert checked(data_dir) == truth
        shutil.rmtree(data_dir)
    assert len(broker.entries) == entries
    assert outcomes["loaded again"] > outcomes["made again"]
    writer.close()


def mended(data_dir: Path, broker: MemoryBroker) -> str:
    try:
        copy = open_copy(data_dir, broker, Copy)
    except LogError:
        log_path(data_dir).unlink()
        open_copy(data_dir, broker, Copy).close()
        copy = open_copy(data_dir, broker, Copy)
        copy.follow()
        copy.close()
        return "made again"
    with contextlib.closing(copy):
        was_damaged = bool(copy.find_damage())
        assert copy.repair() == Lost()
        copy.follow()
        assert copy.find_damage() == []
        assert copy.damaged() == 0
    return "loaded again" if was_damaged else "undamaged"


def checked(data_dir: Path) -> object:
    """What checksums cover of the tables."""
    db = sqlite3.connect(log_path(data_dir))
    with contextlib.closing(db):
        return [
            sorted(db.execute(f"SELECT {columns} FROM {table}").fetchall(), key=repr)
            for table, columns in CHECKED_COLUMNS.items()
        ]


@pytest.mark.parametrize("table", COLUMNS)
@pytest.mark.parametrize("name", ["writer", "standby", "copy"])
def test_a_damaged_machine_is_loaded_again(filled: Cluster, name: str, table: str) -> None:
    """Whether it writes, stands by or only follows, while it is read; its readers go on."""
    before, entries = contents(filled), len(filled.broker.entries)
    log = getattr(filled, name)
    with contextlib.closing(open_reader(filled.folder / name)) as reader:
        head = reader.head()
        change(filled.folder / name, f"UPDATE {table} SET {COLUMNS[table]}")
        assert log.repair() == Lost()
        assert reader.head() == head
        assert reader.read(head.sequence - 1, 5)[0].sequence == head.sequence
        assert reader.behind_ms() == log.behind_ms() or log.behind_ms() is not None
    assert contents(filled) == before
    assert len(filled.broker.entries) == entries
    filled.writer.append([written(position(60, [order(901)]))], NOW)
    filled.standby.follow()
    filled.copy.follow()
    assert contents(filled)[0] == contents(filled)[1] == contents(filled)[2]
    assert filled.copy.head().sequence == head.sequence + 1


@contextlib.contextmanager
def following(copy: Copy) -> Iterator[list[BaseException]]:
    """The copy's thread during the block, and what ended it."""
    stop, errors = threading.Event(), []

    def run() -> None:
        try:
            copy.run(stop)
        except LogError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield errors
    finally:
        stop.set()
        thread.join()


def test_a_copy_that_follows_repairs_itself(filled: Cluster) -> None:
    """Periodically, and when it stops at a commit that does not fit it because of the damage."""
    for check_ms, damage in ((20, "UPDATE orders SET text = '{}'"), (60_000, "UPDATE log SET sequence = 7")):
        copy = open_copy(filled.folder / "other", filled.broker, Copy, check_ms=check_ms, pause_ms=1)
        with contextlib.closing(copy), following(copy) as errors:
            until(lambda: content(filled.folder / "other") == contents(filled)[0])
            change(filled.folder / "other", damage)
            filled.writer.append([written(position(check_ms, [order(check_ms)]))], NOW)
            until(lambda: errors or content(filled.folder / "other") == contents(filled)[0])
            assert not errors


def test_a_repair_on_a_full_disk_is_repeated(filled: Cluster) -> None:
    """The copy's thread goes on: it is repaired once there is room."""
    copy = open_copy(filled.folder / "other", filled.broker, Copy, check_ms=3_600_000, pause_ms=1)
    copy.follow()
    change(filled.folder / "other", "UPDATE log SET sequence = 7")
    filled.writer.append([written(position(60, [order(901)]))], NOW)
    with contextlib.closing(copy), capture_logs() as logs:
        with file_size_limit(1_000), following(copy) as errors:
            until(lambda: errors or any(line["event"] == "cluster_copy_stalled" for line in logs))
        assert not errors
        with following(copy) as errors:
            until(lambda: errors or content(filled.folder / "other") == contents(filled)[0])
        assert not errors


def test_a_copy_that_does_not_fit_and_is_intact_stops(filled: Cluster) -> None:
    """There is nothing to repair: the stream is of other machines than it was."""
    copy = open_copy(filled.folder / "other", filled.broker, Copy, check_ms=60_000)
    copy.follow()
    with contextlib.closing(sqlite3.connect(log_path(filled.folder / "other"))) as db:
        db.create_function("row_checksum", -1, row_checksum)
        db.execute("UPDATE log SET revision = 7")
        db.execute(f"UPDATE log SET crc = row_checksum({CHECKED_COLUMNS['log']})")
        db.commit()
    filled.writer.append([written(position(60, [order(901)]))], NOW)
    with contextlib.closing(copy), following(copy) as errors:
        until(lambda: errors)
    assert isinstance(errors[0], LogUnusableError)
    assert errors[0].code == "diverged"


def test_a_damaged_row_is_not_published(filled: Cluster) -> None:
    """Also if a transaction touches only another part of it; intake then repairs the log and repeats it."""
    change(filled.folder / "writer", "UPDATE positions SET header = '{}'")
    entries = len(filled.broker.entries)
    with pytest.raises(LogDamagedError), filled.writer._transaction() as (db, _):
        db.execute("UPDATE positions SET last_sequence = last_sequence + 1")
    assert len(filled.broker.entries) == entries
    filled.writer.repair()
    filled.writer.append([written(position(60, [order(901)]))], NOW)
    filled.standby.follow()
    filled.copy.follow()
    assert contents(filled)[0] == contents(filled)[1] == contents(filled)[2]


def test_no_snapshot_is_made_of_a_damaged_copy(filled: Cluster) -> None:
    """Others would start from it; entries are not purged either."""
    change(filled.folder / "writer", "UPDATE orders SET text = '{}'")
    for _ in range(3):
        with pytest.raises(LogDamagedError):
            publish_snapshot(filled.broker, log_path(filled.folder / "writer"))
    assert (filled.broker.snapshots(), filled.broker.purged) == ([], 0)
    filled.writer.repair()
    publish_snapshot(filled.broker, log_path(filled.folder / "writer"))


def test_orders_are_written_while_a_damaged_copy_is_fetched(filled: Cluster) -> None:
    """By the machine whose copy it is, if the damage does not concern them; they are in the new copy."""
    change(filled.folder / "writer", "UPDATE orders SET text = '{}' WHERE id = (SELECT min(id) FROM orders)")
    read, done = filled.broker.read, []

    def append() -> None:
        filled.writer.append([written(position(60, [order(901)]))], NOW)

    def read_later(after: int, max_bytes: int) -> list[Entry]:
        filled.broker.read = read  # type: ignore[method-assign]
        thread = threading.Thread(target=append, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        done.append(not thread.is_alive())
        return read(after, max_bytes)

    filled.broker.read = read_later  # type: ignore[method-assign]
    filled.writer.repair()
    assert done == [True]
    assert filled.writer.find_damage() == []
    filled.standby.follow()
    filled.copy.follow()
    assert contents(filled)[0] == contents(filled)[1] == contents(filled)[2]


def test_a_repair_without_a_broker_is_repeated(filled: Cluster) -> None:
    """Nor does a broker with less than the copy replace it; what is intact is served meanwhile."""
    before = contents(filled)
    change(filled.folder / "copy", "UPDATE orders SET text = '{}' WHERE id = (SELECT min(id) FROM orders)")
    head = filled.copy.head()
    filled.broker.down = True
    with pytest.raises(BrokerError):
        filled.copy.repair()
    filled.broker.down, filled.broker.stale = False, 1
    with pytest.raises(BrokerError, match="which this copy has"):
        filled.copy.repair()
    assert filled.copy.head() == head
    assert filled.copy.damaged() == 1
    filled.broker.stale = 0
    filled.copy.repair()
    assert contents(filled) == before
    assert [path.name for path in (filled.folder / "copy").glob("copy-*")] == []


async def test_intake_repairs_the_log_of_a_cluster(tmp_path: Path) -> None:
    """As soon as an order cannot be written because of the damage; the order is announced once."""
    validator, broker = ValidatorDir(tmp_path / "validator"), MemoryBroker()
    found(broker, T0)
    validator.write(position(1, [order(0, at=T0)]))
    log = machine(tmp_path / "first", broker)
    log.take_over()
    copy = open_copy(tmp_path / "copy", broker, Copy)
    async with running(tmp_path / "first", validator, log=log) as intake:
        await intake.swept()
        change(tmp_path / "first", "UPDATE log SET sequence = sequence + 1000")
        validator.write(position(1, [order(0, at=T0), order(1, at=T0 + 1)]))
        await intake.until(lambda: not log.damaged() and len(copy_events(copy)) == 1, "the order")
        await intake.swept()
    copy.follow()
    assert copy_events(copy) == [FIRST]
    assert content(tmp_path / "copy") == content(tmp_path / "first")
    copy.close()


def copy_events(copy: Copy) -> list[int]:
    copy.follow()
    return [event.sequence for event in announced(copy)]
