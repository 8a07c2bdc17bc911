"""A miner's entry and its row of the leaderboard: aggregates, and the orders (docs/accounting.md, 5)."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from ptn_api.model.order import Order, OrderType
from ptn_api.model.position import Position, PositionState
from ptn_api.model.trade_pair import pair_id
from ptn_api.summary import Summary, counted, number, summarised, time_text

__all__ = [
    "DEFAULT_LOOKBACK_DAYS",
    "Aggregates",
    "CountedOutcomes",
    "Exposure",
    "LastOrder",
    "Leaderboard",
    "LeaderboardEntry",
    "MinerElimination",
    "MinerEntry",
    "Outcome",
    "aggregates",
    "miner_order",
    "next_aggregate_change_ms",
    "position_order",
    "similar_hotkeys",
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


class CountedOutcomes:
    """Those of some outcomes that count, in order: 16 bytes each, a tenth of what the outcomes take."""

    __slots__ = ("_opened_ms", "_returns")

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        counting = [outcome for outcome in outcomes if outcome.counts]
        self._opened_ms = array("q", [outcome.open_ms for outcome in counting])
        self._returns = array("d", [outcome.return_at_close for outcome in counting])

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """Yields (open_ms, return_at_close)."""
        return zip(self._opened_ms, self._returns, strict=True)


_NOTHING_COUNTED = CountedOutcomes()


class Aggregates(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a miner's counted positions: those that the tier shows as closed, after at least 60 s.

    The fields are in the order of an entry's keys.
    """

    thirty_day_returns: float = 1.0
    """Product of `return_at_close` over the positions opened in the lookback, 180 days unless the statistics
    state another (the name is historical); 1.0 without any.

    Unit: factor (1.0 = unchanged).
    """
    all_time_returns: float = 1.0
    """Product of `return_at_close` over all counted positions; 1.0 without any.

    Unit: factor (1.0 = unchanged).
    """
    n_positions: int = 0
    """Number of counted positions. Unit: count."""
    percentage_profitable: float = 0.0
    """Share of the counted positions with `return_at_close` > 1, from 0 to 1. Unit: fraction."""


@summarised
class MinerEntry(msgspec.Struct, kw_only=True):
    """A miner's entry in `/miner-positions` and in the checkpoint."""

    positions: list[Position] = msgspec.field(default_factory=list)
    """The positions that the tier shows, by `close_ms`, open ones last."""
    thirty_day_returns: float = 1.0
    """See `Aggregates`."""
    all_time_returns: float = 1.0
    """See `Aggregates`."""
    n_positions: int = 0
    """See `Aggregates`."""
    percentage_profitable: float = 0.0
    """See `Aggregates`."""
    tier: int | None = None
    """The tier by whose rules the positions are shown. Unit: tier. Absent: in the checkpoint."""

    def _summary(self) -> Summary:
        title = f"{counted(len(self.positions), 'positions')}, return {self.thirty_day_returns:.5f}"
        return Summary(
            f"{title}, over all time {self.all_time_returns:.5f}",
            ("pair", "type", "leverage", "return", "orders", "opened", "closed"),
            (
                (
                    pair_id(position.trade_pair),
                    position.position_type,
                    f"{position.net_leverage:+g}",
                    f"{position.current_return:.5f}",
                    len(position.orders),
                    time_text(position.open_ms),
                    time_text(position.closed_at),
                )
                for position in self.positions
            ),
            len(self.positions),
        )


class LastOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The newest order that a tier shows. Since: 0.2.0."""

    processed_ms: int
    """See `Order`."""
    trade_pair: str
    """Id of the order's trade pair."""
    order_type: OrderType
    """See `Order`."""
    leverage: float | None
    """See `Order`."""


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """What a miner holds in one or several positions, as a tier shows them.

    `net_leverage` is that of the open positions, signed, by trade pair. The fields are in the order of a
    row's keys.
    """

    open_positions: int = 0
    net_leverage: dict[str, float] = msgspec.field(default_factory=dict)
    last_order: LastOrder | None = None

    @classmethod
    def of(cls, trade_pair: Any, state: PositionState, orders: Sequence[Order]) -> Exposure:
        """Returns the exposure of a position in this state after these orders."""
        pair, last = pair_id(trade_pair), max(orders, key=_time_and_uuid, default=None)
        is_open = state.closed_at is None
        return cls(
            open_positions=int(is_open),
            net_leverage={pair: state.net_leverage} if is_open else {},
            last_order=None
            if last is None
            else LastOrder(
                processed_ms=last.processed_ms,
                trade_pair=pair,
                order_type=last.order_type,
                leverage=last.leverage,
            ),
        )

    @classmethod
    def total(cls, parts: Iterable[Exposure]) -> Exposure:
        """Returns the exposure of all these positions together; of equally new orders, the first counts."""
        count, leverages, last = 0, dict[str, float](), None
        for part in parts:
            count += part.open_positions
            for pair, leverage in part.net_leverage.items():
                leverages[pair] = _finite(leverages.get(pair, 0.0) + leverage)
            order = part.last_order
            if order is not None and (last is None or order.processed_ms > last.processed_ms):
                last = order
        return cls(open_positions=count, net_leverage=leverages, last_order=last)


def _time_and_uuid(order: Order) -> tuple[int, str]:
    return order.processed_ms, order.order_uuid


class MinerElimination(msgspec.Struct, frozen=True, kw_only=True):
    """Why and when a miner was excluded from the competition. Since: 0.2.0."""

    reason: str | None
    """See `Elimination`."""
    elimination_initiated_time_ms: int | None
    """See `Elimination`."""


@summarised
class LeaderboardEntry(msgspec.Struct, kw_only=True):
    """A miner's row of the leaderboard, as the tier shows the miner's positions.

    The last four values are not delayed, since the documents that they come from never are. Since: 0.2.0.
    """

    hotkey: str
    """The miner."""
    rank: int
    """Place by `thirty_day_returns`, from 1. Unit: place."""
    thirty_day_returns: float
    """See `Aggregates`."""
    all_time_returns: float
    """See `Aggregates`."""
    n_positions: int
    """See `Aggregates`."""
    percentage_profitable: float
    """See `Aggregates`."""
    open_positions: int
    """Number of open positions. Unit: count."""
    net_leverage: dict[str, float]
    """By trade pair: net leverage of the open positions, signed. Unit: multiple of the balance."""
    last_order: LastOrder | None
    """The newest order, by `processed_ms`. Null: no order is shown."""
    phase: str | None
    """Bucket of the challenge period, such as MAINCOMP, CHALLENGE, PROBATION or ELIMINATED; an open set.

    Null: not in the document.
    """
    elimination: MinerElimination | None
    """Why and when the miner was eliminated. Null: not eliminated."""
    drawdown: float | None
    """Loss from the highest portfolio return to the lowest one after it, over the perf ledger: 0.034 = 3.4 %
    lost. 5 decimals.

    Unit: fraction. Null: no ledger.
    """
    curve: list[tuple[int, float]] | None
    """Portfolio return over time: up to 60 pairs [epoch ms, factor], oldest first; 5 decimals.

    Unit: epoch ms, factor. Null: no ledger.
    """

    def _summary(self) -> Summary:
        return Summary(f"LeaderboardEntry({self.rank}. {self.hotkey}, {self.thirty_day_returns:.5f})")


@summarised
class Leaderboard(msgspec.Struct, kw_only=True):
    """All miners that a tier shows, best first. Since: 0.2.0."""

    tier: int
    """The tier by whose rules the positions are shown. Unit: tier."""
    delay_ms: int
    """Delay of the tier's delayed data: 0 at tier 100, else a day. Unit: ms."""
    lookback_days: float
    """Lookback of `thirty_day_returns`. Unit: days."""
    miners: list[LeaderboardEntry]
    """A row for each miner, by `thirty_day_returns`, ties by hotkey."""

    def _summary(self) -> Summary:
        return Summary(
            f"{counted(len(self.miners), 'miners')}, best first, tier {self.tier}",
            ("rank", "miner", f"{self.lookback_days:g}d return", "all time", "drawdown", "open", "phase"),
            (
                (
                    row.rank,
                    row.hotkey,
                    f"{row.thirty_day_returns:.5f}",
                    f"{row.all_time_returns:.5f}",
                    number(row.drawdown, ".1%"),
                    row.open_positions,
                    "eliminated" if row.elimination else row.phase,
                )
                for row in self.miners
            ),
            len(self.miners),
        )


def aggregates(
    shown: Iterable[Outcome],
    now_ms: int,
    *,
    lookback_days: float = DEFAULT_LOOKBACK_DAYS,
    first: CountedOutcomes = _NOTHING_COUNTED,
) -> Aggregates:
    """Returns the aggregates of the positions that a tier shows, in the order shown: `first`, then `shown`.

    `lookback_days` is the window of `thirty_day_returns`: positions opened strictly after its start.
    """
    start_ms = now_ms - lookback_days * _DAY_MS
    recent = total = 1.0
    count = profitable = 0
    for open_ms, return_at_close in chain(first, CountedOutcomes(shown)):
        count += 1
        profitable += return_at_close > 1
        total *= return_at_close
        if open_ms > start_ms:
            recent *= return_at_close
    return Aggregates(
        thirty_day_returns=_finite(recent),
        all_time_returns=_finite(total),
        n_positions=count,
        percentage_profitable=profitable / count if count else 0.0,
    )


def _finite(value: float) -> float:
    """Returns the value, or the nearest float that JSON can express; 0 for infinity x 0."""
    if math.isfinite(value):
        return value
    return 0.0 if math.isnan(value) else math.copysign(sys.float_info.max, value)


def next_aggregate_change_ms(
    shown: Iterable[Outcome],
    now_ms: int,
    *,
    lookback_days: float = DEFAULT_LOOKBACK_DAYS,
    first: CountedOutcomes = _NOTHING_COUNTED,
) -> int | None:
    """Returns when the next counted position leaves the window of `thirty_day_returns`, if any will."""
    window_ms = lookback_days * _DAY_MS
    start_ms = now_ms - window_ms
    counted = chain(first, CountedOutcomes(shown))
    earliest_ms = min((open_ms for open_ms, _ in counted if open_ms > start_ms), default=None)
    return None if earliest_ms is None else math.ceil(earliest_ms + window_ms)


def position_order(close_ms: int | None, position_uuid: str) -> tuple[bool, int, str]:
    """Returns the sort key of a miner's positions: by close_ms, open ones (None) last, ties by uuid."""
    return close_ms is None, close_ms or 0, position_uuid


def miner_order(thirty_day_returns: float, hotkey: str) -> tuple[float, str]:
    """Returns the sort key of miners: best first, ties by hotkey."""
    return -thirty_day_returns, hotkey


def similar_hotkeys(name: str, known: Iterable[str]) -> str:
    """A question for an error: the hotkeys that begin most like the name, empty if none does."""
    from difflib import get_close_matches

    starts = {hotkey[: len(name)]: hotkey for hotkey in known}
    # Random letters are a third alike already.
    near = get_close_matches(name, starts, n=3, cutoff=0.65) if len(name) > 2 else []
    return f"; did you mean {' or '.join(starts[start] for start in near)}?" if near else ""
