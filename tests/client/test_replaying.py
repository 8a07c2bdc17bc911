"""Replays: to a handler, in a loop, and through a server."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ptn_api.client.arguments import Timing
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.recording import Recording
from ptn_api.client.replaying import Replay, ReplayClock, ReplayServer, replay
from ptn_api.client.rest import PTNClient
from ptn_api.client.stream import Stream
from ptn_api.errors import InvalidInputError, ServerUnreachableError, SettingsError
from ptn_api.model.accounting import rebuild
from ptn_api.wire.client_session import Cursor, Gap, StreamItem
from ptn_api.wire.codec import decode
from ptn_api.wire.server_frames import OrderMessage
from tests import factories
from tests.factories import EURUSD, MINER, OTHER_MINER, T0
from tests.interrupts import (
    Interrupted,
    in_thread,
    send_to_process,
    send_unnoticed,
    signal_raises,
    until_main_waits_in,
)
from tests.system.follower import Follower
from tests.waiting import PATIENCE_S


def message(sequence: int, at_ms: int, **fields: Any) -> OrderMessage:
    order = factories.order(sequence, at=at_ms - 250)
    position = factories.position(sequence, [order], **fields)
    text = json.dumps({"sequence": sequence, "timestamp": at_ms, "data": {"position": position}})
    return decode(text, OrderMessage)


PAST = [
    message(1, T0),
    message(2, T0 + 1_000, miner=OTHER_MINER),
    message(3, T0 + 1_000, trade_pair=EURUSD),
    Gap(3, 6, "too_old"),
    message(6, T0 + 60_000),
]


class Bot:
    """A handler that records its messages and the time by their clock."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, int, int]]] = []

    def __call__(self, messages: list[PTNWebSocketMessage]) -> None:
        self.calls.append([(m.sequence, m.timelag_from_order, m.timelag_from_queue) for m in messages])

    async def later(self, messages: list[PTNWebSocketMessage]) -> None:
        await asyncio.sleep(0)
        self(messages)

    @property
    def sequences(self) -> list[int]:
        return [sequence for batch in self.calls for sequence, _, _ in batch]


EXPECTED = [[(1, 250, 0)], [(2, 250, 0), (3, 250, 0)], [(6, 250, 0)]]


def test_the_clock_stands_at_the_last_message() -> None:
    """Values that a handler computes from time lags are the same in every replay."""
    bots = [Bot(), Bot()]
    assert [replay(PAST, bot) for bot in bots] == [4, 4]
    assert bots[0].calls == bots[1].calls == EXPECTED


def test_the_handler_may_be_async() -> None:
    bot = Bot()
    replay(PAST, bot.later)
    assert bot.calls == EXPECTED


async def test_it_works_under_a_running_event_loop() -> None:
    """As in a notebook."""
    bot = Bot()
    assert replay(PAST, bot.later) == 4
    assert bot.calls == EXPECTED


@pytest.mark.parametrize("send", [send_unnoticed, send_to_process])
def test_a_signal_interrupts_the_wait_for_the_next_message(send: Callable[[], None]) -> None:
    """Even if it arrives in the moment before the wait."""

    def interrupt_the_wait() -> None:
        until_main_waits_in("batches")
        send()

    messages = iter(Replay([message(1, T0), message(2, T0 + int(PATIENCE_S * 1000))], speed=1.0))
    assert next(messages).sequence == 1
    with signal_raises(), in_thread(interrupt_the_wait), pytest.raises(Interrupted):
        next(messages)


async def test_it_can_be_iterated_with_for_and_async_for() -> None:
    """Both yield the messages that a handler gets."""
    assert [m.sequence for m in Replay(PAST)] == [1, 2, 3, 6]
    assert [m.sequence async for m in Replay(PAST)] == [1, 2, 3, 6]


def test_a_clock_can_be_passed_in() -> None:
    """Other code can use it too; it never goes back."""
    clock = ReplayClock()
    times = [clock.now_ms for _ in Replay([*PAST, message(7, T0)], clock=clock)]
    assert times == [T0, T0 + 1_000, T0 + 1_000, T0 + 60_000, T0 + 60_000]
    assert clock() == T0 + 60_000


def test_gaps_are_reported_in_order() -> None:
    heard: list[int | Gap] = []
    for one in Replay(PAST, on_gap=heard.append):
        heard.append(one.sequence)
    assert heard == [1, 2, 3, Gap(3, 6, "too_old"), 6]


def test_a_malformed_message_is_a_gap() -> None:
    """As on the stream, the replay continues."""
    broken = decode('{"sequence": 2, "timestamp": 1, "data": {"position": {}}}', OrderMessage)
    gaps: list[Gap] = []
    bot = Bot()
    replay([PAST[0], broken, PAST[4]], bot, on_gap=gaps.append)
    assert bot.sequences == [1, 6]
    assert gaps == [Gap(1, 3, "unreadable")]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"start_ms": T0 + 1_000}, [2, 3, 6]),
        ({"end_ms": T0 + 1_000}, [1]),
        ({"start_ms": T0 + 1, "end_ms": T0 + 60_000}, [2, 3]),
        ({"miners": [OTHER_MINER]}, [2]),
        ({"trade_pairs": ["EURUSD"]}, [3]),
        ({"miners": [MINER], "trade_pairs": ["BTCUSD"]}, [1, 6]),
    ],
)
def test_selection(choice: dict[str, Any], expected: list[int]) -> None:
    bot = Bot()
    replay(PAST, bot, **choice)
    assert bot.sequences == expected


def test_it_keeps_the_requested_speed() -> None:
    """At a thousand times the speed a minute takes 60 ms, not less."""
    moments = list(Replay(PAST, speed=1_000).moments())
    assert [round((m.due - moments[0].due) * 1_000) for m in moments] == [0, 1, 1, 60]
    with pytest.raises(SettingsError):
        Replay(PAST, speed=0)


def test_an_exception_of_the_handler_is_raised() -> None:
    def fail(messages: list[PTNWebSocketMessage]) -> None:
        raise LookupError(messages[0].sequence)

    with pytest.raises(LookupError, match="1"):
        replay(PAST, fail)


def test_a_recording_is_a_source(tmp_path: Path) -> None:
    """Recorded repeats are replayed as if live."""
    path = tmp_path / "orders.ndjson.zst"
    recording = Recording(path)
    for what in PAST:
        recording.take(StreamItem(what, Cursor(1, "e")))
    recording.close()
    bot = Bot()
    assert replay(path, bot) == 4
    assert bot.calls == EXPECTED
    assert not any(m.replay for m in Replay([message(1, T0)]))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_checkpoint_is_a_source(tmp_path: Path, zipped: bool) -> None:
    """Its orders by time, each with its position as of then."""
    first = factories.position(
        1, [factories.order(1), factories.order(4), factories.order(6, 0.0)], closed=True
    )
    second = factories.position(2, [factories.order(2), factories.order(3)], miner=OTHER_MINER, close_ms=0)
    content = json.dumps(
        {"version": "1", "positions": {MINER: {"positions": [first]}, OTHER_MINER: {"positions": [second]}}},
        indent=1,
    ).encode()
    path = tmp_path / "validator_checkpoint.json"
    path.write_bytes(gzip.compress(content) if zipped else content)
    past, lags = zip(*((m, m.timelag_from_order) for m in Replay(path)), strict=True)
    assert set(lags) == {0}
    assert [m.new_order.order_uuid for m in past] == [factories.uuid(1000 + n) for n in (1, 2, 3, 4, 6)]
    assert [m.sequence for m in past] == [1, 2, 3, 4, 5]
    assert [len(m.position.orders) for m in past] == [1, 1, 2, 2, 3]
    assert [m.position.is_closed_position for m in past] == [False, False, False, False, True]
    then = rebuild(past[3].position)
    assert then is not None
    assert past[3].position.net_leverage == then.state.net_leverage
    assert past[3].position.current_return == then.state.current_return
    assert past[4].position.current_return == first["current_return"]
    assert past[2].position.close_ms is None


def test_a_malformed_position_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does an order another. NaN, which older validators write, is null."""
    orders = [factories.order(1), factories.order(2, processed_ms=None), factories.order(3)]
    bodies = [
        None,
        factories.position(1, orders),
        {},
        factories.position(2, [factories.order(4, note=float("nan"))]),
    ]
    path = tmp_path / "validator_checkpoint.json"
    path.write_text(json.dumps({"oldest": float("-inf"), "positions": {MINER: {"positions": bodies}}}))
    past = list(Replay(path))
    assert [m.new_order.order_uuid for m in past] == [factories.uuid(1000 + n) for n in (1, 3, 4)]
    assert caplog.text.count("malformed position") == 3


@pytest.mark.parametrize("harm", [slice(0, -9), slice(0, 4)])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, harm: slice) -> None:
    """Truncated, or with bytes reversed in the middle."""
    content = gzip.compress(json.dumps({"positions": {}, "filler": list(range(999))}).encode())
    path = tmp_path / "validator_checkpoint.json.gz"
    for harmed in (content[harm], content[:60] + bytes(255 - byte for byte in content[60:80]) + content[80:]):
        path.write_bytes(harmed)
        with pytest.raises(InvalidInputError) as refused:
            list(Replay(path))
        assert refused.value.code == "damaged"


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "something.json"
    path.write_text('{"positions": 7}')
    with pytest.raises(InvalidInputError, match="neither"):
        list(Replay(path))


def test_a_server_is_a_source() -> None:
    """All messages that it still has, page by page, from its oldest one on."""
    available = [message(n, T0 + n) for n in range(2_500, 5_000)]
    requested: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params["after"])
        requested.append(after)
        if after + 1 < available[0].sequence:
            gone = {"error": "That cursor is too old", "epoch": "e", "oldest_sequence": 2_500, "head": 4_999}
            return httpx.Response(410, json=gone)
        page = [m for m in available if m.sequence > after][: int(request.url.params["limit"])]
        texts = [json.loads(bytes(m.data)) for m in page]
        body = [
            {"sequence": m.sequence, "timestamp": m.timestamp, "data": data}
            for m, data in zip(page, texts, strict=True)
        ]
        then = page[-1].sequence if page else after
        return httpx.Response(200, json={"messages": body, "next": then, "head": 4_999, "epoch": "e"})

    with PTNClient("http://somewhere", "key", transport=httpx.MockTransport(answer)) as server:
        assert [m.sequence for m in Replay(server)] == list(range(2_500, 5_000))
    assert requested == [0, 2_499, 3_499, 4_499]


# --- the server -------------------------------------------------------------------------------------------


async def follow(
    url: str, tmp_path: Path, n: int, timing: Timing, **options: Any
) -> list[PTNWebSocketMessage]:
    messages: list[PTNWebSocketMessage] = []
    async with Stream(url, "whatever", state_dir=tmp_path, timing=timing, **options) as stream:
        while len(messages) < n:
            messages.append(await anext(stream))
    return messages


async def test_any_client_gets_the_recorded_orders(tmp_path: Path, timing: Timing) -> None:
    """With consecutive sequences from the first one on, and the original times."""
    with ReplayServer(Replay(PAST)) as server:
        playing = threading.Thread(target=server.play)
        playing.start()
        messages = await follow(server.url, tmp_path, 4, timing)
        playing.join()
    assert [m.sequence for m in messages] == [1, 2, 3, 4]
    assert [m.timestamp for m in messages] == [T0, T0 + 1_000, T0 + 1_000, T0 + 60_000]
    assert [m.data for m in messages] == [m.data for m in Replay(PAST)]


async def test_a_client_can_resume(tmp_path: Path, timing: Timing) -> None:
    """The second run continues after the first."""
    with ReplayServer(Replay(PAST)) as server:
        playing = threading.Thread(target=server.play)
        playing.start()
        first = await follow(server.url, tmp_path, 2, timing)
        playing.join()
        rest = await follow(server.url, tmp_path, 3, timing)
    assert [m.sequence for m in first] == [1, 2]
    assert [m.sequence for m in rest] == [2, 3, 4]


async def test_the_servers_clock_is_that_of_the_replay(tmp_path: Path, timing: Timing) -> None:
    """A client that measures the server's clock does not find the orders stale."""
    stale: list[PTNWebSocketMessage] = []
    with ReplayServer(Replay(PAST[:3])) as server:
        playing = threading.Thread(target=server.play)
        playing.start()
        messages = await follow(server.url, tmp_path, 3, timing, max_age_ms=60_000, on_stale=stale.append)
        playing.join()
    assert len(messages) == 3
    assert stale == []


def test_an_old_client_is_served() -> None:
    """Protocol version 1, without this package's client."""
    with ReplayServer(Replay(PAST)) as server, Follower(server.url, "whatever") as follower:
        assert server.play() == 4
        follower.wait_for(4)
        assert follower.sequences == [1, 2, 3, 4]


def test_positions_without_orders_cannot_be_served() -> None:
    """A recording in format delta has none."""
    text = '{"sequence": 1, "timestamp": 5, "data": {"position": {"miner_hotkey": "a", "position_uuid": "b", '
    text += '"trade_pair": ["BTCUSD"]}, "order": {"order_type": "LONG", "leverage": 1, "price": 1, '
    text += '"processed_ms": 1, "order_uuid": "c"}, "n_orders": 1}}'
    delta = decode(text, OrderMessage)
    with (
        ReplayServer(Replay([delta])) as server,
        Follower(server.url, "whatever"),
        pytest.raises(InvalidInputError, match="delta"),
    ):
        server.play()


def test_an_empty_recording_is_served() -> None:
    """No message comes."""
    with ReplayServer(Replay([])) as server, Follower(server.url, "whatever"):
        assert server.play() == 0


def test_it_waits_for_a_subscriber_until_it_is_stopped() -> None:
    stop = threading.Event()
    stop.set()
    with ReplayServer(Replay(PAST)) as server:
        assert server.play(stop) == 0


def test_a_gap_at_the_beginning_is_ignored() -> None:
    """It changes no sequence, and clients do not wait for it."""
    past = [Gap(1, 40, "too_old"), message(41, T0)]
    with ReplayServer(Replay(past)) as server, Follower(server.url, "whatever") as follower:
        server.play()
        follower.wait_for(1)
        assert follower.sequences == [41]


def test_a_port_in_use_is_an_error() -> None:
    with ReplayServer(Replay(PAST)) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ServerUnreachableError, match=str(port)):
            ReplayServer(Replay(PAST), port=port).__enter__()
