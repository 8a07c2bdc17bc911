"""The writer of a cluster's log: appends while the broker, the disk or another writer fails."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.cluster import commit
from ptn_api.cluster.chain import Verdict
from ptn_api.cluster.commit import decode_part
from ptn_api.errors import LogFencedError, LogUnwritableError
from ptn_api.event_log import Change, Document, DocumentWritten, PositionWritten, SourceStatus
from ptn_api.event_log.documents import LARGE_BYTES
from tests.cluster.conftest import Cluster
from tests.cluster.machines import content, machine
from tests.cluster.memory_broker import Fault
from tests.event_log.reading import FIRST, NOW, numbers
from tests.factories import MINER, order, position, uuid, written


def text_with(number: int) -> PositionWritten:
    """A position with one order, both of that number."""
    return written(position(number, [order(number)]))


def same_everywhere(cluster: Cluster) -> bool:
    """Whether all machines have the same content once they have followed."""
    for log in (cluster.writer, cluster.standby, cluster.copy):
        log.follow()
    contents = [content(cluster.folder / name) for name in ("writer", "standby", "copy")]
    return contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("checking", [True, False])
def test_an_order_is_announced_once_whatever_its_request_suffers(
    cluster: Cluster, fault: Fault, checking: bool
) -> None:
    """The append returns with it, and the next sequences follow."""
    cluster.broker.checking = checking
    for number in (1, 2, 3):
        cluster.broker.faults.append(fault)
        head = cluster.writer.append([text_with(number)], NOW)
        cluster.broker.deliver_late()
    assert head.sequence == FIRST + 2
    assert same_everywhere(cluster)
    assert numbers(cluster.copy) == [1, 2, 3]


def test_an_unreachable_broker_makes_the_log_unwritable(cluster: Cluster) -> None:
    """Nothing changed, and the same append succeeds once the broker is back."""
    head = cluster.writer.append([text_with(1)], NOW)
    cluster.broker.down = True
    for _ in range(2):
        with pytest.raises(LogUnwritableError):
            cluster.writer.append([text_with(2)], NOW)
    assert cluster.writer.head() == head
    assert numbers(cluster.writer) == [1]
    cluster.broker.down = False
    cluster.writer.append([text_with(2)], NOW)
    assert numbers(cluster.writer) == [1, 2]
    assert same_everywhere(cluster)


def test_an_append_that_failed_may_have_been_stored(cluster: Cluster) -> None:
    """Then the next call finds it in the stream, and publishes nothing."""
    cluster.broker.faults.extend([Fault.ACK_LOST, Fault.DOWN, Fault.DOWN])
    cluster.broker.stale = 1
    with pytest.raises(LogUnwritableError):
        cluster.writer.append([text_with(1)], NOW)
    cluster.broker.stale = 0
    entries = len(cluster.broker.entries)
    cluster.writer.append([text_with(1)], NOW)
    assert len(cluster.broker.entries) == entries
    assert numbers(cluster.writer) == [1]
    assert same_everywhere(cluster)


def test_a_full_disk_after_the_acknowledgement(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer takes its own commit from the stream before it builds on it."""
    publish = type(cluster.writer)._publish

    def full(self: object, db: sqlite3.Connection, *others: object) -> None:
        publish(self, db, *others)  # type: ignore[arg-type]
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(type(cluster.writer), "_publish", full)
        with pytest.raises(LogUnwritableError, match="full"):
            cluster.writer.append([text_with(1)], NOW)
    assert numbers(cluster.writer) == []
    cluster.writer.append([text_with(2)], NOW)
    assert numbers(cluster.writer) == [1, 2]
    assert same_everywhere(cluster)


def test_a_baseline_without_acknowledgement_is_repeated(tmp_path: Path, cluster: Cluster) -> None:
    """Its changes are read once, so its caller scans again."""
    cluster.broker.faults.append(Fault.ACK_LOST)
    with pytest.raises(LogUnwritableError):
        cluster.writer.baseline(iter([text_with(1)]), NOW)
    cluster.writer.baseline(iter([text_with(1)]), NOW)
    assert cluster.writer.ready()
    assert numbers(cluster.writer) == [1]
    assert same_everywhere(cluster)


# --- taking over ------------------------------------------------------------------------------------------


def test_the_former_writer_is_fenced(cluster: Cluster) -> None:
    """Its next append changes nothing, here or elsewhere, until it takes over in turn."""
    cluster.writer.append([text_with(1)], NOW)
    cluster.standby.take_over()
    assert cluster.standby.active
    assert cluster.standby.term == 2
    for _ in range(2):
        with pytest.raises(LogFencedError):
            cluster.writer.append([text_with(2)], NOW)
    assert not cluster.writer.active
    cluster.standby.append([text_with(3)], NOW)
    assert same_everywhere(cluster)
    cluster.writer.take_over()
    cluster.writer.append([text_with(4)], NOW)
    with pytest.raises(LogFencedError):
        cluster.standby.append([text_with(5)], NOW)
    assert numbers(cluster.writer) == [1, 3, 4]
    assert same_everywhere(cluster)


@pytest.mark.parametrize("checking", [True, False])
def test_of_two_machines_that_take_over_at_once_one_does(
    cluster: Cluster, checking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one sees that it came second, and does not take the log away from the first."""
    cluster.broker.checking = checking
    publish = cluster.broker.publish

    def overtaken(payload: bytes, *, expected: int) -> int:
        monkeypatch.undo()
        cluster.standby.take_over()
        return publish(payload, expected=expected)

    monkeypatch.setattr(cluster.broker, "publish", overtaken)
    with pytest.raises(LogFencedError):
        cluster.writer.take_over()
    assert cluster.standby.active
    assert not cluster.writer.active
    cluster.standby.append([text_with(1)], NOW)
    assert same_everywhere(cluster)


@pytest.mark.parametrize("fault", Fault)
def test_taking_over_is_one_commit(cluster: Cluster, fault: Fault) -> None:
    """Also without an acknowledgement; without a broker it fails, and changes nothing."""
    cluster.broker.faults.append(fault)
    cluster.standby.take_over()
    assert cluster.standby.active
    assert cluster.standby.term == 2
    cluster.broker.down = True
    with pytest.raises(LogUnwritableError):
        cluster.writer.take_over()
    assert cluster.writer.term == 1


def test_a_machine_that_never_took_over_writes_nothing(cluster: Cluster) -> None:
    """It may store fingerprints of its files, since they are local, and append what the log has."""
    with pytest.raises(LogFencedError):
        cluster.standby.append([text_with(1)], NOW)
    with pytest.raises(LogFencedError):
        cluster.standby.set_source(SourceStatus(stale=True))
    cluster.writer.append([written(position(1, [order(1)]), fingerprint="there")], NOW)
    cluster.standby.follow()
    cluster.standby.append([written(position(1, [order(1)]), fingerprint="here")], NOW)
    assert cluster.standby.fingerprints() == {(MINER, uuid(1)): "here"}
    assert cluster.writer.fingerprints() == {(MINER, uuid(1)): "there"}
    assert same_everywhere(cluster)


def test_a_writer_that_missed_its_successor_is_void(cluster: Cluster) -> None:
    """Even if the broker does not check: all copies ignore what it publishes."""
    cluster.broker.checking = False
    cluster.standby.take_over()
    cluster.standby.append([text_with(1)], NOW)
    with pytest.raises(LogFencedError):
        cluster.writer.append([text_with(2)], NOW)
    assert same_everywhere(cluster)
    assert numbers(cluster.copy) == [1]
    assert cluster.copy.counts[Verdict.VOID.value] == 1


def test_a_restarted_writer_takes_over_from_itself(cluster: Cluster) -> None:
    """A late request of the killed process must be void."""
    cluster.broker.faults.extend([Fault.LATE] * 3)
    with pytest.raises(LogUnwritableError):
        cluster.writer.append([text_with(1)], NOW)
    cluster.writer.close()
    again = machine(cluster.folder / "writer", cluster.broker)
    with pytest.raises(LogFencedError):
        again.append([text_with(2)], NOW)
    again.take_over()
    again.append([text_with(2)], NOW)
    cluster.broker.deliver_late()
    assert same_everywhere(cluster._replace(writer=again))
    assert numbers(again) == [2]
    again.close()


def test_opening_publishes_nothing(cluster: Cluster) -> None:
    """Not even to clean up what a killed writer left."""
    cluster.writer.append(
        [DocumentWritten(document=Document.STATISTICS, content=os.urandom(99).hex().encode())], NOW
    )
    entries = len(cluster.broker.entries)
    machine(cluster.folder / "new", cluster.broker).close()
    assert len(cluster.broker.entries) == entries


# --- what travels -----------------------------------------------------------------------------------------


def test_what_changes_nothing_publishes_nothing(cluster: Cluster) -> None:
    """A repeated append, a refreshed fingerprint, and pruning without anything to prune."""
    change = written(position(1, [order(1)]), fingerprint="a")
    statistics = DocumentWritten(document=Document.STATISTICS, content=b"{}", fingerprint="a")
    cluster.writer.append([change, statistics], NOW)
    entries = len(cluster.broker.entries)
    cluster.writer.append([change, statistics], NOW)
    refreshed = written(position(1, [order(1)]), fingerprint="b")
    cluster.writer.append(
        [refreshed, DocumentWritten(document=Document.STATISTICS, content=b"{}", fingerprint="b")], NOW
    )
    cluster.writer.prune(NOW)
    assert cluster.writer.fingerprints() == {(MINER, uuid(1)): "b"}
    assert cluster.writer.document_fingerprints() == {(Document.STATISTICS, ""): "b"}
    assert len(cluster.broker.entries) == entries
    assert same_everywhere(cluster)
    assert cluster.copy.fingerprints() == {(MINER, uuid(1)): ""}
    assert cluster.copy.document_fingerprints() == {(Document.STATISTICS, ""): ""}


def test_another_machines_text_clears_the_fingerprint(cluster: Cluster) -> None:
    """The file here may have another content, so it must be read after a take-over."""
    cluster.writer.append([written(position(1, [order(1)]), fingerprint="a")], NOW)
    cluster.standby.take_over()
    cluster.standby.append([written(position(1, [order(1), order(2)]), fingerprint="b")], NOW)
    cluster.writer.follow()
    assert cluster.writer.fingerprints() == {(MINER, uuid(1)): ""}


def test_an_append_of_any_size_is_one_commit(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daily synchronisation changes thousands of positions; an entry stays below the broker's limit."""
    monkeypatch.setattr(commit, "PART_BYTES", 2_000)
    changes = [written(position(n, [order(n)], note=os.urandom(50).hex())) for n in range(300)]
    before = len(cluster.broker.entries)
    head = cluster.writer.append(changes, NOW)
    parts = [decode_part(entry.payload) for entry in cluster.broker.entries[before:]]
    assert len(parts) > 10
    assert len({part.link.commit_id for part in parts}) == 1
    assert max(len(entry.payload) for entry in cluster.broker.entries) < 2_200
    assert same_everywhere(cluster)
    assert cluster.copy.head() == head


def test_chunks_that_another_machine_has_deleted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had the turn between the chunks of a large document and the document itself."""
    write_ahead = cluster.writer._write_ahead

    def interrupted(*arguments: Any) -> None:
        write_ahead(*arguments)
        cluster.standby.take_over()
        cluster.standby.delete_unused_chunks()
        cluster.writer.take_over()

    monkeypatch.setattr(cluster.writer, "_write_ahead", interrupted)
    content = random.Random(1).randbytes(LARGE_BYTES)
    cluster.writer.append([DocumentWritten(document=Document.STATISTICS, content=content)], NOW)
    cluster.standby.follow()
    for log in (cluster.writer, cluster.standby):
        assert log.find_damage() == []
        assert log.document(Document.STATISTICS) == content


def test_an_abandoned_commit_is_void(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its parts are in the stream, the next attempt is another commit."""
    monkeypatch.setattr(commit, "PART_BYTES", 300)
    for faults in (
        [Fault.NONE, Fault.LOST],
        [Fault.NONE, Fault.ACK_LOST],
        [Fault.NONE, Fault.NONE, Fault.LATE],
    ):
        cluster.broker.faults.clear()
        cluster.broker.faults.extend(faults)
        cluster.writer.append([text_with(cluster.writer.head().revision + 1)], NOW)
        cluster.broker.deliver_late()
    assert same_everywhere(cluster)
    assert len(numbers(cluster.copy)) == 3


def test_orders_and_documents_from_two_threads(cluster: Cluster) -> None:
    """Each chunk of a large document is a commit, and orders go in between."""
    documents = [
        DocumentWritten(document=Document.STATISTICS, content=os.urandom(1 << 20).hex().encode())
        for _ in range(2)
    ]
    thread = threading.Thread(target=lambda: [cluster.writer.append([it], NOW) for it in documents])
    thread.start()
    for number in range(1, 31):
        cluster.writer.append([text_with(number)], NOW)
    thread.join()
    cluster.writer.prune(NOW)
    assert same_everywhere(cluster)
    assert numbers(cluster.copy) == list(range(1, 31))
    assert cluster.copy.document(Document.STATISTICS) == documents[-1].content


def test_a_new_connection_records_too(cluster: Cluster) -> None:
    """SQLite's connection is replaced after an error; nothing may be missing elsewhere."""
    cluster.writer.append([text_with(1)], NOW)
    assert cluster.writer._writer is not None
    cluster.writer._writer.close()
    cluster.writer._writer = None
    cluster.writer.append([text_with(2)], NOW)
    assert same_everywhere(cluster)
    assert numbers(cluster.copy) == [1, 2]


def test_a_refused_change_does_not_travel(cluster: Cluster) -> None:
    """A change that the schema refuses is skipped on every machine, and counted."""
    broken = written(position(2, [order(2)]), extra=None)
    cluster.writer.append([text_with(1), broken], NOW)
    assert same_everywhere(cluster)
    assert cluster.copy.counters()["skipped"] == 1


def test_an_error_from_the_changes_leaves_nothing(cluster: Cluster) -> None:
    """Neither here nor in the stream."""
    entries = len(cluster.broker.entries)

    def scan() -> Iterator[Change]:
        yield text_with(1)
        raise FileNotFoundError("the validator's directory vanished")

    with pytest.raises(FileNotFoundError):
        cluster.writer.baseline(scan(), NOW)
    assert len(cluster.broker.entries) == entries
    cluster.writer.append([text_with(2)], NOW)
    assert same_everywhere(cluster)
    assert numbers(cluster.copy) == [2]
