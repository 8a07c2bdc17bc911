"""The checkpoint: everything a validator restores from, put together from the log's pieces.

Nothing is copied: positions are the pieces of tier 100, each entry without its `tier`.
"""

from __future__ import annotations

from datetime import datetime, timezone
from functools import reduce
from typing import Any

import msgspec

from ptn_api.event_log.contract import Document
from ptn_api.http.body import Body, Segment, tag_of
from ptn_api.model.miner import MinerEntry
from ptn_api.model.statistics import Elimination, PerfLedger
from ptn_api.views.documents import Documents
from ptn_api.views.positions import PositionViews

__all__ = ["Checkpoint", "CheckpointDocument"]

_PARTS = (Document.CHALLENGEPERIOD, Document.ELIMINATIONS, Document.PERF_LEDGERS, Document.STATISTICS)
_UNKNOWN_VERSION = b'"0.0.0"'


class CheckpointDocument(msgspec.Struct, kw_only=True):
    """What the validator wrote stands as it wrote it; times in epoch ms."""

    version: Any
    created_timestamp_ms: int
    created_date: str
    challengeperiod: Any
    eliminations: list[Elimination]
    youngest_order_processed_ms: int
    oldest_order_processed_ms: int
    positions: dict[str, MinerEntry]
    perf_ledgers: dict[str, PerfLedger]


class Checkpoint:
    """Keeps the last checkpoint until a part of it changes."""

    def __init__(self, views: PositionViews, documents: Documents) -> None:
        self._views = views
        self._documents = documents
        self._kept: tuple[object, Body] | None = None

    def snapshot(self) -> Body | None:
        """The checkpoint of now; None while there is nothing to restore from."""
        positions = self._views.for_checkpoint()
        revisions = self._documents.version_of(*_PARTS)
        version = (positions.tag, revisions, self._views.changed_ms)
        if not self._views.hotkeys() and not any(revisions):
            return None
        if self._kept is None or self._kept[0] != version:
            self._kept = (version, self._made(positions))
        return self._kept[1]

    def _made(self, positions: Body) -> Body:
        """The tag leaves out when it was made: two servers with the same state agree."""
        state = self._head()
        ledgers = self._documents.portfolio_ledgers()
        head = self._version() + self._created() + state + b',"positions":'
        runs = [Segment(head), *positions.runs, Segment(b',"perf_ledgers":'), *ledgers.runs, Segment(b"}")]
        parts = [self._version(), state, positions.tag.encode(), ledgers.tag.encode()]
        return Body(runs, tag_of(parts))

    def _version(self) -> bytes:
        """The validator's, as its statistics tell it."""
        version = self._documents.element(Document.STATISTICS, "version")
        return b'{"version":' + (version or _UNKNOWN_VERSION)

    def _created(self) -> bytes:
        changed_ms = self._views.changed_ms
        date = datetime.fromtimestamp(changed_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        return b',"created_timestamp_ms":%d,"created_date":"%b"' % (changed_ms, date.encode())

    def _head(self) -> bytes:
        challenge = self._documents.content(Document.CHALLENGEPERIOD)
        eliminations = self._documents.element(Document.ELIMINATIONS, "eliminations")
        youngest, oldest = self._order_times()
        return (
            b',"challengeperiod":'
            + (challenge or b'{"testing":{},"success":{}}')
            + b',"eliminations":'
            + (eliminations or b"[]")
            + b',"youngest_order_processed_ms":%d,"oldest_order_processed_ms":%d' % (youngest, oldest)
        )

    def _order_times(self) -> tuple[int, int]:
        """The smallest and the largest processed_ms of all orders: youngest and oldest, by history."""
        times = [piece.times for piece in self._views.ranked(100) if piece.times is not None]
        if not times:
            return 0, 0
        return reduce(lambda one, other: (min(one[0], other[0]), max(one[1], other[1])), times)
