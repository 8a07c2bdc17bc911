"""Changes on their way to the log, and queue items that still overlay their file. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from ptn_api.event_log.contract import Document, DocumentWritten, PositionRemoved, PositionWritten
from ptn_api.intake.files import Key

__all__ = ["PendingChange", "PendingChanges", "QueueOverlay", "key_of"]


class PendingChange(NamedTuple):
    """A change of one position, when it arrived (epoch ms), and the uuids of its orders."""

    change: PositionWritten | PositionRemoved
    arrived_ms: int
    orders: frozenset[str]
    from_queue: bool = False

    @property
    def key(self) -> Key:
        return key_of(self.change)

    def supersedes(self, old: PendingChange) -> bool:
        """Returns whether the older change of the same position need not be written any more."""
        if isinstance(self.change, PositionRemoved):
            return isinstance(old.change, PositionRemoved)
        if isinstance(old.change, PositionRemoved):
            return not self.from_queue  # the item may prove to have no new order, and so not be written
        if self.from_queue and not old.from_queue:
            return False  # the queue only adds orders; the file's text is still needed
        return old.orders <= self.orders and old.change.extra in (b"", self.change.extra)


def key_of(change: PositionWritten | PositionRemoved) -> Key:
    if isinstance(change, PositionRemoved):
        return change.miner_hotkey, change.position_uuid
    return change.position.miner_hotkey, change.position.position_uuid


class PendingChanges:
    """Changes that are not in the log yet, by position and in order of arrival.

    A newer text supersedes an older one only if it has all of its orders. So no order is lost however long
    the log cannot be written, and memory is bounded by the orders that are still to be announced.
    """

    def __init__(self) -> None:
        self._positions: dict[Key, list[PendingChange]] = {}
        self._count = 0
        """Number of changes in `_positions`."""
        self._documents: dict[Document, DocumentWritten] = {}

    def __len__(self) -> int:
        return self._count + len(self._documents)

    def add(self, new: PendingChange) -> None:
        before = self._positions.get(new.key, [])
        self._replace(new.key, before, [*(old for old in before if not new.supersedes(old)), new])

    def add_document(self, change: DocumentWritten) -> None:
        """Adds a document's newest version in place of an older one."""
        self._documents[change.document] = change

    def next_positions(self) -> list[PendingChange]:
        """Returns the oldest change of every position: one append takes one change per position."""
        return [changes[0] for changes in self._positions.values()]

    @property
    def all_are_next(self) -> bool:
        """Whether `next_positions` returns every pending position change."""
        return self._count == len(self._positions)

    def documents(self) -> list[DocumentWritten]:
        return list(self._documents.values())

    def done(self, positions: Iterable[PendingChange], documents: Iterable[DocumentWritten]) -> None:
        """Removes changes that are in the log or need not be; newer ones that came meanwhile stay."""
        for item in positions:
            before = self._positions.get(item.key, [])
            self._replace(item.key, before, [other for other in before if other is not item])
        for change in documents:
            if self._documents.get(change.document) is change:
                del self._documents[change.document]

    def _replace(self, key: Key, before: list[PendingChange], after: list[PendingChange]) -> None:
        self._count += len(after) - len(before)
        if after:
            self._positions[key] = after
        else:
            self._positions.pop(key, None)


class _Overlay:
    __slots__ = ("orders", "withheld")

    def __init__(self, orders: AbstractSet[str], *, withheld: bool) -> None:
        self.orders = orders
        self.withheld = withheld


class QueueOverlay:
    """Positions from the queue that are served instead of their file until the file has their orders."""

    def __init__(self) -> None:
        self._overlays: dict[Key, _Overlay] = {}

    def add(self, key: Key, orders: AbstractSet[str]) -> object:
        """Withholds older files of the position from now on. Returns the token that `expire` needs."""
        previous = self._overlays.get(key)
        overlay = _Overlay(orders, withheld=previous is not None and previous.withheld)
        self._overlays[key] = overlay
        return overlay

    def admits(self, key: Key, orders: AbstractSet[str]) -> bool:
        """Returns whether a file with these orders may be written; one older than the queue's item may not.

        A file with all of the item's orders ends the overlay. So does a file with an order that the item
        lacks: the directory is the truth, and that order must be announced.
        """
        overlay = self._overlays.get(key)
        if overlay is None:
            return True
        if orders < overlay.orders:
            overlay.withheld = True
            return False
        del self._overlays[key]
        return True

    def discard(self, key: Key) -> None:
        """Ends the position's overlay, if any."""
        self._overlays.pop(key, None)

    def discard_redundant(self, key: Key, orders: AbstractSet[str]) -> bool:
        """Ends the overlay of an item whose orders were all in the log already.

        Returns whether a file was withheld meanwhile and must be read again.
        """
        overlay = self._overlays.get(key)
        if overlay is None or overlay.orders != orders:
            return False
        del self._overlays[key]
        return overlay.withheld

    def expire(self, key: Key, token: object) -> bool:
        """Ends the overlay of this token, if it is still the position's; then the file must be read again."""
        if self._overlays.get(key) is not token:
            return False
        del self._overlays[key]
        return True
