"""The contract of every log: state and notifications (docs/architecture.md, "The event log")."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from ptn_api.errors import LogPrunedError
from ptn_api.event_log import (
    CommitListener,
    Document,
    DocumentWritten,
    EventLogWriter,
    Head,
    SourceStatus,
    sqlite_reader,
)
from tests.event_log.conftest import MakeLog
from tests.event_log.reading import DAY, FIRST, NOW, announced, numbers, order_numbers, removal, the_position
from tests.factories import MINER, OTHER_MINER, T0, order, position, uuid, written
from tests.waiting import PATIENCE_S

# --- the positions of an event ----------------------------------------------------------------------------


def test_the_orders_of_an_event_include_later_corrections(log: EventLogWriter) -> None:
    """A replayed message shows the position's orders as they are now; the event's own order stands."""
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    log.append([written(position(1, [order(1, price=55.5), order(2)]))], NOW)
    second = announced(log)[1]
    assert json.loads(second.orders[0])["price"] == 55.5
    assert json.loads(announced(log)[0].order)["price"] == 101.0


def test_a_removed_positions_events_can_be_read(log: EventLogWriter) -> None:
    """Its orders are kept as long as an event needs them."""
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    log.append([removal(1)], NOW)
    assert [order_numbers(event.orders) for event in announced(log)] == [[1], [1, 2]]


def test_an_order_removed_from_its_list_follows_what_remains(log: EventLogWriter) -> None:
    """The remaining predecessors, then the order as announced."""
    log.append([written(position(1, [order(n) for n in (1, 2, 3, 4)]))], NOW)
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    assert [order_numbers(e.orders) for e in announced(log)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4]]
    log.append([written(position(1, [order(1), order(5)]))], NOW)
    assert [order_numbers(e.orders) for e in announced(log)] == [[1], [1, 2], [1, 3], [1, 4], [1, 5]]
    log.append([written(position(1, [order(5)]))], NOW)
    assert [order_numbers(e.orders) for e in announced(log)] == [[1], [2], [3], [4], [5]]


def test_an_order_that_returned_is_shown_in_its_list_again(log: EventLogWriter) -> None:
    """At its present index, after those before it now."""
    log.append([written(position(1, [order(1), order(2), order(3)]))], NOW)
    log.append([written(position(1, [order(1)]))], NOW)
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    assert [order_numbers(e.orders) for e in announced(log)] == [[1], [1, 2], [1, 3]]


# --- the state --------------------------------------------------------------------------------------------


def test_positions_are_sorted_by_revision(log: EventLogWriter) -> None:
    """All of them, one miner's, or those changed after a revision."""
    log.append([written(position(n, [order(n)])) for n in (1, 2, 3)], NOW)
    log.append([written(position(4, [order(4)], miner=OTHER_MINER))], NOW)
    log.append([written(position(1, [order(1)], current_return=1.2))], NOW)
    assert [p.position_uuid for p in log.positions()] == [uuid(n) for n in (2, 3, 4, 1)]
    assert [p.revision for p in log.positions(since_revision=3)] == [4, 5]
    assert [p.position_uuid for p in log.positions(miner=OTHER_MINER)] == [uuid(4)]
    assert list(log.positions(miner="5nobody")) == []
    assert log.hotkeys() == sorted([MINER, OTHER_MINER])


def test_a_position_is_kept_as_its_text(log: EventLogWriter) -> None:
    """Unknown keys, key order and the orders' own texts are preserved."""
    body = position(1, [order(1, mystery={"a": [1, 2]})], closed=True, novelty="yes")
    log.append([written(body)], NOW)
    found = the_position(log)
    assert json.loads(found.text.json()) == body
    assert list(json.loads(found.text.json())) == list(body)
    assert found.close_ms == body["close_ms"]
    assert log.position(MINER, uuid(2)) is None


def test_more_positions_than_one_batch(log: EventLogWriter) -> None:
    """Each is read once, in order."""
    log.append([written(position(n, [order(n)])) for n in range(1, 2502)], NOW)
    assert [p.revision for p in log.positions()] == list(range(1, 2502))


def test_positions_that_are_open_or_closed_recently(log: EventLogWriter) -> None:
    """A close time at the limit is included; a close_ms of 0 means open, like null."""
    log.append(
        [
            written(position(1, [order(1)], closed=True)),
            written(position(2, [order(2)], closed=True)),
            written(position(3, [order(3)])),
            written(position(4, [order(4)], close_ms=0)),
        ],
        NOW,
    )
    found = log.positions_of(MINER, open_or_closed_since_ms=T0 + 2000)
    assert [p.position_uuid for p in found] == [uuid(2), uuid(3), uuid(4)]
    assert [p.close_ms for p in found] == [T0 + 2000, None, None]
    assert log.positions_of(OTHER_MINER, open_or_closed_since_ms=0) == []


def test_order_revisions_show_which_orders_changed(log: EventLogWriter) -> None:
    """Each is the revision at which its order was added or changed; appending keeps the layout revision."""
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    assert (the_position(log).order_revisions, the_position(log).layout_revision) == ((1, 1), 0)
    log.append([written(position(1, [order(1), order(2, price=5.0), order(3)]))], NOW)
    assert (the_position(log).order_revisions, the_position(log).layout_revision) == ((1, 2, 2), 0)
    log.append([written(position(1, [order(1), order(2, price=5.0), order(3)], realized_pnl=1.0))], NOW)
    assert (the_position(log).order_revisions, the_position(log).layout_revision) == ((1, 2, 2), 0)


@pytest.mark.parametrize(
    ("after", "revisions"),
    [
        ([1, 3], (1, 1)),
        ([2, 1, 3], (1, 1, 1)),
        ([1, 4, 2, 3], (1, 2, 1, 1)),
        ([], ()),
    ],
    ids=["removed", "moved", "inserted", "emptied"],
)
def test_the_layout_revision_shows_when_the_list_was_rearranged(
    log: EventLogWriter, after: list[int], revisions: tuple[int, ...]
) -> None:
    """Removed, moved or inserted orders change it; the remaining orders keep their revisions."""
    log.append([written(position(1, [order(n) for n in (1, 2, 3)]))], NOW)
    log.append([written(position(1, [order(n) for n in after]))], NOW)
    assert the_position(log).layout_revision == 2
    assert the_position(log).order_revisions == revisions


def test_a_position_that_returned_has_changed_completely(log: EventLogWriter) -> None:
    """A reader that saw the removal discarded its orders; others must see a new layout."""
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    log.append([removal(1)], NOW)
    log.append([written(position(1, [order(1)]))], NOW)
    assert log.removed(0) == []
    assert the_position(log).order_revisions == (3,)
    assert the_position(log).layout_revision == 3


@pytest.mark.parametrize("few_changes", [0, 2_000])
def test_removed_positions_leave_tombstones(
    log: EventLogWriter, few_changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal has a revision and is reported for every older one, however long ago that was."""
    monkeypatch.setattr(sqlite_reader, "_FEW_CHANGES", few_changes)
    log.append([written(position(n, [order(n)])) for n in (1, 2)], NOW)
    head = log.append([removal(1), removal(1), removal(9)], NOW)
    assert head.revision == 3
    assert [(r.position_uuid, r.revision) for r in log.removed(2)] == [(uuid(1), 3)]
    assert log.removed(3) == []
    assert log.position(MINER, uuid(1)) is None
    assert [p.position_uuid for p in log.positions()] == [uuid(2)]
    assert [p.position_uuid for p in log.positions_of(MINER, open_or_closed_since_ms=0)] == [uuid(2)]
    assert (MINER, uuid(1)) not in log.fingerprints()


def test_a_miner_without_positions_is_not_listed(log: EventLogWriter) -> None:
    """`hotkeys` names the miners that have a position now."""
    log.append([written(position(1, [order(1)]))], NOW)
    log.append([removal(1)], NOW)
    assert log.hotkeys() == []


def test_removals_from_before_the_oldest_revision_are_an_error(make_log: MakeLog) -> None:
    """Their tombstones may have been pruned, so the answer would be incomplete."""
    log = make_log(retention_ms=DAY)
    log.baseline([], T0)
    log.append([written(position(n, [order(n)])) for n in (1, 2)], NOW)
    log.append([removal(1)], NOW)
    log.append([removal(2)], NOW + DAY)
    log.prune(NOW + DAY + 1)
    assert log.oldest_revision() == 3
    with pytest.raises(LogPrunedError):
        log.removed(2)
    with pytest.raises(LogPrunedError):
        log.changes(2)
    assert [r.position_uuid for r in log.removed(3)] == [uuid(2)]


def test_changes_are_one_snapshot(log: EventLogWriter) -> None:
    """Head, changed positions and removed positions are consistent."""
    log.append([written(position(n, [order(n)])) for n in (1, 2, 3)], NOW)
    log.append([removal(1), written(position(2, [order(2)], current_return=2.0))], NOW)
    head, changed, removed = log.changes(3)
    assert head == log.head()
    assert [p.position_uuid for p in changed] == [uuid(2)]
    assert [r.position_uuid for r in removed] == [uuid(1)]
    _, changed, removed = log.changes(0)
    assert [p.position_uuid for p in changed] == [uuid(3), uuid(2)]
    assert [r.position_uuid for r in removed] == [uuid(1)]


def test_fingerprints_are_updated_without_a_revision(log: EventLogWriter) -> None:
    """A file rewritten with the same content is recognised the next time; the state is unchanged."""
    log.append([written(position(1, [order(1)]), fingerprint="a")], NOW)
    log.append([DocumentWritten(document=Document.STATISTICS, content=b"{}", fingerprint="s")], NOW)
    assert log.fingerprints() == {(MINER, uuid(1)): "a"}
    assert log.document_fingerprints() == {(Document.STATISTICS, ""): "s"}
    head = log.append([written(position(1, [order(1)]), fingerprint="b")], NOW)
    log.append([DocumentWritten(document=Document.STATISTICS, content=b"{}", fingerprint="t")], NOW)
    assert log.head() == head == Head(sequence=FIRST, revision=2)
    assert log.fingerprints() == {(MINER, uuid(1)): "b"}
    assert log.document_fingerprints() == {(Document.STATISTICS, ""): "t"}


# --- documents, source ------------------------------------------------------------------------------------


def test_each_document_has_its_own_revision(log: EventLogWriter) -> None:
    """It moves with the content only; a deleted document reads as None."""
    assert log.document(Document.ELIMINATIONS) is None
    assert log.document_revision(Document.ELIMINATIONS) == 0
    log.append([DocumentWritten(document=Document.ELIMINATIONS, content=b'{"eliminations":[]}')], NOW)
    log.append([DocumentWritten(document=Document.MINERS, content=b"[]")], NOW)
    assert log.document(Document.ELIMINATIONS) == b'{"eliminations":[]}'
    assert log.document_revision(Document.ELIMINATIONS) == 1
    assert log.document_revision(Document.MINERS) == 2
    gone = DocumentWritten(document=Document.ELIMINATIONS, content=None)
    log.append([gone, gone], NOW)
    assert log.document(Document.ELIMINATIONS) is None
    assert log.document_revision(Document.ELIMINATIONS) == 3
    assert log.head().revision == 3
    assert (Document.ELIMINATIONS, "") not in log.document_fingerprints()


def test_each_miner_has_its_own_document(log: EventLogWriter) -> None:
    """Documents of a kind are written, read and deleted by miner; the largest revision is the kind's."""
    orders = Document.LIMIT_ORDERS
    assert log.document_revisions(orders) == {}
    log.append([DocumentWritten(document=orders, miner_hotkey="b", content=b"[1]", fingerprint="f")], NOW)
    log.append([DocumentWritten(document=orders, miner_hotkey="a", content=b"[2]")], NOW)
    assert log.document(orders, "a") == b"[2]"
    assert log.document(orders, "b") == b"[1]"
    assert log.document(orders, "c") is None
    assert log.document_revisions(orders) == {"a": 2, "b": 1}
    assert log.document_fingerprints() == {(orders, "a"): "", (orders, "b"): "f"}
    log.append([DocumentWritten(document=orders, miner_hotkey="b", content=None)], NOW)
    assert log.document_revisions(orders) == {"a": 2}
    assert log.document_revision(orders) == 3
    assert log.document(orders, "b") is None


def test_changed_documents_are_listed_since_a_revision(log: EventLogWriter) -> None:
    """Written or deleted ones, of any miner, in one call."""
    orders = Document.LIMIT_ORDERS
    log.append([DocumentWritten(document=Document.STATISTICS, content=b"{}")], NOW)
    log.append([DocumentWritten(document=orders, miner_hotkey=hotkey, content=b"[]") for hotkey in "ab"], NOW)
    assert log.documents_changed(0) == {(Document.STATISTICS, ""), (orders, "a"), (orders, "b")}
    assert log.documents_changed(2) == {(orders, "b")}
    log.append([DocumentWritten(document=orders, miner_hotkey="a", content=None)], NOW)
    assert log.documents_changed(3) == {(orders, "a")}
    assert log.documents_changed(log.head().revision) == set()


def test_deleted_documents_are_forgotten_after_the_retention(make_log: MakeLog) -> None:
    """The miners that come and go leave nothing behind, and a kind's revision never decreases."""
    log = make_log(retention_ms=DAY)
    log.baseline([], T0)
    orders, snapshots = Document.LIMIT_ORDERS, Document.SNAPSHOTS
    for hotkey in "abc":
        log.append([DocumentWritten(document=orders, miner_hotkey=hotkey, content=b"[1]")], NOW)
    log.append([DocumentWritten(document=snapshots, miner_hotkey="a", content=b"[]")], NOW)
    for document, hotkey in ((orders, "a"), (orders, "b"), (snapshots, "a")):
        log.append([DocumentWritten(document=document, miner_hotkey=hotkey, content=None)], NOW)
    log.prune(NOW + DAY)
    assert log.documents_changed(0) == {(orders, "a"), (orders, "b"), (orders, "c"), (snapshots, "a")}
    assert log.oldest_revision() == 0
    log.prune(NOW + DAY + 1)
    assert log.documents_changed(0) == {(orders, "b"), (orders, "c"), (snapshots, "a")}
    assert log.document_revision(orders) == 6
    assert log.oldest_revision() == 5
    log.append([DocumentWritten(document=orders, miner_hotkey="a", content=b"[2]")], NOW)
    assert log.document(orders, "a") == b"[2]"


def test_large_documents_are_read_completely(log: EventLogWriter) -> None:
    """Also after replacing a document of many chunks, twice."""
    contents = [json.dumps([i * 7919 % k for i in range(700_000)]).encode() for k in (99991, 99989)]
    for content in contents:
        log.append([DocumentWritten(document=Document.PERF_LEDGERS, content=content)], NOW)
        assert log.document(Document.PERF_LEDGERS) == content
    log.append([DocumentWritten(document=Document.PERF_LEDGERS, content=contents[1])], NOW)
    assert log.document_revision(Document.PERF_LEDGERS) == 2


def test_documents_belong_to_the_baseline(make_log: MakeLog) -> None:
    """The first scan contains documents of any size along with the positions."""
    log = make_log()
    content = json.dumps(list(range(400_000))).encode()
    log.baseline([DocumentWritten(document=Document.STATISTICS, content=content)], NOW)
    assert log.document(Document.STATISTICS) == content


def test_source_status_makes_no_revision(log: EventLogWriter) -> None:
    """The freshness of the source is not part of the state."""
    status = SourceStatus(swept_ms=NOW, stale=True, reason="mass_removal", invalid=3, watching=False)
    log.set_source(status)
    assert log.source() == status
    assert log.head().revision == 0


# --- commit notifications ---------------------------------------------------------------------------------


async def notified(commits: CommitListener) -> None:
    """Fails unless a notification arrives, long before the listener's own timeout."""
    await asyncio.wait_for(commits.wait_for_commit(600_000), PATIENCE_S)


async def test_a_commit_notifies_every_listener(log: EventLogWriter) -> None:
    """Also after an append in another thread."""
    listeners = [log.commit_listener(), log.commit_listener()]
    thread = threading.Thread(target=lambda: log.append([written(position(1, [order(1)]))], NOW))
    thread.start()
    for commits in listeners:
        await notified(commits)
        commits.close()
    thread.join()
    assert numbers(log) == [1]


async def test_a_pending_notification_is_not_missed(log: EventLogWriter) -> None:
    """A commit before the wait ends the wait at once, and only that one wait."""
    commits = log.commit_listener()
    log.set_source(SourceStatus(stale=True))
    await notified(commits)
    waiting = asyncio.ensure_future(commits.wait_for_commit(600_000))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    log.set_source(SourceStatus(stale=False))
    await asyncio.wait_for(waiting, PATIENCE_S)
    commits.close()


async def test_an_append_that_changes_nothing_notifies_no_listener(log: EventLogWriter) -> None:
    """The wait ends at its timeout."""
    change = written(position(1, [order(1)]))
    log.append([change], NOW)
    commits = log.commit_listener()
    log.append([change], NOW)
    waiting = asyncio.ensure_future(commits.wait_for_commit(300))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    await asyncio.wait_for(waiting, PATIENCE_S)
    commits.close()
