"""A miner's entry: aggregates, and the order of positions and miners (docs/accounting.md, 5)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from ptn_api.model.position import Position, PositionState

__all__ = [
    "DEFAULT_LOOKBACK_DAYS",
    "Aggregates",
    "MinerEntry",
    "Outcome",
    "aggregates",
    "miner_order",
    "next_aggregate_change_ms",
    "position_order",
]

SHORTEST_COUNTED_MS = 60_000
DEFAULT_LOOKBACK_DAYS = 180
"""The window of `thirty_day_returns` (the name is historical), unless the statistics name another."""
_DAY_MS = 86_400_000


class Outcome(msgspec.Struct, frozen=True):
    """The part of a shown position that enters its miner's aggregates; `close_ms`: None while open."""

    open_ms: int
    close_ms: int | None
    return_at_close: float

    @classmethod
    def of(cls, state: PositionState) -> Outcome:
        """Returns the outcome of a position, or of the state that it was rebuilt to."""
        return cls(state.open_ms, state.closed_at, state.return_at_close)

    @property
    def counts(self) -> bool:
        return self.close_ms is not None and self.close_ms - self.open_ms >= SHORTEST_COUNTED_MS


class Aggregates(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a miner's counted positions; returns are factors, `percentage_profitable` a fraction 0..1.

    The fields are in the order of an entry's keys.
    """

    thirty_day_returns: float = 1.0
    all_time_returns: float = 1.0
    n_positions: int = 0
    percentage_profitable: float = 0.0


class MinerEntry(msgspec.Struct, kw_only=True):
    """A miner's entry in `/miner-positions` and in the checkpoint, where entries have no `tier`."""

    positions: list[Position] = msgspec.field(default_factory=list)
    thirty_day_returns: float = 1.0
    all_time_returns: float = 1.0
    n_positions: int = 0
    percentage_profitable: float = 0.0
    tier: int | None = None


def aggregates(
    shown: Iterable[Outcome], now_ms: int, *, lookback_days: float = DEFAULT_LOOKBACK_DAYS
) -> Aggregates:
    """Returns the aggregates of the positions that a tier shows, given in the order shown.

    `lookback_days` is the window of `thirty_day_returns`: positions opened strictly after its start.
    """
    start_ms = now_ms - lookback_days * _DAY_MS
    recent = total = 1.0
    count = profitable = 0
    for outcome in shown:
        if not outcome.counts:
            continue
        count += 1
        profitable += outcome.return_at_close > 1
        total *= outcome.return_at_close
        if outcome.open_ms > start_ms:
            recent *= outcome.return_at_close
    return Aggregates(
        thirty_day_returns=recent,
        all_time_returns=total,
        n_positions=count,
        percentage_profitable=profitable / count if count else 0.0,
    )


def next_aggregate_change_ms(
    shown: Iterable[Outcome], now_ms: int, *, lookback_days: float = DEFAULT_LOOKBACK_DAYS
) -> int | None:
    """Returns when the next counted position leaves the window of `thirty_day_returns`, if any will."""
    window_ms = lookback_days * _DAY_MS
    first = min((o.open_ms for o in shown if o.counts and o.open_ms > now_ms - window_ms), default=None)
    return None if first is None else math.ceil(first + window_ms)


def position_order(close_ms: int | None, position_uuid: str) -> tuple[bool, int, str]:
    """Returns the sort key of a miner's positions: by close_ms, open ones (None) last, ties by uuid."""
    return close_ms is None, close_ms or 0, position_uuid


def miner_order(thirty_day_returns: float, hotkey: str) -> tuple[float, str]:
    """Returns the sort key of miners: best first, ties by hotkey."""
    return -thirty_day_returns, hotkey
