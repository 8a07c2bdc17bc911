"""Authentication and rate limits: API keys, requests per key, failed logins and connections per address.

The key is in `Authorization: Bearer <key>` or, as some existing clients send it, in the JSON body of a GET;
the header wins. Keys in URLs are ignored: URLs end up in the logs of proxies.
"""

from __future__ import annotations

import msgspec
import structlog

from ptn_api.access.address import Proxies
from ptn_api.access.key_ring import KeyHolder, KeyRing, digest_of, key_in_header
from ptn_api.access.limits import WINDOW_MS, Allowance, LoginGuard, RateLimit
from ptn_api.clock import Monotonic
from ptn_api.http.errors import HTTPError
from ptn_api.http.request import BODY_LIMIT, ConnectionInfo, Request
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.options import RestOptions

__all__ = ["Authenticator", "ConnectLimit", "key_in_body", "rate_limit_lines"]

logger = structlog.get_logger()


class ConnectLimit:
    """New connections per client address and minute: the HTTP server's limiter."""

    def __init__(self, options: RestOptions, monotonic: Monotonic, counters: RestCounters) -> None:
        self._proxies = Proxies(options.trusted_proxies)
        self._connects = RateLimit(options.connects_per_minute)
        self._monotonic = monotonic
        self._counters = counters

    def opened(self, connection: ConnectionInfo) -> HTTPError | None:
        self._counters.connections += 1
        # A proxy opens connections for all of its clients.
        exempt = self._proxies.trusts(connection.peer)
        group = None if exempt else self._proxies.client(connection.peer).group
        allowance = None if group is None else self._connects.take(group, self._monotonic())
        if allowance is None or allowance.allowed:
            return None
        self._counters.limited["connects"] += 1
        headers = {"retry-after": str(allowance.retry_s)}
        return HTTPError("too_many_connections", "Too many connections from this address", headers=headers)

    def refused(self, connection: ConnectionInfo, cause: str) -> None:
        self._counters.refused[cause] += 1

    def closed(self, connection: ConnectionInfo, reason: str) -> None:
        self._counters.connections -= 1
        holder: KeyHolder | None = connection.user
        # Many clients open a connection per request: too frequent for any level but debug.
        logger.debug(
            "connection_closed",
            alias=holder.alias if holder else "",
            fingerprint=holder.fingerprint if holder else "",
            address=connection.peer if connection.client is None else connection.client.text,
            reason=reason,
            requests=connection.requests,
        )


class Authenticator:
    """Identifies the key of each request and applies the limits, before any other work.

    Its decisions depend on the client's own requests and the time alone, so a client learns nothing about
    others from them.
    """

    def __init__(
        self, keys: KeyRing, options: RestOptions, monotonic: Monotonic, counters: RestCounters
    ) -> None:
        self._keys = keys
        self._monotonic = monotonic
        self._counters = counters
        self._proxies = Proxies(options.trusted_proxies)
        self._behind_proxy = self._proxies.any
        self._requests = RateLimit(options.requests_per_minute)
        self._guard = LoginGuard(options.failed_logins_per_minute)

    def authenticate(self, request: Request) -> tuple[KeyHolder, Allowance | None]:
        """Returns the key's holder and what is left of the key's rate limit (None: unlimited).

        Raises HTTPError `unauthorized`, or `too_many_requests` for an address with too many failures.
        """
        now, connection = self._monotonic(), request.connection
        digest = request.state.get("digest")
        if digest is None:
            # A repeated request is the same object: its key is hashed once.
            key = _key_of(request)
            digest = request.state["digest"] = digest_of(key) if key else b""
        holder = self._keys.lookup_digest(digest)
        if holder is None:
            self._counters.auth_failures += 1
        # Behind a trusted proxy each request of a connection may come from another client.
        if connection.client is None or self._behind_proxy:
            forwarded = request.headers.get("x-forwarded-for")
            hops = () if forwarded is None else (forwarded,)
            connection.client = self._proxies.client(connection.peer, hops)
        # Checked before the key counts for anything, so that a blocked address cannot go on guessing.
        fingerprint = None if holder is None else holder.fingerprint
        retry_s = self._guard.record_attempt(connection.client.group, fingerprint, now)
        if retry_s:
            self._counters.limited["failed_logins"] += 1
            logger.debug("too_many_failed_logins", address=connection.client.text)
            sentence = "Too many failed logins from this address"
            raise HTTPError("too_many_requests", sentence, headers={"retry-after": str(retry_s)})
        if holder is None:
            raise HTTPError("unauthorized", "Unauthorized access", headers={"www-authenticate": "Bearer"})
        allowance = self._requests.take(holder.alias, now, per_minute=holder.requests_per_minute)
        if allowance is not None and not allowance.allowed:
            self._counters.limited["requests"] += 1
        return holder, allowance


def key_in_body(request: Request) -> bool:
    """Whether the request's key can only be in its body."""
    return "authorization" not in request.headers


class _KeyBody(msgspec.Struct):
    api_key: str


_key_body = msgspec.json.Decoder(_KeyBody)


def _key_of(request: Request) -> str | None:
    if not key_in_body(request):
        return key_in_header(request.headers["authorization"])
    if not request.body or len(request.body) > BODY_LIMIT:
        return None
    try:
        return _key_body.decode(request.body).api_key
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def rate_limit_lines(allowance: Allowance) -> bytes:
    """Returns the headers of draft-ietf-httpapi-ratelimit-headers."""
    values = (allowance.limit, WINDOW_MS // 1000, allowance.remaining, allowance.reset_s)
    return b'ratelimit-policy: "key";q=%d;w=%d\r\nratelimit: "key";r=%d;t=%d\r\n' % values
