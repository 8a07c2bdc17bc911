"""The stream over real sockets: what existing clients (version 1) rely on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import uvloop
from websockets.exceptions import ConnectionClosed

from ptn_api.errors import SettingsError
from ptn_api.stream.server import PICOWS_VERSIONS, check_picows
from ptn_api.wire import close_codes
from tests.factories import T0, order, position, written
from tests.memory_log import MemoryLog
from tests.stream.live import LiveStream, running
from tests.waiting import PATIENCE_S


async def test_login_subscribe_and_orders_as_existing_clients_know_them() -> None:
    """The frames of version 1 (docs/protocol.md, 3), with their fields in order."""
    async with running() as live, live.client() as client:
        head = live.log.head().sequence
        success = await client.login(last_sequence=-1)
        assert success["status"] == "success"
        assert success["message"] == "Authentication successful."
        assert (success["current_sequence"], success["tier"]) == (head, 100)
        status = await client.subscribe(sender_timestamp=77)
        assert status == {
            "type": "subscription_status",
            "status": "success",
            "all": True,
            "action": "subscribe",
            "sender_timestamp": 77,
            "received_timestamp": live.now_ms,
        }
        live.trade()
        message = await client.receive()
        assert list(message) == ["sequence", "timestamp", "data"]
        assert (message["sequence"], message["timestamp"]) == (head + 1, live.now_ms)
        assert message["data"]["position"]["orders"][-1]["order_uuid"]


async def test_a_message_has_the_orders_up_to_the_announced_one_and_extra_fields() -> None:
    """Two orders in one file are two messages; the announced order is the last of each."""
    async with running() as live, live.client() as client:
        await client.login()
        await client.subscribe()
        live.append(written(position(1, [order(1), order(2)]), extra=b'{"note": "kept"}'))
        first, second = await client.messages(2)
        assert [len(m["data"]["position"]["orders"]) for m in (first, second)] == [1, 2]
        assert second["data"]["position"]["orders"][-1]["order_uuid"] == order(2)["order_uuid"]
        assert [m["data"]["note"] for m in (first, second)] == ["kept", "kept"]


async def test_nothing_is_delivered_before_a_subscribe_and_everything_after_the_login_is() -> None:
    """Orders between login and subscribe follow the subscribe."""
    async with running() as live, live.client() as client:
        success = await client.login()
        live.trade(3)
        await client.send(type="ping", timestamp=9)
        assert (await client.receive())["type"] == "pong"
        await client.subscribe()
        live.trade(2)
        sequences = [m["sequence"] for m in await client.messages(5)]
        first = success["current_sequence"] + 1
        assert sequences == list(range(first, first + 5))


async def test_a_ping_is_answered_with_both_times() -> None:
    """client_timestamp is an echo, or 0."""
    async with running() as live, live.client() as client:
        await client.login()
        await client.send(type="ping", timestamp=123)
        now = live.now_ms
        assert await client.receive() == {
            "type": "pong",
            "client_timestamp": 123,
            "server_timestamp": now,
            "timestamp": now,
        }
        await client.send(type="ping")
        assert (await client.receive())["client_timestamp"] == 0


async def test_unsubscribe_stops_the_orders_and_a_new_subscribe_starts_with_the_next() -> None:
    """Orders in between are not replayed."""
    async with running() as live, live.client() as client:
        await client.login()
        await client.subscribe()
        live.trade()
        await client.messages(1)
        await client.send(type="unsubscribe", all=True, sender_timestamp=1)
        assert (await client.receive())["action"] == "unsubscribe"
        missed = live.trade().sequence
        await client.subscribe()
        live.trade()
        assert (await client.messages(1))[0]["sequence"] == missed + 1


@pytest.mark.parametrize(
    ("frame", "message", "code", "close"),
    [
        ({}, "Authentication required. Please provide an API key.", None, close_codes.BAD_FIRST_FRAME),
        ({"api_key": ""}, "Authentication required. Please provide an API key.", None, None),
        ({"api_key": 5}, "Authentication required. Please provide an API key.", None, None),
        (
            {"api_key": "nobody's"},
            "Invalid API key. Authentication failed.",
            None,
            close_codes.INVALID_KEY,
        ),
        (
            {"api_key": "key-of-carl"},
            "WebSocket connections require tier 100 access. Please upgrade your API key.",
            "INSUFFICIENT_TIER",
            close_codes.INSUFFICIENT_TIER,
        ),
    ],
)
async def test_a_refused_login_gets_its_message_then_a_close(
    frame: dict[str, object], message: str, code: str | None, close: close_codes.CloseCode | None
) -> None:
    """Existing clients show these messages; the close code means "do not reconnect"."""
    async with running() as live, live.client() as client:
        await client.send(**frame)
        answer = await client.receive()
        assert (answer["status"], answer["message"], answer.get("code")) == ("error", message, code)
        assert await client.close_code() == (close or close_codes.BAD_FIRST_FRAME).code


@pytest.mark.parametrize(
    "garbage", ["no json", "", b"\xff\xfe\x00", '{"api_key":' + "[" * 4000, '{"api_key": "x"']
)
async def test_a_first_frame_that_is_not_json_closes_without_a_message(garbage: str | bytes) -> None:
    """Only the close frame is sent."""
    async with running() as live, live.client() as client:
        await client.connection.send(garbage)
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.connection.recv(), PATIENCE_S)
        assert client.connection.close_code == close_codes.BAD_FIRST_FRAME.code


async def test_binary_frames_are_treated_as_text() -> None:
    """Login, subscribe and ping as binary frames; the replies are text."""
    async with running() as live, live.client() as client:
        await client.connection.send(json.dumps({"api_key": "key-of-alice"}).encode())
        assert (await client.receive())["status"] == "success"
        await client.connection.send(b'{"type": "subscribe", "all": true}')
        assert (await client.receive())["status"] == "success"


async def test_version_1_receives_no_frame_it_does_not_know() -> None:
    """No heartbeat, error, resumed or update frame: a ping's answer is the next frame after any of them."""
    async with running(heartbeat_ms=20) as live, live.client() as client, live.client() as newer:
        await newer.login(version=2)
        await client.login(last_sequence=5)
        await client.subscribe(updates=True, miners=["nobody"], unknown=1)
        await client.connection.send("no json")
        await client.connection.send('{"type": "what"}')
        live.append(written(position(1, [order(1)])))
        live.append(written(position(1, [order(1)], current_return=1.5)))
        assert [(await newer.receive())["type"] for _ in range(3)] == ["heartbeat"] * 3
        await client.send(type="ping", timestamp=1)
        frames = [await client.receive(), await client.receive()]
        assert [next(iter(frame)) for frame in frames] == ["sequence", "type"]
        assert frames[1]["type"] == "pong"


async def test_a_version_1_client_is_replayed_what_it_missed_before_live_orders() -> None:
    """current_sequence is the client's cursor, and sequences grow by one."""
    async with running() as live:
        seen = live.trade(3).sequence
        live.trade(70)
        async with live.client() as client:
            success = await client.login(last_sequence=seen)
            assert success["current_sequence"] == seen
            await client.subscribe()
            live.trade(2)
            messages = await client.messages(72)
            assert [m["sequence"] for m in messages] == list(range(seen + 1, seen + 73))
            assert all("replay" not in m for m in messages)


@pytest.mark.parametrize("closed", [False, True])
async def test_a_position_of_a_validator_of_today_is_sent_whole(closed: bool) -> None:
    """Every field as in the file, price sources included; `close_ms` is null while it is open."""
    body = json.loads((Path(__file__).parent / "data" / "position_of_today.json").read_bytes())
    if closed:
        close_ms = body["orders"][-1]["processed_ms"]
        body |= {"close_ms": close_ms, "is_closed_position": True, "position_type": "FLAT"}
    async with running() as live, live.client() as old, live.client() as new:
        await old.login()
        await new.login(version=2)
        for client in (old, new):
            await client.subscribe()
        live.append(written(body))
        for client in (old, new):
            first, last = await client.messages(2)
            assert last["data"] == {"position": body}
            assert list(last["data"]["position"]) == list(body)
            assert first["data"]["position"]["orders"] == body["orders"][:1]


async def test_version_1_is_not_sent_late_orders_older_than_its_window() -> None:
    """It could not tell them from new ones; version 2 is sent them, marked. Neither live nor in a replay."""
    async with running(replay_window_ms=120_000) as live, live.client() as old, live.client() as new:
        await old.login()
        await new.login(version=2)
        for client in (old, new):
            await client.subscribe()
        before = live.trade().sequence
        live.now_ms += 1_000_000
        for n, age_ms in ((101, 900_000), (102, 900_000), (103, 90_000), (104, 0)):
            live.append(written(position(n, [order(n, at=live.now_ms - age_ms)])))
        messages = await new.messages(5)
        assert [(m["sequence"] - before, m.get("late", False)) for m in messages] == [
            (0, False),
            (1, True),
            (2, True),
            (3, True),
            (4, False),
        ]
        assert [m["sequence"] - before for m in await old.messages(3)] == [0, 3, 4]
        async with live.client() as again:
            login = await again.login(last_sequence=before)
            assert login["current_sequence"] == before + 2  # no jump in the sequences that follow
            await again.subscribe()
            assert [m["sequence"] - before for m in await again.messages(2)] == [3, 4]


async def test_a_late_order_that_was_not_sent_does_not_end_a_replay() -> None:
    """Seen before the window began, it is still the first after the client's last sequence."""
    async with running(replay_window_ms=120_000) as live:
        last = live.trade().sequence
        live.now_ms += 1_000_000
        live.append(written(position(101, [order(101, at=live.now_ms - 900_000)])))
        live.now_ms += 200_000
        live.append(written(position(102, [order(102, at=live.now_ms)])))
        async with live.client() as client:
            assert (await client.login(last_sequence=last))["current_sequence"] == last + 1
            await client.subscribe()
            assert [m["sequence"] for m in await client.messages(1)] == [last + 2]


async def test_an_implausible_cursor_counts_as_absent_in_version_1() -> None:
    """Below the floor, beyond the head, or too old: the stream starts at the head."""
    async with running(replay_window_ms=1_000) as live:
        old = live.trade(3).sequence - 2
        live.now_ms += 5_000
        head = live.trade().sequence
        for cursor in (1, old, head + 1, 10**30, "5", None, 1.5):
            async with live.client() as client:
                assert (await client.login(last_sequence=cursor))["current_sequence"] == head
        async with live.client() as client:
            assert (await client.login(last_sequence=head - 1))["current_sequence"] == head - 1


async def test_a_message_that_is_too_big_closes_with_1009() -> None:
    """As one frame, as fragments, or deflated."""

    async def fragments(size: int, count: int) -> object:
        for _ in range(count):
            yield "x" * size

    async with running(message_limit_bytes=1 << 16) as live:
        for compression in (None, "deflate"):
            async with live.client(compression=compression) as client:
                await client.login()
                await client.connection.send("x" * (1 << 17))
                assert await client.close_code() == 1009
            async with live.client(compression=compression) as client:
                await client.login()
                with pytest.raises(ConnectionClosed):
                    await client.connection.send(fragments(1 << 14, 8))  # type: ignore[arg-type]
                    await client.connection.wait_closed()
                    await client.connection.send("")
                assert client.connection.close_code == 1009


async def test_fragments_are_assembled() -> None:
    """A login in three fragments."""
    async with running() as live, live.client() as client:
        await client.connection.send(iter(['{"api_', 'key": "key-of', '-alice"}']))
        assert (await client.receive())["status"] == "success"


async def test_compressed_and_plain_clients_receive_the_same() -> None:
    """permessage-deflate is used where it was offered."""
    async with (
        running() as live,
        live.client(compression="deflate") as deflating,
        live.client(compression=None) as plain,
    ):
        for client in (deflating, plain):
            await client.login()
            await client.subscribe()
        assert deflating.connection.protocol.extensions
        assert not plain.connection.protocol.extensions
        live.trade(60)
        assert await deflating.messages(60) == await plain.messages(60)


async def test_a_websocket_ping_is_answered() -> None:
    """With a pong of the same payload, before and after the login."""
    async with running() as live, live.client() as client:
        await asyncio.wait_for(await client.connection.ping(b"abc"), PATIENCE_S)
        await client.login()
        await asyncio.wait_for(await client.connection.ping(b"def"), PATIENCE_S)


async def test_a_connection_without_a_login_is_closed_with_come_back() -> None:
    """Without an error frame, which existing clients take as final."""
    async with running(auth_timeout_ms=2_500) as live, live.client() as client:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.connection.recv(), PATIENCE_S)
        assert client.connection.close_code == close_codes.AUTH_TIMEOUT.code


async def test_before_the_log_is_ready_logins_are_closed_with_come_back() -> None:
    """Without an error frame; after the baseline they succeed."""
    async with running(LiveStream(ready=False)) as live:
        async with live.client() as client:
            await client.send(api_key="key-of-alice")
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(client.connection.recv(), PATIENCE_S)
            assert client.connection.close_code == close_codes.NOT_READY.code
        live.log.baseline([], T0)
        async with live.client() as client:
            await client.connection.ping()
            assert (await client.login())["status"] == "success"


async def test_stopping_closes_all_connections_with_come_back() -> None:
    """Those that have logged in and those that have not."""
    async with running() as live:
        one, other = live.client(), live.client()
        client, stranger = await one.__aenter__(), await other.__aenter__()
        await client.login()
    assert await client.close_code() == close_codes.SHUTTING_DOWN.code
    assert await stranger.close_code() == close_codes.SHUTTING_DOWN.code
    await one.__aexit__(None, None, None)
    await other.__aexit__(None, None, None)


async def test_an_order_that_arrives_while_the_stream_is_down_is_replayed_by_the_next_one() -> None:
    """A restarted stream starts at the log's head; catch-ups read the log."""
    log = MemoryLog(created_ms=T0, epoch="epoch-1")
    first = LiveStream(log=log)
    async with running(first) as live:
        seen = live.trade(2).sequence
    missed = first.trade(2).sequence
    async with running(first) as live, live.client() as client:
        await client.login(last_sequence=seen)
        await client.subscribe()
        assert [m["sequence"] for m in await client.messages(2)] == [missed - 1, missed]


def test_it_runs_on_uvloop() -> None:
    """The loop that the service uses."""

    async def main() -> list[int]:
        async with running() as live, live.client() as client:
            await client.login()
            await client.subscribe()
            live.trade(10)
            return [m["sequence"] - live.log.created_ms for m in await client.messages(10)]

    assert uvloop.run(main()) == list(range(1, 11))


@pytest.mark.parametrize("version", ["2.3.1", "2.3.2", "2.3.10"])
def test_the_tested_versions_of_picows_are_accepted(version: str) -> None:
    """Later patch releases included."""
    check_picows(version)


@pytest.mark.parametrize("version", ["2.3.0", "2.2.9", "1.20.0", "2.4.0", "2.4.0rc1", "3.0.0"])
def test_any_other_version_of_picows_is_refused_with_what_to_install(version: str) -> None:
    """The server relies on a class that picows does not document."""
    with pytest.raises(SettingsError, match=rf"picows {version} is not supported: needs >=2\.3\.1,<2\.4"):
        check_picows(version)


async def test_the_stream_does_not_start_with_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it accepts a connection."""
    monkeypatch.setattr("ptn_api.stream.server.version", lambda _: "9.9.9")
    with pytest.raises(SettingsError):
        async with running():
            pass


def test_the_package_requires_the_versions_that_the_server_accepts() -> None:
    """pyproject.toml and the check at the start agree."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"picows>={},<{}"'.format(*PICOWS_VERSIONS) in text
