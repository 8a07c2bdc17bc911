"""Examples of the routes' responses and errors, built from the response types."""

from __future__ import annotations

from typing import Any

import msgspec

from ptn_api.model.documents import PairList, trade_pairs_answer
from ptn_api.model.miner import Aggregates, MinerEntry
from ptn_api.model.statistics import (
    Elimination,
    Eliminations,
    MinerStatistics,
    PerfCheckpoint,
    PerfLedger,
    Statistics,
)
from ptn_api.rest.messages import Messages
from ptn_api.rest.positions import Changes
from ptn_api.rest.routes import Route
from ptn_api.views.checkpoint import CheckpointDocument
from ptn_api.wire.about import Health, KeyLimits, LogHealth, Me, SourceHealth
from ptn_api.wire.examples import EPOCH, FRAMES, HOTKEY, POSITION, plain
from ptn_api.wire.frames import Message

__all__ = ["error_example", "ndjson_example", "response_examples"]

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
_PAIRS = PairList(
    allowed=trade_pairs_answer("hl_all", _NOW).allowed[:1],
    disabled=trade_pairs_answer("forex", _NOW).disabled[:1],
    total_allowed=1,
    total_disabled=1,
    timestamp=_NOW,
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
            eliminations=[],
            youngest_order_processed_ms=POSITION.orders[0].processed_ms,
            oldest_order_processed_ms=POSITION.orders[0].processed_ms,
            positions={HOTKEY: msgspec.structs.replace(_ENTRY, tier=None)},
            perf_ledgers={HOTKEY: _LEDGER},
        )
    },
    "/perf-ledger/{hotkey}": {"by trade pair": {"portfolio": _LEDGER}, "of an older validator": _LEDGER},
    "/messages": {
        "one order": Messages(
            messages=[_MESSAGE], next=_MESSAGE.sequence, head=_MESSAGE.sequence, epoch=EPOCH
        )
    },
    "/trade-pairs": {"one pair": _PAIRS},
    "/me": {
        "a key of tier 100": Me(
            alias="alice",
            tier=100,
            expires_ms=1_798_761_600_000,
            limits=KeyLimits(websocket_connections=5, requests_per_minute=600),
        )
    },
    "/health": {
        "healthy": Health(
            status="ok",
            problems=[],
            processes={"intake": "up", "rest": "up", "stream": "up"},
            source=SourceHealth(swept_ms=_NOW - 3_000),
            log=LogHealth(ready=True),
        )
    },
}
_UNKNOWN_MINER = "Miner ID not found"
_ERRORS: dict[str, dict[str, Any]] = {
    "bad_request": {"error": "Invalid HTTP request"},
    "bad_parameter": {"error": "Invalid value of the parameter limit", "parameter": "limit"},
    "unauthorized": {"error": "Unauthorized access"},
    "insufficient_tier": {"error": "This data requires tier 100 access"},
    "not_found": {"error": _UNKNOWN_MINER},
    "request_timeout": {"error": "The request did not arrive in time"},
    "gone": {"error": "That cursor is too old", "oldest_cursor": f"{EPOCH}:81230"},
    "too_many_requests": {"error": "Too many requests with this key"},
    "too_many_connections": {"error": "Too many connections from this address"},
    "uri_too_long": {"error": "Request target too long"},
    "headers_too_large": {"error": "Request headers too large"},
    "internal": {"error": "Internal server error"},
    "starting": {"error": "The service is starting"},
    "log_unreadable": {"error": "The data cannot be read at the moment"},
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
