"""What handlers work with: the application's state and the request's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from ptn_api.access.key_ring import KeyHolder, KeyRing
from ptn_api.clock import Clock
from ptn_api.errors import LogError, LogMissingError
from ptn_api.event_log.contract import EventLog
from ptn_api.http.body import Body, body_of, tag_of
from ptn_api.http.request import Request
from ptn_api.http.response import Response, header_lines
from ptn_api.model.tiers import Tier
from ptn_api.problems import Findings, OtherProcesses, ProblemRegister, SingleProcess
from ptn_api.rest.options import RestOptions
from ptn_api.tasks import TimeSlice
from ptn_api.views.archive import Archive
from ptn_api.views.checkpoint import Checkpoint
from ptn_api.views.documents import Documents, Recent
from ptn_api.views.follower import Follower
from ptn_api.views.leaderboard import Leaderboards
from ptn_api.views.limit_orders import LimitOrders
from ptn_api.views.past import Past
from ptn_api.views.positions import PositionViews, ViewMetrics

if TYPE_CHECKING:
    from ptn_api.fanout.hub import Hub

__all__ = [
    "AppContext",
    "Heavy",
    "NoQuery",
    "RequestContext",
    "RouteHandler",
    "freshness_headers",
    "unknown_miners",
]

_RECENT_ANSWERS = 64
_NAMED_MINERS = 10
"""Unknown miners that the header of a response names."""


@dataclass(frozen=True)
class AppContext:
    """State of the application: one per process."""

    log: EventLog
    clock: Clock
    options: RestOptions
    documents: Documents
    views: PositionViews
    follower: Follower
    limit_orders: LimitOrders
    archive: Archive
    past: Past
    checkpoint: Checkpoint
    leaderboards: Leaderboards
    keys: KeyRing
    problems: ProblemRegister
    others: OtherProcesses
    answers: Recent[Body] = field(default_factory=lambda: Recent(_RECENT_ANSWERS))
    """Bodies that are built on request, each kept until its source changes."""
    hub: Hub | None = None
    """The fan-out to event streams; None while nothing follows the log."""
    tls: bool = False
    """Whether this server itself speaks TLS."""

    @classmethod
    def over(
        cls,
        log: EventLog,
        clock: Clock,
        options: RestOptions,
        metrics: ViewMetrics | None = None,
        keys: KeyRing | None = None,
        problems: ProblemRegister | None = None,
        others: OtherProcesses | None = None,
    ) -> AppContext:
        """Returns the context for serving this log."""
        views, documents = PositionViews(log, clock, metrics), Documents(log)
        follower = Follower(log, views, documents, clock, coalesce_ms=options.refresh_coalesce_ms)
        limit_orders, archive = LimitOrders(documents), Archive(documents, clock)
        context = cls(
            log=log,
            clock=clock,
            options=options,
            documents=documents,
            views=views,
            follower=follower,
            limit_orders=limit_orders,
            archive=archive,
            past=Past(log, views, documents, clock),
            checkpoint=Checkpoint(views, documents, limit_orders, archive),
            leaderboards=Leaderboards(views, documents),
            keys=KeyRing() if keys is None else keys,
            problems=ProblemRegister(clock) if problems is None else problems,
            others=others or SingleProcess(),
        )
        context.problems.watch(context.find_problems)
        return context

    def find_problems(self) -> Findings:
        """The problems of the log and its source, as far as this process can tell."""
        try:
            source, ready, behind_ms = self.log.source(), self.log.ready(), self.log.behind_ms()
        except LogError as error:
            missing = isinstance(error, LogMissingError)  # intake has not made it yet
            return {"log_unreadable": not missing, "starting": missing}
        unreadable = bool(self.follower.outage.failing)
        age_ms = 0 if source.swept_ms is None else self.clock() - source.swept_ms
        return {
            **source.findings,
            "source_silent": age_ms > self.options.silent_ms,
            "log_unreadable": unreadable,
            "cluster_behind": behind_ms is None or behind_ms > self.options.behind_ms,
            "starting": not ((ready and self.views.built) or unreadable),
        }

    def answer(self, key: Hashable, version: Hashable, make: Callable[[], Body]) -> Body:
        """Returns the body kept under this key; rebuilds it if its version differs.

        A rebuilt body with the same tag is discarded: its newer timestamp would reveal changes of data that
        the body leaves out.
        """
        body = self.answers.get(key, version)
        if body is None:
            body, earlier = make(), self.answers.last(key)
            if earlier is not None and earlier.tag == body.tag:
                body = earlier
            self.answers.keep(key, version, body)
        return body

    def stamped(self, fields: dict[str, Any]) -> Body:
        """Returns the fields with the present time as `timestamp`, as a body.

        The tag does not cover the time, so servers with the same data agree on it.
        """
        text = msgspec.json.encode(fields)
        return Body(body_of(text[:-1] + b',"timestamp":%d}' % self.clock()).runs, tag_of([text]))


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """A request after routing and authentication.

    `query` is of the route's query type; `hotkey` the path's last part, where the route has one. For a HEAD
    request (`head`) a handler may skip building the body.
    """

    holder: KeyHolder | None
    query: Any
    hotkey: str = ""
    head: bool = False
    accept: str | None = None
    http: Request | None = None
    """The request as it came."""
    waited_ms: int = 0
    """How long the request has waited for a log that is behind."""

    @property
    def tier(self) -> Tier:
        """The tier whose data the request's API key sees."""
        assert self.holder is not None
        return self.holder.data_tier


class NoQuery(msgspec.Struct):
    """The query type of routes without parameters."""


class Heavy(NamedTuple):
    """A handler's answer that takes turns (turns.py); `work` yields to others by the time slice."""

    work: Callable[[TimeSlice], Awaitable[Response]]


RouteHandler = Callable[[AppContext, RequestContext], Response | Awaitable[Response] | Heavy]
"""A plain function is answered at once; what a coroutine function does runs in a task.

After LogBehindError it is called again.
"""


def freshness_headers(app: AppContext, tier: Tier) -> bytes:
    """Returns the headers that state how current a response is.

    They are lower bounds, so call this before building the body. A lower tier receives the cutoff of its
    delayed data, and nothing that moves with live orders.
    """
    if tier < 100:
        return header_lines({"x-ptn-as-of": str(app.views.as_of_ms())})
    head = app.views.head
    return _position_in_log(app.log.epoch, head.sequence, head.revision)


@lru_cache(maxsize=8)
def _position_in_log(epoch: str, sequence: int, revision: int) -> bytes:
    return header_lines(
        {"x-ptn-epoch": epoch, "x-ptn-sequence": str(sequence), "x-ptn-revision": str(revision)}
    )


def unknown_miners(app: AppContext, tier: Tier, miners: list[str]) -> bytes:
    """Returns a header line that names the first of these miners that the tier does not know."""
    listed = app.documents.miners() if tier == 100 and miners else None
    known = {*(listed or ()), *app.views.hotkeys(tier)} if miners else set()
    # Quoted: what the client has sent must not become another header.
    unknown = [quote(miner, safe="") for miner in miners if miner not in known]
    return header_lines({"x-ptn-unknown-miners": ",".join(unknown[:_NAMED_MINERS])}) if unknown else b""
