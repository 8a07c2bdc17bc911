"""Positions as they were at a time, rebuilt on request from the orders before it.

Of every position, whatever the tier, the past shows what the orders before the time lead to, as a tier that
lags behind does (model/rendering.py). It includes positions removed since, as long as the log keeps them, and
for tier 100 archived ones. A request has the positions of one miner in memory at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

from ptn_api.clock import Clock
from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import Document, EventLog
from ptn_api.http.body import Part, StreamedBody, tag_of
from ptn_api.model.miner import Outcome, aggregates, position_order
from ptn_api.model.position import Position, PositionText, parse_position
from ptn_api.model.rendering import AS_IS, Appearance, Hidden, Rebuilt, appearance, render_position
from ptn_api.model.tiers import Tier
from ptn_api.model.trade_pair import pair_id
from ptn_api.options import RETENTION_MS
from ptn_api.tasks import TimeSlice
from ptn_api.views.documents import Documents
from ptn_api.views.miner_view import OPENING, TAILS, after_positions
from ptn_api.views.positions import PositionViews

__all__ = ["Choice", "Past"]

_HOUR_MS = 3_600_000
_READ_POSITIONS = 32
"""Positions read from the log at a time: a few milliseconds' work."""
_AS_OF_LAST_ORDER = b',"return_as_of":"last_order"}'
"""The end of a position that was open: its returns are of the price of its last order before the time."""
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])


class Choice(NamedTuple):
    """What of the past is requested; an empty filter passes everything."""

    at_ms: int
    tier: Tier
    miners: frozenset[str] = frozenset()
    trade_pairs: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()

    def to_json(self) -> bytes:
        return msgspec.json.encode([self.at_ms, self.tier, *map(sorted, self[2:])])

    def passes(self, position: Position, *, closed: bool) -> bool:
        return (not self.trade_pairs or pair_id(position.trade_pair) in self.trade_pairs) and (
            not self.statuses or ("closed" if closed else "open") in self.statuses
        )


class _Candidate(NamedTuple):
    """A position that was there; `shown` is not Hidden."""

    sort_key: tuple[bool, int, str]
    text: PositionText
    shown: Appearance


class Past:
    """The positions in the log as they were."""

    def __init__(self, log: EventLog, views: PositionViews, documents: Documents, clock: Clock) -> None:
        self._log = log
        self._views = views
        self._documents = documents
        self._clock = clock

    def document(self, choice: Choice) -> StreamedBody:
        """Every miner with a position then, by hotkey. It is rebuilt while it is sent, and not kept."""
        removed_after_ms = self.removed_after_ms(choice.at_ms)
        tier: Tier = 100 if choice.tier == 100 else 0

        def parts() -> Iterator[Part]:
            # Present miners are known from the views: the log would have to read all positions for it.
            hotkeys = {
                *self._views.hotkeys(tier),
                *self._log.removed_hotkeys(removed_after_ms=removed_after_ms),
            }
            if choice.tier == 100:
                hotkeys |= self._views.archived
            start, time_slice = b"{", TimeSlice()
            for hotkey in sorted(hotkeys & choice.miners if choice.miners else hotkeys):
                name = start + msgspec.json.encode(hotkey) + b":"
                for part in self.entry(hotkey, choice, removed_after_ms, time_slice, name=name):
                    yield part
                    start = b"," if part else start
                if time_slice.due:  # many miners without positions then are work as well
                    yield b""
                    time_slice.restart()
            yield b"{}" if start == b"{" else b"}"

        # Hashed is what the document follows from, since its text comes later: the entries that the tier sees
        # now, which reveal as little, and what is kept beside them.
        archives = self._documents.revisions_by_miner(Document.ARCHIVED_POSITIONS)
        hashed = [b"%d" % removed_after_ms, choice.to_json()]
        hashed += [msgspec.json.encode(archives)] if tier == 100 else []
        for view in self._views.ranked(tier):
            hashed += (view.name_segments[0].identity, view.entries[tier].digest)
        return StreamedBody(parts, None, tag_of(hashed))

    def entry(
        self,
        hotkey: str,
        choice: Choice,
        removed_after_ms: int,
        time_slice: TimeSlice,
        *,
        name: bytes = b"",
    ) -> Iterator[bytes]:
        """Yields the miner's entry in parts; no text if no position of it is chosen.

        An empty part comes where the work has taken long, so that others can run.
        """
        candidates = []
        for candidate in self._candidates(hotkey, choice, removed_after_ms):
            if candidate is not None:
                candidates.append(candidate)
            if time_slice.due:
                yield b""
                time_slice.restart()
        candidates.sort(key=lambda candidate: candidate.sort_key)
        outcomes, start = [], name + OPENING
        for _, text, shown in candidates:
            position = text.position()
            state = shown.position.state if isinstance(shown, Rebuilt) else position
            outcomes.append(Outcome.of(state))
            closed = state.closed_at is not None
            if choice.passes(position, closed=closed):
                assert not isinstance(shown, Hidden)
                rendered = render_position(text, position, shown, choice.at_ms)
                yield start + (rendered if closed else rendered[:-1] + _AS_OF_LAST_ORDER)
                start = b","
            if time_slice.due:
                yield b""
                time_slice.restart()
        if start == b",":
            sums = aggregates(outcomes, choice.at_ms, lookback_days=self._documents.lookback_days())
            yield after_positions(sums) + TAILS[choice.tier].identity

    async def has_orders_before(self, at_ms: int, tier: Tier, time_slice: TimeSlice) -> bool:
        """Returns whether any order was placed before that time, for tier 100 also among archived ones."""
        views = self._views.ranked(100)
        if any(view.order_times is not None and view.order_times[0] < at_ms for view in views):
            return True
        for hotkey in sorted(self._views.archived) if tier == 100 else ():
            for position, _ in self._archived(hotkey):
                if any(order.processed_ms < at_ms for order in position.orders):
                    return True
                await time_slice.yield_if_due()
        return False

    def removed_after_ms(self, at_ms: int) -> int:
        """Positions removed after this time were there, and are still in the log, whatever was pruned.

        By the hour, so that the document stays the same for a while.
        """
        oldest_ms = self._clock() - RETENTION_MS
        return max(at_ms, oldest_ms - oldest_ms % _HOUR_MS + _HOUR_MS)

    def _candidates(self, hotkey: str, choice: Choice, removed_after_ms: int) -> Iterator[_Candidate | None]:
        """Yields the positions that were there, each once; None for another one, after some work as well.

        Of a position in several places the present one counts, then the archived one.
        """
        seen = set()
        # A tier that sees none of the positions today saw none before: not even the time of the answer is to
        # reveal that there are some.
        known = self._views.entry(hotkey, 100 if choice.tier == 100 else 0) is not None
        since = 0
        while known:
            batch = [*islice(self._log.positions(miner=hotkey, since_revision=since), _READ_POSITIONS)]
            for logged in batch:
                if logged.position_uuid not in seen:  # it comes again if it changes meanwhile
                    seen.add(logged.position_uuid)
                    yield _candidate(logged.position_uuid, logged.text, choice.at_ms, logged.close_ms)
            if len(batch) < _READ_POSITIONS:
                break
            since = batch[-1].revision
        for position, text in self._archived(hotkey) if choice.tier == 100 else ():
            if position.position_uuid not in seen:
                seen.add(position.position_uuid)
                yield _candidate(position.position_uuid, text, choice.at_ms, position.closed_at)
        for logged in self._log.removed_positions(hotkey, removed_after_ms=removed_after_ms):
            if logged.position_uuid not in seen:
                yield _candidate(logged.position_uuid, logged.text, choice.at_ms, logged.close_ms)

    def _archived(self, hotkey: str) -> Iterator[tuple[Position, PositionText]]:
        if hotkey in self._views.archived:
            content = self._documents.of_miner(Document.ARCHIVED_POSITIONS, hotkey)
            for raw in _raw_list.decode(content or b"[]"):
                with contextlib.suppress(InvalidInputError):  # intake reports those
                    yield parse_position(bytes(raw))


def _candidate(position_uuid: str, text: PositionText, at_ms: int, close_ms: int | None) -> _Candidate | None:
    if close_ms is not None and close_ms < at_ms:  # as most are: it need not be decoded for its place
        return _Candidate(position_order(close_ms, position_uuid), text, AS_IS)
    shown = appearance(text.position(), 0, at_ms)
    if isinstance(shown, Hidden):
        return None
    closed_at = shown.position.state.closed_at if isinstance(shown, Rebuilt) else close_ms
    return _Candidate(position_order(closed_at, position_uuid), text, shown)
