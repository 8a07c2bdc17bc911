"""The table of routes: path, handler, access, query and response of each.

Requests are routed by it, and the OpenAPI document is made from it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import parse_qs

import msgspec

from ptn_api.http.errors import HTTPError
from ptn_api.model.documents import PairList
from ptn_api.model.miner import MinerEntry
from ptn_api.model.statistics import Eliminations, MinerStatistics, PerfLedger, Statistics
from ptn_api.rest import about, documents, messages, pages, positions
from ptn_api.rest.context import NoQuery, RouteHandler
from ptn_api.views.checkpoint import CheckpointDocument
from ptn_api.wire.about import Health, Me
from ptn_api.wire.frames import Message

__all__ = ["ROUTES", "Access", "Route"]

Access = Literal["anyone", "key", "tier 100"]


class Route(NamedTuple):
    """A row of the table of routes.

    `path` may end in `{hotkey}`. `response` is the type of the 200 response's JSON. `errors` are codes of
    errors that the handler raises, besides those that any route with this access meets; `tier_error` is the
    sentence for keys below tier 100.

    The rest is for the API's description: `variant` is the response type with some parameter, `ndjson_line`
    the type of a line if NDJSON is requested; `freshness`: the response has the headers of
    `context.freshness_headers`; `also_503`: the response may come with status 503.
    """

    path: str
    handler: RouteHandler
    summary: str
    response: Any
    access: Access = "key"
    query: type[msgspec.Struct] = NoQuery
    errors: tuple[str, ...] = ()
    tier_error: str = "This data requires tier 100 access"
    description: str = ""
    variant: Any = None
    ndjson_line: Any = None
    freshness: bool = False
    also_503: bool = False
    media_type: str = "application/json"

    def parse_query(self, text: bytes) -> msgspec.Struct:
        """Returns the query string as the route's query type; unknown parameters are ignored."""
        texts = parse_qs(text.decode("latin-1"), keep_blank_values=True)
        values: dict[str, Any] = {}
        for name, kind, repeatable, error in _parameters(self.query):
            if name not in texts:
                continue
            value = texts[name] if repeatable else texts[name][-1]
            try:
                values[name] = msgspec.convert(value, kind, strict=False)
            except msgspec.ValidationError:
                raise HTTPError("bad_parameter", error, parameter=name) from None
        return self.query(**values)


class _Parameter(NamedTuple):
    """A parameter of a query. A list is given by repeating the parameter."""

    name: str
    kind: Any
    repeatable: bool
    error: str
    """The sentence for a malformed value."""


@lru_cache
def _parameters(query: type[msgspec.Struct]) -> list[_Parameter]:
    """Returns the parameters. A field may bring its sentence: `Meta(extra={"error": ...})`."""
    parameters = []
    for field in msgspec.structs.fields(query):
        kind, error = field.type, f"Invalid value of the parameter {field.name}"
        if get_origin(kind) is Annotated:
            kind, *metas = get_args(kind)
            for meta in metas:
                error = (meta.extra or {}).get("error", error)
        parameters.append(_Parameter(field.name, field.type, get_origin(kind) is list, error))
    return parameters


ROUTES: tuple[Route, ...] = (
    Route(
        "/miner-positions",
        positions.positions,
        "Every miner's positions, as a tier shows them",
        dict[str, MinerEntry],
        query=positions.PositionsQuery,
        errors=("bad_parameter", "insufficient_tier", "gone"),
        description="Best miner first, by `thirty_day_returns`. `tier` defaults to 100. An open position's "
        "`close_ms` is 0. With `since` the response is the changes since that cursor: `{cursor, sequence, "
        "removed, positions, miners}`.",
        variant=positions.Changes,
        freshness=True,
    ),
    Route(
        "/miner-positions/{hotkey}",
        positions.positions_of,
        "One miner's positions, as the key's tier shows them",
        MinerEntry,
        errors=("not_found",),
        freshness=True,
    ),
    Route(
        "/miner-hotkeys",
        documents.hotkeys,
        "The hotkeys of the validator's miners",
        list[str],
        freshness=True,
    ),
    Route(
        "/statistics",
        documents.statistics,
        "The validator's statistics of all miners",
        Statistics,
        query=documents.StatisticsQuery,
        errors=("bad_parameter", "not_found"),
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/statistics/{hotkey}",
        documents.statistics_of,
        "The validator's statistics of one miner",
        MinerStatistics,
        query=documents.StatisticsQuery,
        errors=("bad_parameter", "not_found"),
        description="For every valid key; not delayed. The path may end in a slash.",
        freshness=True,
    ),
    Route(
        "/eliminations",
        documents.eliminations,
        "Which miners were eliminated, and why",
        Eliminations,
        errors=("not_found",),
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/validator-checkpoint",
        documents.checkpoint,
        "The checkpoint that a validator restores from",
        CheckpointDocument,
        access="tier 100",
        errors=("not_found",),
        tier_error="Validator checkpoint data requires tier 100 access",
        freshness=True,
    ),
    Route(
        "/perf-ledger/{hotkey}",
        documents.perf_ledger,
        "One miner's perf ledgers, by trade pair and `portfolio`",
        dict[str, PerfLedger],
        variant=PerfLedger,
        access="tier 100",
        errors=("not_found",),
        freshness=True,
    ),
    Route(
        "/messages",
        messages.messages,
        "The stream's messages after a sequence",
        messages.Messages,
        ndjson_line=Message,
        access="tier 100",
        query=messages.MessagesQuery,
        errors=("bad_parameter", "gone"),
        description="`{messages, next, head, epoch}`; continue with `after=<next>`. With `Accept: "
        "application/x-ndjson` the response has one message per line, and the headers `X-PTN-Next` and "
        "`X-PTN-Head`.",
        freshness=True,
    ),
    Route("/trade-pairs", about.trade_pairs, "The network's trade pairs", PairList),
    Route("/me", about.me, "The request's key: alias, tier, expiry and limits", Me),
    Route(
        "/health",
        about.health,
        "Health of the service; 503 while starting or failing",
        Health,
        access="anyone",
        also_503=True,
    ),
    Route(
        "/openapi.json",
        pages.openapi,
        "This description",
        dict[str, Any],
        access="anyone",
    ),
    Route(
        "/asyncapi.json",
        pages.asyncapi,
        "The WebSocket's description: AsyncAPI 3",
        dict[str, Any],
        access="anyone",
    ),
    Route("/docs", pages.docs, "This description as a page", str, access="anyone", media_type=pages.HTML),
    Route(
        "/docs/stream",
        pages.stream_docs,
        "The WebSocket's description as a page",
        str,
        access="anyone",
        media_type=pages.HTML,
    ),
)
