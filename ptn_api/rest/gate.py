"""Who gets in, and how often: keys and limits, before any work is done."""

from __future__ import annotations

from typing import NamedTuple

import structlog
from starlette.requests import Request

from ptn_api.access.address import ClientAddress, Proxies
from ptn_api.access.key_ring import KeyHolder, KeyRing
from ptn_api.access.limits import Allowance, LoginGuard, RateLimit
from ptn_api.clock import Clock
from ptn_api.rest.authentication import Caller, authenticate
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.options import RestOptions
from ptn_api.rest.refusal import Refusal

__all__ = ["Admission", "Door", "Gate", "Visit"]

log = structlog.get_logger()


class Visit:
    """What a connection is remembered by, for the line in the log when it closes."""

    def __init__(self) -> None:
        self.holder: KeyHolder | None = None
        self.address = ""
        self.requests = 0


class Admission(NamedTuple):
    """A caller who is known; `allowance` None: without a limit."""

    caller: Caller
    allowance: Allowance | None


class Door:
    """Where connections come in. `opened` says for how many seconds an address has to stay away."""

    def __init__(self, options: RestOptions, clock: Clock, counters: RestCounters) -> None:
        self._proxies = Proxies(options.trusted_proxies)
        self._connects = RateLimit(options.connects_per_minute)
        self._clock = clock
        self._counters = counters

    def opened(self, peer: str) -> int:
        self._counters.connections += 1
        group = None if self._proxies.trusts(peer) else self._proxies.client(peer).group
        allowance = None if group is None else self._connects.take(group, self._clock())
        if allowance is None or allowance.allowed:
            return 0
        self._counters.limited["connects"] += 1
        return allowance.retry_s

    def closed(self) -> None:
        self._counters.connections -= 1


class Gate:
    """Asked once per request. What it decides depends on the asker's own requests and the time alone."""

    def __init__(self, keys: KeyRing, options: RestOptions, clock: Clock, counters: RestCounters) -> None:
        self._keys = keys
        self._clock = clock
        self._counters = counters
        self._proxies = Proxies(options.trusted_proxies)
        self._requests = RateLimit(options.requests_per_minute)
        self._guard = LoginGuard(options.failed_logins_per_minute)

    async def admit(self, request: Request) -> Admission:
        """Who asks, and what is left of the key's requests.

        Raises Refusal `unauthorized`, or `too_many_requests` for an address that failed too often.
        """
        address = self._address(request)
        try:
            caller = await authenticate(request, self._keys)
        except Refusal:
            self._counters.auth_failures += 1
            self._check(address, None)
            raise
        self._check(address, caller.holder)
        holder = caller.holder
        limit = holder.requests_per_minute
        allowance = self._requests.take(holder.alias, self._clock(), per_minute=limit)
        if allowance is not None and not allowance.allowed:
            self._counters.limited["requests"] += 1
        return Admission(caller, allowance)

    def _check(self, address: ClientAddress, holder: KeyHolder | None) -> None:
        retry_s = self._guard.retry_s(address.group, holder, self._clock())
        if retry_s:
            self._counters.limited["failed_logins"] += 1
            log.debug("too_many_failed_logins", address=address.text)
            sentence = "Too many failed logins from this address"
            raise Refusal("too_many_requests", sentence, headers={"retry-after": str(retry_s)})

    def _address(self, request: Request) -> ClientAddress:
        peer = (request.scope.get("client") or ("",))[0]
        forwarded = request.headers.getlist("x-forwarded-for") if self._proxies.any else ()
        address = self._proxies.client(peer, forwarded)
        visit = request.scope.get("state", {}).get("visit")
        if isinstance(visit, Visit):
            visit.address = address.text
        return address
