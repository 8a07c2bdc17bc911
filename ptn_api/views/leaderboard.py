"""The leaderboard: a row for each miner that a tier shows, without its positions.

A row is made from the miner's entry and from documents that are not delayed, and kept until one of these
changes. The joined rows are compressed as one text: they resemble each other, above all in their times.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from ptn_api.event_log.contract import Document
from ptn_api.http.body import Body, body_of
from ptn_api.model.statistics import Performance, performance_of
from ptn_api.model.tiers import TIER_LAG_MS, TIERS, Tier
from ptn_api.tasks import TimeSlice
from ptn_api.views.documents import Documents, elements_of, portfolio_ledger
from ptn_api.views.positions import PositionViews

__all__ = ["Leaderboards"]

_NO_PERFORMANCE = Performance()
_Row = tuple[Hashable, bytes]
"""What a row was made from, and its text from the aggregates on."""


class Leaderboards:
    """Each tier's leaderboard, made at the first request after a change."""

    def __init__(self, views: PositionViews, documents: Documents) -> None:
        self._views = views
        self._documents = documents
        self._bodies: dict[Tier, tuple[Hashable, Body]] = {}
        """By tier, with the version of each."""
        self._rows: dict[Tier, dict[str, _Row]] = {tier: {} for tier in TIERS}
        self._performances: dict[str, Performance] = {}
        self._unread: dict[str, msgspec.Raw] = {}
        """Miners' ledgers whose performance is still to be computed. Concurrent requests share the work."""
        self._ledgers_revision = -1
        """The revision that `_performances` and `_unread` are from."""

    def current(self, tier: Tier) -> Body | None:
        """Returns the tier's leaderboard if nothing has changed since `updated`."""
        (ledgers_revision,) = self._documents.revisions_of(Document.PERF_LEDGERS)
        kept = self._bodies.get(tier)
        return kept[1] if kept is not None and kept[0] == self._version(tier, ledgers_revision) else None

    async def updated(self, tier: Tier, time_slice: TimeSlice) -> Body:
        """Returns the tier's leaderboard with all changes until this call, maybe with later ones."""
        await self._read_ledgers(time_slice)
        body = self.current(tier)
        if body is not None:
            return body
        version = self._version(tier, self._ledgers_revision)
        buckets, eliminated = self._documents.challenge_periods(), self._documents.eliminated()
        start = {
            "tier": tier,
            "delay_ms": 0 if tier == 100 else TIER_LAG_MS,
            "lookback_days": self._views.lookback_days,
        }
        earlier, rows, texts = self._rows[tier], dict[str, _Row](), list[bytes]()
        for rank, view in enumerate(self._views.ranked(tier), 1):
            hotkey, entry = view.hotkey, view.entries[tier]
            periods, performance = buckets.get(hotkey), self._performances.get(hotkey, _NO_PERFORMANCE)
            state = {
                "phase": periods[-1].bucket if periods else None,
                "elimination": eliminated.get(hotkey),
            }
            source = (entry.digest, *state.values(), performance)
            row = earlier.get(hotkey)
            if row is None or row[0] != source:
                parts = (entry.aggregates, entry.exposure, state, performance)
                row = (source, b",".join(msgspec.json.encode(part)[1:-1] for part in parts) + b"}")
            rows[hotkey] = row
            texts.append(b'{"hotkey":%b,"rank":%d,%b' % (msgspec.json.encode(hotkey), rank, row[1]))
            await time_slice.yield_if_due()
        self._rows[tier] = rows
        body = body_of(msgspec.json.encode(start)[:-1] + b',"miners":[' + b",".join(texts) + b"]}")
        kept = self._bodies.get(tier)
        if kept is not None and kept[1].tag == body.tag:
            body = kept[1]  # it is compressed already
        self._bodies[tier] = (version, body)
        return body

    def _version(self, tier: Tier, ledgers_revision: int) -> Hashable:
        """Returns what changes with the tier's leaderboard; the ledgers have their own revision."""
        revisions = self._documents.revisions_of(Document.CHALLENGEPERIOD, Document.ELIMINATIONS)
        return (self._views.changes[tier], self._views.lookback_days, *revisions, ledgers_revision)

    async def _read_ledgers(self, time_slice: TimeSlice) -> None:
        """Computes each miner's performance if the ledgers have changed."""
        (revision,) = self._documents.revisions_of(Document.PERF_LEDGERS)
        if revision != self._ledgers_revision:
            self._unread = elements_of(self._documents.read(Document.PERF_LEDGERS))
            self._ledgers_revision = revision
            self._performances = {h: p for h, p in self._performances.items() if h in self._unread}
        while self._unread:
            hotkey, element = self._unread.popitem()
            ledger = portfolio_ledger(element)
            self._performances[hotkey] = _NO_PERFORMANCE if ledger is None else performance_of(ledger)
            await time_slice.yield_if_due()
