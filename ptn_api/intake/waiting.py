"""What has been handed to the merge and is not in the log yet: keyed, so that memory stays bounded. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ptn_api.event_log.contract import Document, DocumentWritten, PositionRemoved, PositionWritten
from ptn_api.intake.position_files import Key

__all__ = ["Waiting", "WaitingChanges"]


class Waiting(NamedTuple):
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


class WaitingChanges:
    """Per position the changes in the order of their coming, where a later one does not make up for them.

    A newer text makes an older one superfluous if it has all its orders: then no order is forgotten, however
    long the log cannot be written, and what waits is no more than the orders that are to be announced.
    """

    def __init__(self) -> None:
        self._positions: dict[Key, list[Waiting]] = {}
        self._documents: dict[Document, DocumentWritten] = {}

    def __len__(self) -> int:
        return sum(map(len, self._positions.values())) + len(self._documents)

    def add(self, new: Waiting) -> None:
        line = self._positions.setdefault(new.key, [])
        line[:] = [old for old in line if not _makes_up_for(new, old)]
        line.append(new)

    def add_document(self, change: DocumentWritten) -> None:
        """The newest version stands."""
        self._documents[change.document] = change

    def next_positions(self) -> list[Waiting]:
        """One change of every position that waits: what may go into one append."""
        return [line[0] for line in self._positions.values()]

    @property
    def all_are_next(self) -> bool:
        """Whether `next_positions` is all that waits of positions."""
        return all(len(line) == 1 for line in self._positions.values())

    def documents(self) -> list[DocumentWritten]:
        return list(self._documents.values())

    def done(self, positions: Iterable[Waiting], documents: Iterable[DocumentWritten]) -> None:
        """These are in the log (or need not be)."""
        for item in positions:
            line = self._positions.get(item.key, [])
            line[:] = [other for other in line if other is not item]
            if not line:
                self._positions.pop(item.key, None)
        for change in documents:
            if self._documents.get(change.document) is change:
                del self._documents[change.document]


def _makes_up_for(new: Waiting, old: Waiting) -> bool:
    if isinstance(new.change, PositionRemoved):
        return isinstance(old.change, PositionRemoved)
    if isinstance(old.change, PositionRemoved):
        return True
    if new.from_queue and not old.from_queue:
        return False  # the queue only adds; the file's text is still wanted
    return old.orders <= new.orders and old.change.extra in (b"", new.change.extra)
