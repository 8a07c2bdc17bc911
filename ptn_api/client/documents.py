"""What the REST routes answer: the model's structs, with where they stand and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ptn_api.client import tables
from ptn_api.client.tables import Rows
from ptn_api.model.miner import Aggregates, MinerEntry
from ptn_api.model.position import Position
from ptn_api.model.statistics import Elimination, MinerStatistics, PerfLedger, Statistics

if TYPE_CHECKING:
    import polars

__all__ = [
    "Checkpoint",
    "Ledgers",
    "Miner",
    "MinerPositions",
    "PositionChanges",
    "StatisticsDocument",
]


class Miner(MinerEntry, kw_only=True):
    """One miner's entry."""

    def to_polars(self, rows: Rows = "positions") -> polars.DataFrame:
        """One row per position, or per order."""
        return tables.positions_or_orders(self.positions, rows)


class MinerPositions(dict[str, Miner]):
    """`{hotkey: entry}`, best miner first.

    At tier 100 `epoch`, `sequence` and `revision` say how far it goes: everything up to there is in it.
    Lower tiers have `as_of_ms`, the moment up to which everything is shown.
    """

    epoch: str | None = None
    sequence: int | None = None
    revision: int | None = None
    as_of_ms: int | None = None

    @classmethod
    def read(cls, body: bytes, headers: Mapping[str, str]) -> MinerPositions:
        entries = cls(_entries.decode(body))
        entries.epoch = headers.get("x-ptn-epoch")
        entries.sequence = _number(headers.get("x-ptn-sequence"))
        entries.revision = _number(headers.get("x-ptn-revision"))
        entries.as_of_ms = _number(headers.get("x-ptn-as-of"))
        return entries

    @property
    def cursor(self) -> str | None:
        """For `miner_positions(since=)`; None at lower tiers."""
        return None if self.epoch is None else f"{self.epoch}:{self.revision}"

    def positions(self) -> Iterator[Position]:
        """All miners' positions."""
        for entry in self.values():
            yield from entry.positions

    def to_polars(self, rows: Rows = "positions") -> polars.DataFrame:
        """One row per position, or per order."""
        return tables.positions_or_orders(self.positions(), rows)


class PositionChanges(msgspec.Struct, kw_only=True):
    """What changed since a cursor: first `removed` (hotkey, uuid) apply, then `positions` by hotkey.

    `miners` are all miners' aggregates as of now; `cursor` is what to ask with next.
    """

    cursor: str
    sequence: int
    removed: list[tuple[str, str]]
    positions: dict[str, list[Position]]
    miners: dict[str, Aggregates]

    def to_polars(self, rows: Rows = "positions") -> polars.DataFrame:
        """One row per changed position, or per order of those."""
        found = (position for positions in self.positions.values() for position in positions)
        return tables.positions_or_orders(found, rows)


class StatisticsDocument(Statistics, kw_only=True):
    """The validator's statistics: `data` has an element per miner."""

    def of(self, hotkey: str) -> MinerStatistics | None:
        """One miner's element."""
        return next((miner for miner in self.data if miner.hotkey == hotkey), None)

    def to_polars(self) -> polars.DataFrame:
        """One row per miner, a column per value (`scores.omega.value`)."""
        return tables.statistics(self.data)


class Ledgers(dict[str, PerfLedger]):
    """One miner's ledgers, by trade pair and "portfolio"."""

    hotkey = ""

    @classmethod
    def read(cls, hotkey: str, body: bytes) -> Ledgers:
        """Also of the older schema, which has the portfolio's only."""
        try:
            ledgers = cls(_ledgers.decode(body))
        except msgspec.ValidationError:
            ledgers = cls(portfolio=_ledger.decode(body))
        ledgers.hotkey = hotkey
        return ledgers

    def to_polars(self) -> polars.DataFrame:
        """One row per checkpoint of a ledger."""
        return tables.ledgers({self.hotkey: self})


class Checkpoint(msgspec.Struct, kw_only=True):
    """Everything a validator restores from; times are epoch ms.

    The "youngest" order's time is the smallest, the "oldest" order's the largest; the names are historical.
    Every order up to `sequence` of the log `epoch` is in it: the stream goes on there.
    """

    version: Any = None
    created_timestamp_ms: int | None = None
    created_date: str | None = None
    challengeperiod: Any = None
    eliminations: list[Elimination] = msgspec.field(default_factory=list)
    youngest_order_processed_ms: int | None = None
    oldest_order_processed_ms: int | None = None
    positions: dict[str, Miner] = msgspec.field(default_factory=dict)
    perf_ledgers: dict[str, PerfLedger] = msgspec.field(default_factory=dict)
    epoch: str | None = None
    sequence: int | None = None

    @classmethod
    def read(cls, body: bytes, headers: Mapping[str, str]) -> Checkpoint:
        checkpoint = _checkpoint.decode(body)
        checkpoint.epoch = headers.get("x-ptn-epoch")
        checkpoint.sequence = _number(headers.get("x-ptn-sequence"))
        return checkpoint

    def to_polars(self, rows: Rows = "positions") -> polars.DataFrame:
        """One row per position, or per order."""
        return MinerPositions(self.positions).to_polars(rows)

    def ledgers_to_polars(self) -> polars.DataFrame:
        """One row per checkpoint of a miner's portfolio ledger."""
        return tables.ledgers({hotkey: {"portfolio": ledger} for hotkey, ledger in self.perf_ledgers.items()})


_checkpoint = msgspec.json.Decoder(Checkpoint)
_entries = msgspec.json.Decoder(dict[str, Miner])
_ledgers = msgspec.json.Decoder(dict[str, PerfLedger])
_ledger = msgspec.json.Decoder(PerfLedger)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
