"""What has been handed to the merge and is not in the log yet: keyed, so that memory stays bounded. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from ptn_api.event_log.contract import Document, DocumentWritten, PositionRemoved, PositionWritten
from ptn_api.intake.files import Key

__all__ = ["PendingChange", "PendingChanges", "QueueOverlay", "key_of"]


class PendingChange(NamedTuple):
    """A change of one position, when it came (ms), and the orders that it holds."""

    change: PositionWritten | PositionRemoved
    arrived_ms: int
    orders: frozenset[str]
    from_queue: bool = False

    @property
    def key(self) -> Key:
        return key_of(self.change)


def key_of(change: PositionWritten | PositionRemoved) -> Key:
    if isinstance(change, PositionRemoved):
        return change.miner_hotkey, change.position_uuid
    return change.position.miner_hotkey, change.position.position_uuid


class PendingChanges:
    """Per position the changes in the order of their coming, where a later one does not make up for them.

    A newer text makes an older one superfluous if it has all its orders: then no order is forgotten, however
    long the log cannot be written, and what waits is no more than the orders that are to be announced.
    """

    def __init__(self) -> None:
        self._positions: dict[Key, list[PendingChange]] = {}
        self._documents: dict[Document, DocumentWritten] = {}

    def __len__(self) -> int:
        return sum(map(len, self._positions.values())) + len(self._documents)

    def add(self, new: PendingChange) -> None:
        line = self._positions.setdefault(new.key, [])
        line[:] = [old for old in line if not _supersedes(new, old)]
        line.append(new)

    def add_document(self, change: DocumentWritten) -> None:
        """The newest version stands."""
        self._documents[change.document] = change

    def next_positions(self) -> list[PendingChange]:
        """One change of every position that waits: what may go into one append."""
        return [line[0] for line in self._positions.values()]

    @property
    def all_are_next(self) -> bool:
        """Whether `next_positions` is all that waits of positions."""
        return all(len(line) == 1 for line in self._positions.values())

    def documents(self) -> list[DocumentWritten]:
        return list(self._documents.values())

    def done(self, positions: Iterable[PendingChange], documents: Iterable[DocumentWritten]) -> None:
        """These are in the log (or need not be)."""
        for item in positions:
            line = self._positions.get(item.key, [])
            line[:] = [other for other in line if other is not item]
            if not line:
                self._positions.pop(item.key, None)
        for change in documents:
            if self._documents.get(change.document) is change:
                del self._documents[change.document]


def _supersedes(new: PendingChange, old: PendingChange) -> bool:
    if isinstance(new.change, PositionRemoved):
        return isinstance(old.change, PositionRemoved)
    if isinstance(old.change, PositionRemoved):
        return True
    if new.from_queue and not old.from_queue:
        return False  # the queue only adds; the file's text is still wanted
    return old.orders <= new.orders and old.change.extra in (b"", new.change.extra)


class _Hold:
    __slots__ = ("orders", "withheld")

    def __init__(self, orders: AbstractSet[str]) -> None:
        self.orders = orders
        self.withheld = False


class QueueOverlay:
    """For each position that the queue brought: the orders that its file is yet to show."""

    def __init__(self) -> None:
        self._overlay: dict[Key, _Hold] = {}

    def start(self, key: Key, orders: AbstractSet[str]) -> object:
        """QueueOverlay back older files of the position from now on. Returns what `expire` asks for."""
        hold = _Hold(orders)
        previous = self._overlay.get(key)
        if previous is not None:
            hold.withheld = previous.withheld
        self._overlay[key] = hold
        return hold

    def admits(self, key: Key, orders: AbstractSet[str]) -> bool:
        """Whether a file with these orders may be handed on. One that is older than the queue's body may not.

        A file that has all the queue's orders ends the hold, and so does one with an order of its own: the
        directory is the truth, and what it says must be announced.
        """
        hold = self._overlay.get(key)
        if hold is None:
            return True
        if orders < hold.orders:
            hold.withheld = True
            return False
        del self._overlay[key]
        return True

    def release(self, key: Key) -> None:
        """Ends a hold, if there is one."""
        self._overlay.pop(key, None)

    def needless(self, key: Key, orders: AbstractSet[str]) -> bool:
        """The log had all these orders already: ends their hold; whether a file was held back meanwhile."""
        hold = self._overlay.get(key)
        if hold is None or hold.orders != orders:
            return False
        del self._overlay[key]
        return hold.withheld

    def expire(self, key: Key, hold: object) -> bool:
        """Ends this very hold; whether it still stood, so that the file is to be looked at again."""
        if self._overlay.get(key) is not hold:
            return False
        del self._overlay[key]
        return True
