"""A miner's entry: which positions count, what they add up to, and in which order things are shown."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ptn_api.model.position import Position, PositionState

__all__ = [
    "Aggregates",
    "MinerEntry",
    "Outcome",
    "aggregates",
    "miner_order",
    "next_aggregate_change_ms",
    "position_order",
]

SHORTEST_COUNTED_MS = 60_000
RETURNS_WINDOW_MS = 90 * 86_400_000
"""Of `thirty_day_returns`; the name is historical."""


class Outcome(msgspec.Struct, frozen=True):
    """What of a shown position enters its miner's aggregates; `close_ms` is None while open."""

    open_ms: int
    close_ms: int | None
    return_at_close: float

    @classmethod
    def of(cls, state: PositionState) -> Outcome:
        """Of a position as it is, or of the state it was rebuilt to."""
        return cls(state.open_ms, state.closed_at, state.return_at_close)

    @property
    def counts(self) -> bool:
        return self.close_ms is not None and self.close_ms - self.open_ms >= SHORTEST_COUNTED_MS


class Aggregates(msgspec.Struct, frozen=True, kw_only=True):
    """Over a miner's counted positions; returns are factors, `percentage_profitable` a fraction 0..1.

    The fields stand in the order in which an entry shows them.
    """

    thirty_day_returns: float = 1.0
    all_time_returns: float = 1.0
    n_positions: int = 0
    percentage_profitable: float = 0.0


class MinerEntry(msgspec.Struct, kw_only=True):
    """A miner as `/miner-positions` and the checkpoint hold it; the checkpoint's entries lack `tier`."""

    positions: list[Position] = msgspec.field(default_factory=list)
    thirty_day_returns: float = 1.0
    all_time_returns: float = 1.0
    n_positions: int = 0
    percentage_profitable: float = 0.0
    tier: int | None = None


def aggregates(shown: Iterable[Outcome], now_ms: int, *, eliminated: bool = False) -> Aggregates:
    """The aggregates of the positions a tier shows, given in shown order (docs/accounting.md, 5).

    An eliminated miner's are those of a miner without positions.
    """
    if eliminated:
        return Aggregates()
    window = now_ms - RETURNS_WINDOW_MS
    recent = total = 1.0
    count = profitable = 0
    for outcome in shown:
        if not outcome.counts:
            continue
        count += 1
        profitable += outcome.return_at_close > 1
        total *= outcome.return_at_close
        if outcome.open_ms >= window:
            recent *= outcome.return_at_close
    return Aggregates(
        thirty_day_returns=recent,
        all_time_returns=total,
        n_positions=count,
        percentage_profitable=profitable / count if count else 0.0,
    )


def next_aggregate_change_ms(shown: Iterable[Outcome], now_ms: int) -> int | None:
    """When the next counted position leaves the window of `thirty_day_returns`; None if none will."""
    window = now_ms - RETURNS_WINDOW_MS
    first = min((o.open_ms for o in shown if o.counts and o.open_ms >= window), default=None)
    return None if first is None else first + RETURNS_WINDOW_MS + 1


def position_order(close_ms: int | None, position_uuid: str) -> tuple[bool, int, str]:
    """Sort key of a miner's positions: by close_ms, open ones (None) last, ties by uuid."""
    return close_ms is None, close_ms or 0, position_uuid


def miner_order(thirty_day_returns: float, hotkey: str) -> tuple[float, str]:
    """Sort key of miners: best first, ties by hotkey."""
    return -thirty_day_returns, hotkey
