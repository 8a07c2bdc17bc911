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
from ptn_api.summary import Summary, flattened, summarised, time_text

__all__ = [
    "ASSET_CLASSES",
    "LEDGER_COLUMNS",
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
    """A miner's orders, each list by `processed_ms`. Since: 0.2.0."""

    unfilled: list[ListedOrder] | msgspec.UnsetType = msgspec.UNSET
    """Limit orders that wait. Absent: not requested."""
    filled: list[ListedOrder] | msgspec.UnsetType = msgspec.UNSET
    """Orders of the miner's positions. Absent: not requested."""
    cancelled: list[ListedOrder] | msgspec.UnsetType = msgspec.UNSET
    """Limit orders that were cancelled. Absent: not requested."""


# --- challenge period -------------------------------------------------------------------------------------


class Period(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A bucket of the challenge period. Since: 0.2.0."""

    bucket: str
    """MAINCOMP, CHALLENGE, PROBATION, PLAGIARISM, ELIMINATED, ENTITY, SUBACCOUNT_CHALLENGE, SUBACCOUNT_FUNDED
    and others; an open set.
    """
    start_time_ms: int | None
    """When the miner entered it. Unit: epoch ms. Null: unknown."""
    reason: str | None = None
    """Why the miner was eliminated. Absent: another bucket than ELIMINATED."""


@summarised
class ChallengePeriod(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A miner's place in the competition. Since: 0.2.0."""

    status: Literal["success"]
    """Always `success`."""
    hotkey: str
    """The miner."""
    challenge_period: Period
    """The present bucket."""
    timestamp: int
    """When the response was assembled. Unit: epoch ms."""
    history: list[Period] | msgspec.UnsetType = msgspec.UNSET
    """All buckets, oldest first. Absent: without `history=true`."""

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
    """A miner's debt, emissions or penalty ledger, as the validator wrote it.

    The keys depend on the ledger. Since: 0.2.0.
    """

    hotkey: str
    """The miner."""
    total_checkpoints: int | None = None
    """Number of checkpoints. Unit: count. Null: not in the file."""
    checkpoints: list[Any] = msgspec.field(default_factory=list)
    """The checkpoints, oldest first: in a debt ledger `timestamp_ms`, `emissions`, `performance`, `penalties`
    and `derived`; in the others those of their own.

    - timestamp_ms: Debt: end of the checkpoint. Unit: epoch ms.
    - timestamp_utc: Debt: the same as text. Unit: ISO 8601.
    - emissions.chunk_alpha: Debt: emissions in the checkpoint. Unit: alpha.
    - emissions.chunk_tao: Debt: the same. Unit: TAO.
    - emissions.chunk_usd: Debt: the same. Unit: USD.
    - emissions.avg_alpha_to_tao_rate: Debt: average rate. Unit: TAO per alpha.
    - emissions.avg_tao_to_usd_rate: Debt: average rate. Unit: USD per TAO.
    - emissions.tao_balance_snapshot: Debt: balance at the end. Unit: TAO.
    - emissions.alpha_balance_snapshot: Debt: balance at the end. Unit: alpha.
    - performance.portfolio_return: Debt: return at the end. Unit: factor (1.0 = unchanged).
    - performance.realized_pnl: Debt: profit realized in the checkpoint. Unit: USD.
    - performance.unrealized_pnl: Debt: change of the unrealized profit. Unit: USD.
    - performance.mdd: Debt: as in a perf ledger. Unit: fraction. Null: absent in some files.
    - penalties.drawdown: Debt: penalty for the drawdown. Unit: factor (1.0 = none).
    - penalties.risk_profile: Debt: penalty for the risk profile. Unit: factor (1.0 = none). Null: absent in
      some files.
    - penalties.cumulative: Debt: product of the penalties. Unit: factor (1.0 = none).
    - penalties.challenge_period_status: Debt: bucket of the challenge period.
    - derived.return_after_fees: Debt: return with fees. Unit: factor (1.0 = unchanged).
    - derived.weighted_score: Debt: return with fees and penalties. Unit: factor (1.0 = unchanged).
    - chunk_start_ms: Emissions: start of the checkpoint. Unit: epoch ms.
    - chunk_end_ms: Emissions: end of the checkpoint. Unit: epoch ms.
    - chunk_start_utc: Emissions: the same as text. Unit: ISO 8601.
    - chunk_end_utc: Emissions: the same as text. Unit: ISO 8601.
    - chunk_emissions: Emissions: in the checkpoint. Unit: alpha.
    - chunk_emissions_tao: Emissions: the same. Unit: TAO.
    - chunk_emissions_usd: Emissions: the same. Unit: USD.
    - avg_alpha_to_tao_rate: Emissions: average rate. Unit: TAO per alpha.
    - avg_tao_to_usd_rate: Emissions: average rate. Unit: USD per TAO.
    - num_blocks: Emissions: blocks in the checkpoint. Unit: count.
    - block_start: Emissions: first block. Unit: block number.
    - block_end: Emissions: last block. Unit: block number.
    - tao_balance_snapshot: Emissions: balance at the end. Unit: TAO.
    - alpha_balance_snapshot: Emissions: balance at the end. Unit: alpha.
    - last_processed_ms: Penalty: end of the checkpoint. Unit: epoch ms.
    - drawdown: Penalty: for the drawdown. Unit: factor (1.0 = none).
    - risk_profile: Penalty: for the risk profile. Unit: factor (1.0 = none).
    - cumulative: Penalty: product of the penalties. Unit: factor (1.0 = none).
    - challenge_period_status: Penalty: bucket of the challenge period.
    """
    summary: Any = None
    """Debt: the ledger's totals. Null: another ledger.

    - cumulative_emissions_alpha: See `DebtLedgerSummary`.
    - cumulative_emissions_tao: See `DebtLedgerSummary`.
    - cumulative_emissions_usd: See `DebtLedgerSummary`.
    - portfolio_return: See `DebtLedgerSummary`.
    - weighted_score: See `DebtLedgerSummary`.
    - total_fees: See `DebtLedgerSummary`.
    """
    coldkey: str | None = None
    """Emissions: the miner's coldkey. Null: another ledger."""
    cumulative_emissions: float | None = None
    """Emissions: total. Unit: alpha. Null: another ledger."""
    cumulative_emissions_tao: float | None = None
    """Emissions: total. Unit: TAO. Null: another ledger."""
    cumulative_emissions_usd: float | None = None
    """Emissions: total. Unit: USD. Null: another ledger."""

    def _summary(self) -> Summary:
        points = [flattened(point) for point in self.checkpoints if isinstance(point, dict)]
        kinds = LEDGER_COLUMNS.values()
        time, *names = next((names for names in kinds if points and names[0] in points[0]), ("",))
        title = f"ledger of {self.hotkey}, {len(self.checkpoints):,} checkpoints, oldest first"
        if not names:
            return Summary(title)
        headings = ("until", *(name.rpartition(".")[2] for name in names))
        rows = ((time_text(point.get(time)), *map(point.get, names)) for point in points)
        return Summary(title, headings, rows, len(points))


LEDGER_COLUMNS = {
    "debt": ("timestamp_ms", "performance.portfolio_return", "emissions.chunk_usd", "penalties.cumulative"),
    "emissions": ("chunk_end_ms", "chunk_emissions", "chunk_emissions_tao", "chunk_emissions_usd"),
    "penalty": ("last_processed_ms", "drawdown", "risk_profile", "cumulative", "challenge_period_status"),
}
"""By kind of ledger: the end of a checkpoint, and the values to show first."""


class DebtLedgerSummary(msgspec.Struct, kw_only=True):
    """A miner's debt ledger in numbers. Since: 0.2.0."""

    hotkey: str
    """The miner."""
    total_checkpoints: int | None = None
    """Number of checkpoints. Unit: count. Null: not in the file."""
    cumulative_emissions_alpha: float | None = None
    """Emissions received. Unit: alpha. Null: not in the file."""
    cumulative_emissions_tao: float | None = None
    """Emissions received. Unit: TAO. Null: not in the file."""
    cumulative_emissions_usd: float | None = None
    """Emissions received. Unit: USD. Null: not in the file."""
    portfolio_return: float | None = None
    """Return of the portfolio. Unit: factor (1.0 = unchanged). Null: not in the file."""
    weighted_score: float | None = None
    """Return with fees and penalties. Unit: factor (1.0 = unchanged). Null: not in the file."""
    latest_checkpoint_ms: int | None = None
    """End of the last checkpoint. Unit: epoch ms. Null: not in the file."""
    net_pnl: float | None = None
    """Profit of the last checkpoint. Unit: USD. Null: not in the file."""
    total_fees: float | None = None
    """Fees paid, <= 0. Unit: USD. Null: not in the file."""


# --- accounts ---------------------------------------------------------------------------------------------


class AccountSnapshot(msgspec.Struct, kw_only=True):
    """An account at a full hour. Since: 0.2.0."""

    snapshot_ms: int
    """When. Unit: epoch ms."""
    snapshot_date: str
    """The same, as UTC date and time. Unit: YYYY-MM-DD HH:MM:SS."""
    account_size: float
    """The account's size. Unit: USD."""
    balance: float
    """Account size with realized profits and fees. Unit: USD."""
    equity: float
    """Balance with unrealized profits. Unit: USD."""
    equity_return: float
    """equity / account size; 1.0 for a size of 0. Unit: factor (1.0 = unchanged)."""


@summarised
class AccountSnapshots(msgspec.Struct, kw_only=True):
    """A miner's latest snapshots. Since: 0.2.0."""

    hotkey: str
    """The miner."""
    count: int
    """Number of snapshots in the response. Unit: count."""
    snapshots: list[AccountSnapshot]
    """The snapshots, oldest first."""

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
    """Account sizes per miner, as the validator's file has them. Since: 0.2.0."""

    status: Literal["success"]
    """Always `success`."""
    data: dict[str, Any]
    """By miner, the records of its account size, oldest first.

    - *.account_size: Size of the account. Unit: USD.
    - *.account_size_theta: Collateral that it stands for. Unit: theta.
    - *.update_time_ms: When it was recorded. Unit: epoch ms.
    - *.valid_date_timestamp: From when it counts: the next UTC midnight. Unit: epoch ms.
    """
    miner_count: int
    """Number of miners in `data`. Unit: count."""
    total_records: int
    """Number of records in `data`. Unit: count."""
    timestamp: int
    """When the response was assembled. Unit: epoch ms."""

    def _summary(self) -> Summary:
        title = f"account sizes of {len(self.data):,} miners, {self.total_records:,} records"
        rows = (
            (hotkey, len(records) if isinstance(records, list) else "")
            for hotkey, records in self.data.items()
        )
        return Summary(title, ("miner", "records"), rows, len(self.data))


class MinerSelections(msgspec.Struct, kw_only=True):
    """The asset class that each miner chose. Since: 0.2.0."""

    miner_selections: dict[str, str]
    """By miner: crypto, forex, equities, commodities, hl_all or all_markets."""
    total_miners: int
    """Number of miners. Unit: count."""
    timestamp: int
    """When the response was assembled. Unit: epoch ms."""


# --- entities ---------------------------------------------------------------------------------------------


class Entities(msgspec.Struct, kw_only=True):
    """All entities with their subaccounts. Since: 0.2.0."""

    status: Literal["success"]
    """Always `success`."""
    entities: dict[str, Any]
    """By hotkey, the entity, as in `EntityAnswer`. Type: object by key."""
    entity_count: int
    """Number of entities. Unit: count."""
    timestamp: int
    """When the response was assembled. Unit: epoch ms."""


class EntityAnswer(msgspec.Struct, kw_only=True):
    """One entity, as the validator's file has it. Since: 0.2.0."""

    status: Literal["success"]
    """Always `success`."""
    entity: Any
    """The entity.

    - entity_hotkey: Its hotkey.
    - subaccounts: By number, its subaccounts.
    - subaccounts.*.subaccount_id: The number. Unit: number.
    - subaccounts.*.subaccount_uuid: Identifies the subaccount.
    - subaccounts.*.synthetic_hotkey: The subaccount as a miner: `<entity hotkey>_<number>`.
    - subaccounts.*.status: active, eliminated, pending, unknown or admin.
    - subaccounts.*.created_at_ms: When it was created. Unit: epoch ms.
    - subaccounts.*.eliminated_at_ms: When it was eliminated. Unit: epoch ms. Null: not eliminated.
    - subaccounts.*.account_size: Size of the account. Unit: USD.
    - subaccounts.*.standard_account_size: Size of the account as a standard one. Unit: USD. Null: not set.
    - subaccounts.*.pro_account_size: Size of the account as a pro one. Unit: USD. Null: not set.
    - subaccounts.*.reg_fee_theta: Registration fee. Unit: theta.
    - subaccounts.*.reg_fee_slashed_ms: When the fee was taken. Unit: epoch ms. Null: not yet.
    - subaccounts.*.asset_class: The chosen asset class.
    - subaccounts.*.drawdown_criteria: trailing or static.
    - subaccounts.*.account_type: standard or pro.
    - subaccounts.*.hl_address: Hyperliquid address. Null: none.
    - subaccounts.*.payout_address: Where it is paid. Null: none.
    - next_subaccount_id: Number of the next subaccount. Unit: number.
    - registered_at_ms: When the entity was registered. Unit: epoch ms.
    - endpoint_url: Where it is reached. Null: none.
    """


class EntityEndpoint(msgspec.Struct, kw_only=True):
    """Where an entity is reached. Since: 0.2.0."""

    status: Literal["success"]
    """Always `success`."""
    entity_hotkey: str
    """The entity."""
    endpoint_url: str | None
    """Its address. Null: it states none."""


class ServiceHealth(msgspec.Struct, kw_only=True):
    """The answer that the network's clients expect of `/api/health`. Since: 0.2.0."""

    status: Literal["healthy", "unhealthy"]
    """healthy, or unhealthy with status 503."""
    service: str
    """Always `ValidatorRestServer`."""
    timestamp_ms: int
    """Time of the response. Unit: epoch ms."""


# --- trade pairs -----------------------------------------------------------------------------------------


class ListedTradePair(msgspec.Struct, kw_only=True):
    """A trade pair. Since: 0.2.0."""

    trade_pair_id: str
    """Identifies the pair, as in a position's `trade_pair`."""
    hl_coin: str | None = None
    """Name of the coin at Hyperliquid. Null: not a Hyperliquid pair."""
    trade_pair: str
    """Display: base and quote, such as BTC/USDC."""
    trade_pair_category: Category
    """crypto, forex, equities, indices or commodities."""
    trade_pair_source: Source
    """vanta or hyperliquid."""
    min_leverage: float
    """Smallest leverage of an order. Unit: multiple of the balance."""
    max_leverage: float
    """Largest leverage of a position. Unit: multiple of the balance."""
    subaccount_positional_leverage_by_tier: dict[str, float]
    """By tier of a subaccount (1 to 4), the largest leverage of a position. Unit: multiple of the balance."""
    lot_size: int | msgspec.UnsetType = msgspec.UNSET
    """Lot size of the contract that a perpetual follows, for display; quantities are not counted in it.

    Unit: base units per lot. Absent: for most pairs.
    """


class PairList(msgspec.Struct, kw_only=True):
    """The network's trade pairs. Since: 0.2.0."""

    allowed: list[ListedTradePair]
    """Pairs that can be traded."""
    disabled: list[ListedTradePair]
    """Pairs that can no longer be traded."""
    total_allowed: int
    """Number of `allowed`. Unit: count."""
    total_disabled: int
    """Number of `disabled`. Unit: count."""
    timestamp: int
    """When the response was assembled. Unit: epoch ms."""


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


ASSET_CLASSES = ("crypto", "forex", "equities", "commodities", "hl_all", "all_markets")
"""Those of `trade_pairs_answer`."""


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
