"""Archived positions: one entry per miner for the checkpoint, and joined with the miner's live positions.

Only the checkpoint and one route show them. They are rendered on request.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import NamedTuple

import msgspec

from ptn_api.clock import Clock
from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import Document
from ptn_api.http.body import Body, Segment, body_of
from ptn_api.model.miner import aggregates, next_aggregate_change_ms
from ptn_api.model.position import PositionState, parse_position
from ptn_api.model.rendering import AS_IS, next_price_source_change_ms, render_position
from ptn_api.tasks import TimeSlice
from ptn_api.views.documents import Documents, Recent
from ptn_api.views.miner_view import TAILS, MinerView, ShownPosition, earliest

__all__ = ["Archive", "ArchivedEntry"]

_RECENT_MINERS = 32


class ArchivedEntry(NamedTuple):
    """A miner's archived positions, as the checkpoint has them, up to the entry's last brace."""

    segment: Segment
    digest: bytes
    expires_ms: int | None


class _Positions(msgspec.Struct):
    positions: list[msgspec.Raw]


class _Traits(PositionState):
    """The sort key of a rendered position, and its part of the aggregates."""

    position_uuid: str = ""


_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_positions = msgspec.json.Decoder(_Positions)
_traits = msgspec.json.Decoder(_Traits)


class Archive:
    """The archived positions in the log."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock
        self._entries: dict[str, tuple[tuple[int, float], ArchivedEntry]] = {}
        """By miner, for a revision and a lookback."""
        self._joined: Recent[tuple[Body, int | None]] = Recent(_RECENT_MINERS)

    async def entries(self) -> dict[str, ArchivedEntry]:
        """Returns the entry of each miner with archived positions, as the checkpoint has it."""
        revisions = self._documents.revisions_by_miner(Document.ARCHIVED_POSITIONS)
        for hotkey in self._entries.keys() - revisions.keys():
            del self._entries[hotkey]
        time_slice, entries = TimeSlice(), {}
        for hotkey in revisions:
            entry = self._entry(hotkey)
            if entry is not None:
                entries[hotkey] = entry
            await time_slice.yield_if_due()
        return entries

    def joined(self, hotkey: str, view: MinerView | None) -> Body | None:
        """Returns the tier 100 entry of the view with the miner's archived positions; None without any."""
        archived = self._entry(hotkey)
        if archived is None:
            return None
        live = None if view is None else view.entries[100]
        now_ms, lookback_days = self._clock(), self._documents.lookback_days()
        version = (archived.digest, None if live is None else live.digest, lookback_days)
        kept = self._joined.get(hotkey, version)
        if kept is not None and (kept[1] is None or now_ms < kept[1]):
            return kept[0]
        shown: dict[str, ShownPosition] = {}
        texts = [archived.segment.identity + b"}"]
        if live is not None:
            texts.append(b"".join(block.identity for block in (*live.blocks, TAILS[100])))
        for text in texts:
            # A position that has just been archived may still be in the state; then the live one counts.
            for raw in _positions.decode(text).positions:
                traits = _traits.decode(raw)
                position = ShownPosition.of(traits.position_uuid, traits, bytes(raw))
                shown[traits.position_uuid] = position
        text, expires_ms = _entry_text([*shown.values()], now_ms, lookback_days)
        body = body_of(text + TAILS[100].identity)
        return self._joined.keep(hotkey, version, (body, expires_ms))[0]

    def _entry(self, hotkey: str) -> ArchivedEntry | None:
        revision = self._documents.revisions_by_miner(Document.ARCHIVED_POSITIONS).get(hotkey)
        if revision is None:
            return None
        lookback_days, now_ms = self._documents.lookback_days(), self._clock()
        version = (revision, lookback_days)
        kept = self._entries.get(hotkey)
        if kept is not None and kept[0] == version and now_ms < (kept[1].expires_ms or now_ms + 1):
            return kept[1]
        shown, expiries = [], []
        content = self._documents.of_miner(Document.ARCHIVED_POSITIONS, hotkey)
        for raw in _raw_list.decode(content or b"[]"):
            with contextlib.suppress(InvalidInputError):  # intake reports those
                position, text = parse_position(bytes(raw))
                rendered = render_position(text, position, AS_IS, now_ms)
                shown.append(ShownPosition.of(position.position_uuid, position, rendered))
                expiries.append(next_price_source_change_ms(position, now_ms))
        if not shown:
            return None
        identity, expires_ms = _entry_text(shown, now_ms, lookback_days)
        digest = hashlib.sha256(identity).digest()
        same = kept is not None and kept[1].digest == digest
        segment = kept[1].segment if kept is not None and same else Segment(identity)
        entry = ArchivedEntry(segment, digest, earliest(expires_ms, *expiries))
        self._entries[hotkey] = (version, entry)
        return entry


def _entry_text(shown: list[ShownPosition], now_ms: int, lookback_days: float) -> tuple[bytes, int | None]:
    """Returns an entry up to its last keys, and when its aggregates change by age."""
    shown.sort(key=lambda position: position.sort_key)
    outcomes = [position.outcome for position in shown]
    sums = aggregates(outcomes, now_ms, lookback_days=lookback_days)
    text = b",".join(position.text for position in shown)
    return (
        b'{"positions":[' + text + b"]," + msgspec.json.encode(sums)[1:-1],
        next_aggregate_change_ms(outcomes, now_ms, lookback_days=lookback_days),
    )
