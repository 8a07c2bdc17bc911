"""Authentication and rate limits over real sockets; other clients are unaffected."""

from __future__ import annotations

import json

import httpx
import pytest

from ptn_api.access import Grant
from ptn_api.access.usage import Usage
from ptn_api.http.request import ConnectionInfo
from ptn_api.rest.app import App
from ptn_api.rest.auth import ConnectLimit
from ptn_api.rest.context import AppContext
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.options import RestOptions
from ptn_api.rest.routes import ROUTES
from tests.rest.serving import NOW, FakeClock, filled_log, key_ring, respond, serving, some_changes
from tests.waiting import PATIENCE_S

PROXY = "127.0.0.1"


async def test_every_response_to_a_key_has_its_rate_limit() -> None:
    """Also a 304, an error and a 404; the limit refills with time, and each key has its own."""
    async with serving(requests_per_minute=60) as served:
        first = await served.get("/miner-hotkeys")
        assert first.headers["ratelimit-policy"] == '"key";q=60;w=60'
        assert first.headers["ratelimit"] == '"key";r=59;t=1'
        again = await served.get("/miner-hotkeys", if_none_match=first.headers["etag"])
        assert (again.status_code, again.headers["ratelimit"]) == (304, '"key";r=58;t=2')
        for path, status in (("/miner-positions/nobody", 404), ("/statistics?checkpoints=x", 400)):
            response = await served.get(path)
            assert (response.status_code, "ratelimit" in response.headers) == (status, True)
        rejected = await served.get("/messages", "k0")
        assert (rejected.status_code, rejected.headers["ratelimit"]) == (403, '"key";r=59;t=1')
        served.monotonic.now_ms += 60_000
        assert (await served.get("/miner-hotkeys")).headers["ratelimit"] == '"key";r=59;t=1'
        assert "ratelimit" not in (await served.get("/health", None)).headers


async def test_too_many_requests_are_rejected_until_retry_after() -> None:
    """429 with Retry-After, before parameters are checked; other keys are unaffected."""
    async with serving(requests_per_minute=3) as served:
        statuses = [(await served.get("/miner-hotkeys")).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        rejected = await served.get("/messages?limit=x")
        assert rejected.status_code == 429
        assert rejected.json()["code"] == "too_many_requests"
        assert rejected.headers["ratelimit"] == '"key";r=0;t=60'
        assert rejected.headers["cache-control"] == "no-store"
        assert (await served.get("/miner-hotkeys", "k30")).status_code == 200
        served.monotonic.now_ms += 1000 * int(rejected.headers["retry-after"])
        assert (await served.get("/miner-hotkeys")).status_code == 200


async def test_setting_the_systems_time_changes_no_allowance() -> None:
    """Neither back nor forward: the limits refill with the time that has passed."""
    async with serving(requests_per_minute=60) as served:
        for step_ms, expected in ((0, "r=59;t=1"), (-40_000, "r=58;t=2"), (80_000, "r=57;t=3")):
            served.clock.now_ms += step_ms
            assert (await served.get("/me")).headers["ratelimit"] == f'"key";{expected}'


async def test_a_keys_own_limit_wins_and_zero_is_unlimited() -> None:
    """The key file's limit replaces the server's, and /me shows it."""
    log = filled_log(some_changes())
    for default, own, expected in ((60, 7, 7), (0, None, None), (0, 7, 7)):
        context = AppContext.over(log, FakeClock(), RestOptions(requests_per_minute=default))
        keys = key_ring()
        keys.replace([Grant("alice", "k", 100, requests_per_minute=own, max_connections=2)])
        await context.follower.catch_up()
        response = await respond(App(context, keys, ROUTES), "/me", "k")
        assert json.loads(response.body)["limits"] == {
            "websocket_connections": 2,
            "requests_per_minute": expected,
        }
        assert response.headers.get("ratelimit-policy") == (expected and f'"key";q={expected};w=60')


async def test_failed_logins_block_an_address_but_not_its_neighbours() -> None:
    """Behind a trusted proxy each client counts alone; a valid key does not lift the block."""
    async with serving(failed_logins_per_minute=3, trusted_proxies=PROXY) as served:

        async def status(key: str | None, client: str) -> int:
            return (await served.get("/miner-hotkeys", key, x_forwarded_for=client)).status_code

        assert await status("k30", "1.1.1.1") == 200
        assert [await status("wrong", "1.1.1.1") for _ in range(4)] == [401, 401, 401, 429]
        assert await status(None, "1.1.1.1") == 429
        assert await status("k100", "1.1.1.1") == 429
        assert await status("k30", "1.1.1.1") == 200
        assert await status("k100", "2.2.2.2") == 200
        rejected = await served.get("/miner-hotkeys", "k100", x_forwarded_for="1.1.1.1")
        served.monotonic.now_ms += 1000 * int(rejected.headers["retry-after"])
        assert await status("k100", "1.1.1.1") == 200


@pytest.mark.parametrize("trusted", ["", PROXY])
async def test_loopback_peers_are_exempt_from_limits(trusted: str) -> None:
    """An untrusted peer, even if it forwards an address, and a trusted proxy that forwards none."""
    options = {"failed_logins_per_minute": 1, "connects_per_minute": 1, "trusted_proxies": trusted}
    said = {} if trusted else {"x_forwarded_for": "1.1.1.1"}
    async with serving(**options) as served:
        for _ in range(3):
            response = await served.get("/miner-hotkeys", "wrong", connection="close", **said)
            assert response.status_code == 401
        assert (await served.get("/miner-hotkeys", "k100", **said)).status_code == 200


async def test_too_many_connections_of_an_address_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Retry-After, on any route; then they are closed. (Loopback is not exempt here.)"""
    monkeypatch.setattr("ipaddress.IPv4Address.is_loopback", False)
    async with serving(connects_per_minute=2) as served:
        codes = []
        for _ in range(3):
            async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_S) as client:
                response = await client.get("/health")
                codes.append(response.status_code)
        assert codes == [200, 200, 429]
        assert response.json()["code"] == "too_many_connections"
        assert int(response.headers["retry-after"]) > 0
        assert response.headers["connection"] == "close"
        served.monotonic.now_ms += 60_000
        async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_S) as client:
            assert (await client.get("/health")).status_code == 200


async def test_answers_are_counted_by_route_status_and_coding_and_by_key() -> None:
    """An unknown path adds no counter; rejected requests count for no key."""
    clock = FakeClock()
    counters, usage = RestCounters(), Usage(clock)
    options = RestOptions(requests_per_minute=2)
    context = AppContext.over(filled_log(some_changes()), clock, options, counters.views)
    await context.follower.catch_up()
    app = App(context, key_ring(), ROUTES, counters=counters, usage=usage)
    for path in ("/miner-positions", "/miner-positions/nobody", "/miner-hotkeys", "/nope/5", "/nope/6"):
        await respond(app, path, "k100", accept_encoding="gzip")
    await respond(app, "/me")
    assert counters.requests == {
        ("/miner-positions", "200", "gzip"): 1,
        ("/miner-positions/{hotkey}", "404", "identity"): 1,
        ("/miner-hotkeys", "429", "identity"): 1,
        ("unknown", "404", "identity"): 2,
        ("/me", "401", "identity"): 1,
    }
    assert (counters.auth_failures, counters.limited) == (1, {"requests": 1})
    (row,) = usage.take()
    assert (row.alias, row.requests, row.messages, row.seen_ms) == ("user100", 2, 0, NOW)
    sent = [counters.sent_bytes[key] for key in list(counters.requests)[:2]]
    assert row.sent_bytes == sum(sent) > 0
    assert sum(counters.views.assembly_seconds.counts) == 1
    assert sum(counters.views.build_seconds.counts) == 3


def test_open_connections_are_counted() -> None:
    """Until they close."""
    counters = RestCounters()
    limit = ConnectLimit(RestOptions(), FakeClock(), counters)
    first, second = ConnectionInfo("9.9.9.9"), ConnectionInfo("127.0.0.1")
    assert [limit.opened(first), limit.opened(second)] == [None, None]
    limit.closed(first, "closed")
    assert counters.connections == 1
