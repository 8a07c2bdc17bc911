"""The checkpoint: everything that a validator restores from, joined from the views and the documents.

No text is copied: positions are the blocks of tier 100, with entries that lack the key `tier`.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec

from ptn_api.event_log.contract import Document
from ptn_api.http.body import Body, Segment, tag_of
from ptn_api.model.miner import MinerEntry
from ptn_api.model.statistics import Elimination, PerfLedger
from ptn_api.views.documents import Documents
from ptn_api.views.positions import PositionViews

__all__ = ["Checkpoint", "CheckpointDocument"]

_DOCUMENTS = (Document.CHALLENGEPERIOD, Document.ELIMINATIONS, Document.PERF_LEDGERS, Document.STATISTICS)


class CheckpointDocument(msgspec.Struct, kw_only=True):
    """The checkpoint's JSON. The validator's parts are as it wrote them; times are epoch ms."""

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
    """The checkpoint as a document, kept until one of its parts changes."""

    def __init__(self, views: PositionViews, documents: Documents) -> None:
        self._views = views
        self._documents = documents
        self._kept: tuple[object, Body] | None = None

    def snapshot(self) -> Body | None:
        """The current checkpoint; None while there is nothing to restore from."""
        positions = self._views.for_checkpoint()
        revisions = self._documents.revisions_of(*_DOCUMENTS)
        kept_for = (positions.tag, revisions, self._views.changed_ms)
        if not self._views.hotkeys() and not any(revisions):
            return None
        if self._kept is not None and self._kept[0] == kept_for:
            return self._kept[1]
        created_ms = self._views.changed_ms
        date = datetime.fromtimestamp(created_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        version = b'{"version":' + (self._documents.element(Document.STATISTICS, "version") or b'"0.0.0"')
        created = b',"created_timestamp_ms":%d,"created_date":"%b"' % (created_ms, date.encode())
        times = [view.order_times for view in self._views.ranked(100) if view.order_times is not None]
        state = (
            b',"challengeperiod":'
            + (self._documents.content(Document.CHALLENGEPERIOD) or b'{"testing":{},"success":{}}')
            + b',"eliminations":'
            + (self._documents.element(Document.ELIMINATIONS, "eliminations") or b"[]")
            # Validators have always written the smallest time as the youngest and the largest as the oldest.
            + b',"youngest_order_processed_ms":%d' % min((first for first, _ in times), default=0)
            + b',"oldest_order_processed_ms":%d' % max((last for _, last in times), default=0)
        )
        ledgers = self._documents.portfolio_ledgers()
        head = Segment(version + created + state + b',"positions":')
        runs = [head, *positions.runs, Segment(b',"perf_ledgers":'), *ledgers.runs, Segment(b"}")]
        # The tag leaves out the creation time: servers with the same state agree on it.
        tag = tag_of([version, state, positions.tag.encode(), ledgers.tag.encode()])
        self._kept = (kept_for, Body(runs, tag))
        return self._kept[1]
