"""The checkpoint: everything that a validator restores from, joined from the views and the documents.

No text is copied: positions are the blocks of tier 100, with entries that lack the key `tier`.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec

from ptn_api.event_log.contract import Document
from ptn_api.http.body import Body, Segment, SegmentRun, tag_of
from ptn_api.model.limit_order import ListedOrder
from ptn_api.model.miner import MinerEntry
from ptn_api.model.statistics import Elimination, PerfLedger
from ptn_api.views.archive import Archive
from ptn_api.views.documents import Documents
from ptn_api.views.limit_orders import LimitOrders
from ptn_api.views.positions import PositionViews

__all__ = ["Checkpoint", "CheckpointDocument"]

_DOCUMENTS = (
    Document.CHALLENGEPERIOD,
    Document.ACCOUNT_SIZES,
    Document.ELIMINATIONS,
    Document.ENTITIES,
    Document.PERF_LEDGERS,
    Document.ASSET_SELECTIONS,
    Document.LIMIT_ORDERS,
    Document.ARCHIVED_POSITIONS,
    Document.STATISTICS,
)


class CheckpointDocument(msgspec.Struct, kw_only=True):
    """The checkpoint's JSON. The validator's parts are as it wrote them; times are epoch ms.

    `limit_orders` are the unfilled ones, by trade pair and hotkey; `archived_positions` has entries like
    `positions`. Without any order the youngest time is null and the oldest 0.
    """

    version: Any
    created_timestamp_ms: int
    created_date: str
    challengeperiod: Any
    miner_account_sizes: Any
    eliminations: list[Elimination]
    entities: Any
    youngest_order_processed_ms: int | None
    oldest_order_processed_ms: int
    positions: dict[str, MinerEntry]
    perf_ledgers: dict[str, PerfLedger]
    asset_selections: Any
    limit_orders: dict[str, dict[str, list[ListedOrder]]]
    archived_positions: dict[str, MinerEntry]


class Checkpoint:
    """The checkpoint as a document, kept until one of its parts changes."""

    def __init__(
        self, views: PositionViews, documents: Documents, limit_orders: LimitOrders, archive: Archive
    ) -> None:
        self._views = views
        self._documents = documents
        self._limit_orders = limit_orders
        self._archive = archive
        self._kept: tuple[object, Body] | None = None

    async def snapshot(self) -> Body | None:
        """The current checkpoint; None while there is nothing to restore from."""
        limit_orders, archived = await self._limit_orders.unfilled_by_pair(), await self._archive.entries()
        documents, positions = self._documents, self._views.for_checkpoint()
        revisions = documents.revisions_of(*_DOCUMENTS)
        shown = tuple((hotkey, entry.digest) for hotkey, entry in archived.items())
        kept_for = (positions.tag, revisions, limit_orders, shown, self._views.changed_ms)
        if not self._views.hotkeys() and not any(revisions):
            return None
        if self._kept is not None and self._kept[0] == kept_for:
            return self._kept[1]
        created_ms = self._views.changed_ms
        date = datetime.fromtimestamp(created_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        version = b'{"version":' + (documents.element(Document.STATISTICS, "version") or b'"0.0.0"')
        created = b',"created_timestamp_ms":%d,"created_date":"%b"' % (created_ms, date.encode())
        times = [view.order_times for view in self._views.ranked(100) if view.order_times is not None]
        # Validators have always written the smallest time as the youngest and the largest as the oldest.
        youngest = b"%d" % min(first for first, _ in times) if times else b"null"
        state = (
            b',"challengeperiod":'
            + (documents.content(Document.CHALLENGEPERIOD) or b"{}")
            + b',"miner_account_sizes":'
            + (documents.content(Document.ACCOUNT_SIZES) or b"{}")
            + b',"eliminations":'
            + (documents.element(Document.ELIMINATIONS, "eliminations") or b"[]")
            + b',"entities":'
            + (documents.content(Document.ENTITIES) or b"{}")
            + b',"youngest_order_processed_ms":'
            + youngest
            + b',"oldest_order_processed_ms":%d,"positions":' % max((last for _, last in times), default=0)
        )
        ledgers = documents.perf_ledgers_body()
        selections = (
            b',"asset_selections":'
            + (documents.content(Document.ASSET_SELECTIONS) or b"{}")
            + b',"limit_orders":'
        )
        runs: list[SegmentRun | Segment] = [Segment(version + created + state), *positions.runs]
        runs += [Segment(b',"perf_ledgers":'), *ledgers.runs, Segment(selections), limit_orders]
        runs.append(Segment(b',"archived_positions":{'))
        for n, (hotkey, entry) in enumerate(archived.items()):
            name = (b"}," if n else b"") + msgspec.json.encode(hotkey) + b":"
            runs += [Segment(name), entry.segment]
        runs.append(Segment(b"}}}" if archived else b"}}"))
        # The tag leaves out the creation time: servers with the same state agree on it.
        parts = [version, state, positions.tag.encode(), ledgers.tag.encode(), selections]
        parts.append(limit_orders.identity)
        for hotkey, entry in archived.items():
            parts += (hotkey.encode(), entry.digest)
        self._kept = (kept_for, Body(runs, tag_of(parts)))
        return self._kept[1]
