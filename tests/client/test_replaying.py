"""The same handler on the past."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.recording import Recording
from ptn_api.client.replaying import Replay, ReplayClock, replay
from ptn_api.client.rest import PTNClient
from ptn_api.errors import InvalidInputError, SettingsError
from ptn_api.model.accounting import rebuild
from ptn_api.wire.client_session import Cursor, Gap, StreamItem
from ptn_api.wire.codec import decode
from ptn_api.wire.server_frames import OrderMessage
from tests import factories
from tests.factories import EURUSD, MINER, OTHER_MINER, T0


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
    """Notes what it is given, and what time it is by then."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[int, int, int]]] = []

    def __call__(self, messages: list[PTNWebSocketMessage]) -> None:
        self.seen.append([(m.sequence, m.timelag_from_order, m.timelag_from_queue) for m in messages])

    async def later(self, messages: list[PTNWebSocketMessage]) -> None:
        await asyncio.sleep(0)
        self(messages)

    @property
    def sequences(self) -> list[int]:
        return [sequence for batch in self.seen for sequence, _, _ in batch]


EXPECTED = [[(1, 250, 0)], [(2, 250, 0), (3, 250, 0)], [(6, 250, 0)]]


def test_the_clock_stands_at_the_message() -> None:
    """Whatever a handler computes from time lags is the same in every replay."""
    bots = [Bot(), Bot()]
    assert [replay(PAST, bot) for bot in bots] == [4, 4]
    assert bots[0].seen == bots[1].seen == EXPECTED


def test_the_handler_may_be_async() -> None:
    bot = Bot()
    replay(PAST, bot.later)
    assert bot.seen == EXPECTED


async def test_it_works_within_a_running_loop() -> None:
    """A notebook has one."""
    bot = Bot()
    assert replay(PAST, bot.later) == 4
    assert bot.seen == EXPECTED


async def test_it_can_be_iterated_over_either_way() -> None:
    """The same messages as a handler gets."""
    assert [m.sequence for m in Replay(PAST)] == [1, 2, 3, 6]
    assert [m.sequence async for m in Replay(PAST)] == [1, 2, 3, 6]


def test_a_clock_of_ones_own() -> None:
    """Whatever else asks for the time can be given the replay's; it never goes back."""
    clock = ReplayClock()
    times = [clock.now_ms for _ in Replay([*PAST, message(7, T0)], clock=clock)]
    assert times == [T0, T0 + 1_000, T0 + 1_000, T0 + 60_000, T0 + 60_000]
    assert clock() == T0 + 60_000


def test_gaps_are_told_in_their_place() -> None:
    heard: list[int | Gap] = []
    for one in Replay(PAST, on_gap=heard.append):
        heard.append(one.sequence)
    assert heard == [1, 2, 3, Gap(3, 6, "too_old"), 6]


def test_what_cannot_be_read_is_a_gap() -> None:
    """As on the stream: it costs the message, not the replay."""
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
        ({"miners": []}, []),
    ],
)
def test_choosing(choice: dict[str, Any], expected: list[int]) -> None:
    bot = Bot()
    replay(PAST, bot, **choice)
    assert bot.sequences == expected


def test_it_keeps_the_pace_that_is_asked_for() -> None:
    """At a thousand times the speed a minute is 60 ms after the first, not before."""
    moments = list(Replay(PAST, speed=1_000).moments())
    assert [round((m.due - moments[0].due) * 1_000) for m in moments] == [0, 1, 1, 60]
    with pytest.raises(SettingsError):
        Replay(PAST, speed=0)


def test_what_the_handler_raises_is_raised() -> None:
    def fail(messages: list[PTNWebSocketMessage]) -> None:
        raise LookupError(messages[0].sequence)

    with pytest.raises(LookupError, match="1"):
        replay(PAST, fail)


def test_a_recording_is_a_source(tmp_path: Path) -> None:
    """What was recorded as a repeat is replayed as if live."""
    path = tmp_path / "orders.ndjson.zst"
    recording = Recording(path)
    for what in PAST:
        recording.take(StreamItem(what, Cursor(1, "e")))
    recording.close()
    bot = Bot()
    assert replay(path, bot) == 4
    assert bot.seen == EXPECTED
    assert not any(m.replay for m in Replay([message(1, T0)]))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_checkpoint_is_a_source(tmp_path: Path, zipped: bool) -> None:
    """Its orders in the order of time, each with its position as it was then."""
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
    then = rebuild(past[3].position.orders, first["trade_pair"], first["position_uuid"])
    assert then is not None
    assert past[3].position.net_leverage == then.state.net_leverage
    assert past[3].position.current_return == then.state.current_return
    assert past[4].position.current_return == first["current_return"]
    assert past[2].position.close_ms is None


@pytest.mark.parametrize("harm", [slice(0, -9), slice(0, 4)])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, harm: slice) -> None:
    """Cut off, or with bytes of its middle turned over: whatever the decompressor says of it."""
    content = gzip.compress(json.dumps({"positions": {}, "filler": list(range(999))}).encode())
    path = tmp_path / "validator_checkpoint.json.gz"
    for harmed in (content[harm], content[:60] + bytes(255 - byte for byte in content[60:80]) + content[80:]):
        path.write_bytes(harmed)
        with pytest.raises(InvalidInputError) as refused:
            list(Replay(path))
        assert refused.value.code == "damaged"


def test_a_file_that_is_neither_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "something.json"
    path.write_text('{"positions": 7}')
    with pytest.raises(InvalidInputError, match="neither"):
        list(Replay(path))


def test_a_server_is_a_source() -> None:
    """Everything that it still has, page by page, also where that does not begin with 1."""
    kept = [message(n, T0 + n) for n in range(2_500, 5_000)]
    asked: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params["after"])
        asked.append(after)
        if after + 1 < kept[0].sequence:
            gone = {"error": "That cursor is too old", "epoch": "e", "oldest_sequence": 2_500, "head": 4_999}
            return httpx.Response(410, json=gone)
        page = [m for m in kept if m.sequence > after][: int(request.url.params["limit"])]
        texts = [json.loads(bytes(m.data)) for m in page]
        body = [
            {"sequence": m.sequence, "timestamp": m.timestamp, "data": data}
            for m, data in zip(page, texts, strict=True)
        ]
        then = page[-1].sequence if page else after
        return httpx.Response(200, json={"messages": body, "next": then, "head": 4_999, "epoch": "e"})

    with PTNClient("http://somewhere", "key", transport=httpx.MockTransport(answer)) as server:
        assert [m.sequence for m in Replay(server)] == list(range(2_500, 5_000))
    assert asked == [0, 2_499, 3_499, 4_499]
