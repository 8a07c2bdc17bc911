"""The checksum of the log's state, kept up as positions change (docs/protocol.md, 4)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ptn_api.event_log.contract import EventLog, LoggedPosition, RemovedPosition
from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum

__all__ = ["StateSum"]

PIECE_POSITIONS = 25
"""How many positions are summed at once: a few ms."""


class StateSum:
    """The sum over all positions, first built in pieces, then kept up.

    It holds for exactly one revision; until it is built, `hexadecimal` knows none.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._started = log.head().revision
        self._cursor = 0
        self._parts: dict[tuple[str, str], int] = {}
        self._total = 0
        self._revision: int | None = None

    def build(self) -> bool:
        """Sums the next few positions; whether the sum is built."""
        piece = list(islice(self._log.positions(since_revision=self._cursor), PIECE_POSITIONS))
        for position in piece:
            self._put(position)
            self._cursor = position.revision
        if len(piece) < PIECE_POSITIONS:
            # What changed or went while the pieces were read, of one instant.
            head, changed, removed = self._log.changes(self._started)
            self._revision = self._started
            self.keep_up(head.revision, changed, removed)
        return self._revision is not None

    def keep_up(
        self, revision: int, changed: Iterable[LoggedPosition], removed: Iterable[RemovedPosition]
    ) -> None:
        """Takes what changed and went up to `revision`; to take something twice does no harm."""
        if self._revision is None:
            return
        for position in changed:
            self._put(position)
        for gone in removed:
            self._total -= self._parts.pop((gone.miner_hotkey, gone.position_uuid), 0)
        self._revision = max(self._revision, revision)

    def hexadecimal(self, revision: int) -> str | None:
        """16 hex digits; None if the sum is not that of this revision."""
        return f"{self._total % CHECKSUM_MODULUS:016x}" if revision == self._revision else None

    def _put(self, position: LoggedPosition) -> None:
        key = (position.miner_hotkey, position.position_uuid)
        part = position_checksum(position.text)
        self._total += part - self._parts.get(key, 0)
        self._parts[key] = part
