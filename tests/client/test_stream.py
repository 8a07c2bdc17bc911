"""Following orders over real sockets, against a server that misbehaves on command."""

from __future__ import annotations

import asyncio
import logging
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from ptn_api.client.arguments import Timing
from ptn_api.client.connection import StreamState
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.stream import Stream, connect
from ptn_api.client.testing import FakeServer
from ptn_api.errors import AuthenticationError, SettingsError
from ptn_api.problems import PROBLEMS
from ptn_api.wire.client_session import Gap
from ptn_api.wire.close_codes import INSUFFICIENT_TIER, SHUTTING_DOWN
from tests.answering import answering
from tests.factories import OTHER_MINER, order, position
from tests.waiting import PATIENCE_S, until_async


class Follower:
    """A stream read to its end in a task, with lists of everything reported."""

    def __init__(self, server: FakeServer, timing: Timing, state_dir: Path, **options: Any) -> None:
        self.messages: list[PTNWebSocketMessage] = []
        self.gaps: list[Gap] = []
        self.states: list[StreamState] = []
        self.stale: list[PTNWebSocketMessage] = []
        self.stream: Stream = connect(
            server.url,
            options.pop("api_key", server.api_key),
            timing=timing,
            state_dir=state_dir,
            on_gap=self.gaps.append,
            on_state=self.states.append,
            on_stale=self.stale.append,
            **options,
        )

    @property
    def numbers(self) -> list[int]:
        return [message.sequence for message in self.messages]

    async def __aenter__(self) -> Follower:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.stream.stop()
        await asyncio.wait_for(self._task, PATIENCE_S)

    async def live(self) -> Follower:
        await until_async(lambda: self.stream.state == "live", what="live")
        return self

    async def received(self, count: int) -> list[int]:
        await until_async(lambda: len(self.messages) >= count, what=f"{count} messages, have {self.numbers}")
        return self.numbers

    async def _read(self) -> None:
        async with self.stream as stream:
            async for message in stream:
                self.messages.append(message)


@pytest.fixture
def follow(server: FakeServer, timing: Timing, tmp_path: Path) -> Any:
    """Returns a function that makes a follower of the server."""

    def make(at: FakeServer = server, **options: Any) -> Follower:
        return Follower(at, options.pop("timing", timing), tmp_path, **options)

    return make


# --- orders -----------------------------------------------------------------------------------------------


async def test_orders_arrive_in_sequence(server: FakeServer, follow: Any) -> None:
    """One by one and in batches."""
    async with follow() as follower:
        await follower.live()
        server.order("BTCUSD")
        server.publish(position(1, [order(1)]), position(2, [order(2)]))
        assert await follower.received(3) == [101, 102, 103]
    assert follower.messages[0].new_order.trade_pair == "BTCUSD"
    assert follower.gaps == []


async def test_a_stopped_client_closes_with_1000(server: FakeServer, follow: Any) -> None:
    """A normal closure, which no operator has to look into."""
    async with follow() as follower:
        await follower.live()
        (client,) = server.clients
    await until_async(client.gone.is_set, what="the connection's end")
    assert client.socket.close_code == 1000


async def test_filters_and_format_are_requested(server: FakeServer, follow: Any) -> None:
    """Only matching orders arrive, as deltas; the missing numbers are not gaps."""
    async with follow(miners=[OTHER_MINER], trade_pairs=["BTCUSD"], format="delta") as follower:
        await follower.live()
        server.order("BTCUSD")
        server.order("EURUSD", miner=OTHER_MINER)
        server.order("BTCUSD", miner=OTHER_MINER)
        assert await follower.received(1) == [103]
    assert follower.messages[0].position.orders == []
    assert follower.gaps == []


async def test_a_filtered_client_resumes_after_the_last_heartbeat(server: FakeServer, follow: Any) -> None:
    """Not after its last message, which may be days old."""
    async with follow(miners=[OTHER_MINER]) as follower:
        await follower.live()
        server.order("BTCUSD")
        server.heartbeat()
        await until_async(lambda: follower.stream._source.connection.cursor.sequence == 101)
        await asyncio.sleep(0)
    async with follow(miners=[OTHER_MINER]) as follower:
        await follower.live()
        assert server.clients[0].frames[0]["last_sequence"] == 101


# --- reconnecting ------------------------------------------------------------------------------------------


async def test_a_cut_loses_and_repeats_nothing(server: FakeServer, follow: Any) -> None:
    """Orders missed meanwhile are replayed and marked, and the state is `replaying`."""
    async with follow() as follower:
        await follower.live()
        server.order()
        await follower.received(1)
        server.cut()
        server.order()
        server.order()
        assert await follower.received(3) == [101, 102, 103]
        server.order()
        assert await follower.received(4) == [101, 102, 103, 104]
    assert follower.gaps == []
    assert [s for s in follower.states if s != "replaying"] == [
        "connecting",
        "live",
        "connecting",
        "live",
        "stopped",
    ]


async def test_an_absent_server_is_retried_forever(follow: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The client connects when the server returns."""
    with FakeServer() as server:
        port = server.port
    async with follow(server) as follower:
        await until_async(lambda: caplog.text.count("no connection") >= 5)
        assert set(follower.states) == {"connecting"}
        assert "connected again" not in caplog.text
        with FakeServer(port=port):
            await follower.live()
            assert caplog.text.count("connected again") == 1


async def test_a_close_code_for_a_restart_is_followed_by_a_reconnection(
    server: FakeServer, follow: Any
) -> None:
    """The client loses nothing."""
    async with follow() as follower:
        await follower.live()
        server.close_all(SHUTTING_DOWN)
        await until_async(lambda: server.logins == 2)
        problems = [problem for state in follower.states for problem in state.problems]
        assert [problem.code for problem in problems] == ["server_restarting"]
        assert problems[0].remedy.startswith("Nothing")
        await follower.live()
        server.order()
        assert await follower.received(1) == [101]


async def test_a_restarting_server_is_no_trouble_of_the_network(
    timing: Timing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor while it is away, after it has announced that."""

    async def announce(socket: ServerConnection) -> None:
        await socket.recv()
        restarting.close(close_connections=False)
        await socket.close(SHUTTING_DOWN.code, SHUTTING_DOWN.reason)

    states = States()
    options: Any = {"timing": timing, "state_dir": tmp_path, "on_state": states}
    async with serve(announce, "127.0.0.1", 0) as restarting:
        port = restarting.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", "a-key", **options):
            await until_async(lambda: caplog.text.count("no connection") >= 3)
    assert {code for _, codes in states.codes for code in codes} == {"server_restarting"}


async def test_a_lost_message_is_resent(server: FakeServer, follow: Any) -> None:
    """A hole in the sequence makes the client reconnect and resume."""
    async with follow() as follower:
        await follower.live()
        server.publish(position(1, [order(1)]), lost=True)
        server.publish(position(2, [order(2)]))
        assert await follower.received(2) == [101, 102]
    assert follower.gaps == []


async def test_a_lost_last_message_is_noticed_at_the_heartbeat(server: FakeServer, follow: Any) -> None:
    """The client does not wait for the next order."""
    async with follow() as follower:
        await follower.live()
        server.publish(position(1, [order(1)]), lost=True)
        server.heartbeat()
        assert await follower.received(1) == [101]
    assert follower.gaps == []


async def test_a_permanent_hole_is_reported_once(server: FakeServer, follow: Any) -> None:
    """The stream continues after it."""
    async with follow() as follower:
        await follower.live()
        server.order()
        server.skip(3)
        server.order()
        assert await follower.received(2) == [101, 105]
        server.order()
        await follower.received(3)
    assert follower.gaps == [Gap(101, 105, "hole")]


async def test_a_silent_server_is_noticed(timing: Timing, follow: Any) -> None:
    """Within two heartbeat periods the state is `stale`, and the client reconnects."""
    with FakeServer(heartbeat_ms=200) as server:
        async with follow(server) as follower:
            await follower.live()
            server.mute = True
            await until_async(lambda: "stale" in follower.states and server.logins >= 2)
            server.mute = False
            server.cut()  # a subscribe that came meanwhile has no answer
            server.order()
            await follower.received(1)
            await follower.live()


async def test_a_subscribe_without_an_answer_times_out(follow: Any) -> None:
    """After `Timing.connect`, although heartbeats arrive: a first one, and one that resumes."""
    hasty = Timing(connect=0.2, close=0.1, tick=0.02, backoff=0.02, backoff_max=0.05)
    with FakeServer() as server:
        server.mute = True

        def is_told() -> bool:
            server.heartbeat()
            problems = {problem.code for state in follower.states for problem in state.problems}
            return "stale" in follower.states and "server_silent" in problems

        async with follow(server, timing=hasty) as follower:
            await until_async(is_told)
            server.mute = False
            await follower.live()
            server.mute = True
            follower.states.clear()
            server.cut()
            server.order()
            await until_async(is_told)
            server.mute = False
            await follower.received(1)
            assert follower.gaps == []


async def test_a_login_without_an_answer_times_out(timing: Timing, follow: Any) -> None:
    """After `Timing.connect`."""
    with FakeServer() as server:
        server.deaf = True
        hasty = Timing(connect=0.2, close=0.1, tick=0.02, backoff=0.02, backoff_max=0.05)
        async with follow(server, timing=hasty) as follower:
            await until_async(lambda: "stale" in follower.states)
            server.deaf = False
            await follower.live()


async def test_a_slow_consumer_does_not_pass_for_a_silent_server(timing: Timing, tmp_path: Path) -> None:
    """Not even one that blocks the event loop: only time spent waiting for frames counts."""
    with FakeServer(heartbeat_ms=1_500) as server:
        states: list[str] = []
        async with connect(
            server.url, server.api_key, timing=timing, state_dir=tmp_path, on_state=states.append
        ) as stream:
            await until_async(lambda: stream.state == "live")
            server.order()
            await anext(stream)
            time.sleep(3.5)
            server.order()
            assert (await anext(stream)).sequence == 2
        assert states == ["connecting", "live", "stopped"]


async def test_a_stale_source_is_reported(server: FakeServer, follow: Any) -> None:
    """The state follows the heartbeats."""
    async with follow() as follower:
        await follower.live()
        server.stale = True
        server.heartbeat()
        await until_async(lambda: follower.stream.state == "stale")
        server.stale = False
        server.heartbeat()
        await follower.live()


async def test_an_evicted_client_backs_off(
    server: FakeServer, follow: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It reconnects after the delay for evictions."""
    async with follow() as follower:
        await follower.live()
        server.evict_all()
        await until_async(lambda: server.logins == 2)
    [line] = [record for record in caplog.records if "retrying in" in record.message]
    assert "too many connections" in line.message


# --- keys -------------------------------------------------------------------------------------------------


async def test_a_refused_key_is_retried(
    server: FakeServer, follow: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be added later. The log names the reason, never the key."""
    server.keys.clear()
    with caplog.at_level(logging.DEBUG, "ptn_api.client"):
        async with follow() as follower:
            await until_async(lambda: server.logins >= 2)
            server.keys.add(server.api_key)
            await follower.live()
    assert "login refused: Invalid API key" in caplog.text
    assert server.api_key not in caplog.text


async def test_a_refused_key_is_raised_with_stop_on_auth_error(
    server: FakeServer, timing: Timing, tmp_path: Path
) -> None:
    """Iterating raises it."""
    server.keys.clear()
    options: Any = {"timing": timing, "state_dir": tmp_path, "stop_on_auth_error": True}
    async with connect(server.url, server.api_key, **options) as stream:
        with pytest.raises(AuthenticationError, match="Invalid API key"):
            await anext(stream)


async def test_a_key_that_loses_its_tier_is_raised_too(
    server: FakeServer, timing: Timing, tmp_path: Path
) -> None:
    """The close code of a live connection is enough."""
    options: Any = {"timing": timing, "state_dir": tmp_path, "stop_on_auth_error": True}
    async with connect(server.url, server.api_key, **options) as stream:
        await until_async(lambda: stream.state == "live")
        server.close_all(INSUFFICIENT_TIER)
        with pytest.raises(AuthenticationError):
            await anext(stream)


@pytest.mark.parametrize("url", ["http://localhost:1", "ws://a:99999", "ws://[::1", "ws://a..b"])
def test_an_invalid_url_is_refused_at_once(url: str, tmp_path: Path) -> None:
    """It is not retried."""
    with pytest.raises(SettingsError):
        connect(url, "k", state_dir=tmp_path)


# --- the cursor -------------------------------------------------------------------------------------------


async def test_the_next_run_resumes(server: FakeServer, follow: Any) -> None:
    """Orders missed in between come first; committed ones do not come again."""
    async with follow() as follower:
        await follower.live()
        server.order()
        await follower.received(1)
    server.order()
    async with follow() as follower:
        assert await follower.received(1) == [102]
        assert follower.messages[0].replay


async def test_asking_for_the_next_message_commits_the_last(
    server: FakeServer, timing: Timing, tmp_path: Path
) -> None:
    """An uncommitted message comes again; `commit` commits it earlier."""
    options: Any = {"timing": timing, "state_dir": tmp_path}
    async with connect(server.url, server.api_key, **options) as stream:
        await until_async(lambda: stream.state == "live")
        server.order()
        server.order()
        assert (await anext(stream)).sequence == 101
        assert (await anext(stream)).sequence == 102
    async with connect(server.url, server.api_key, **options) as stream:
        assert (await anext(stream)).sequence == 102
        stream.commit()
    server.order()
    async with connect(server.url, server.api_key, **options) as stream:
        assert (await anext(stream)).sequence == 103


async def test_a_new_client_resumes_from_its_first_login(server: FakeServer, follow: Any) -> None:
    """Orders before its first message are not missed."""
    async with follow() as follower:
        await follower.live()
    server.order()
    async with follow() as follower:
        assert await follower.received(1) == [101]


async def test_a_client_without_resume_starts_with_the_next_order(server: FakeServer, follow: Any) -> None:
    """It ignores the cursor of the last run."""
    async with follow() as follower:
        await follower.live()
    server.order()
    async with follow(resume=False) as follower:
        await follower.live()
        server.order()
        assert await follower.received(1) == [102]


# --- gaps -------------------------------------------------------------------------------------------------


async def test_a_failed_resume_is_a_gap(server: FakeServer, follow: Any) -> None:
    """After pruning: `resync`, the gap, then live. The next run does not repeat it."""
    async with follow() as follower:
        await follower.live()
    server.order()
    server.order()
    server.prune()
    async with follow() as follower:
        await follower.live()
        server.order()
        assert await follower.received(1) == [103]
        assert follower.gaps == [Gap(100, 103, "too_old")]
        assert follower.states[-2:] == ["resync", "live"]
    async with follow() as follower:
        await follower.live()
        assert follower.gaps == []


async def test_another_log_is_a_gap(server: FakeServer, follow: Any) -> None:
    """The same numbers in another epoch are other orders, not repeats."""
    async with follow() as follower:
        await follower.live()
        server.order()
        await follower.received(1)
        server.begin_anew()
        await until_async(lambda: len(follower.gaps) == 1)
        await follower.live()
        server.order()
        assert await follower.received(2) == [101, 101]
    assert follower.gaps == [Gap(101, 101, "epoch")]


async def test_an_old_server_is_understood(timing: Timing, follow: Any) -> None:
    """No epoch, no replay: missed orders are a gap, and the stream continues."""
    with FakeServer(version=1, first_sequence=101) as server:
        async with follow(server) as follower:
            await follower.live()
            server.order()
            assert await follower.received(1) == [101]
            server.cut()
            server.publish(position(1, [order(1)]), lost=True)
            server.publish(position(2, [order(2)]), lost=True)
            await until_async(lambda: server.logins == 2)
            await follower.live()
            server.order()
            assert await follower.received(2) == [101, 104]
        assert {n for gap in follower.gaps for n in range(gap.after + 1, gap.next)} == {102, 103}
        async with follow(server) as follower:
            await follower.live()
            assert follower.gaps == []


async def test_a_silent_old_server_is_noticed(timing: Timing, follow: Any) -> None:
    """It sends no heartbeats, but answers pings."""
    hasty = Timing(connect=5, close=0.1, ping=0.1, tick=0.02, backoff=0.02, backoff_max=0.05)
    with FakeServer(version=1) as server:
        async with follow(server, timing=hasty) as follower:
            await follower.live()
            server.mute = True
            await until_async(lambda: "stale" in follower.states)


async def test_a_malformed_message_costs_only_itself(
    server: FakeServer, follow: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported as a gap."""
    async with follow() as follower:
        await follower.live()
        server.skip(1)
        server.send_all('{"sequence":101,"timestamp":1,"data":{"position":{"orders":17}}}')
        server.order()
        assert await follower.received(1) == [102]
    assert follower.gaps == [Gap(100, 102, "unreadable")]


async def test_a_failing_callback_does_not_stop_the_orders(
    server: FakeServer, timing: Timing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its exception is logged."""

    def broken(value: object) -> None:
        raise RuntimeError("listener")

    options: Any = {"on_state": broken, "on_gap": broken, "timing": timing, "state_dir": tmp_path}
    async with connect(server.url, server.api_key, **options) as stream:
        await until_async(lambda: stream.state == "live")
        server.order()
        assert (await anext(stream)).sequence == 101
    assert "a listener failed" in caplog.text


# --- age --------------------------------------------------------------------------------------------------


async def test_old_orders_go_to_on_stale_only(server: FakeServer, follow: Any) -> None:
    """Their age is that of the order; they are committed like handled ones."""
    async with follow(max_age_ms=60_000) as follower:
        await follower.live()
        server.publish(position(1, [order(1)]), late=True)  # filled long ago
        server.order()
        assert await follower.received(1) == [102]
        assert [(m.sequence, m.late) for m in follower.stale] == [(101, True)]
    async with follow(max_age_ms=60_000) as follower:
        await follower.live()
        assert follower.stale == []


@pytest.mark.parametrize("ahead", [3_600_000, -3_600_000])
async def test_a_wrong_clock_makes_no_order_stale(server: FakeServer, follow: Any, ahead: int) -> None:
    """Fast or slow by an hour: the signed offset is known before the first order arrives."""
    server.clock_ahead_ms = ahead
    async with follow(max_age_ms=60_000) as follower:
        await follower.live()
        server.order()
        assert await follower.received(1) == [101]
        assert abs(follower.stream.clock_offset_ms - ahead) < 5_000
        assert 0 <= follower.messages[0].timelag_from_order + 5_000 < 30_000


# --- subscribing ------------------------------------------------------------------------------------------


async def test_unsubscribing_pauses_the_orders(server: FakeServer, follow: Any) -> None:
    """The connection stays; a new subscription starts with the next order, without a gap."""
    async with follow() as follower:
        await follower.live()
        follower.stream.unsubscribe()
        await until_async(lambda: server.clients[0].session.state.value == "idle")
        server.order()
        follower.stream.subscribe()
        await until_async(lambda: server.clients[0].session.state.value == "live")
        server.order()
        assert await follower.received(1) == [102]
    assert follower.gaps == []


async def test_a_batch_is_committed_as_a_whole(server: FakeServer, timing: Timing, tmp_path: Path) -> None:
    """Asking for the next list commits it."""
    options: Any = {"timing": timing, "state_dir": tmp_path}
    async with connect(server.url, server.api_key, **options) as stream:
        await until_async(lambda: stream.state == "live")
        server.publish(*(position(n, [order(n)]) for n in range(5)))
        async for batch in stream.batches(limit=3):
            if [m.sequence for m in batch][-1] == 105:
                break
            assert [m.sequence for m in batch] == [101, 102, 103]
    async with connect(server.url, server.api_key, **options) as stream:
        assert (await anext(stream)).sequence == 104


async def test_a_cancellation_while_the_stream_closes_is_not_swallowed(
    timing: Timing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The closing handshake takes a while, and the task may be cancelled meanwhile."""
    continued: list[str] = []
    async with FakeServer() as server:

        async def bot() -> None:
            async with connect(server.url, server.api_key, timing=timing, state_dir=tmp_path) as stream:
                await until_async(lambda: stream.state == "live")
                leaving.set()
            continued.append("after the stream")

        leaving = asyncio.Event()
        task = asyncio.create_task(bot())
        await leaving.wait()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.cancelled() == (continued == [])
        async with connect(server.url, server.api_key, timing=timing, state_dir=tmp_path):
            assert "another client" not in caplog.text  # the cursor's lock was released


@pytest.mark.parametrize("how", ["one by one", "in batches"])
async def test_a_message_that_was_not_yielded_is_not_committed(
    how: str, server: FakeServer, timing: Timing, tmp_path: Path
) -> None:
    """An iteration cancelled while a callback runs loses no message."""
    telling = asyncio.Event()

    async def on_stale(_: PTNWebSocketMessage) -> None:
        telling.set()
        await asyncio.sleep(3_600)

    stream = connect(
        server.url, server.api_key, timing=timing, state_dir=tmp_path, on_stale=on_stale, max_age_ms=60_000
    )
    received: list[int] = []

    async def consume() -> None:
        if how == "in batches":
            async for batch in stream.batches():
                received.extend(message.sequence for message in batch)
        else:
            async for message in stream:
                received.append(message.sequence)

    async with stream:
        await until_async(lambda: stream.state == "live")
        for number in range(6):
            server.order(timestamp_ms=1 if number == 3 else None)
        first = server.head - 5
        consuming = asyncio.create_task(consume())
        await telling.wait()
        consuming.cancel()
        await asyncio.wait([consuming])
        assert received == [first, first + 1, first + 2]
        stream._on_stale = None
        consuming = asyncio.create_task(consume())
        await until_async(lambda: len(received) >= 5)
        assert received == [first, first + 1, first + 2, first + 4, first + 5]
        consuming.cancel()
        await asyncio.wait([consuming])


async def test_a_single_name_is_one_name(server: FakeServer, follow: Any) -> None:
    """It is not taken for a sequence of letters."""
    async with follow(trade_pairs="ETHUSD", miners=OTHER_MINER) as follower:
        await follower.live()
        [client] = server.clients
        assert client.session.subscription.trade_pairs == {"ETHUSD"}
        assert client.session.subscription.miners == {OTHER_MINER}


# --- what is wrong ----------------------------------------------------------------------------------------


class States:
    """What `on_state` gets: (state, codes of its problems)."""

    def __init__(self) -> None:
        self.seen: list[StreamState] = []

    def __call__(self, state: StreamState) -> None:
        self.seen.append(state)

    @property
    def codes(self) -> list[tuple[str, list[str]]]:
        return [(state.connection, [problem.code for problem in state.problems]) for state in self.seen]


async def test_states_tell_what_is_wrong_with_the_server(
    server: FakeServer, timing: Timing, tmp_path: Path
) -> None:
    """In the words of the server's own table, while it lasts; an unknown code is passed on."""
    states = States()
    options: Any = {"timing": timing, "state_dir": tmp_path, "on_state": states}
    async with connect(server.url, server.api_key, **options) as stream:
        await until_async(lambda: stream.state == "live")
        server.problems = ["files_refused", "of_tomorrow"]
        server.heartbeat()
        await until_async(lambda: states.seen[-1].problems)
        known, unknown = states.seen[-1].problems
        assert known == (
            "files_refused",
            PROBLEMS["files_refused"].sentence,
            PROBLEMS["files_refused"].remedy,
        )
        assert (unknown.code, "of_tomorrow" in unknown.sentence) == ("of_tomorrow", True)
        assert stream.problems == states.seen[-1].problems
        server.heartbeat()
        server.problems = []
        server.heartbeat()
        await until_async(lambda: not states.seen[-1].problems)
    assert states.codes == [
        ("reconnecting", []),
        ("connected", []),
        ("connected", ["files_refused", "of_tomorrow"]),
        ("connected", []),
        ("stopped", []),
    ]


async def test_states_tell_what_is_wrong_with_the_connection(
    server: FakeServer, timing: Timing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, with a remedy, and not while it is well."""
    states = States()
    server.keys.clear()
    options: Any = {"timing": timing, "state_dir": tmp_path, "on_state": states}
    async with connect(server.url, server.api_key, **options) as stream:
        await until_async(lambda: server.logins >= 3)
        server.keys.add(server.api_key)
        await until_async(lambda: stream.state == "live")
        server.cut()
        await until_async(lambda: len(states.seen) > 4 and stream.state == "live")
        server.evict_all()
        await until_async(lambda: len(states.seen) > 6 and stream.state == "live")
    assert states.codes == [
        ("reconnecting", []),
        ("reconnecting", ["login_refused"]),
        ("connected", []),
        ("reconnecting", ["unreachable"]),
        ("connected", []),
        ("reconnecting", ["evicted"]),
        ("connected", []),
        ("stopped", []),
    ]
    problems = [problem for state in states.seen for problem in state.problems]
    assert all(problem.sentence and problem.remedy for problem in problems)
    assert "Authentication failed; retrying in" in caplog.text


async def test_states_tell_that_the_cursor_is_not_saved(
    server: FakeServer, timing: Timing, tmp_path: Path
) -> None:
    """And that it is again: a full disk passes."""
    states = States()
    options: Any = {"timing": timing, "state_dir": tmp_path, "on_state": states}
    async with connect(server.url, server.api_key, **options) as stream:
        assert stream._source.file is not None
        obstacle = stream._source.file._path_of(server._log.epoch).with_suffix(".new")
        obstacle.mkdir()
        reading = asyncio.create_task(stream.__anext__())
        await until_async(lambda: ("connected", ["cursor_not_saved"]) in states.codes)
        obstacle.rmdir()
        server.order()
        await reading
        stream.commit()
        await until_async(lambda: states.codes[-1] == ("connected", []))


async def test_a_refusal_has_a_remedy(server: FakeServer, timing: Timing, tmp_path: Path) -> None:
    """In the exception, beside the reason."""
    server.keys.clear()
    options: Any = {"timing": timing, "state_dir": tmp_path, "stop_on_auth_error": True}
    async with connect(server.url, server.api_key, **options) as stream:
        with pytest.raises(AuthenticationError) as error:
            await anext(stream)
    assert "API key" in error.value.remedy


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_proxys_page_is_no_refusal(status: str, timing: Timing, tmp_path: Path) -> None:
    """The key may be right: the client goes on, whatever `stop_on_auth_error` says."""
    requests = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 13\r\n\r\n<html></html>".encode())
        await writer.drain()
        writer.close()

    states = States()
    options: Any = {"timing": timing, "state_dir": tmp_path, "stop_on_auth_error": True, "on_state": states}
    proxy = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    async with proxy, connect(f"ws://127.0.0.1:{port}", "a-key", **options) as stream:
        reading = asyncio.create_task(stream.__anext__())
        await until_async(lambda: requests >= 3)
        stream.stop()
        with pytest.raises(StopAsyncIteration):
            await reading
    assert states.codes[1] == ("reconnecting", ["unreachable"])
    assert status[:3] in states.seen[1].problems[0].sentence


async def test_a_redirect_is_not_followed(
    server: FakeServer, timing: Timing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The login has the key, and the other address may be anybody's."""
    location = server.url.replace("127.0.0.1", "localhost")

    def redirect(request: BaseHTTPRequestHandler) -> None:
        request.send_response(307)
        request.send_header("location", location)
        request.send_header("content-length", "0")
        request.end_headers()

    with answering(redirect) as url:
        address = url.replace("http", "ws")
        async with connect(address, server.api_key, timing=timing, state_dir=tmp_path):
            await until_async(lambda: server.logins or "retrying" in caplog.text, what="an outcome")
    assert server.logins == 0
    assert f"it redirects to {location}; use that address" in caplog.text
