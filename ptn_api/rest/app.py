"""From a request to the handler that answers it, the least work first."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, get_args, get_origin
from urllib.parse import parse_qs

import msgspec
import structlog

from ptn_api.access.key_ring import KeyHolder, KeyRing
from ptn_api.access.usage import Usage
from ptn_api.errors import LogError
from ptn_api.http.answer import give, refuse
from ptn_api.http.errors import HTTPError
from ptn_api.http.reply import Reply, limit_lines
from ptn_api.http.request import Request
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.gate import Gate
from ptn_api.rest.room import Ask, Room
from ptn_api.rest.route import Route
from ptn_api.rest.routes import find

__all__ = ["App"]

logger = structlog.get_logger()

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

    async def answer(self, request: Request, reply: Reply) -> None:
        """Fills in the reply; `count` is to be called when it was sent, or could not be."""
        try:
            route, ask = self._admitted(request, reply)
            answer = await route.handler(self._room, ask)
            private = ask.holder is not None
            store = not (route.path == "/health" or (private and request.key_in_body))
            await give(reply, answer, request, private=private, store=store)
        except HTTPError as refusal:
            refuse(reply, refusal, method=request.method)
        except LogError as error:
            # Under the views' name: their next read, within a second, finds out whether the outage is over.
            self._room.follower.outage.failed("views", error)
            sentence = "The data cannot be read at the moment"
            unreadable = HTTPError("log_unreadable", sentence, headers=_RETRY_AFTER)
            refuse(reply, unreadable, method=request.method)
        except Exception:
            logger.exception("request_failed", route=reply.route)
            refuse(reply, HTTPError("internal", "Internal server error"), method=request.method)

    def _admitted(self, request: Request, reply: Reply) -> tuple[Route, Ask]:
        """The route, and what it is asked. Raises HTTPError."""
        found = find(request.path)
        if found is None:
            raise HTTPError("not_found", "Not found")
        route, hotkey = found
        reply.route = route.path
        if request.method not in (b"GET", b"HEAD"):
            raise HTTPError("method_not_allowed", "Method not allowed", headers={"allow": "GET, HEAD"})
        holder = None
        if route.access != "anyone":
            holder = self._caller(request, reply)
            self._check(route, holder)
        ask = Ask(
            holder=holder,
            query=_query(route.query, request.query) if request.query else route.query(),
            hotkey=hotkey,
            head=request.method == b"HEAD",
            accept=request.headers.get("accept"),
        )
        return route, ask

    def _caller(self, request: Request, reply: Reply) -> KeyHolder:
        """Who asks, if that may be now. From here on every answer says what is left of the key's requests."""
        holder, allowance = self._gate.admit(request)
        if allowance is not None:
            reply.limits = limit_lines(allowance)
            if not allowance.allowed:
                after = {"retry-after": str(allowance.retry_s)}
                raise HTTPError("too_many_requests", "Too many requests with this key", headers=after)
        reply.holder = request.visit.holder = holder
        return holder

    def _check(self, route: Route, holder: KeyHolder) -> None:
        if route.access == "tier 100" and holder.tier < 100:
            raise HTTPError("insufficient_tier", route.refused)
        if not self._room.ready:
            raise HTTPError("starting", "The service is starting", headers=_RETRY_AFTER)

    def count(self, request: Request, reply: Reply) -> None:
        """Adds what went out to the counters, and to the key's account."""
        about = (reply.route, str(reply.status or "none"), reply.coding)
        self._counters.requests[about] += 1
        self._counters.sent_bytes[about] += reply.sent_bytes
        request.visit.requests += 1
        if self._usage is not None and reply.holder is not None:
            self._usage.add(reply.holder, requests=1, sent_bytes=reply.sent_bytes)


def _query(kind: type[msgspec.Struct], text: bytes) -> msgspec.Struct:
    """The query string as the route's type. Raises HTTPError `bad_parameter`; unknown names are ignored."""
    given = parse_qs(text.decode("latin-1"), keep_blank_values=True)
    values: dict[str, Any] = {}
    for name, of, repeatable in _parameters(kind):
        if name not in given:
            continue
        try:
            values[name] = msgspec.convert(given[name] if repeatable else given[name][-1], of, strict=False)
        except msgspec.ValidationError:
            sentence = _BAD_TIER if name == "tier" else f"Invalid value of the parameter {name}"
            raise HTTPError("bad_parameter", sentence, parameter=name) from None
    return kind(**values)


@lru_cache
def _parameters(query: type[msgspec.Struct]) -> list[tuple[str, Any, bool]]:
    """(name, type, whether it may be repeated) of each parameter."""
    return [(field.name, field.type, _is_list(field.type)) for field in msgspec.structs.fields(query)]


def _is_list(kind: Any) -> bool:
    """Whether the type is a list, plain or annotated."""
    return list in (get_origin(kind), *map(get_origin, get_args(kind)[:1]))
