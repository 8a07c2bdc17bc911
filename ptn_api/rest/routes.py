"""The table of routes: path, handler, access, query and response of each.

Requests are routed by it, and the OpenAPI document is made from it.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import parse_qs

import msgspec

from ptn_api.fanout.event_stream import EVENT_STREAM
from ptn_api.http.errors import HTTPError
from ptn_api.model.documents import (
    AccountSnapshots,
    ChallengePeriod,
    Collateral,
    DebtLedgerSummary,
    Entities,
    EntityAnswer,
    EntityEndpoint,
    MinerLedger,
    MinerSelections,
    OrdersByStatus,
    PairList,
    ServiceHealth,
)
from ptn_api.model.limit_order import ListedOrder
from ptn_api.model.miner import Leaderboard, MinerEntry
from ptn_api.model.order import OrderPage
from ptn_api.model.statistics import Eliminations, MinerStatistics, PerfLedger, Statistics
from ptn_api.model.trade_pair import split_names
from ptn_api.rest import about, accounts, documents, messages, orders, pages, positions
from ptn_api.rest.context import NoQuery, RouteHandler
from ptn_api.views.checkpoint import CheckpointDocument
from ptn_api.wire.about import Health, Me, Ready
from ptn_api.wire.frames import Message

__all__ = ["ASSETS", "ROUTES", "Access", "Route", "not_served"]

Access = Literal["anyone", "key", "tier 100", "tier 200"]


class Route(msgspec.Struct, frozen=True, dict=True):
    """A row of the table of routes.

    `path` may end in `{hotkey}`, or in `{name}` for a file. `response` is the type of the 200 response's
    JSON. `errors` are codes of errors that the handler raises, besides those of any route with this access;
    `own_tier_error` is the sentence for keys of too low a tier, where it is not the usual one.

    The rest is for the API's description: `variant` is the response type with some parameter, `ndjson_line`
    the type of a line if NDJSON is requested; `freshness`: the response has the headers of
    `context.freshness_headers`; `also_503`: the response may come with status 503. `any_origin`: scripts of
    every website may read the response in a browser, without a setting. `unknown_miners`: the response has
    the header of `context.unknown_miners`.
    """

    path: str
    handler: RouteHandler
    summary: str
    response: Any
    access: Access = "key"
    query: type[msgspec.Struct] = NoQuery
    errors: tuple[str, ...] = ()
    own_tier_error: str = ""
    description: str = ""
    variant: Any = None
    ndjson_line: Any = None
    freshness: bool = False
    also_503: bool = False
    any_origin: bool = False
    media_type: str = "application/json"
    unknown_miners: bool = False

    @cached_property
    def lowest_tier(self) -> int:
        """The tier that a key needs; a route for anyone needs none."""
        return {"tier 100": 100, "tier 200": 200}.get(self.access, 0)

    @property
    def is_endless(self) -> bool:
        """Whether the response is a stream of events: neither stored nor compressed."""
        return self.media_type == EVENT_STREAM

    @property
    def tier_error(self) -> str:
        return self.own_tier_error or f"Your API key does not have access to tier {self.lowest_tier} data"

    def parse_query(self, text: bytes) -> msgspec.Struct:
        """Returns the query string as the route's query type. Raises HTTPError `bad_parameter`.

        Lists are given by repeating the parameter, or with commas. Empty values are ignored. A route with
        lists filters by them, so there a misspelt name would mean "no filter", and is refused; names that
        begin with `_` are left to proxies and caches. Other routes ignore unknown names.
        """
        texts = parse_qs(text.decode("latin-1"))
        parameters = _parameters(self.query)
        values: dict[str, Any] = {}
        for name, given in texts.items():
            parameter = parameters.get(name)
            if parameter is None:
                if not name.startswith("_") and any(known.is_list for known in parameters.values()):
                    sentence = f"Unknown parameter {name[:40]}. Known parameters are {', '.join(parameters)}"
                    raise HTTPError("bad_parameter", sentence, parameter=name[:40])
                continue
            value = split_names(given) if parameter.is_list else given[-1]
            try:
                values[name] = msgspec.convert(value, parameter.kind, strict=False)
            except msgspec.ValidationError:
                raise HTTPError("bad_parameter", parameter.error, parameter=name) from None
        return self.query(**values)


class _Parameter(NamedTuple):
    kind: Any
    is_list: bool
    error: str
    """The sentence for a malformed value."""


@lru_cache
def _parameters(query: type[msgspec.Struct]) -> dict[str, _Parameter]:
    """Returns the parameters by name. A field may bring its sentence: `Meta(extra={"error": ...})`."""
    parameters = {}
    for field in msgspec.structs.fields(query):
        kind, *metas = get_args(field.type) if get_origin(field.type) is Annotated else (field.type,)
        is_list = get_origin(kind) is list
        (element,) = get_args(kind) if is_list else (kind,)
        error = f"Invalid value of the parameter {field.name}"
        if element is bool or get_origin(element) is Literal:
            allowed = ("true", "false") if element is bool else get_args(element)
            error += f". Allowed values are {', '.join(map(str, allowed))}"
        for meta in metas:
            if meta.ge is not None:
                error += f": expected an integer of at least {meta.ge}"
                error += f" and at most {meta.le}" if meta.le is not None else ""
            error = (meta.extra or {}).get("error", error)
        parameters[field.name] = _Parameter(field.type, is_list, error)
    return parameters


_FROM_MEMORY = "Not served: this data exists only in the validator's memory. Ask the validator's own API."
_NOT_SERVED = {
    "/miner/": _FROM_MEMORY,
    "/entity/subaccount/": _FROM_MEMORY,
    "/v2/": _FROM_MEMORY,
    "/hl-traders/": _FROM_MEMORY,
    "/hl-leaderboard/": _FROM_MEMORY,
    "/collateral/balance/": "Not served: this data comes from the blockchain. Ask the validator's own API.",
    "/api/health/rpc/": "Not served: this service has no RPC servers. /health describes its own processes.",
}


def not_served(path: str) -> str | None:
    """Returns why a route of the validator's own API does not exist here; None for any other path."""
    path = path + "/"
    return next((reason for prefix, reason in _NOT_SERVED.items() if path.startswith(prefix)), None)


ROUTES: tuple[Route, ...] = (
    Route(
        "/miner-positions",
        positions.positions,
        "Every miner's positions, as a tier shows them",
        dict[str, MinerEntry],
        query=positions.PositionsQuery,
        errors=("bad_parameter", "insufficient_tier", "gone", "busy", "behind"),
        description="Best miner first, by `thirty_day_returns`. An open position's `close_ms` is 0. With "
        "`at`, miners are sorted by hotkey, and `X-PTN-As-Of` is that time; positions removed since are "
        "included for 7 days, and in tier 100 archived ones. With `since`, the response is the changes since "
        "that cursor.",
        variant=positions.Changes,
        freshness=True,
        unknown_miners=True,
    ),
    Route(
        "/miner-positions/{hotkey}",
        positions.positions_of,
        "One miner's positions, as the key's tier shows them",
        MinerEntry,
        query=positions.MinerQuery,
        errors=("bad_parameter", "not_found", "busy"),
        description="From tier 100 on, archived positions are listed and counted, too. Below tier 100, a "
        "miner is a 404 while the tier shows none of its positions. `at` is that of `/miner-positions`.",
        freshness=True,
    ),
    Route(
        "/miners",
        positions.miners,
        "The leaderboard: a row for each miner, without its positions",
        Leaderboard,
        errors=("busy",),
        description="Best miner first, by `thirty_day_returns`, as the key's tier shows the positions. "
        "`phase`, `elimination`, `drawdown` and `curve` come from documents that are not delayed.",
        freshness=True,
    ),
    Route(
        "/miner-hotkeys",
        documents.hotkeys,
        "The hotkeys of the validator's miners",
        list[str],
        description="Below tier 100, only those of which the tier shows a position.",
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
        errors=("not_found", "busy"),
        own_tier_error="Validator checkpoint data requires tier 100 access",
        freshness=True,
    ),
    Route(
        "/perf-ledger/{hotkey}",
        accounts.perf_ledger,
        "The perf ledger of one miner's portfolio, by its hotkey",
        dict[str, PerfLedger],
        errors=("not_found",),
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/orders",
        orders.all_orders,
        "The orders of all miners, newest first",
        OrderPage,
        access="tier 100",
        query=orders.AllOrdersQuery,
        errors=("bad_parameter", "busy"),
        description="By `processed_ms` and `order_uuid`; continue with `before=<next>` until `next` is null. "
        "The orders are those of the positions in `/miner-positions`, as they are now: without those of "
        "removed and archived positions. `sequence` is that of the order's message.",
        freshness=True,
        unknown_miners=True,
    ),
    Route(
        "/orders/{hotkey}",
        orders.orders,
        "One miner's orders by status",
        OrdersByStatus,
        access="tier 100",
        query=orders.OrdersQuery,
        errors=("bad_parameter", "not_found", "busy"),
        description="Filled orders are those of the miner's positions, archived ones excepted; unfilled and "
        "cancelled ones are limit orders. Oldest first.",
        freshness=True,
    ),
    Route(
        "/limit-orders/{hotkey}",
        orders.limit_orders,
        "One miner's limit orders",
        list[ListedOrder],
        variant=OrdersByStatus,
        access="tier 100",
        query=orders.OrdersQuery,
        errors=("bad_parameter", "not_found"),
        description="Without `status` a list of the unfilled orders, with it `{status: [order]}`. Unfilled "
        "bracket orders reveal live positions, hence tier 100. Oldest first.",
        freshness=True,
    ),
    Route(
        "/challenge-period/{hotkey}",
        documents.challenge_period,
        "One miner's place in the competition",
        ChallengePeriod,
        query=documents.ChallengePeriodQuery,
        errors=("bad_parameter", "not_found"),
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/debt-ledger",
        accounts.debt_ledgers,
        "A summary of every miner's debt ledger",
        dict[str, DebtLedgerSummary],
        errors=("not_found",),
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/debt-ledger/{hotkey}",
        accounts.debt_ledger,
        "One miner's debt ledger",
        MinerLedger,
        errors=("not_found",),
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/emissions-ledger/{hotkey}",
        accounts.emissions_ledger,
        "One miner's emissions ledger",
        MinerLedger,
        errors=("not_found",),
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/penalty-ledger/{hotkey}",
        accounts.penalty_ledger,
        "One miner's penalty ledger",
        MinerLedger,
        errors=("not_found",),
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/account-snapshots/{hotkey}",
        accounts.account_snapshots,
        "One miner's account, hour by hour",
        AccountSnapshots,
        query=accounts.SnapshotsQuery,
        errors=("bad_parameter", "not_found", "busy"),
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/collateral",
        accounts.collateral,
        "The miners' account sizes, record by record",
        Collateral,
        query=accounts.CollateralQuery,
        errors=("bad_parameter",),
        description="For every valid key; not delayed. Account values that change with every order are left "
        "out. The path may end in a slash.",
        freshness=True,
    ),
    Route(
        "/miner-selections",
        documents.miner_selections,
        "The asset class that each miner chose",
        MinerSelections,
        description="For every valid key; not delayed.",
        freshness=True,
    ),
    Route(
        "/entities",
        accounts.entities,
        "All entities, with their subaccounts",
        Entities,
        access="tier 200",
        freshness=True,
    ),
    Route(
        "/entity/endpoint",
        accounts.entity_endpoint,
        "Where the entity of a subaccount is reached",
        EntityEndpoint,
        access="anyone",
        query=accounts.EndpointQuery,
        errors=("bad_parameter", "not_found"),
        description="`hl_address` finds active and pending subaccounts, `subaccount` all.",
    ),
    Route(
        "/entity/{hotkey}",
        accounts.entity,
        "One entity, with its subaccounts",
        EntityAnswer,
        access="tier 200",
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
        errors=("bad_parameter", "gone", "busy", "behind"),
        own_tier_error="This data requires tier 100 access",
        description="Continue with `after=<next>`. With `Accept: application/x-ndjson` the response has one "
        "message per line, and the headers `X-PTN-Next` and `X-PTN-Head`.",
        freshness=True,
        unknown_miners=True,
    ),
    Route(
        "/stream",
        messages.stream,
        "The stream's messages as Server-Sent Events",
        str,
        access="tier 100",
        query=messages.StreamQuery,
        errors=("bad_parameter", "behind"),
        own_tier_error="This data requires tier 100 access",
        description="Events `order`, `position`, `removed`, `heartbeat` and `gap`; `data` is the message of "
        "the WebSocket's version 2, `id` a cursor to resume from. Each stream counts as one of the user's "
        "connections, as a WebSocket does.",
        media_type=EVENT_STREAM,
        unknown_miners=True,
    ),
    Route(
        "/trade-pairs",
        about.trade_pairs,
        "The network's trade pairs",
        PairList,
        access="anyone",
        query=about.TradePairsQuery,
        errors=("bad_parameter",),
    ),
    Route(
        "/",
        pages.index,
        "An index of the routes; for browsers a page",
        pages.ServiceIndex,
        access="anyone",
        description="JSON unless Accept prefers `text/html`.",
    ),
    Route("/me", about.me, "The request's key: alias, tier, expiry and limits", Me),
    Route(
        "/health",
        about.health,
        "Health of the service; 503 while starting or failing",
        Health,
        access="anyone",
        query=about.HealthQuery,
        also_503=True,
        any_origin=True,
    ),
    Route(
        "/ready",
        about.ready,
        "Whether to send clients to this machine, for load balancers; 503 if not",
        Ready,
        access="anyone",
        description="`reason` is `stopping` or one of the problems of /health. Unlike /health, it is a 200"
        " where all machines of a cluster are behind alike, or where only the validator's data is stale.",
        also_503=True,
    ),
    Route(
        "/api/health",
        about.service_health,
        "Health of the service, as the network's clients read it; 503 while starting or failing",
        ServiceHealth,
        access="anyone",
        also_503=True,
    ),
    Route(
        "/openapi.json",
        pages.openapi,
        "This description",
        dict[str, Any],
        access="anyone",
        any_origin=True,
    ),
    Route(
        "/asyncapi.json",
        pages.asyncapi,
        "The WebSocket's description: AsyncAPI 3",
        dict[str, Any],
        access="anyone",
        any_origin=True,
    ),
    Route(
        "/docs",
        pages.docs,
        "This description as a page",
        str,
        access="anyone",
        media_type=pages.HTML,
        any_origin=True,
    ),
    Route(
        "/docs/stream",
        pages.stream_docs,
        "The WebSocket's description as a page",
        str,
        access="anyone",
        media_type=pages.HTML,
        any_origin=True,
    ),
)

ASSETS = Route("/assets/{name}", pages.asset, "A file of the page", str, access="anyone")
"""Not part of the API, so not described."""
