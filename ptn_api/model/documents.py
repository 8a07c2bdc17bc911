"""The types of today's documents about miners, as REST answers with them.

For descriptions and clients: every key that a validator may leave out is optional, and unknown keys are
ignored. Times are epoch milliseconds, amounts USD unless the key names another unit.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.limit_order import ListedOrder
from ptn_api.model.miner import MinerElimination
from ptn_api.model.trade_pair import Category, Source, TradePair, trade_pairs
from ptn_api.summary import Summary, summarised, time_text

__all__ = [
    "AccountSnapshot",
    "AccountSnapshots",
    "ChallengePeriod",
    "Collateral",
    "DebtLedgerSummary",
    "Entities",
    "EntityAnswer",
    "EntityEndpoint",
    "ListedTradePair",
    "MinerLedger",
    "MinerSelections",
    "OrdersByStatus",
    "PairList",
    "Period",
    "ServiceHealth",
    "eliminations_by_hotkey",
    "periods",
    "trade_pairs_answer",
]


class OrdersByStatus(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Orders by `processed_ms`; only the requested statuses are present."""

    unfilled: list[ListedOrder] | msgspec.UnsetType = msgspec.UNSET
    filled: list[ListedOrder] | msgspec.UnsetType = msgspec.UNSET
    cancelled: list[ListedOrder] | msgspec.UnsetType = msgspec.UNSET


# --- challenge period -------------------------------------------------------------------------------------


class Period(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A bucket of the competition, and when the miner entered it; `reason` only for `ELIMINATED`."""

    bucket: str
    start_time_ms: int | None
    reason: str | None = None


@summarised
class ChallengePeriod(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A miner's present bucket; `history` is oldest first."""

    status: Literal["success"]
    hotkey: str
    challenge_period: Period
    timestamp: int
    history: list[Period] | msgspec.UnsetType = msgspec.UNSET

    def _summary(self) -> Summary:
        past = [] if self.history is msgspec.UNSET else self.history
        rows = ((period.bucket, time_text(period.start_time_ms), period.reason) for period in past)
        title = f"challenge period of {self.hotkey}: {self.challenge_period.bucket}"
        return Summary(title, ("bucket", "since", "reason"), rows, len(past))


_WHOLE_FILE = {"testing": "CHALLENGE", "success": "MAINCOMP"}


def periods(document: Any) -> dict[str, list[Period]]:
    """Returns each miner's buckets, oldest first, from any form of the challenge period document.

    Per miner a list of {bucket, bucket_start_time or start_time_ms}, an object that has that list as
    `entries`, or one with the present and the previous bucket; or for the whole file the oldest form,
    {"testing": {hotkey: ms}, "success": {hotkey: ms}}. Any other form is left out.
    """
    if not isinstance(document, dict):
        return {}
    if document.keys() <= _WHOLE_FILE.keys():
        return {
            hotkey: [Period(bucket=bucket, start_time_ms=_time(start))]
            for kind, bucket in _WHOLE_FILE.items()
            if isinstance(document.get(kind), dict)
            for hotkey, start in document[kind].items()
        }
    found = {hotkey: _periods_of(state) for hotkey, state in document.items()}
    return {hotkey: listed for hotkey, listed in found.items() if listed}


def _periods_of(state: Any) -> list[Period]:
    if isinstance(state, dict) and "entries" in state:
        state = state["entries"]
    elif isinstance(state, dict):
        previous = {
            "bucket": state.get("previous_bucket"),
            "bucket_start_time": state.get("previous_bucket_start_time"),
        }
        state = [previous, state]
    entries = [entry for entry in state if isinstance(entry, dict)] if isinstance(state, list) else []
    return [
        Period(
            bucket=entry["bucket"],
            start_time_ms=_time(entry.get("bucket_start_time", entry.get("start_time_ms"))),
        )
        for entry in entries
        if isinstance(entry.get("bucket"), str)
    ]


def _time(value: Any) -> int | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 53
    return int(value) if known else None


def eliminations_by_hotkey(document: Any) -> dict[str, MinerElimination]:
    """Returns the eliminated miners; of several rows about one, the last. Malformed rows are skipped."""
    rows = document.get("eliminations") if isinstance(document, dict) else None
    found = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and isinstance(row.get("hotkey"), str):
            reason = row.get("reason")
            found[row["hotkey"]] = MinerElimination(
                reason=reason if isinstance(reason, str) else None,
                elimination_initiated_time_ms=_time(row.get("elimination_initiated_time_ms")),
            )
    return found


# --- ledgers ----------------------------------------------------------------------------------------------


@summarised
class MinerLedger(msgspec.Struct, kw_only=True):
    """A miner's debt, emissions or penalty ledger; the shape of its checkpoints depends on the ledger."""

    hotkey: str
    total_checkpoints: int | None = None
    checkpoints: list[Any] = msgspec.field(default_factory=list)
    summary: Any = None
    coldkey: str | None = None
    cumulative_emissions: float | None = None
    cumulative_emissions_tao: float | None = None
    cumulative_emissions_usd: float | None = None

    def _summary(self) -> Summary:
        names = (
            [*self.checkpoints[0]][:5] if self.checkpoints and isinstance(self.checkpoints[0], dict) else []
        )
        rows = (
            [str(point.get(name, "")) for name in names]
            for point in self.checkpoints
            if isinstance(point, dict)
        )
        title = f"ledger of {self.hotkey}, {len(self.checkpoints):,} checkpoints"
        return Summary(title, names, rows, len(self.checkpoints))


class DebtLedgerSummary(msgspec.Struct, kw_only=True):
    """A miner's debt ledger in numbers; emissions in alpha, TAO and USD, `portfolio_return` a factor."""

    hotkey: str
    total_checkpoints: int | None = None
    cumulative_emissions_alpha: float | None = None
    cumulative_emissions_tao: float | None = None
    cumulative_emissions_usd: float | None = None
    portfolio_return: float | None = None
    weighted_score: float | None = None
    latest_checkpoint_ms: int | None = None
    net_pnl: float | None = None
    total_fees: float | None = None


# --- accounts ---------------------------------------------------------------------------------------------


class AccountSnapshot(msgspec.Struct, kw_only=True):
    """An account at a full hour; `equity_return` = equity / account size, 1.0 for a size of 0."""

    snapshot_ms: int
    snapshot_date: str
    account_size: float
    balance: float
    equity: float
    equity_return: float


@summarised
class AccountSnapshots(msgspec.Struct, kw_only=True):
    """A miner's latest snapshots, oldest first."""

    hotkey: str
    count: int
    snapshots: list[AccountSnapshot]

    def _summary(self) -> Summary:
        return Summary(
            f"account of {self.hotkey}, {len(self.snapshots):,} hours, oldest first",
            ("hour", "account size", "balance", "equity", "return"),
            (
                (time_text(s.snapshot_ms), s.account_size, s.balance, s.equity, f"{s.equity_return:.5f}")
                for s in self.snapshots
            ),
            len(self.snapshots),
        )


@summarised
class Collateral(msgspec.Struct, kw_only=True):
    """Account sizes per miner, as the validator's file has them."""

    status: Literal["success"]
    data: dict[str, Any]
    miner_count: int
    total_records: int
    timestamp: int

    def _summary(self) -> Summary:
        title = f"account sizes of {len(self.data):,} miners, {self.total_records:,} records"
        rows = (
            (hotkey, len(records) if isinstance(records, list) else "")
            for hotkey, records in self.data.items()
        )
        return Summary(title, ("miner", "records"), rows, len(self.data))


class MinerSelections(msgspec.Struct, kw_only=True):
    """The asset class that each miner chose."""

    miner_selections: dict[str, str]
    total_miners: int
    timestamp: int


# --- entities ---------------------------------------------------------------------------------------------


class Entities(msgspec.Struct, kw_only=True):
    """All entities with their subaccounts, as the validator's file has them."""

    status: Literal["success"]
    entities: dict[str, Any]
    entity_count: int
    timestamp: int


class EntityAnswer(msgspec.Struct, kw_only=True):
    """One entity."""

    status: Literal["success"]
    entity: Any


class EntityEndpoint(msgspec.Struct, kw_only=True):
    """Where an entity is reached; null if it states no address."""

    status: Literal["success"]
    entity_hotkey: str
    endpoint_url: str | None


class ServiceHealth(msgspec.Struct, kw_only=True):
    """The answer that today's clients expect of `/api/health`."""

    status: Literal["healthy", "unhealthy"]
    service: str
    timestamp_ms: int


# --- trade pairs -----------------------------------------------------------------------------------------


class ListedTradePair(msgspec.Struct, kw_only=True):
    """A pair as `/trade-pairs` lists it; `lot_size` only for some Hyperliquid commodities, for display."""

    trade_pair_id: str
    hl_coin: str | None = None
    trade_pair: str
    trade_pair_category: Category
    trade_pair_source: Source
    min_leverage: float
    max_leverage: float
    subaccount_positional_leverage_by_tier: dict[str, float]
    lot_size: int | msgspec.UnsetType = msgspec.UNSET


class PairList(msgspec.Struct, kw_only=True):
    """The answer of `/trade-pairs`; `disabled` pairs can no longer be traded. `timestamp` is epoch ms."""

    allowed: list[ListedTradePair]
    disabled: list[ListedTradePair]
    total_allowed: int
    total_disabled: int
    timestamp: int


_TIERS = (1, 2, 3, 4)
_LARGEST_EQUITIES_LEVERAGE = 2.0
_LISTED_LOT_SIZES = {
    "GOLDUSDC": 100,
    "SILVERUSDC": 5000,
    "PLATINUMUSDC": 100,
    "COPPERUSDC": 100,
    "WTIOILUSDC": 100,
    "NATGASUSDC": 1000,
}
"""The lot sizes of the contracts that perpetuals follow; quantities are not counted in them."""
_METALS = ("XAUUSD", "XAGUSD")


def trade_pairs_answer(asset_class: str | None, now_ms: int) -> PairList:
    """Returns the pairs of an asset class, in any case of letters; None means all.

    Raises InvalidInputError, code `bad_parameter`, for an unknown class.
    """
    chosen = [pair for pair in trade_pairs().values() if asset_class is None or _belongs(pair, asset_class)]
    allowed = [_listed(pair) for pair in chosen if not pair.disabled]
    disabled = [_listed(pair) for pair in chosen if pair.disabled]
    return PairList(
        allowed=allowed,
        disabled=disabled,
        total_allowed=len(allowed),
        total_disabled=len(disabled),
        timestamp=now_ms,
    )


def _belongs(pair: TradePair, asset_class: str) -> bool:
    perpetual = pair.source == "hyperliquid"
    match asset_class.lower():
        case "crypto" | "commodities" as category:
            return perpetual and pair.category == category
        case "forex" | "equities" as category:
            return not perpetual and pair.category == category
        case "hl_all":
            return perpetual
        case "all_markets":
            return perpetual or (pair.category in ("forex", "equities") and pair.id not in _METALS)
    raise InvalidInputError(f"Invalid asset class: {asset_class}", code="bad_parameter", field="asset_class")


def _listed(pair: TradePair) -> ListedTradePair:
    by_tier = {str(tier): pair.tier_leverage * tier for tier in _TIERS}
    if pair.category == "equities" and pair.instrument == "spot":
        by_tier = {tier: min(leverage, _LARGEST_EQUITIES_LEVERAGE) for tier, leverage in by_tier.items()}
    return ListedTradePair(
        trade_pair_id=pair.id,
        hl_coin=pair.hl_coin,
        trade_pair=pair.display,
        trade_pair_category=pair.category,
        trade_pair_source=pair.source,
        min_leverage=pair.min_leverage,
        max_leverage=pair.max_leverage,
        subaccount_positional_leverage_by_tier=by_tier,
        lot_size=_LISTED_LOT_SIZES.get(pair.id, msgspec.UNSET),
    )
