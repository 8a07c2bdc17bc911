"""Routing and dispatch: from a request to the handler that answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

import msgspec
import structlog

from ptn_api.access.key_ring import KeyRing
from ptn_api.access.usage import Usage
from ptn_api.clock import Monotonic, monotonic_ms
from ptn_api.errors import LogBehindError, LogError
from ptn_api.http.body import LiveBody
from ptn_api.http.cross_origin import CrossOrigin, allow_preflight, is_preflight
from ptn_api.http.errors import HTTPError
from ptn_api.http.response import Exchange, Response
from ptn_api.rest.auth import Authenticator, key_in_body, rate_limit_lines
from ptn_api.rest.context import AppContext, Heavy, RequestContext
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.routes import Route, not_served
from ptn_api.rest.turns import Turn, Turns

__all__ = ["App", "Router"]

logger = structlog.get_logger()

_RETRY_AFTER = {"retry-after": "2"}
_BEHIND_PAUSE_MS = 50
"""The pause before a log that is behind is looked at again; doubles."""
_NOT_STORED = ("/health", "/ready", "/api/health", "/stream")
"""Routes whose responses no cache may keep."""
_FORGET_S = 60
"""How long after its last failure a route that is no longer requested counts as failing."""


class Router:
    """Finds routes by path: exact paths, and prefixes that a hotkey or a file's name follows."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact = {route.path.rstrip("/"): route for route in routes if not route.path.endswith("}")}
        self._by_prefix = {
            route.path[: route.path.rindex("{")]: route for route in routes if route.path.endswith("}")
        }

    def find(self, path: str) -> tuple[Route, str] | None:
        """Returns the path's route and hotkey; a trailing slash and repeated slashes are ignored."""
        while "//" in path:  # as from an address with a slash at its end
            path = path.replace("//", "/")
        path = path[:-1] if path.endswith("/") else path
        if path in self._exact:
            return self._exact[path], ""
        prefix, slash, hotkey = path.rpartition("/")
        route = self._by_prefix.get(prefix + slash)
        return (route, hotkey) if route is not None and hotkey else None


class App:
    """The HTTP server's handler. Errors become JSON responses; unexpected ones are logged, status 500."""

    def __init__(
        self,
        context: AppContext,
        keys: KeyRing,
        routes: Sequence[Route],
        *,
        counters: RestCounters | None = None,
        usage: Usage | None = None,
        monotonic: Monotonic = monotonic_ms,
    ) -> None:
        self._context = context
        self._router = Router(routes)
        self._counters = counters or RestCounters()
        self._usage = usage
        self._outage = context.follower.outage
        self._forgetting: dict[str, asyncio.TimerHandle] = {}
        """Timers of the routes whose last read of the log failed."""
        self._turns = Turns(context.options, self._counters, context.problems, monotonic)
        self._authenticator = Authenticator(keys, context.options, monotonic, self._counters)
        self._cross_origin = CrossOrigin(context.options.cors_origins)

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        found = self._router.find(exchange.request.path)
        public = found is not None and found[0].any_origin
        if public or self._cross_origin.enabled:
            may_read = self._cross_origin.mark(exchange, public=public)
            if may_read and is_preflight(exchange):
                allow_preflight(exchange)
                return None
        try:
            route, request = self._dispatch(exchange, found)
            result: Response | Awaitable[Response | Heavy] | Heavy
            try:
                result = route.handler(self._context, request)
            except LogBehindError:
                result = self._handle_when_complete(route, request)
            if isinstance(result, Response) and self._respond(exchange, result):
                if self._forgetting:
                    self._log_read(exchange.route)
                return None
            user = "" if request.holder is None else request.holder.alias
            if isinstance(result, Heavy):
                turn = exchange.pace = self._turns.begin(user, exchange.route, exchange.abort)
            else:
                turn = self._turns.step(user)
        except Exception as error:  # noqa: BLE001 - each becomes a response
            self._respond_with_error(exchange, error)
            return None
        return self._handle_later(exchange, result, turn, user)

    async def _handle_later(
        self,
        exchange: Exchange,
        result: Response | Awaitable[Response | Heavy] | Heavy,
        turn: Turn,
        user: str,
    ) -> None:
        try:
            if isinstance(result, Awaitable):
                result = await result
                if isinstance(result, Heavy):
                    turn = exchange.pace = self._turns.begin(user, exchange.route, exchange.abort)
                elif isinstance(result.body, LiveBody):
                    self._respond(exchange, result)  # without a pause, in which the client may leave
                    return
            async with turn:
                response = await result.work(turn) if isinstance(result, Heavy) else result
                while not self._respond(exchange, response):  # each call compresses more
                    await turn.yield_if_due()
            if self._forgetting:
                self._log_read(exchange.route)
        except Exception as error:  # noqa: BLE001 - each becomes a response
            self._respond_with_error(exchange, error)

    async def _handle_when_complete(self, route: Route, request: RequestContext) -> Response | Heavy:
        """Calls the handler again until the log has what it needs. Raises HTTPError `behind`."""
        started_ms, pause_ms = monotonic_ms(), _BEHIND_PAUSE_MS
        while True:
            await asyncio.sleep(pause_ms / 1000)
            waited_ms = monotonic_ms() - started_ms
            try:
                result = route.handler(self._context, msgspec.structs.replace(request, waited_ms=waited_ms))
            except LogBehindError:
                left_ms = self._context.options.behind_wait_ms - waited_ms
                if left_ms <= 0:
                    sentence = "This server is behind the one that the cursor is from"
                    raise HTTPError("behind", sentence, headers=_RETRY_AFTER) from None
                pause_ms = min(max(waited_ms, _BEHIND_PAUSE_MS), left_ms)
            else:
                return await result if isinstance(result, Awaitable) else result

    def _respond(self, exchange: Exchange, response: Response) -> bool:
        private = exchange.user is not None
        # Caches tell responses apart by Authorization (Vary), not by the request's body.
        store = not (exchange.route in _NOT_STORED or (private and key_in_body(exchange.request)))
        return exchange.respond(response, private=private, store=store)

    def _respond_with_error(self, exchange: Exchange, error: Exception) -> None:
        if isinstance(error, LogError):
            route = exchange.route
            self._outage.failed(route, error)
            if route in self._forgetting:
                self._forgetting[route].cancel()
            # Load balancers send no requests while /health fails, so the next success may never come.
            forget = asyncio.get_running_loop().call_later(_FORGET_S, self._log_read, route)
            self._forgetting[route] = forget
            sentence = "The data cannot be read at the moment"
            error = HTTPError("log_unreadable", sentence, headers=_RETRY_AFTER)
        elif not isinstance(error, HTTPError):
            logger.error("request_failed", route=exchange.route, exc_info=error)
            error = HTTPError("internal", "Internal server error")
        exchange.respond_with_error(error)

    def _log_read(self, route: str) -> None:
        """Ends the route's outage: each route is a reader of the log, since they read different tables."""
        if route in self._forgetting:
            self._forgetting.pop(route).cancel()
            self._outage.succeeded(route)

    # --- dispatch -------------------------------------------------------------------------------------------

    def _dispatch(self, exchange: Exchange, found: tuple[Route, str] | None) -> tuple[Route, RequestContext]:
        """Authenticates and parses the query, in this order: the cheapest rejection comes first."""
        request = exchange.request
        if found is None:
            raise HTTPError("not_found", not_served(request.path) or "Not found")
        route, hotkey = found
        exchange.route = route.path
        if request.method not in (b"GET", b"HEAD"):
            raise HTTPError("method_not_allowed", "Method not allowed", headers={"allow": "GET, HEAD"})
        holder = None
        if route.access != "anyone":
            holder, allowance = self._authenticator.authenticate(request)
            if allowance is not None:
                exchange.extra_headers += rate_limit_lines(allowance)
                if not allowance.allowed:
                    after = {"retry-after": str(allowance.retry_s)}
                    raise HTTPError("too_many_requests", "Too many requests with this key", headers=after)
            exchange.user = request.connection.user = holder
            exchange.owner = request.connection.owner = holder.alias
            if holder.tier < route.lowest_tier:
                raise HTTPError("insufficient_tier", route.tier_error)
            if not self._context.views.built:
                raise HTTPError("starting", "The service is starting", headers=_RETRY_AFTER)
        query = request.state.get("query")
        if query is None:
            query = route.parse_query(request.query) if request.query else route.query()
            request.state["query"] = query
        context = RequestContext(
            holder=holder,
            query=query,
            hotkey=hotkey,
            head=request.method == b"HEAD",
            accept=request.headers.get("accept"),
            http=request,
        )
        return route, context

    def finished(self, exchange: Exchange) -> None:
        """Adds the exchange to the metrics and to the key's usage."""
        labels = (exchange.route, str(exchange.status or "none"), exchange.coding)
        self._counters.requests[labels] += 1
        self._counters.sent_bytes[labels] += exchange.sent_bytes
        exchange.request.connection.requests += 1
        if isinstance(exchange.pace, Turn):
            exchange.pace.close()
        if self._usage is not None and exchange.user is not None:
            self._usage.add(exchange.user, requests=1, sent_bytes=exchange.sent_bytes)
