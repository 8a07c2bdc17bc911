"""What every log promises of its state and of notifications (docs/architecture.md, "The event log")."""

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
)
from tests.event_log.conftest import MakeLog
from tests.event_log.reading import DAY, FIRST, NOW, announced, numbers, order_numbers, removal, the_position
from tests.factories import MINER, OTHER_MINER, T0, order, position, uuid, written

# --- the positions of an event ----------------------------------------------------------------------------


def test_an_events_orders_are_as_corrected_since(log: EventLogWriter) -> None:
    """A full message of a replay shows the orders as the log knows them now; the order itself stands."""
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    log.append([written(position(1, [order(1, price=55.5), order(2)]))], NOW)
    second = announced(log)[1]
    assert json.loads(second.orders[0])["price"] == 55.5
    assert json.loads(announced(log)[0].order)["price"] == 101.0


def test_a_removed_positions_events_can_be_read(log: EventLogWriter) -> None:
    """The body is kept as long as an event needs it."""
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    log.append([removal(1)], NOW)
    assert [order_numbers(event.orders) for event in announced(log)] == [[1], [1, 2]]


def test_an_order_that_left_its_list_comes_last_after_what_remains(log: EventLogWriter) -> None:
    """The remaining predecessors, then the order as it was announced."""
    log.append([written(position(1, [order(n) for n in (1, 2, 3, 4)]))], NOW)
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    assert [order_numbers(e.orders) for e in announced(log)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4]]
    log.append([written(position(1, [order(1), order(5)]))], NOW)
    assert [order_numbers(e.orders) for e in announced(log)] == [[1], [1, 2], [1, 3], [1, 4], [1, 5]]
    log.append([written(position(1, [order(5)]))], NOW)
    assert [order_numbers(e.orders) for e in announced(log)] == [[1], [2], [3], [4], [5]]


def test_an_order_that_came_back_stands_in_its_list_again(log: EventLogWriter) -> None:
    """Departed and returned orders are shown where they stand now."""
    log.append([written(position(1, [order(1), order(2), order(3)]))], NOW)
    log.append([written(position(1, [order(1)]))], NOW)
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    assert [order_numbers(e.orders) for e in announced(log)] == [[1], [1, 2], [1, 3]]


# --- the state --------------------------------------------------------------------------------------------


def test_positions_come_in_the_order_of_their_revisions(log: EventLogWriter) -> None:
    """All, one miner's, or those changed after a revision."""
    log.append([written(position(n, [order(n)])) for n in (1, 2, 3)], NOW)
    log.append([written(position(4, [order(4)], miner=OTHER_MINER))], NOW)
    log.append([written(position(1, [order(1)], current_return=1.2))], NOW)
    assert [p.position_uuid for p in log.positions()] == [uuid(n) for n in (2, 3, 4, 1)]
    assert [p.revision for p in log.positions(since_revision=3)] == [4, 5]
    assert [p.position_uuid for p in log.positions(miner=OTHER_MINER)] == [uuid(4)]
    assert list(log.positions(miner="5nobody")) == []
    assert log.hotkeys() == sorted([MINER, OTHER_MINER])


def test_a_position_is_kept_as_its_text(log: EventLogWriter) -> None:
    """Unknown keys, their order and the orders' own text come back as they went in."""
    body = position(1, [order(1, mystery={"a": [1, 2]})], closed=True, novelty="yes")
    log.append([written(body)], NOW)
    found = the_position(log)
    assert json.loads(found.text.json()) == body
    assert list(json.loads(found.text.json())) == list(body)
    assert found.close_ms == body["close_ms"]
    assert log.position(MINER, uuid(2)) is None


def test_more_positions_than_one_read_holds(log: EventLogWriter) -> None:
    """Many positions are read in parts; all come, once, in order."""
    log.append([written(position(n, [order(n)])) for n in range(1, 2502)], NOW)
    assert [p.revision for p in log.positions()] == list(range(1, 2502))


def test_positions_that_are_open_or_closed_lately(log: EventLogWriter) -> None:
    """A close time at the limit counts; 0 means open, as null does."""
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


def test_order_revisions_tell_which_orders_changed(log: EventLogWriter) -> None:
    """Each order bears the revision at which it last changed or came; an append keeps the layout."""
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
    ids=["dropped", "moved", "inserted", "emptied"],
)
def test_layout_revision_tells_when_the_list_was_rearranged(
    log: EventLogWriter, after: list[int], revisions: tuple[int, ...]
) -> None:
    """Dropped, moved or inserted orders change the layout; the orders that stayed have not changed."""
    log.append([written(position(1, [order(n) for n in (1, 2, 3)]))], NOW)
    log.append([written(position(1, [order(n) for n in after]))], NOW)
    assert the_position(log).layout_revision == 2
    assert the_position(log).order_revisions == revisions


def test_a_position_that_came_back_has_changed_wholly(log: EventLogWriter) -> None:
    """Whoever saw the removal has forgotten the orders, whoever did not must learn of a new layout."""
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    log.append([removal(1)], NOW)
    log.append([written(position(1, [order(1)]))], NOW)
    assert log.removed(0) == []
    assert the_position(log).order_revisions == (3,)
    assert the_position(log).layout_revision == 3


def test_removed_positions_leave_tombstones(log: EventLogWriter) -> None:
    """A removal is a revision, and is told to whoever asks since an older one."""
    log.append([written(position(n, [order(n)])) for n in (1, 2)], NOW)
    head = log.append([removal(1), removal(1), removal(9)], NOW)
    assert head.revision == 3
    assert [(r.position_uuid, r.revision) for r in log.removed(2)] == [(uuid(1), 3)]
    assert log.removed(3) == []
    assert log.position(MINER, uuid(1)) is None
    assert [p.position_uuid for p in log.positions()] == [uuid(2)]
    assert [p.position_uuid for p in log.positions_of(MINER, open_or_closed_since_ms=0)] == [uuid(2)]
    assert (MINER, uuid(1)) not in log.fingerprints()


def test_a_miner_without_positions_is_gone(log: EventLogWriter) -> None:
    """`hotkeys` names those that have a position now."""
    log.append([written(position(1, [order(1)]))], NOW)
    log.append([removal(1)], NOW)
    assert log.hotkeys() == []


def test_old_tombstones_are_pruned_and_missed(make_log: MakeLog) -> None:
    """Whoever asks since a revision whose removals may be gone is told so."""
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


def test_changes_are_of_one_instant(log: EventLogWriter) -> None:
    """Head, changed and removed positions belong together."""
    log.append([written(position(n, [order(n)])) for n in (1, 2, 3)], NOW)
    log.append([removal(1), written(position(2, [order(2)], current_return=2.0))], NOW)
    head, changed, removed = log.changes(3)
    assert head == log.head()
    assert [p.position_uuid for p in changed] == [uuid(2)]
    assert [r.position_uuid for r in removed] == [uuid(1)]
    _, whole, removed = log.changes(0)
    assert [p.position_uuid for p in whole] == [uuid(3), uuid(2)]
    assert [r.position_uuid for r in removed] == [uuid(1)]


def test_fingerprints_are_remembered_without_a_revision(log: EventLogWriter) -> None:
    """A file written anew with the same content is recognised the next time, and changes nothing."""
    log.append([written(position(1, [order(1)]), fingerprint="a")], NOW)
    log.append([DocumentWritten(document=Document.STATISTICS, content=b"{}", fingerprint="s")], NOW)
    assert log.fingerprints() == {(MINER, uuid(1)): "a", ("", "statistics"): "s"}
    head = log.append([written(position(1, [order(1)]), fingerprint="b")], NOW)
    log.append([DocumentWritten(document=Document.STATISTICS, content=b"{}", fingerprint="t")], NOW)
    assert log.head() == head == Head(sequence=FIRST, revision=2)
    assert log.fingerprints() == {(MINER, uuid(1)): "b", ("", "statistics"): "t"}


# --- documents, source ------------------------------------------------------------------------------------


def test_documents_have_revisions_of_their_own(log: EventLogWriter) -> None:
    """A document's revision moves with its content only; a vanished one is None."""
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
    assert ("", "eliminations") not in log.fingerprints()


def test_large_documents_come_back_whole(log: EventLogWriter) -> None:
    """A document of many pieces, replaced and replaced again, is the one that was written last."""
    contents = [json.dumps([i * 7919 % k for i in range(700_000)]).encode() for k in (99991, 99989)]
    for content in contents:
        log.append([DocumentWritten(document=Document.PERF_LEDGERS, content=content)], NOW)
        assert log.document(Document.PERF_LEDGERS) == content
    log.append([DocumentWritten(document=Document.PERF_LEDGERS, content=contents[1])], NOW)
    assert log.document_revision(Document.PERF_LEDGERS) == 2


def test_documents_belong_to_the_baseline(make_log: MakeLog) -> None:
    """The first scan takes in documents of any size along with the positions."""
    log = make_log()
    content = json.dumps(list(range(400_000))).encode()
    log.baseline([DocumentWritten(document=Document.STATISTICS, content=content)], NOW)
    assert log.document(Document.STATISTICS) == content


def test_source_status_makes_no_revision(log: EventLogWriter) -> None:
    """How fresh the source is is told beside the state."""
    status = SourceStatus(swept_ms=NOW, stale=True, reason="mass_removal", invalid=3, watching=False)
    log.set_source(status)
    assert log.source() == status
    assert log.head().revision == 0


# --- commit notifications ---------------------------------------------------------------------------------


async def notified(commits: CommitListener) -> None:
    """Fails unless a notification arrives, long before the listener's own timeout."""
    await asyncio.wait_for(commits.wait_for_commit(600_000), 20)


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
    await asyncio.wait_for(waiting, 20)
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
    await asyncio.wait_for(waiting, 20)
    commits.close()
