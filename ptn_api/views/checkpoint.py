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
    """The checkpoint: everything that a validator restores from.

    The validator's parts are as it wrote them.
    """

    version: Any
    """Version of the validator's software; 0.0.0 if unknown. Type: text."""
    created_timestamp_ms: int
    """When the content last changed. Unit: epoch ms."""
    created_date: str
    """The same, as UTC date and time. Unit: YYYY-MM-DD HH:MM:SS."""
    challengeperiod: Any
    """By miner, its buckets, oldest first: a list, or an object with the list as `entries`, or one with the
    present and the previous bucket. In the oldest form, by `testing` and `success`, then by miner.

    - testing.*: Start of the challenge period. Unit: epoch ms. Since: 2024, until 2025.
    - success.*: When the miner passed it. Unit: epoch ms. Since: 2024, until 2025.
    - *.bucket: As in `Period`.
    - *.bucket_start_time: When the miner entered it. Unit: epoch ms.
    - *.previous_bucket: The bucket before. Null: none. Since: 2025 only.
    - *.previous_bucket_start_time: When the miner entered it. Unit: epoch ms. Null: none. Since: 2025 only.
    - *.entries: The buckets. Null: absent in other forms. Since: 2026.
    - *.entries.bucket: As in `Period`.
    - *.entries.bucket_start_time: When the miner entered it. Unit: epoch ms.
    - *.drawdown: The shape is not fixed. Type: object. Null: absent in other forms. Since: 2026.
    - *.rank: Place in the competition. Unit: place. Null: none. Since: 2026.
    """
    miner_account_sizes: Any
    """By miner, records like those of `Collateral`; the last element may hold the account's present values
    instead. Since: 2026 in this form.

    - *.account_size: Size of the account. Unit: USD.
    - *.account_size_theta: Collateral that it stands for. Unit: theta. Null: absent in the account's present
      values.
    - *.update_time_ms: When it was recorded. Unit: epoch ms. Null: absent in the account's present values.
    - *.valid_date_timestamp: From when it counts. Unit: epoch ms. Null: absent in the account's present
      values.
    - *.miner_hotkey: The miner.
    - *.asset_class: The chosen asset class.
    - *.miner_bucket: Bucket of the challenge period.
    - *.hl_address: Hyperliquid address. Null: none.
    - *.total_realized_pnl: Realized profit. Unit: USD.
    - *.capital_used: Value of the open positions. Unit: USD.
    - *.capital_used_by_class.*: The same, by asset class. Unit: USD.
    - *.total_borrowed_amount: Borrowed for spot equities. Unit: USD.
    - *.total_fees_paid: Fees. Unit: USD.
    - *.total_dividend_income: Dividends. Unit: USD.
    - *.max_return: Highest return. Unit: factor (1.0 = unchanged).
    - *.unrealized_pnl: Unrealized profit. Unit: USD.
    - *.daily_open_snapshot: The account at the start of the day; the shape is not fixed. Type: object. Null:
      none.
    - *.balance: Account size with realized profits and fees. Unit: USD.
    - *.buying_power: What can still be invested. Unit: USD.
    - *.equity: Balance with unrealized profits. Unit: USD.
    """
    eliminations: list[Elimination]
    """The eliminated miners."""
    entities: Any
    """By hotkey, the entity, as in `EntityAnswer`. Type: object by key. Since: 2026."""
    youngest_order_processed_ms: int | None
    """Smallest time of an order; the names of this and the next key are the network's.

    Unit: epoch ms. Null: no orders.
    """
    oldest_order_processed_ms: int
    """Largest time of an order; 0 without orders. Unit: epoch ms."""
    positions: dict[str, MinerEntry]
    """By miner, the entry of tier 100 without `tier`; miners without positions too."""
    perf_ledgers: dict[str, PerfLedger]
    """By miner, the portfolio's ledger."""
    asset_selections: Any
    """By miner, the chosen asset class. Type: text by key."""
    limit_orders: dict[str, dict[str, list[ListedOrder]]]
    """By trade pair and miner, the unfilled limit orders. Since: 0.2.0."""
    archived_positions: dict[str, MinerEntry]
    """By miner, an entry of the positions that were archived. Since: 0.2.0."""


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
