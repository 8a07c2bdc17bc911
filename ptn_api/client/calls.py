"""The REST routes: the parameters of each call, and the documents they return.

Each function here makes the `Call` that `PTNClient` and `AsyncPTNClient` (`rest.py`) send in their own way.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload
from urllib.parse import quote, unquote, urlencode

import msgspec

import ptn_api.client.tables.columns as columns
from ptn_api.client.arguments import (
    ALL,
    Choice,
    Time,
    as_list,
    check_literal,
    interval_ms,
    time_from,
    trade_pairs_from,
)
from ptn_api.client.message import MESSAGE_COLUMNS, PTNWebSocketMessage, message_cells
from ptn_api.client.tables.columns import Rows, Table
from ptn_api.client.tables.documents import (
    AccountDocument,
    CollateralDocument,
    DebtLedgers,
    LedgerDocument,
    PeriodDocument,
    Selections,
    Tabular,
)
from ptn_api.errors import InvalidInputError, SettingsError
from ptn_api.model.documents import (
    DebtLedgerSummary,
    Entities,
    EntityAnswer,
    EntityEndpoint,
    ListedTradePair,
    MinerSelections,
)
from ptn_api.model.limit_order import ListedOrder, OrderStatus
from ptn_api.model.miner import Aggregates, Leaderboard, MinerEntry, miner_order, position_order
from ptn_api.model.order import OrderRow
from ptn_api.model.position import Position
from ptn_api.model.repair import fitting
from ptn_api.model.statistics import Elimination, Eliminations, MinerStatistics, PerfLedger, Statistics
from ptn_api.model.tiers import TIER_LAG_MS, Tier
from ptn_api.model.trade_pair import Category
from ptn_api.summary import SummarisedDict, SummarisedList, Summary, counted, summarised, time_text
from ptn_api.wire.about import Health, Me
from ptn_api.wire.frames import Format
from ptn_api.wire.server_frames import OrderMessage

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]
    import polars

__all__ = [
    "Call",
    "Checkpoint",
    "History",
    "Ledgers",
    "MessagePage",
    "Miner",
    "MinerOrders",
    "MinerPositions",
    "OrderPage",
    "PositionChanges",
    "Progress",
    "StatisticsDocument",
    "Status",
    "TradePairs",
]

logger = logging.getLogger("ptn_api.client")

T = TypeVar("T")

Status = Literal["open", "closed"]
Progress = Callable[[int, int | None], object]
"""Called with the bytes received so far, compressed as they travel, and their total if known."""

_Reader = Callable[[bytes, Mapping[str, str]], T]
"""Decodes a response: (body, headers) -> result."""
_Answer = tuple[bytes, Mapping[str, str]]
_CLOCKS_APART_MS = 60_000
_MOST_TIMES = 10_000
"""Requests of one history."""
_QUERY_BYTES = 6_000
"""Longer queries are asked in parts. Servers and proxies limit a request line to about 8,000 bytes."""


class Collector(Protocol):
    """The parts of a body, in order; `clear` comes before each attempt."""

    def clear(self) -> None: ...

    def add(self, data: bytes) -> None: ...


class Call(Generic[T]):
    """A GET request and the reader of its response.

    `accept` lists the statuses that `read` understands; `cached` results are kept with their ETag.
    With `to_file` the body is downloaded to that file, and the result is its path; a `collector` gets it part
    by part. `read` then gets an empty one. With `join`, a call with long lists is sent as several, whose
    answers it puts together.
    """

    def __init__(
        self,
        path: str,
        read: _Reader[T],
        *,
        accept: Sequence[int] = (200,),
        cached: bool = True,
        to_file: Path | None = None,
        collector: Collector | None = None,
        progress: Progress | None = None,
        join: Callable[[Sequence[_Answer]], _Answer] | None = None,
        **parameters: Any,
    ) -> None:
        self.path = path
        self.join = join
        self.read = read
        self.accept = accept
        self.cached = cached and to_file is None
        self.to_file = to_file
        self.collector = collector
        self.progress = progress
        self.parameters = {name: value for name, value in parameters.items() if value not in (None, [], "")}
        self.key = (path, read, msgspec.json.encode(self.parameters))
        """Identifies the request in the cache."""

    @property
    def hotkey(self) -> str:
        """The path's last part, where the route is about one miner or entity."""
        name = unquote(self.path[1:].partition("/")[2])
        return "" if name == "endpoint" else name  # of /entity/endpoint

    def parts(self) -> list[Call[_Answer]]:
        """Returns the calls that together ask for the same, none if this one can be sent."""
        if self.join is None or not _is_long(self.parameters):
            return []
        parts = [self.parameters]
        for name, names in self.parameters.items():
            if isinstance(names, list):
                size = _QUERY_BYTES // 2 // (max(len(urlencode({name: value})) for value in names) + 1)
                chunks = [names[at : at + max(size, 1)] for at in range(0, len(names), max(size, 1))]
                parts = [part | {name: chunk} for part in parts for chunk in chunks]
        return [Call(self.path, _as_received, **part) for part in parts]


def _is_long(parameters: Mapping[str, Any]) -> bool:
    return len(urlencode(parameters, doseq=True)) > _QUERY_BYTES


def _as_received(body: bytes, headers: Mapping[str, str]) -> _Answer:
    return body, headers


# --- documents --------------------------------------------------------------------------------------------


class Miner(MinerEntry, kw_only=True):
    """One miner's entry."""

    def to_polars(self, rows: Rows = "positions") -> polars.DataFrame:
        """Returns one row per position, or per order."""
        return columns.positions_or_orders(self.positions, rows).to_polars()

    def to_pandas(self, rows: Rows = "positions") -> pandas.DataFrame:
        """Returns one row per position, or per order."""
        return columns.positions_or_orders(self.positions, rows).to_pandas()


class History:
    """One miner's entries at several times, collected one by one: the times to ask for, and the table."""

    def __init__(
        self, hotkey: str, every: str | timedelta, start: Time | None, end: Time | None, rows: Rows
    ) -> None:
        check_literal(Rows, rows, "rows")
        self.hotkey = hotkey
        self._every_ms = interval_ms(every)
        self._start_ms, self._end_ms = time_from(start), time_from(end)
        self._rows: Rows = rows
        self._found: list[tuple[int, Miner]] = []

    def times(self, now: Miner, now_ms: int) -> range:
        """Returns the times, as multiples of the interval: by default from the first position on.

        `now` is the miner's present entry. The newest time is a minute old, since the server's clock may be
        behind; below tier 100 it is a day older.
        """
        if self._start_ms is not None and self._start_ms > now_ms + _CLOCKS_APART_MS:
            raise SettingsError("start lies in the future")
        newest_ms = now_ms - _CLOCKS_APART_MS - (0 if (now.tier or 0) >= 100 else TIER_LAG_MS)
        end_ms = newest_ms if self._end_ms is None else min(self._end_ms, newest_ms)
        first_ms = min((position.open_ms for position in now.positions), default=end_ms + 1) + 1
        start_ms = max(first_ms, self._start_ms or 0)
        times = range(-(-start_ms // self._every_ms) * self._every_ms, end_ms + 1, self._every_ms)
        if len(times) > _MOST_TIMES:
            raise SettingsError(f"{len(times)} times; ask for at most {_MOST_TIMES}, or a longer interval")
        return times

    def add(self, at_ms: int, entry: Miner) -> None:
        self._found.append((at_ms, entry))

    def to_polars(self) -> polars.DataFrame:
        """Returns one row per time and position, or order, with the time as `at`."""
        entries = [(at_ms, entry.positions) for at_ms, entry in self._found]
        return columns.history(entries, self._rows).to_polars()


@summarised
class MinerPositions(dict[str, Miner]):
    """`{hotkey: entry}`, best miner first.

    At tier 100 the document contains everything up to `epoch`, `sequence` and `revision`. Lower tiers have
    `as_of_ms` instead: everything up to that time is visible.
    """

    epoch: str | None = None
    sequence: int | None = None
    revision: int | None = None
    as_of_ms: int | None = None

    @classmethod
    def read(cls, body: bytes, headers: Mapping[str, str]) -> MinerPositions:
        entries = cls(msgspec.json.decode(body, type=dict[str, Miner]))
        entries.epoch = headers.get("x-ptn-epoch")
        entries.sequence = _int(headers.get("x-ptn-sequence"))
        entries.revision = _int(headers.get("x-ptn-revision"))
        entries.as_of_ms = _int(headers.get("x-ptn-as-of"))
        return entries

    @property
    def cursor(self) -> str | None:
        """The argument for `miner_positions(since=)`; None at lower tiers."""
        return None if self.epoch is None else f"{self.epoch}:{self.revision}"

    def positions(self) -> Iterator[Position]:
        """Yields the positions of all miners."""
        for entry in self.values():
            yield from entry.positions

    def to_polars(self, rows: Rows = "positions") -> polars.DataFrame:
        """Returns one row per position, or per order."""
        return columns.positions_or_orders(self.positions(), rows).to_polars()

    def to_pandas(self, rows: Rows = "positions") -> pandas.DataFrame:
        """Returns one row per position, or per order."""
        return columns.positions_or_orders(self.positions(), rows).to_pandas()

    def _summary(self) -> Summary:
        n_positions = sum(len(entry.positions) for entry in self.values())
        rows = (
            (
                hotkey,
                f"{entry.thirty_day_returns:.5f}",
                f"{entry.all_time_returns:.5f}",
                f"{entry.percentage_profitable:.0%}",
                len(entry.positions),
            )
            for hotkey, entry in self.items()
        )
        # As they were (`at`), they are by hotkey.
        best_first = all(a.thirty_day_returns >= b.thirty_day_returns for a, b in pairwise(self.values()))
        order = "best first" if best_first else "by hotkey"
        title = f"{counted(len(self), 'miners')}, {order}, with {counted(n_positions, 'positions')}"
        return Summary(title, ("miner", "return", "all time", "won", "positions"), rows, len(self))


@summarised
class PositionChanges(msgspec.Struct, kw_only=True):
    """Changes since a cursor: apply `removed` (hotkey, uuid) first, then `positions` by hotkey.

    `miners` are the current aggregates of all miners; `cursor` is the argument of the next call.
    """

    cursor: str
    sequence: int
    removed: list[tuple[str, str]]
    positions: dict[str, list[Position]]
    miners: dict[str, Aggregates]

    def to_polars(self, rows: Rows = "positions") -> polars.DataFrame:
        """Returns one row per changed position, or per order of those."""
        return self._table(rows).to_polars()

    def to_pandas(self, rows: Rows = "positions") -> pandas.DataFrame:
        """Returns one row per changed position, or per order of those."""
        return self._table(rows).to_pandas()

    def _table(self, rows: Rows) -> Table:
        changed = (position for positions in self.positions.values() for position in positions)
        return columns.positions_or_orders(changed, rows)

    def _summary(self) -> Summary:
        changed = sum(map(len, self.positions.values()))
        title = f"{changed:,} changed and {len(self.removed):,} removed positions, up to {self.cursor}"
        rows = ((hotkey, len(positions)) for hotkey, positions in self.positions.items())
        return Summary(title, ("miner", "changed positions"), rows, len(self.positions))


class StatisticsDocument(Statistics, kw_only=True):
    """The validator's statistics: `data` has an element per miner."""

    def of(self, hotkey: str) -> MinerStatistics | None:
        """Returns one miner's element."""
        return next((miner for miner in self.data if miner.hotkey == hotkey), None)

    def to_polars(self) -> polars.DataFrame:
        """Returns one row per miner, with a column per value (`scores.omega.value`)."""
        return columns.statistics(self.data).to_polars()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns one row per miner, with a column per value (`scores.omega.value`)."""
        return columns.statistics(self.data).to_pandas()


@summarised
class Ledgers(dict[str, PerfLedger]):
    """One miner's ledgers: "portfolio", and those of trade pairs from a server of 2025."""

    hotkey = ""

    @classmethod
    def read(cls, hotkey: str, body: bytes) -> Ledgers:
        """Decodes `{hotkey: ledger}`, or what older servers send: ledgers by trade pair, or one ledger."""
        if "cps" in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
            ledgers = cls(portfolio=_read_document(body, PerfLedger))
        else:
            ledgers = cls(_read_document(body, dict[str, PerfLedger]))
        if hotkey in ledgers:
            ledgers["portfolio"] = ledgers.pop(hotkey)
        ledgers.hotkey = hotkey
        return ledgers

    def to_polars(self) -> polars.DataFrame:
        """Returns one row per checkpoint of a ledger."""
        return columns.ledgers({self.hotkey: self}).to_polars()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns one row per checkpoint of a ledger."""
        return columns.ledgers({self.hotkey: self}).to_pandas()

    def _summary(self) -> Summary:
        rows = (
            (name, len(ledger.cps), time_text(ledger.initialization_time_ms)) for name, ledger in self.items()
        )
        title = f"perf ledgers of {self.hotkey}"
        return Summary(title, ("ledger", "checkpoints", "since"), rows, len(self))


@summarised
class MinerOrders(msgspec.Struct, kw_only=True):
    """One miner's orders by status, oldest first. A status that was not requested is empty."""

    unfilled: list[ListedOrder] = msgspec.field(default_factory=list)
    filled: list[ListedOrder] = msgspec.field(default_factory=list)
    cancelled: list[ListedOrder] = msgspec.field(default_factory=list)

    def to_polars(self) -> polars.DataFrame:
        """Returns one row per order, with its status."""
        return columns.listed_orders(self._by_status()).to_polars()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns one row per order, with its status."""
        return columns.listed_orders(self._by_status()).to_pandas()

    def _by_status(self) -> dict[str, list[ListedOrder]]:
        return {"unfilled": self.unfilled, "filled": self.filled, "cancelled": self.cancelled}

    def _summary(self) -> Summary:
        by_status = self._by_status()
        rows = (
            (
                status,
                order.trade_pair_id,
                order.order_type,
                order.leverage,
                order.price,
                time_text(order.processed_ms),
            )
            for status, orders in by_status.items()
            for order in orders
        )
        title = ", ".join(f"{len(orders):,} {status}" for status, orders in by_status.items()) + " orders"
        total = sum(map(len, by_status.values()))
        return Summary(title, ("status", "pair", "type", "leverage", "price", "processed"), rows, total)


@summarised
class OrderPage(msgspec.Struct, frozen=True, kw_only=True):
    """Orders of all miners, newest first; continue with `before=next` until `next` is None."""

    orders: list[OrderRow]
    next: str | None = None

    def to_polars(self) -> polars.DataFrame:
        """Returns one row per order, with its position's names and its sequence."""
        return columns.order_rows(self.orders).to_polars()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns one row per order, with its position's names and its sequence."""
        return columns.order_rows(self.orders).to_pandas()

    def _summary(self) -> Summary:
        rows = (
            (
                row.miner_hotkey,
                row.trade_pair,
                row.order.order_type,
                row.order.leverage,
                row.order.price,
                time_text(row.order.processed_ms),
            )
            for row in self.orders
        )
        total = len(self.orders)
        names = ("miner", "pair", "type", "leverage", "price", "processed")
        return Summary(counted(total, "orders"), names, rows, total)


@summarised
class TradePairs(Tabular, msgspec.Struct, kw_only=True):
    """The network's trade pairs. Positions in `disabled` ones may exist; they can no longer be traded.

    The table has a row per pair.
    """

    allowed: list[ListedTradePair]
    disabled: list[ListedTradePair] = msgspec.field(default_factory=list)

    @classmethod
    def read(cls, body: bytes, headers: Mapping[str, str]) -> TradePairs:
        """Decodes the current shape, or the plain list of a server of 0.1.0."""
        if body[:1] != b"[":
            return msgspec.json.decode(body, type=cls)
        return cls(
            allowed=[
                ListedTradePair(
                    trade_pair_id=pair.id,
                    hl_coin=None,
                    trade_pair=pair.display,
                    trade_pair_category=pair.category,
                    trade_pair_source="vanta",
                    min_leverage=pair.min_leverage,
                    max_leverage=pair.max_leverage,
                    subaccount_positional_leverage_by_tier={},
                )
                for pair in msgspec.json.decode(body, type=list[_FormerTradePair])
            ]
        )

    def _table(self) -> Table:
        return columns.trade_pairs(self.allowed, self.disabled)

    def _summary(self) -> Summary:
        rows = (
            (pair.trade_pair_id, pair.trade_pair, pair.trade_pair_category, pair.max_leverage)
            for pair in self.allowed
        )
        title = f"{counted(len(self.allowed), 'trade pairs')}, {len(self.disabled):,} disabled"
        return Summary(title, ("id", "pair", "category", "max leverage"), rows, len(self.allowed))


class _FormerTradePair(msgspec.Struct):
    id: str
    display: str
    category: Category
    min_leverage: float
    max_leverage: float


@summarised
class Checkpoint(msgspec.Struct, kw_only=True):
    """The state that a validator restores from; times are epoch ms.

    The "youngest" order has the smallest time, the "oldest" the largest; the names are historical.
    It contains every order up to `sequence` of the log `epoch`; the stream continues there.
    """

    version: Any = None
    created_timestamp_ms: int | None = None
    created_date: str | None = None
    challengeperiod: Any = None
    miner_account_sizes: Any = None
    entities: Any = None
    asset_selections: Any = None
    limit_orders: dict[str, dict[str, list[ListedOrder]]] = msgspec.field(default_factory=dict)
    """The unfilled ones, by trade pair and hotkey."""
    archived_positions: dict[str, Miner] = msgspec.field(default_factory=dict)
    eliminations: list[Elimination] = msgspec.field(default_factory=list)
    youngest_order_processed_ms: int | None = None
    oldest_order_processed_ms: int | None = None
    positions: dict[str, Miner] = msgspec.field(default_factory=dict)
    perf_ledgers: dict[str, PerfLedger] = msgspec.field(default_factory=dict)
    epoch: str | None = None
    sequence: int | None = None

    @classmethod
    def read(cls, body: bytes, headers: Mapping[str, str]) -> Checkpoint:
        checkpoint = _read_document(body, cls)
        checkpoint.epoch = headers.get("x-ptn-epoch")
        checkpoint.sequence = _int(headers.get("x-ptn-sequence"))
        return checkpoint

    def to_polars(self, rows: Rows = "positions") -> polars.DataFrame:
        """Returns one row per position, or per order."""
        return MinerPositions(self.positions).to_polars(rows)

    def to_pandas(self, rows: Rows = "positions") -> pandas.DataFrame:
        """Returns one row per position, or per order."""
        return MinerPositions(self.positions).to_pandas(rows)

    def ledgers_to_polars(self) -> polars.DataFrame:
        """Returns one row per checkpoint of a miner's portfolio ledger."""
        return self._ledgers().to_polars()

    def ledgers_to_pandas(self) -> pandas.DataFrame:
        """Returns one row per checkpoint of a miner's portfolio ledger."""
        return self._ledgers().to_pandas()

    def _ledgers(self) -> Table:
        by_miner = {hotkey: {"portfolio": ledger} for hotkey, ledger in self.perf_ledgers.items()}
        return columns.ledgers(by_miner)

    def _summary(self) -> Summary:
        counts = {
            "miners with positions": len(self.positions),
            "positions": sum(len(entry.positions) for entry in self.positions.values()),
            "perf ledgers": len(self.perf_ledgers),
            "eliminations": len(self.eliminations),
            "trade pairs with limit orders": len(self.limit_orders),
            "miners with archived positions": len(self.archived_positions),
        }
        title = f"checkpoint of {time_text(self.created_timestamp_ms) or 'an unknown time'}"
        return Summary(
            title, ("content", "number"), ((name, f"{n:,}") for name, n in counts.items()), len(counts)
        )


@summarised
class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of messages after a cursor; continue with `after=next` until `next` is `head`.

    `oldest` is the oldest sequence that the server has; -1 from a server that does not state it.
    """

    messages: list[PTNWebSocketMessage]
    next: int
    head: int
    epoch: str
    oldest: int = -1

    @classmethod
    def read(cls, body: bytes, headers: Mapping[str, str]) -> MessagePage:
        page = msgspec.json.decode(body, type=_EncodedPage)
        messages = [PTNWebSocketMessage(message) for message in page.messages]
        return cls(messages=messages, next=page.next, head=page.head, epoch=page.epoch, oldest=page.oldest)

    def to_polars(self) -> polars.DataFrame:
        """Returns one row per order."""
        return columns.messages(self.messages).to_polars()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns one row per order."""
        return columns.messages(self.messages).to_pandas()

    def _summary(self) -> Summary:
        rows = map(message_cells, self.messages)
        title = f"{counted(len(self.messages), 'messages')}; next {self.next}, head {self.head}"
        return Summary(title, MESSAGE_COLUMNS, rows, len(self.messages))


@summarised
class EliminationList(list[Elimination]):
    """The eliminated miners."""

    def of(self, hotkey: str) -> Elimination | None:
        """Returns one miner's elimination."""
        return next((found for found in self if found.hotkey == hotkey), None)

    def to_polars(self) -> polars.DataFrame:
        """Returns one row per miner."""
        return columns.eliminations(self).to_polars()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns one row per miner."""
        return columns.eliminations(self).to_pandas()

    def _summary(self) -> Summary:
        rows = ((e.hotkey, time_text(e.elimination_initiated_time_ms), e.reason) for e in self)
        return Summary(counted(len(self), "eliminated miners"), ("miner", "when", "reason"), rows, len(self))


class LeaderboardDocument(Leaderboard, kw_only=True):
    """A row for each miner, best first."""

    def to_polars(self) -> polars.DataFrame:
        """Returns one row per miner, without the curves."""
        return columns.leaderboard(self.miners).to_polars()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns one row per miner, without the curves."""
        return columns.leaderboard(self.miners).to_pandas()


class _EncodedPage(msgspec.Struct):
    messages: list[OrderMessage]
    next: int
    head: int
    epoch: str
    oldest: int = -1


# --- routes -----------------------------------------------------------------------------------------------


@overload
def miner_positions(
    *,
    tier: Tier | None = None,
    miner: Choice | None = ALL,
    trade_pair: Choice | None = ALL,
    status: Status | None = None,
    since: None = None,
    at: Time | None = None,
) -> Call[MinerPositions]: ...


@overload
def miner_positions(*, since: str) -> Call[PositionChanges]: ...


def miner_positions(
    *,
    tier: Tier | None = None,
    miner: Choice | None = ALL,
    trade_pair: Choice | None = ALL,
    status: Status | None = None,
    since: str | None = None,
    at: Time | None = None,
) -> Call[MinerPositions] | Call[PositionChanges]:
    """Every miner's positions, best miner first; `tier` None means 100.

    `miner` and `trade_pair` filter. `since` (a previous result's `cursor`, tier 100) returns only what
    changed; APIStatusError with status 410 means that the whole document is needed.

    `at` returns them as they were, by the orders before that time, the miners sorted by hotkey. Below tier
    100 it is at most 24 hours ago.
    """
    if since is not None:
        return Call("/miner-positions", _decoder(PositionChanges), cached=False, since=since)
    miners, pairs = as_list(miner), trade_pairs_from(trade_pair)
    read: _Reader[MinerPositions] = MinerPositions.read
    if miners and not pairs and status is None:
        read = _ChosenMiners(tuple(miners))
    return Call(
        "/miner-positions",
        read,
        join=_joined_positions,
        tier=tier,
        miner=miners,
        trade_pair=pairs,
        status=status,
        at=time_from(at),
    )


_NO_POSITIONS = "no positions of miner %r: is it a whole hotkey? (only the `ptn` command accepts prefixes)"


class _ChosenMiners(msgspec.Struct, frozen=True):
    """A reader of these miners' positions, equal to another one of the same miners."""

    miners: tuple[str, ...]

    def __call__(self, body: bytes, headers: Mapping[str, str]) -> MinerPositions:
        entries = MinerPositions.read(body, headers)
        for hotkey in self.miners:
            if hotkey not in entries:  # no error: the miner may be new
                logger.warning(_NO_POSITIONS, hotkey)
        return entries


def miner(hotkey: str, *, at: Time | None = None) -> Call[Miner]:
    """One miner's entry, at the key's own tier; with `at` as it was then (see `miner_positions`)."""
    return Call(_path("/miner-positions", hotkey), _decoder(Miner), at=time_from(at))


def leaderboard() -> Call[LeaderboardDocument]:
    """A row for each miner, best first, at the key's own tier: returns, exposure, drawdown and a curve."""
    return Call("/miners", _decoder(LeaderboardDocument))


def hotkeys() -> Call[list[str]]:
    """The hotkeys of all miners known to the validator."""
    return Call("/miner-hotkeys", _as(SummarisedList, _decoder(list[str])))


def statistics(*, checkpoints: bool = True) -> Call[StatisticsDocument]:
    """The validator's statistics: `data` is a list of miners."""
    return Call(
        "/statistics",
        _decoder(StatisticsDocument, strict=False),
        checkpoints=None if checkpoints else "false",
    )


def miner_statistics(hotkey: str, *, checkpoints: bool = True) -> Call[MinerStatistics]:
    """One miner's statistics."""
    path = _path("/statistics", hotkey)
    return Call(path, _decoder(MinerStatistics, strict=False), checkpoints=None if checkpoints else "false")


def eliminations() -> Call[EliminationList]:
    """The eliminated miners, with time and reason."""
    return Call("/eliminations", _as(EliminationList, _part_reader(Eliminations, "eliminations")))


@overload
def validator_checkpoint() -> Call[Checkpoint]: ...


@overload
def validator_checkpoint(to_file: str | os.PathLike[str], progress: Progress | None = None) -> Call[Path]: ...


def validator_checkpoint(
    to_file: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Call[Checkpoint] | Call[Path]:
    """The state that a validator restores from (tier 100).

    `to_file` streams it to a temporary file, renamed when complete, and calls `progress(bytes, total)`. An
    interrupted download starts over: the document changes with every order, so it cannot resume.
    """
    if to_file is None:
        return Call("/validator-checkpoint", Checkpoint.read)
    file = Path(to_file)
    if file.exists() and not file.is_file():
        raise SettingsError(f"cannot replace {file}: not a regular file")
    return Call("/validator-checkpoint", lambda body, headers: file, to_file=file, progress=progress)


def perf_ledger(hotkey: str) -> Call[Ledgers]:
    """One miner's perf ledger, as "portfolio"; from a server of 2025 also those of its trade pairs."""
    return Call(_path("/perf-ledger", hotkey), _ledgers_reader(hotkey))


def orders(hotkey: str, *, status: OrderStatus | Sequence[OrderStatus] = ()) -> Call[MinerOrders]:
    """One miner's orders by status (tier 100); `status` chooses some, by default all.

    Filled orders are those of the miner's positions, without archived ones.
    """
    return Call(_path("/orders", hotkey), _decoder(MinerOrders), status=_comma_list(status))


def order_page(
    *,
    limit: int = 1_000,
    before: str | None = None,
    miner: Choice | None = ALL,
    trade_pair: Choice | None = ALL,
) -> Call[OrderPage]:
    """All miners' orders, newest first (tier 100): at most 1,000, before the `next` of another page.

    The orders are those of the positions in `miner_positions`, as they are now.
    """
    miners, pairs = as_list(miner), trade_pairs_from(trade_pair)
    decode: _Reader[OrderPage] = _decoder(OrderPage)
    too_long = _is_long({"miner": miners or (), "trade_pair": pairs or ()})

    def read(body: bytes, headers: Mapping[str, str]) -> OrderPage:
        for hotkey in filter(None, headers.get("x-ptn-unknown-miners", "").split(",")):
            if before is None:  # once, not with each page
                logger.warning(_NO_POSITIONS, unquote(hotkey))
        page = decode(body, headers)
        if not too_long:
            return page
        chosen = [
            row
            for row in page.orders
            if (miners is None or row.miner_hotkey in miners) and (pairs is None or row.trade_pair in pairs)
        ]
        return msgspec.structs.replace(page, orders=chosen)

    asked = (None, None) if too_long else (miners, pairs)
    return Call(
        "/orders", read, cached=False, limit=limit, before=before, miner=asked[0], trade_pair=asked[1]
    )


def limit_orders(
    hotkey: str, *, status: OrderStatus | Sequence[OrderStatus] = "unfilled"
) -> Call[MinerOrders]:
    """One miner's limit orders by status (tier 100); filled ones are among `orders`."""
    # Without a status, the server sends a list instead.
    return Call(
        _path("/limit-orders", hotkey), _decoder(MinerOrders), status=_comma_list(status) or "unfilled"
    )


def challenge_period(hotkey: str, *, history: bool = False) -> Call[PeriodDocument]:
    """One miner's place in the competition; with `history` also its earlier ones, oldest first."""
    return Call(
        _path("/challenge-period", hotkey),
        _decoder(PeriodDocument, strict=False),
        history="true" if history else None,
    )


def debt_ledgers() -> Call[DebtLedgers]:
    """A summary of every miner's debt ledger."""
    return Call("/debt-ledger", _as(DebtLedgers, _decoder(dict[str, DebtLedgerSummary], strict=False)))


def debt_ledger(hotkey: str) -> Call[LedgerDocument]:
    """One miner's debt ledger: emissions, performance and penalties, span by span."""
    return Call(_path("/debt-ledger", hotkey), _decoder(LedgerDocument, strict=False))


def emissions_ledger(hotkey: str) -> Call[LedgerDocument]:
    """One miner's emissions ledger."""
    return Call(_path("/emissions-ledger", hotkey), _decoder(LedgerDocument, strict=False))


def penalty_ledger(hotkey: str) -> Call[LedgerDocument]:
    """One miner's penalty ledger."""
    return Call(_path("/penalty-ledger", hotkey), _decoder(LedgerDocument, strict=False))


def account_snapshots(hotkey: str, *, limit: int | None = None) -> Call[AccountDocument]:
    """One miner's account hour by hour, oldest first: the last `limit`, at most 2160 (default: 720)."""
    return Call(_path("/account-snapshots", hotkey), _decoder(AccountDocument, strict=False), limit=limit)


def collateral(*, hotkey: str | None = None, most_recent: bool = False) -> Call[CollateralDocument]:
    """The miners' account sizes: all records, or only the last of each miner."""
    flag = "true" if most_recent else None
    return Call("/collateral/", _decoder(CollateralDocument, strict=False), hotkey=hotkey, most_recent=flag)


def miner_selections() -> Call[Selections]:
    """The asset class that each miner chose."""
    return Call("/miner-selections", _as(Selections, _part_reader(MinerSelections, "miner_selections")))


def entities() -> Call[dict[str, Any]]:
    """All entities with their subaccounts, by hotkey (tier 200)."""
    return Call("/entities", _as(SummarisedDict, _part_reader(Entities, "entities")))


def entity(hotkey: str) -> Call[dict[str, Any]]:
    """One entity with its subaccounts (tier 200)."""
    return Call(_path("/entity", hotkey), _part_reader(EntityAnswer, "entity"))


def entity_endpoint(*, hl_address: str | None = None, subaccount: str | None = None) -> Call[EntityEndpoint]:
    """Where the entity of a subaccount is reached; needs no key.

    The subaccount is given by its Hyperliquid address or by its hotkey.
    """
    return Call("/entity/endpoint", _decoder(EntityEndpoint), hl_address=hl_address, subaccount=subaccount)


def trade_pairs(asset_class: str | None = None) -> Call[TradePairs]:
    """The network's trade pairs, or those of one asset class, such as "forex"; needs no key."""
    return Call("/trade-pairs", TradePairs.read, asset_class=asset_class)


def me() -> Call[Me]:
    """The server's information about the API key."""
    return Call("/me", _decoder(Me))


def health() -> Call[Health]:
    """The server's health, also while it is starting or unhealthy (status 503). Needs no key."""
    return Call("/health", _decoder(Health), accept=(200, 503))


def messages(
    after: int = -1,
    *,
    epoch: str | None = None,
    limit: int = 1_000,
    miner: Choice | None = ALL,
    trade_pair: Choice | None = ALL,
    format: Format = "full",  # noqa: A002 - the protocol's word
) -> Call[MessagePage]:
    """The stream's messages after a sequence; -1 returns no messages, but where to begin.

    APIStatusError with status 410 means that the server no longer has them.
    """
    miners, pairs = as_list(miner), trade_pairs_from(trade_pair)
    read: _Reader[MessagePage] = MessagePage.read
    if _is_long({"miner": miners or (), "trade_pair": pairs or ()}):
        read, miners, pairs = _page_reader(miners, pairs), None, None
    return Call(
        "/messages",
        read,
        cached=False,
        after=after,
        epoch=epoch,
        limit=limit,
        miner=miners,
        trade_pair=pairs,
        format=format,
    )


# --- requests that are too long ---------------------------------------------------------------------------


def _joined_positions(answers: Sequence[_Answer]) -> _Answer:
    """Returns the parts of a positions document as one; what they state in headers are lower bounds."""
    entries: dict[str, dict[str, Any]] = {}
    for body, _ in answers:
        for hotkey, entry in msgspec.json.decode(body, type=dict[str, dict[str, Any]]).items():
            if hotkey in entries:
                entries[hotkey]["positions"] += entry["positions"]
            else:
                entries[hotkey] = entry
    for entry in entries.values():
        entry["positions"].sort(key=lambda p: position_order(p["close_ms"] or None, p["position_uuid"]))
    ranked = sorted(entries, key=lambda hotkey: miner_order(entries[hotkey]["thirty_day_returns"], hotkey))
    headers: dict[str, str] = {}
    if len({stated.get("x-ptn-epoch") for _, stated in answers}) == 1:
        headers = dict(answers[0][1])
        for name in ("x-ptn-sequence", "x-ptn-revision", "x-ptn-as-of"):
            if name in headers:
                headers[name] = str(min(int(stated[name]) for _, stated in answers))
    return msgspec.json.encode({hotkey: entries[hotkey] for hotkey in ranked}), headers


def _page_reader(miners: list[str] | None, trade_pairs: list[str] | None) -> _Reader[MessagePage]:
    """Returns a reader that filters: pages of several requests would not fit together."""

    def read(body: bytes, headers: Mapping[str, str]) -> MessagePage:
        page = MessagePage.read(body, headers)
        chosen = [
            message
            for message in page.messages
            if (miners is None or message.position.miner_hotkey in miners)
            and (trade_pairs is None or message.new_order.trade_pair in trade_pairs)
        ]
        return msgspec.structs.replace(page, messages=chosen)

    return read


# --- reading responses ------------------------------------------------------------------------------------


def _path(route: str, hotkey: str) -> str:
    # An empty hotkey would be the path of another document.
    if not hotkey:
        raise InvalidInputError("the hotkey is empty", code="no_hotkey")
    return f"{route}/{quote(hotkey, safe='')}"


@cache  # equal calls need the same reader: it is part of the cache key
def _decoder(result_type: type[T], *, strict: bool = True) -> _Reader[T]:
    """Returns a reader; with `strict=False`, of what a validator wrote."""
    decoder = msgspec.json.Decoder(result_type)
    return lambda body, _: decoder.decode(body) if strict else _read_document(body, result_type)


def _read_document(body: bytes, kind: type[T]) -> T:
    """Decodes what a validator wrote: whole floats for integers, and odd values, which are left out."""
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except msgspec.ValidationError as error:
        result: T = msgspec.json.decode(fitting(body, kind), type=kind, strict=False)
        logger.warning("left out what the validator wrote in another form: %s", error)
        return result


@cache
def _ledgers_reader(hotkey: str) -> _Reader[Ledgers]:
    return lambda body, _: Ledgers.read(hotkey, body)


def _comma_list(values: str | Sequence[str]) -> str:
    return values if isinstance(values, str) else ",".join(values)


@cache
def _part_reader(document_type: type[Any], name: str) -> _Reader[Any]:
    """Returns a reader of one field of a document."""
    return lambda body, _: getattr(_read_document(body, document_type), name)


@cache
def _as(made: Callable[[Any], T], read: _Reader[Any]) -> _Reader[T]:
    """Returns a reader whose results are made into another type."""
    return lambda body, headers: made(read(body, headers))


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)
