"""The one table of routes: what each path is, what it takes, who may ask, what it answers.

Requests are routed by it, and the OpenAPI document is made from it.
"""

from __future__ import annotations

from ptn_api.model.miner import MinerEntry
from ptn_api.model.statistics import Eliminations, MinerStatistics, PerfLedger, Statistics
from ptn_api.model.trade_pair import TradePair
from ptn_api.rest import about, messages, positions, validator_files
from ptn_api.rest.changes import Changes
from ptn_api.rest.messages import Messages
from ptn_api.rest.pages import page_routes
from ptn_api.rest.route import Route
from ptn_api.views.checkpoint import CheckpointDocument
from ptn_api.wire.about import Health, Me
from ptn_api.wire.frames import Message

__all__ = ["ROUTES", "find"]

_DATA: tuple[Route, ...] = (
    Route(
        "/miner-positions",
        positions.positions,
        "Every miner's positions, as a tier shows them",
        dict[str, MinerEntry],
        query=positions.PositionsQuery,
        refusals=("bad_parameter", "insufficient_tier", "gone"),
        description="Best miner first, by `thirty_day_returns`. Without `tier` what tier 100 shows. An open "
        "position's `close_ms` is 0. `since` answers with changes instead: `{cursor, sequence, removed, "
        "positions, miners}`.",
        variant=Changes,
        standing=True,
    ),
    Route(
        "/miner-positions/{hotkey}",
        positions.positions_of,
        "One miner's positions, as the key's tier shows them",
        MinerEntry,
        refusals=("not_found",),
        standing=True,
    ),
    Route(
        "/miner-hotkeys",
        validator_files.hotkeys,
        "The miners that the validator has a directory for",
        list[str],
        standing=True,
    ),
    Route(
        "/statistics",
        validator_files.statistics,
        "The validator's statistics of all miners",
        Statistics,
        query=validator_files.StatisticsQuery,
        refusals=("bad_parameter", "not_found"),
        description="For every valid key, and not delayed.",
        standing=True,
    ),
    Route(
        "/statistics/{hotkey}",
        validator_files.statistics_of,
        "The validator's statistics of one miner",
        MinerStatistics,
        query=validator_files.StatisticsQuery,
        refusals=("bad_parameter", "not_found"),
        description="For every valid key, and not delayed. The path may end in a slash.",
        standing=True,
    ),
    Route(
        "/eliminations",
        validator_files.eliminations,
        "Which miners were eliminated, and why",
        Eliminations,
        refusals=("not_found",),
        description="For every valid key, and not delayed.",
        standing=True,
    ),
    Route(
        "/validator-checkpoint",
        validator_files.checkpoint,
        "Everything a validator restores from",
        CheckpointDocument,
        access="tier 100",
        refusals=("not_found",),
        refused="Validator checkpoint data requires tier 100 access",
        standing=True,
    ),
    Route(
        "/perf-ledger/{hotkey}",
        validator_files.perf_ledger,
        "One miner's perf ledgers, by trade pair and `portfolio`",
        dict[str, PerfLedger],
        variant=PerfLedger,
        access="tier 100",
        refusals=("not_found",),
        standing=True,
    ),
    Route(
        "/messages",
        messages.messages,
        "The stream's messages after a sequence",
        Messages,
        line=Message,
        access="tier 100",
        query=messages.MessagesQuery,
        refusals=("bad_parameter", "gone"),
        description="`{messages, next, head, epoch}`; ask again with `after=<next>`. `Accept: "
        "application/x-ndjson` gives one message per line, `X-PTN-Next` and `X-PTN-Head` as headers.",
        standing=True,
    ),
    Route("/trade-pairs", about.trade_pairs, "The trade pairs that the network knows", list[TradePair]),
    Route("/me", about.me, "The asking key: alias, tier and limits", Me),
    Route(
        "/health",
        about.health,
        "Whether all is well; 503 while starting or failing",
        Health,
        access="anyone",
        failing=True,
    ),
)

ROUTES: tuple[Route, ...] = (*_DATA, *page_routes(_DATA))
"""The table: the data, and the pages that describe it."""

_EXACT = {route.path: route for route in ROUTES if not route.path.endswith("/{hotkey}")}
_BY_PREFIX = {
    route.path.removesuffix("{hotkey}"): route for route in ROUTES if route.path.endswith("/{hotkey}")
}


def find(path: str) -> tuple[Route, str] | None:
    """The route of a path and the hotkey in it; a slash at the end is tolerated."""
    path = path[:-1] if path.endswith("/") else path
    if path in _EXACT:
        return _EXACT[path], ""
    prefix, slash, hotkey = path.rpartition("/")
    route = _BY_PREFIX.get(prefix + slash)
    return (route, hotkey) if route is not None and hotkey else None
