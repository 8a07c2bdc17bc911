"""Pending changes lose no order and stay bounded; the queue overlays older files for a time."""

from __future__ import annotations

from typing import Any

import pytest

from ptn_api.event_log.contract import Document, DocumentWritten, PositionRemoved
from ptn_api.intake.pending import PendingChange, PendingChanges, QueueOverlay
from tests.factories import MINER, order, position, uuid, written

KEY = (MINER, uuid(1))


def change(*orders: int, queue: bool = False, extra: bytes = b"") -> PendingChange:
    text = written(position(1, [order(n) for n in orders]), extra=extra)
    return PendingChange(text, 0, frozenset(order(n)["order_uuid"] for n in orders), from_queue=queue)


def removal() -> PendingChange:
    return PendingChange(PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(1)), 0, frozenset())


def test_a_newer_text_with_all_orders_supersedes_the_older() -> None:
    """Memory has one text per position, however often it is refreshed."""
    changes = PendingChanges()
    for n in range(1, 50):
        changes.add(change(*range(1, n + 1)))
        changes.add(change(*range(1, n + 1)))
    assert len(changes) == 1


def test_the_number_of_changes_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every queue item and every turn needs it: counting would be quadratic in a backlog."""

    class NeverIterated(dict[Any, Any]):
        def values(self) -> Any:
            raise AssertionError("iterated over")

        __iter__ = items = values

    changes = PendingChanges()
    monkeypatch.setattr(changes, "_positions", NeverIterated())
    for n, item in enumerate((change(1, 2), change(1), removal(), removal(), change(3)), 1):
        changes.add(item)
        assert len(changes) == min(n, 3)
        assert changes.all_are_next == (n == 1)


def test_a_text_whose_orders_were_dropped_later_is_kept() -> None:
    """An order that was in a file is announced even if it is gone before the log can be written."""
    changes = PendingChanges()
    first, second = change(1, 2), change(1)
    changes.add(first)
    changes.add(second)
    assert changes.next_positions() == [first]
    changes.done([first], [])
    assert changes.next_positions() == [second]
    changes.done([second], [])
    assert len(changes) == 0


def test_a_removal_does_not_supersede_the_text_before_it() -> None:
    """A text after a removal supersedes the removal."""
    changes = PendingChanges()
    changes.add(change(1))
    changes.add(removal())
    changes.add(removal())
    assert len(changes) == 2
    changes.add(change(1, 2))
    assert len(changes) == 1


def test_a_queue_item_never_supersedes_a_file() -> None:
    """It only adds orders. Its other keys are not lost to a later text either."""
    changes = PendingChanges()
    changes.add(change(1))
    changes.add(change(1, 2, queue=True, extra=b'{"a":1}'))
    changes.add(change(1, 2, 3))
    assert len(changes) == 2
    assert [item.from_queue for item in changes.next_positions()] == [True]


def test_a_change_that_arrived_during_the_write_stays_pending() -> None:
    """Only the very change that was written is done."""
    changes = PendingChanges()
    first, second = change(1), change(1)
    changes.add(first)
    in_flight = changes.next_positions()
    changes.add(second)
    old = DocumentWritten(document=Document.MINERS, content=b"[]")
    new = DocumentWritten(document=Document.MINERS, content=b'["a"]')
    changes.add_document(old)
    changes.add_document(new)
    changes.done(in_flight, [old])
    assert changes.next_positions() == [second]
    assert changes.documents() == [new]


# --- the queue overlay ------------------------------------------------------------------------------------


def test_an_overlay_withholds_older_files_until_the_file_has_the_orders() -> None:
    """Fewer orders: withheld. The same or more: the overlay ends."""
    overlay = QueueOverlay()
    overlay.add(KEY, {"a", "b"})
    assert not overlay.admits(KEY, {"a"})
    assert overlay.admits(KEY, {"a", "b", "c"})
    assert overlay.admits(KEY, {"a"})


def test_a_file_with_an_order_of_its_own_ends_the_overlay() -> None:
    """The directory is the truth: an order that only it has must be announced."""
    overlay = QueueOverlay()
    overlay.add(KEY, {"a", "b"})
    assert overlay.admits(KEY, {"a", "c"})


def test_an_expired_overlay_asks_for_the_file_once() -> None:
    """The timer of an older overlay does not end a newer one."""
    overlay = QueueOverlay()
    old = overlay.add(KEY, {"a"})
    new = overlay.add(KEY, {"a", "b"})
    assert not overlay.expire(KEY, old)
    assert overlay.expire(KEY, new)
    assert not overlay.expire(KEY, new)


def test_a_redundant_overlay_returns_whether_a_file_was_withheld() -> None:
    """Only then must the file be read again. An overlay for other orders stays."""
    overlay = QueueOverlay()
    overlay.add(KEY, {"a", "b"})
    assert not overlay.discard_redundant(KEY, {"a"})
    assert not overlay.admits(KEY, {"a"})
    assert overlay.discard_redundant(KEY, {"a", "b"})
    assert not overlay.discard_redundant(KEY, {"a", "b"})


def test_a_newer_item_remembers_that_a_file_was_withheld() -> None:
    """Otherwise the withheld file would never be read again."""
    overlay = QueueOverlay()
    overlay.add(KEY, {"a", "b"})
    assert not overlay.admits(KEY, {"a"})
    overlay.add(KEY, {"a", "b", "c"})
    assert overlay.discard_redundant(KEY, {"a", "b", "c"})
