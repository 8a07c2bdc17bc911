"""Who gets in, and how often: keys and limits, before any work is done."""

from __future__ import annotations

import structlog

from ptn_api.access.address import ClientAddress, Proxies
from ptn_api.access.key_ring import KeyHolder, KeyRing
from ptn_api.access.limits import Allowance, LoginGuard, RateLimit
from ptn_api.clock import Clock
from ptn_api.http.errors import HTTPError
from ptn_api.http.request import Request
from ptn_api.rest.authentication import authenticate
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.options import RestOptions

__all__ = ["Door", "Gate"]

logger = structlog.get_logger()


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

    def admit(self, request: Request) -> tuple[KeyHolder, Allowance | None]:
        """Who asks, and what is left of the key's requests; None: they are without a limit.

        Raises HTTPError `unauthorized`, or `too_many_requests` for an address that failed too often.
        """
        now = self._clock()
        address = self._address(request)
        try:
            holder = authenticate(request, self._keys)
        except HTTPError:
            self._counters.auth_failures += 1
            self._check(address, None, now)
            raise
        self._check(address, holder, now)
        allowance = self._requests.take(holder.alias, now, per_minute=holder.requests_per_minute)
        if allowance is not None and not allowance.allowed:
            self._counters.limited["requests"] += 1
        return holder, allowance

    def _check(self, address: ClientAddress, holder: KeyHolder | None, now: int) -> None:
        retry_s = self._guard.retry_s(address.group, holder, now)
        if retry_s:
            self._counters.limited["failed_logins"] += 1
            logger.debug("too_many_failed_logins", address=address.text)
            sentence = "Too many failed logins from this address"
            raise HTTPError("too_many_requests", sentence, headers={"retry-after": str(retry_s)})

    def _address(self, request: Request) -> ClientAddress:
        visit = request.visit
        if visit.client is None or self._proxies.any:
            forwarded = request.headers.get("x-forwarded-for")
            visit.client = self._proxies.client(visit.peer, () if forwarded is None else (forwarded,))
        return visit.client
