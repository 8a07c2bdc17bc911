"""Examples of the routes' responses and errors, built from the response types."""

from __future__ import annotations

from typing import Any

import msgspec

from ptn_api import __version__
from ptn_api.fanout.event_stream import EventFraming
from ptn_api.model.documents import (
    AccountSnapshot,
    AccountSnapshots,
    ChallengePeriod,
    Collateral,
    DebtLedgerSummary,
    Entities,
    EntityAnswer,
    EntityEndpoint,
    ListedTradePair,
    MinerLedger,
    MinerSelections,
    OrdersByStatus,
    PairList,
    Period,
    ServiceHealth,
)
from ptn_api.model.limit_order import ListedOrder
from ptn_api.model.miner import (
    Aggregates,
    LastOrder,
    Leaderboard,
    LeaderboardEntry,
    MinerElimination,
    MinerEntry,
)
from ptn_api.model.order import OrderPage, OrderRow
from ptn_api.model.statistics import (
    Elimination,
    Eliminations,
    MinerStatistics,
    PerfCheckpoint,
    PerfLedger,
    Statistics,
)
from ptn_api.problems import Trouble
from ptn_api.rest.messages import Messages
from ptn_api.rest.pages import PLACEHOLDER_ADDRESS, ServiceIndex
from ptn_api.rest.positions import Changes
from ptn_api.rest.routes import Route
from ptn_api.views.checkpoint import CheckpointDocument
from ptn_api.wire.about import (
    ClusterHealth,
    Health,
    KeyFileHealth,
    KeyLimits,
    LogHealth,
    Me,
    Ready,
    SourceHealth,
)
from ptn_api.wire.examples import EPOCH, FRAMES, HOTKEY, POSITION, plain
from ptn_api.wire.frames import Message

__all__ = ["error_example", "ndjson_example", "request_example", "response_examples"]

_NOW = 1_763_800_301_250
_REVISION = 90_412
_MESSAGE = FRAMES["an order"]
assert isinstance(_MESSAGE, Message)
_OPEN_POSITION = msgspec.structs.replace(POSITION, close_ms=0)
_ENTRY = MinerEntry(
    positions=[_OPEN_POSITION],
    thirty_day_returns=1.0412,
    all_time_returns=1.1377,
    n_positions=42,
    percentage_profitable=0.5714,
    tier=100,
)
_SUMS = Aggregates(
    thirty_day_returns=1.0412, all_time_returns=1.1377, n_positions=42, percentage_profitable=0.5714
)
_LEDGER = PerfLedger(
    initialization_time_ms=1_760_000_000_000,
    max_return=1.05,
    target_cp_duration_ms=43_200_000,
    target_ledger_window_ms=10_368_000_000,
    cps=[PerfCheckpoint(last_update_ms=_NOW, accum_ms=43_200_000, gain=0.002, loss=-0.001, mdd=0.998)],
)
_STATISTICS = MinerStatistics(
    hotkey=HOTKEY,
    weight={"value": 0.004, "rank": 12, "percentile": 0.95},
    checkpoints=[PerfCheckpoint(last_update_ms=_NOW, gain=0.002, loss=-0.001)],
)
_ELIMINATION = Elimination(
    hotkey=HOTKEY, dd=0.101, reason="MAX_TOTAL_DRAWDOWN", elimination_initiated_time_ms=_NOW
)
_LIMIT_ORDER = ListedOrder(
    trade_pair_id="BTCUSDC",
    trade_pair=["BTCUSDC", "BTC/USDC"],
    order_type="LONG",
    leverage=0.1,
    price=0.0,
    processed_ms=_NOW,
    order_uuid="00000000-0000-4000-8000-000000000001",
    src=5,
)
_MAINCOMP = Period(bucket="MAINCOMP", start_time_ms=1_760_000_000_000)
_ACCOUNT_SIZE = {
    "account_size": 25_000.0,
    "account_size_theta": 50.0,
    "update_time_ms": 1_760_000_000_000,
    "valid_date_timestamp": 1_760_054_400_000,
}
_ENTITY = {
    "entity_hotkey": HOTKEY,
    "subaccounts": {"0": {"synthetic_hotkey": f"{HOTKEY}_0", "status": "active"}},
    "endpoint_url": "https://gateway.example.com",
}

_RESPONSES: dict[str, dict[str, Any]] = {
    "/miner-positions": {
        "all miners": {HOTKEY: _ENTRY},
        "since a cursor": Changes(
            cursor=f"{EPOCH}:{_REVISION}",
            sequence=_MESSAGE.sequence,
            removed=[(HOTKEY, "00000000-0000-4000-8000-000000000000")],
            positions={HOTKEY: [_OPEN_POSITION]},
            miners={HOTKEY: _SUMS},
        ),
    },
    "/miner-positions/{hotkey}": {"one miner": _ENTRY},
    "/miners": {
        "one miner": Leaderboard(
            tier=100,
            delay_ms=0,
            lookback_days=180,
            miners=[
                LeaderboardEntry(
                    hotkey=HOTKEY,
                    rank=1,
                    **msgspec.structs.asdict(_SUMS),
                    open_positions=1,
                    net_leverage={"BTCUSD": 0.1},
                    last_order=LastOrder(
                        processed_ms=_NOW, trade_pair="BTCUSD", order_type="LONG", leverage=0.1
                    ),
                    phase="ELIMINATED",
                    elimination=MinerElimination(
                        reason="MAX_TOTAL_DRAWDOWN", elimination_initiated_time_ms=_NOW
                    ),
                    drawdown=0.034,
                    curve=[(_NOW - 43_200_000, 1.036), (_NOW, 1.0412)],
                )
            ],
        )
    },
    "/": {
        "shortened": ServiceIndex(
            service="PTN API",
            version="1.0.0",
            docs="/docs",
            openapi="/openapi.json",
            asyncapi="/asyncapi.json",
            routes={"/miner-hotkeys": "The hotkeys of the validator's miners"},
        )
    },
    "/miner-hotkeys": {"all miners": [HOTKEY]},
    "/statistics": {
        "all miners": Statistics(
            version="6.5.0",
            created_timestamp_ms=_NOW,
            created_date="2025-11-22 08:31:41",
            data=[_STATISTICS],
            constants={},
        )
    },
    "/statistics/{hotkey}": {"one miner": _STATISTICS},
    "/eliminations": {"one miner": Eliminations(eliminations=[_ELIMINATION])},
    "/validator-checkpoint": {
        "a checkpoint": CheckpointDocument(
            version="6.5.0",
            created_timestamp_ms=_NOW,
            created_date="2025-11-22 08:31:41",
            challengeperiod={"testing": {}, "success": {HOTKEY: 1_760_000_000_000}},
            miner_account_sizes={HOTKEY: [_ACCOUNT_SIZE]},
            eliminations=[],
            entities={HOTKEY: _ENTITY},
            youngest_order_processed_ms=POSITION.orders[0].processed_ms,
            oldest_order_processed_ms=POSITION.orders[0].processed_ms,
            positions={HOTKEY: msgspec.structs.replace(_ENTRY, tier=None)},
            perf_ledgers={HOTKEY: _LEDGER},
            asset_selections={HOTKEY: "crypto"},
            limit_orders={"BTCUSDC": {HOTKEY: [_LIMIT_ORDER]}},
            archived_positions={},
        )
    },
    "/perf-ledger/{hotkey}": {"one miner": {HOTKEY: _LEDGER}},
    "/messages": {
        "one order": Messages(
            messages=[_MESSAGE],
            next=_MESSAGE.sequence,
            head=_MESSAGE.sequence,
            oldest=1_763_500_000,
            epoch=EPOCH,
        )
    },
    "/stream": {
        "one order": EventFraming(EPOCH)
        .orders([(_MESSAGE.sequence, msgspec.json.encode(plain(_MESSAGE)))], _REVISION, {})[0]
        .decode()
    },
    "/orders": {
        "the newest order": OrderPage(
            orders=[
                OrderRow(
                    miner_hotkey=HOTKEY,
                    position_uuid=POSITION.position_uuid,
                    trade_pair="BTCUSD",
                    sequence=_MESSAGE.sequence,
                    order=POSITION.orders[-1],
                )
            ],
            next="lM8AAAGa0-Lq-KFhoWHPAAAAAQAAAAA",
        )
    },
    "/orders/{hotkey}": {"unfilled and cancelled": OrdersByStatus(unfilled=[_LIMIT_ORDER], cancelled=[])},
    "/limit-orders/{hotkey}": {
        "unfilled": [_LIMIT_ORDER],
        "with `status`": OrdersByStatus(unfilled=[_LIMIT_ORDER], cancelled=[]),
    },
    "/challenge-period/{hotkey}": {
        "with its history": ChallengePeriod(
            status="success",
            hotkey=HOTKEY,
            challenge_period=_MAINCOMP,
            history=[Period(bucket="CHALLENGE", start_time_ms=1_755_000_000_000), _MAINCOMP],
            timestamp=_NOW,
        ),
        "of an eliminated miner": ChallengePeriod(
            status="success",
            hotkey=HOTKEY,
            challenge_period=Period(
                bucket="ELIMINATED", start_time_ms=1_762_000_000_000, reason="MAX_TOTAL_DRAWDOWN"
            ),
            timestamp=_NOW,
        ),
    },
    "/debt-ledger": {
        "one miner": {
            HOTKEY: DebtLedgerSummary(
                hotkey=HOTKEY,
                total_checkpoints=1,
                cumulative_emissions_alpha=1.5,
                cumulative_emissions_tao=0.01,
                cumulative_emissions_usd=4.0,
                portfolio_return=1.01,
                weighted_score=1.0,
                latest_checkpoint_ms=_NOW,
                net_pnl=4.0,
                total_fees=-2.0,
            )
        }
    },
    "/debt-ledger/{hotkey}": {
        "a ledger": MinerLedger(
            hotkey=HOTKEY,
            total_checkpoints=1,
            summary={"portfolio_return": 1.01, "weighted_score": 1.0},
            checkpoints=[{"timestamp_ms": _NOW, "performance": {"realized_pnl": 3.0}}],
        )
    },
    "/emissions-ledger/{hotkey}": {
        "a ledger": MinerLedger(
            hotkey=HOTKEY,
            total_checkpoints=1,
            cumulative_emissions=1.5,
            checkpoints=[{"chunk_end_ms": _NOW, "chunk_emissions": 1.5}],
        )
    },
    "/penalty-ledger/{hotkey}": {"without checkpoints": MinerLedger(hotkey=HOTKEY, total_checkpoints=0)},
    "/account-snapshots/{hotkey}": {
        "one hour": AccountSnapshots(
            hotkey=HOTKEY,
            count=1,
            snapshots=[
                AccountSnapshot(
                    snapshot_ms=1_763_798_400_000,
                    snapshot_date="2025-11-22 08:00:00",
                    account_size=25_000.0,
                    balance=25_120.5,
                    equity=25_250.0,
                    equity_return=1.01,
                )
            ],
        )
    },
    "/collateral": {
        "one miner": Collateral(
            status="success",
            data={HOTKEY: [_ACCOUNT_SIZE]},
            miner_count=1,
            total_records=1,
            timestamp=_NOW,
        )
    },
    "/miner-selections": {
        "one miner": MinerSelections(miner_selections={HOTKEY: "crypto"}, total_miners=1, timestamp=_NOW)
    },
    "/entities": {
        "one entity": Entities(status="success", entities={HOTKEY: _ENTITY}, entity_count=1, timestamp=_NOW)
    },
    "/entity/endpoint": {
        "an endpoint": EntityEndpoint(
            status="success", entity_hotkey=HOTKEY, endpoint_url="https://gateway.example.com"
        )
    },
    "/entity/{hotkey}": {"one entity": EntityAnswer(status="success", entity=_ENTITY)},
    "/trade-pairs": {
        "one pair": PairList(
            allowed=[
                ListedTradePair(
                    trade_pair_id="BTCUSDC",
                    hl_coin="BTC",
                    trade_pair="BTC/USDC",
                    trade_pair_category="crypto",
                    trade_pair_source="hyperliquid",
                    min_leverage=0.01,
                    max_leverage=2.5,
                    subaccount_positional_leverage_by_tier={"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0},
                )
            ],
            disabled=[],
            total_allowed=1,
            total_disabled=0,
            timestamp=_NOW,
        )
    },
    "/api/health": {
        "healthy": ServiceHealth(status="healthy", service="ValidatorRestServer", timestamp_ms=_NOW)
    },
    "/ready": {
        "a machine that serves": Ready(ready=True),
        "one that does not": Ready(ready=False, reason="stopping"),
    },
    "/me": {
        "a key of tier 100": Me(
            alias="alice",
            tier=100,
            expires_ms=1_798_761_600_000,
            limits=KeyLimits(websocket_connections=5, requests_per_minute=600),
            version=__version__,
        )
    },
    "/health": {
        "healthy": Health(
            status="ok",
            problems=[],
            processes={"intake": "up", "rest": "up", "stream": "up"},
            source=SourceHealth(swept_ms=_NOW - 3_000),
            log=LogHealth(ready=True),
        ),
        "a machine of a cluster, with a problem": Health(
            status="degraded",
            problems=["files_refused"],
            details={"files_refused": Trouble(since_ms=_NOW - 60_000, count=2)},
            processes={"intake": "up", "rest": "up", "stream": "up"},
            source=SourceHealth(swept_ms=_NOW - 3_000),
            log=LogHealth(ready=True, epoch_matches=True),
            key_file=KeyFileHealth(left_out=1),
            cluster=ClusterHealth(index=41_207, term=3, writes=True, behind_ms=120, node="node-1"),
        ),
    },
}
_UNKNOWN_MINER = "Miner ID not found"
_ERRORS: dict[str, dict[str, Any]] = {
    "bad_request": {"error": "Invalid HTTP request"},
    "bad_parameter": {"error": "Invalid value of the parameter limit", "parameter": "limit"},
    "unauthorized": {"error": "Unauthorized access"},
    "insufficient_tier": {"error": "Your API key does not have access to tier 100 data"},
    "not_found": {"error": _UNKNOWN_MINER},
    "request_timeout": {"error": "The request did not arrive in time"},
    "gone": {"error": "That cursor is too old", "oldest_cursor": f"{EPOCH}:81230"},
    "too_many_requests": {"error": "Too many requests with this key"},
    "too_many_connections": {"error": "Too many connections from this address"},
    "uri_too_long": {"error": "Request target too long"},
    "headers_too_large": {"error": "Request headers too large"},
    "version_not_supported": {"error": "HTTP version not supported (use HTTP/1.1)"},
    "internal": {"error": "Internal server error"},
    "busy": {"error": "Too many expensive requests at the moment; they are answered one after the other"},
    "too_many_downloads": {"error": "Too many large downloads with this key at the same time"},
    "starting": {"error": "The service is starting"},
    "behind": {"error": "This server is behind the one that the cursor is from"},
    "log_unreadable": {"error": "The data cannot be read at the moment"},
}
_UNKNOWN_STATUS = {
    "error": "Invalid status values: {'open'}. Valid values are: unfilled, filled, cancelled",
    "parameter": "status",
}
_ERRORS_BY_ROUTE: dict[tuple[str, str], dict[str, Any]] = {
    ("/miner-positions", "bad_parameter"): {
        "error": "Invalid tier value. Allowed values are 0, 30, 50, or 100",
        "parameter": "tier",
    },
    ("/miner-positions", "insufficient_tier"): {
        "error": "Your API key does not have access to tier 100 data"
    },
    ("/validator-checkpoint", "insufficient_tier"): {
        "error": "Validator checkpoint data requires tier 100 access"
    },
    ("/validator-checkpoint", "not_found"): {"error": "Checkpoint data not found"},
    ("/messages", "insufficient_tier"): {"error": "This data requires tier 100 access"},
    ("/stream", "insufficient_tier"): {"error": "This data requires tier 100 access"},
    ("/stream", "bad_parameter"): {
        "error": "Invalid value of the parameter after: expected the id of an event, with a revision for "
        "updates",
        "parameter": "after",
    },
    ("/orders", "bad_parameter"): {
        "error": "before is not the `next` of a page of orders",
        "parameter": "before",
    },
    ("/orders/{hotkey}", "not_found"): {"error": f"No orders found for miner {HOTKEY}"},
    ("/limit-orders/{hotkey}", "not_found"): {"error": f"No limit orders found for miner {HOTKEY}"},
    ("/orders/{hotkey}", "bad_parameter"): _UNKNOWN_STATUS,
    ("/limit-orders/{hotkey}", "bad_parameter"): _UNKNOWN_STATUS,
    ("/challenge-period/{hotkey}", "not_found"): {"error": f"Miner ID {HOTKEY} not found"},
    ("/debt-ledger", "not_found"): {"error": "Debt ledger data not found"},
    ("/debt-ledger/{hotkey}", "not_found"): {"error": "Debt ledger data not found"},
    ("/emissions-ledger/{hotkey}", "not_found"): {"error": "Emissions ledger data not found"},
    ("/penalty-ledger/{hotkey}", "not_found"): {"error": "Penalty ledger data not found"},
    ("/account-snapshots/{hotkey}", "not_found"): {"error": f"No snapshots found for miner {HOTKEY}"},
    ("/account-snapshots/{hotkey}", "bad_parameter"): {
        "error": "limit must be an integer",
        "parameter": "limit",
    },
    ("/entities", "insufficient_tier"): {"error": "Your API key does not have access to tier 200 data"},
    ("/entity/{hotkey}", "insufficient_tier"): {
        "error": "Your API key does not have access to tier 200 data"
    },
    ("/entity/{hotkey}", "not_found"): {"error": f"Entity {HOTKEY} not found"},
    ("/entity/endpoint", "not_found"): {"error": "No endpoint found"},
    ("/entity/endpoint", "bad_parameter"): {
        "error": "hl_address or subaccount is required",
        "parameter": "hl_address",
    },
    ("/trade-pairs", "bad_parameter"): {
        "error": "Invalid asset class: bonds",
        "parameter": "asset_class",
    },
    ("/statistics", "not_found"): {"error": "Statistics data not found"},
    ("/statistics", "bad_parameter"): {
        "error": "Invalid value of the parameter checkpoints",
        "parameter": "checkpoints",
    },
    ("/statistics/{hotkey}", "bad_parameter"): {
        "error": "Invalid value of the parameter checkpoints",
        "parameter": "checkpoints",
    },
    ("/eliminations", "not_found"): {"error": "Eliminations data not found"},
    ("/messages", "gone"): {
        "error": "That cursor is too old",
        "epoch": EPOCH,
        "oldest_sequence": 1_763_500_000,
        "head": _MESSAGE.sequence,
    },
}


_QUERIES = {
    "/miner-positions": "?tier=0&status=open",
    "/statistics": "?checkpoints=false",
    "/statistics/{hotkey}": "?checkpoints=false",
    "/orders/{hotkey}": "?status=filled",
    "/limit-orders/{hotkey}": "?status=unfilled,cancelled",
    "/challenge-period/{hotkey}": "?history=true",
    "/account-snapshots/{hotkey}": "?limit=24",
    "/collateral": "?most_recent=true",
    "/entity/endpoint": f"?subaccount={HOTKEY}_0",
    "/messages": "?limit=10&format=delta",
    "/stream": "?format=delta",
    "/trade-pairs": "?asset_class=forex",
}


def request_example(route: Route) -> str:
    """Returns a command that requests the route."""
    url = PLACEHOLDER_ADDRESS + route.path.replace("{hotkey}", HOTKEY) + _QUERIES.get(route.path, "")
    options = "-N " if route.is_endless else ""
    options += "" if route.access == "anyone" else "-H 'Authorization: Bearer YOUR_API_KEY' "
    return f"curl {options}'{url}'"


def response_examples(path: str) -> dict[str, Any]:
    """Returns the path's examples by title, as JSON values; none for the descriptions themselves."""
    return {name: plain(value) for name, value in _RESPONSES.get(path, {}).items()}


def ndjson_example() -> str:
    """Returns a line of NDJSON."""
    return msgspec.json.encode(plain(_MESSAGE)).decode() + "\n"


def error_example(code: str, route: Route) -> dict[str, Any]:
    """Returns an error's body, as this route words it."""
    example = _ERRORS_BY_ROUTE.get((route.path, code)) or _ERRORS[code]
    return {"error": example["error"], "code": code, **example}
