"""The ASGI application: from a request to the handler that answers it, the least work first."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, get_args, get_origin

import msgspec
import structlog
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from ptn_api.access.key_ring import KeyRing
from ptn_api.access.usage import Usage
from ptn_api.errors import LogError
from ptn_api.rest.answer import Answer, send_answer, send_refusal
from ptn_api.rest.authentication import Caller
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.gate import Gate, Visit
from ptn_api.rest.refusal import Refusal
from ptn_api.rest.reply import Reply
from ptn_api.rest.room import Ask, Room
from ptn_api.rest.route import Route
from ptn_api.rest.routes import find

__all__ = ["App"]

log = structlog.get_logger()

_BAD_TIER = "Invalid tier value. Allowed values are 0, 30, 50, or 100"
_RETRY_AFTER = {"retry-after": "2"}


class App:
    """Every refusal is JSON; whatever goes wrong inside is logged and told as a plain 500."""

    def __init__(
        self, room: Room, keys: KeyRing, *, counters: RestCounters | None = None, usage: Usage | None = None
    ) -> None:
        self._room = room
        self._counters = counters or RestCounters()
        self._usage = usage
        self._gate = Gate(keys, room.options, room.clock, self._counters)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, reply = Request(scope, receive), Reply(send)
        try:
            await self._answer(request, reply)
        finally:
            self._count(request, reply)

    async def _answer(self, request: Request, send: Reply) -> None:
        head = request.method == "HEAD"
        try:
            route, answer, caller = await self._answered(request, send, head)
        except Refusal as refusal:
            await send_refusal(refusal, send, head=head)
        except LogError as error:
            log.error("event log not readable", code=error.code, reason=str(error))
            sentence = "The data cannot be read at the moment"
            await send_refusal(Refusal("log_unreadable", sentence, headers=_RETRY_AFTER), send, head=head)
        except Exception:
            log.exception("request failed", route=send.route)
            await send_refusal(Refusal("internal", "Internal server error"), send, head=head)
        else:
            store = route.path != "/health" and not (caller and caller.key_in_body)
            await send_answer(answer, request, send, private=caller is not None, store=store)

    async def _answered(
        self, request: Request, reply: Reply, head: bool
    ) -> tuple[Route, Answer, Caller | None]:
        found = find(request.scope["path"])
        if found is None:
            raise Refusal("not_found", "Not found")
        route, hotkey = found
        reply.route = route.path
        if request.method not in ("GET", "HEAD"):
            raise Refusal("method_not_allowed", "Method not allowed", headers={"allow": "GET, HEAD"})
        caller = await self._admitted(request, reply) if route.access != "anyone" else None
        if caller is not None:
            self._check(route, caller)
        ask = Ask(
            holder=caller and caller.holder,
            query=_query(route, request),
            hotkey=hotkey,
            head=head,
            accept=request.headers.get("accept"),
        )
        return route, await route.handler(self._room, ask), caller

    async def _admitted(self, request: Request, reply: Reply) -> Caller:
        """Who asks, if that may be now. From here on every answer says what is left of the key's requests."""
        caller, allowance = await self._gate.admit(request)
        if allowance is not None:
            reply.headers = allowance.headers()
            if not allowance.allowed:
                raise Refusal("too_many_requests", "Too many requests with this key")
        reply.holder = caller.holder
        visit = request.scope.get("state", {}).get("visit")
        if isinstance(visit, Visit):
            visit.holder = caller.holder
        return caller

    def _check(self, route: Route, caller: Caller) -> None:
        if route.access == "tier 100" and caller.holder.tier < 100:
            raise Refusal("insufficient_tier", route.refused)
        if not self._room.ready:
            raise Refusal("starting", "The service is starting", headers=_RETRY_AFTER)

    def _count(self, request: Request, reply: Reply) -> None:
        about = (reply.route, str(reply.status or "none"), reply.coding)
        self._counters.requests[about] += 1
        self._counters.sent_bytes[about] += reply.sent_bytes
        visit = request.scope.get("state", {}).get("visit")
        if isinstance(visit, Visit):
            visit.requests += 1
        if self._usage is not None and reply.holder is not None:
            self._usage.add(reply.holder, requests=1, sent_bytes=reply.sent_bytes)


def _query(route: Route, request: Request) -> msgspec.Struct:
    """The query string as the route's type. Raises Refusal `bad_parameter`; unknown names are ignored."""
    if not request.scope["query_string"]:
        return route.query()
    given = request.query_params
    values: dict[str, Any] = {
        name: given.getlist(name) if repeatable else given[name]
        for name, repeatable in _parameters(route.query)
        if name in given
    }
    try:
        return msgspec.convert(values, route.query, strict=False)
    except msgspec.ValidationError as error:
        name = str(error).rpartition("$.")[2].split("[")[0].rstrip("`")
        sentence = _BAD_TIER if name == "tier" else f"Invalid value of the parameter {name}"
        raise Refusal("bad_parameter", sentence, parameter=name) from None


@lru_cache
def _parameters(query: type[msgspec.Struct]) -> list[tuple[str, bool]]:
    """(name, whether it may be repeated) of each parameter."""
    return [(field.name, _is_list(field.type)) for field in msgspec.structs.fields(query)]


def _is_list(kind: Any) -> bool:
    """Whether the type is a list, plain or annotated."""
    return list in (get_origin(kind), *map(get_origin, get_args(kind)[:1]))
