"""Logins: connection slots, eviction backoff, pacing and keys."""

from __future__ import annotations

import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.access import Grant
from ptn_api.fanout.logins import EvictionBackoff, LoginPacer
from ptn_api.wire import close_codes
from tests.stream.live import KEY, Client, running, until


def test_the_pacer_admits_a_burst_and_then_a_constant_rate() -> None:
    """The excess waits in order."""
    pacer = LoginPacer(10)
    waits = [pacer.wait_ms(5_000) for _ in range(30)]
    assert waits[:10] == [0.0] * 10
    assert waits[10:] == sorted(waits[10:])
    assert waits[-1] == 2_000


@given(st.lists(st.integers(0, 400), min_size=1, max_size=200), st.integers(1, 50))
def test_no_second_admits_more_than_twice_the_rate(gaps: list[int], rate: int) -> None:
    """A full burst and a second's worth may fall into one second."""
    pacer, now, starts = LoginPacer(rate), 1_000, []
    for gap in gaps:
        now += gap
        starts.append(now + pacer.wait_ms(now))
    assert starts == sorted(starts)
    assert all(sum(start <= other < start + 1_000 for other in starts) <= 2 * rate + 1 for start in starts)


def test_connections_that_evict_each_other_wait_longer_each_time() -> None:
    """After 3 evictions in a minute 5 s, doubling to 60 s; a quiet minute resets it (docs/protocol.md, 7)."""
    backoff, now = EvictionBackoff(5_000), 0
    delays = []
    for _ in range(9):
        backoff.evicted(now)
        delay = backoff.delay_ms(now)
        delays.append(delay)
        now += delay + 10
    assert delays == [0, 0, 5_000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]
    assert backoff.delay_ms(now + 200_000) == 0


def test_evictions_far_apart_cause_no_delay() -> None:
    """Fewer than three in any minute."""
    backoff = EvictionBackoff(5_000)
    for now in (0, 31_000, 62_000, 93_000):
        backoff.evicted(now)
        assert backoff.delay_ms(now) == 0


async def test_the_sixth_connection_of_a_key_evicts_the_oldest() -> None:
    """With the frame that existing clients know, then a close code that means "reconnect"."""
    async with running() as live, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(live.client()) for _ in range(6)]
        other = await stack.enter_async_context(live.client())
        await other.login("key-of-bob")
        for client in clients:
            await client.login()
        assert await clients[0].receive() == {
            "status": "error",
            "message": "Disconnected due to too many connections for this API key",
            "code": "MAX_CONNECTIONS_EXCEEDED",
        }
        assert await clients[0].close_code() == close_codes.REPLACED.code
        for client in (*clients[1:], other):
            await client.send(type="ping", timestamp=1)
            assert (await client.receive())["type"] == "pong"
        assert live.counters.clients == 6


async def test_from_tier_200_on_connections_are_not_limited() -> None:
    """Unless the key's entry has a limit, which applies at once to open connections."""
    async with running(max_connections_per_key=1) as live, contextlib.AsyncExitStack() as stack:
        grant = Grant("entity", "key-of-entity", 200)
        live.keys.replace([grant])
        clients = [await stack.enter_async_context(live.client()) for _ in range(4)]
        for client in clients:
            await client.login("key-of-entity")
        assert (live.counters.clients, live.counters.evictions) == (4, 0)
        live.keys.replace([grant._replace(max_connections=2)])
        for client in clients[:2]:
            assert await client.close_code() == close_codes.REPLACED.code
        assert live.counters.clients == 2


async def test_a_login_after_mutual_evictions_is_delayed_not_refused() -> None:
    """Frames sent meanwhile are answered after it."""
    async with (
        running(eviction_delay_ms=150, max_connections_per_key=1) as live,
        contextlib.AsyncExitStack() as stack,
    ):
        loop = asyncio.get_running_loop()
        clients = [await stack.enter_async_context(live.client()) for _ in range(5)]
        for client in clients[:4]:
            await client.login()
        assert live.counters.evictions == 3
        started = loop.time()
        await clients[4].send(api_key=KEY)
        await clients[4].send(type="subscribe", all=True)
        assert (await clients[4].receive())["status"] == "success"
        assert (await clients[4].receive())["type"] == "subscription_status"
        assert loop.time() - started >= 0.15


async def test_a_flood_of_frames_before_the_key_check_is_cut_off() -> None:
    """The queue of a waiting login is bounded."""
    async with (
        running(eviction_delay_ms=60_000, max_connections_per_key=1) as live,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(live.client()) for _ in range(5)]
        for client in clients[:4]:
            await client.login()
        await clients[4].send(api_key=KEY)
        for _ in range(20):
            with contextlib.suppress(Exception):
                await clients[4].send(type="ping", timestamp=1)
        assert await clients[4].close_code() == close_codes.TOO_MANY_REQUESTS.code


async def test_at_most_ten_logins_of_a_user_wait() -> None:
    """Further ones are closed with "reconnect"; one that ends makes room; other users are unaffected."""
    async with (
        running(eviction_delay_ms=60_000, max_connections_per_key=1) as live,
        contextlib.AsyncExitStack() as stack,
    ):

        async def connect() -> Client:
            client = await stack.enter_async_context(live.client())
            await client.send(api_key=KEY)
            return client

        for _ in range(4):
            await (await connect()).receive()
        waiting = [await connect() for _ in range(10)]
        for _ in range(3):
            assert await (await connect()).close_code() == close_codes.TOO_MANY_REQUESTS.code
        assert live.counters.limited == {"waiting_logins": 3}
        await waiting[0].connection.close()
        await until(lambda: live.counters.closed[1000] == 1)
        await connect()
        assert await (await connect()).close_code() == close_codes.TOO_MANY_REQUESTS.code
        assert live.counters.limited == {"waiting_logins": 4}
        async with live.client() as other:
            assert (await other.login("key-of-bob"))["status"] == "success"


async def test_logins_of_a_user_without_a_connection_limit_all_wait() -> None:
    """As many may wait as may be connected."""
    async with running(accepts_per_second=40) as live, contextlib.AsyncExitStack() as stack:
        live.keys.replace([Grant("entity", "key-of-entity", 200)])
        clients = [await stack.enter_async_context(live.client()) for _ in range(60)]
        answers = await asyncio.gather(*(client.login("key-of-entity") for client in clients))
        assert [a["status"] for a in answers] == ["success"] * 60


async def test_logins_beyond_the_rate_wait_their_turn_and_all_succeed() -> None:
    """None is refused."""
    async with (
        running(accepts_per_second=10, max_connections_per_key=50) as live,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(live.client()) for _ in range(14)]
        answers = await asyncio.gather(*(client.login() for client in clients))
        assert [a["status"] for a in answers] == ["success"] * 14


async def test_logins_with_bad_keys_take_no_turns() -> None:
    """At one login per second, a hundred of them do not delay a valid one."""
    async with running(accepts_per_second=1) as live, contextlib.AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(live.client()) for _ in range(100)]
        for stranger in strangers:
            assert (await stranger.login("guessed"))["status"] == "error"
        client = await stack.enter_async_context(live.client())
        assert (await client.login())["status"] == "success"


async def test_a_revoked_or_downgraded_key_loses_its_connections() -> None:
    """Those of other keys stay; the slots become free."""
    async with running() as live, live.client() as alice, live.client() as bob, live.client() as late:
        await alice.login()
        await bob.login("key-of-bob")
        live.keys.replace([("alice", KEY, 50), ("bob", "key-of-bob", 100)])
        assert await alice.close_code() == close_codes.KEY_REVOKED.code
        live.trade()
        await bob.subscribe()
        assert len(await bob.messages(1)) == 1
        live.keys.replace([])
        assert await bob.close_code() == close_codes.KEY_REVOKED.code
        assert (await late.login())["message"] == "Invalid API key. Authentication failed."
        await until(lambda: live.counters.clients == 0)


async def test_a_key_that_is_revoked_while_its_login_waits_is_refused() -> None:
    """The key is checked after the wait."""
    async with (
        running(eviction_delay_ms=200, max_connections_per_key=1) as live,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(live.client()) for _ in range(5)]
        for client in clients[:4]:
            await client.login()
        await clients[4].send(api_key=KEY)
        await until(lambda: live.counters.logins == 4)
        live.keys.replace([])
        assert (await clients[4].receive())["status"] == "error"
        assert await clients[4].close_code() == close_codes.INVALID_KEY.code
