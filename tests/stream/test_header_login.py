"""Logins by the Authorization header of the upgrade request, as a validator's own server has them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from ptn_api.access import Grant
from ptn_api.wire import close_codes
from tests.stream.live import KEY, Client, LiveStream, running


def header(value: str, **others: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": value} | others}


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"bearer   {KEY} ", KEY])
async def test_it_is_answered_at_once_with_the_head(value: str) -> None:
    """Without a frame of the client; the login frame that it may send is ignored."""
    async with running() as live:
        head = live.trade(3).sequence
        async with live.client(**header(value)) as client:
            success = await client.receive()
            assert (
                success.items()
                >= {
                    "status": "success",
                    "message": "Authentication successful.",
                    "current_sequence": head,
                    "tier": 100,
                    "version": 1,
                }.items()
            )
            await client.send(api_key=KEY, last_sequence=head - 2, version=2)
            await client.send(type="ping", timestamp=7)
            assert (await client.receive())["type"] == "pong"
            await client.subscribe()
            live.trade()
            assert [m["sequence"] for m in await client.messages(1)] == [head + 1]


@pytest.mark.parametrize(
    ("key", "answer", "reason"),
    [
        (
            "unknown",
            {"status": "error", "message": "Invalid API key. Authentication failed."},
            close_codes.INVALID_KEY,
        ),
        (
            "key-of-carl",
            {
                "status": "error",
                "message": "WebSocket connections require tier 100 access. Please upgrade your API key.",
                "code": "INSUFFICIENT_TIER",
            },
            close_codes.INSUFFICIENT_TIER,
        ),
    ],
)
async def test_a_refusal_is_that_of_a_login_frame(
    key: str, answer: dict[str, str], reason: close_codes.CloseCode
) -> None:
    """The texts that clients know, then a close that means "do not reconnect"."""
    async with running() as live, live.client(**header(f"Bearer {key}")) as client:
        assert await client.receive() == answer
        assert await client.close_code() == reason.code


@pytest.mark.parametrize("value", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", ""])
async def test_a_header_without_a_key_counts_as_absent(value: str) -> None:
    """A proxy may want one of its own; the login frame follows."""
    async with running() as live, live.client(**header(value)) as client:
        assert (await client.login())["status"] == "success"


@pytest.mark.parametrize("in_header", [KEY, "unknown", "key-of-carl"])
async def test_a_client_that_names_its_protocol_logs_in_by_frame(in_header: str) -> None:
    """It is answered once; of two keys the frame's counts."""
    async with running() as live:
        head = live.trade(2).sequence
        async with live.client(**header(f"Bearer {in_header}", **{"X-PTN-Protocol": "2"})) as client:
            success = await client.login("key-of-bob", version=2, last_sequence=head - 1, epoch="epoch-1")
            assert (success["current_sequence"], success["version"]) == (head - 1, 2)
            assert (await client.subscribe())["type"] == "subscription_status"
            assert (await client.receive())["type"] == "resumed"
        assert live.counters.auth_failures == 0


async def test_an_address_that_guesses_keys_must_wait() -> None:
    """As after login frames, whose failures count together with these."""
    async with running(failed_logins_per_minute=2, trusted_proxies="127.0.0.1") as live:
        forwarded = {"X-Forwarded-For": "1.1.1.1"}
        async with live.client(**header("", **forwarded)) as client:
            assert (await client.login("wrong"))["status"] == "error"
        codes = []
        for key in ("wrong", "wrong", KEY):
            async with live.client(**header(f"Bearer {key}", **forwarded)) as client:
                codes.append(await client.close_code())
        assert codes == [close_codes.INVALID_KEY.code] + [close_codes.TOO_MANY_REQUESTS.code] * 2
        assert live.counters.limited == {"failed_logins": 2}


async def test_until_the_log_is_ready_it_is_closed_with_come_back() -> None:
    """Without an error frame, after which clients would stop."""
    async with running(LiveStream(ready=False)) as live, live.client(**header(KEY)) as client:
        assert await client.close_code() == close_codes.NOT_READY.code


async def test_the_oldest_connection_is_evicted_whatever_the_kind_of_login() -> None:
    """Both kinds share the user's slots."""
    async with running(max_connections_per_key=2) as live, contextlib.AsyncExitStack() as stack:
        clients: list[Client] = []
        for options in (header(KEY), {}, header(KEY)):
            clients.append(await stack.enter_async_context(live.client(**options)))
            success = await (clients[-1].receive() if options else clients[-1].login())
            assert success["status"] == "success"
        assert (await clients[0].receive())["code"] == "MAX_CONNECTIONS_EXCEEDED"
        assert await clients[0].close_code() == close_codes.REPLACED.code


async def test_keys_of_entities_have_no_limit_of_connections_unless_their_entry_has_one() -> None:
    """From tier 200 on; the answer states the tier as it is in the key file."""
    live = LiveStream()
    grants: Any = [Grant("entity", "k-200", 200), Grant("admin", "k-500", 500, max_connections=1)]
    live.keys.replace(grants)
    async with running(live, max_connections_per_key=2) as live, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(live.client(**header("k-200"))) for _ in range(6)]
        assert [(await client.receive())["tier"] for client in clients] == [200] * 6
        first = await stack.enter_async_context(live.client(**header("k-500")))
        assert (await first.receive())["tier"] == 500
        second = await stack.enter_async_context(live.client(**header("k-500")))
        assert (await second.receive())["status"] == "success"
        assert (await first.receive())["code"] == "MAX_CONNECTIONS_EXCEEDED"
        assert live.counters.clients == 7


async def test_subaccounts_are_answered_and_the_orders_go_on() -> None:
    """The connection stays as useful as before."""
    async with running() as live, live.client(**header(KEY)) as client:
        await client.receive()
        await client.subscribe()
        await client.send(type="subscribe_subaccount", synthetic_hotkey="alice_0", positions_time_ms=0)
        answer = await client.receive()
        assert (answer["type"], answer["status"], answer["code"]) == (
            "subscription_status",
            "error",
            "NOT_SERVED",
        )
        await client.send(type="subscribe_subaccounts")
        assert (await client.receive())["code"] == "INSUFFICIENT_TIER"
        live.trade()
        assert len(await client.messages(1)) == 1
