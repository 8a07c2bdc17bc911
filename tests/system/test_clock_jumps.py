"""A clock that is set forwards and backwards under the running rooms: real log, real files, real sockets.

The rooms run in this process, because a test cannot set the clock of another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from ptn_api.access import KeyRing
from ptn_api.clock import ClockStart, monotonic_ms, wall_ms
from ptn_api.event_log import EventLog, open_reader, open_writer
from ptn_api.fanout.options import StreamOptions
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.run import run_intake
from ptn_api.options import CLOCK_SETTLE_MS
from ptn_api.rest.run import RestOptions, run_rest
from ptn_api.stream.server import run_stream
from tests import factories
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until_async

DAY_MS = 86_400_000


class WrongClock:
    """The wall clock, with an offset that the test sets."""

    def __init__(self, off_ms: int = 0) -> None:
        self.off_ms = off_ms

    def __call__(self) -> int:
        return wall_ms() + self.off_ms


class Rooms:
    def __init__(self, clock: WrongClock, log: EventLog, rest: socket.socket, stream: socket.socket) -> None:
        self.clock = clock
        self.log = log
        self.prunes = 0
        self.rest = f"http://127.0.0.1:{rest.getsockname()[1]}"
        self.stream = f"ws://127.0.0.1:{stream.getsockname()[1]}"

    async def positions(self, tier: int) -> list[str]:
        """The uuids of the positions that a tier shows."""
        headers = {"authorization": f"Bearer key-{tier}"}
        async with httpx.AsyncClient(headers=headers, timeout=PATIENCE_S) as client:
            answer = await client.get(f"{self.rest}/miner-positions?tier={tier}")
        entries: dict[str, Any] = answer.json()
        return [p["position_uuid"] for entry in entries.values() for p in entry["positions"]]

    async def until_swept(self) -> None:
        """Waits for a sweep that begins after this call."""
        for _ in range(2):
            before = self.log.source().swept_ms
            await until_async(lambda before=before: self.log.source().swept_ms != before)  # type: ignore[misc]

    async def until_shown(self, tier: int, count: int) -> None:
        """Waits until the tier shows so many positions."""

        async def poll() -> None:
            while len(await self.positions(tier)) != count:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(poll(), PATIENCE_S)

    async def problems(self) -> list[str]:
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            found: list[str] = (await client.get(f"{self.rest}/health")).json()["problems"]
            return found


@asynccontextmanager
async def rooms(
    data_dir: Path,
    validator: Validator,
    *,
    off_ms: int = 0,
    clock_start: ClockStart | None = None,
    settle_ms: int = CLOCK_SETTLE_MS,
) -> AsyncIterator[Rooms]:
    """Intake, rest and stream on one adjustable clock; events are kept for an hour."""
    clock, stop, keys = WrongClock(off_ms), asyncio.Event(), KeyRing()
    keys.replace([(f"user-{tier}", f"key-{tier}", tier) for tier in (0, 100)])  # type: ignore[misc]
    rest, stream = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    rest.setblocking(False)
    stream.setblocking(False)
    writer = open_writer(data_dir, retention_ms=3_600_000, clock=clock)
    readers = [open_reader(data_dir), open_reader(data_dir)]
    running_rooms = Rooms(clock, readers[0], rest, stream)
    prune = writer.prune

    def counted(now_ms: int) -> int:
        floor = prune(now_ms)
        running_rooms.prunes += 1
        return floor

    writer.prune = counted  # type: ignore[method-assign]
    ready = [asyncio.Event() for _ in range(3)]
    common: dict[str, Any] = {"keys": keys, "stop": stop}
    tasks = [
        asyncio.create_task(running)
        for running in (
            run_intake(
                log=writer,
                options=IntakeOptions(
                    data_dir=data_dir,
                    validator_dir=validator.root,
                    sweep_ms=50,
                    prune_ms=20,
                    clock_settle_ms=settle_ms,
                ),
                queue_fd=None,
                stop=stop,
                ready=ready[0].set,
                clock=clock,
                clock_start=clock_start,
            ),
            run_rest(
                log=readers[0],
                sock=rest,
                options=RestOptions(clock_settle_ms=settle_ms),
                ready=ready[1].set,
                wall=clock,
                clock_start=clock_start,
                **common,
            ),
            run_stream(
                log=readers[1],
                sock=stream,
                options=StreamOptions(heartbeat_ms=50),
                ready=ready[2].set,
                clock=clock,
                **common,
            ),
        )
    ]
    try:
        await asyncio.gather(*(event.wait() for event in ready))
        yield running_rooms
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        for log in (*readers, writer):
            log.close()
        for listener in (rest, stream):
            listener.close()


@pytest.mark.parametrize("jump_ms", [3 * DAY_MS, -3 * DAY_MS], ids=["forwards", "backwards"])
async def test_a_jump_loses_repeats_and_reveals_nothing(
    jump_ms: int, validator: Validator, data_dir: Path
) -> None:
    """Orders arrive once each without a gap; nothing is pruned; the late tier shows nothing early."""
    validator.place()
    async with (
        rooms(data_dir, validator) as running,
        connect(running.stream, open_timeout=PATIENCE_S) as connection,
    ):
        await connection.send(json.dumps({"api_key": "key-100", "version": 2}))
        success = json.loads(await connection.recv())
        await connection.send(json.dumps({"type": "subscribe", "all": True}))
        got: list[dict[str, Any]] = []

        async def collect() -> None:
            async for data in connection:
                frame = json.loads(data)
                got.extend(m for m in frame.get("messages", [frame]) if "sequence" in m)

        collecting = asyncio.create_task(collect())
        validator.place()
        await until_async(lambda: len(got) == 1)
        assert "clock_untrusted" not in await running.problems()
        running.clock.off_ms = jump_ms
        assert "clock_untrusted" in await running.problems()
        before = running.prunes
        await until_async(lambda: running.prunes > before + 2)
        for _ in range(5):
            validator.place()
        await until_async(lambda: len(got) == 6)
        running.clock.off_ms = 0
        # After the step back, the right time is a step forward, which has to last.
        assert ("clock_untrusted" in await running.problems()) == (jump_ms < 0)
        validator.place()
        await until_async(lambda: len(got) == 7)
        collecting.cancel()
        first = success["current_sequence"] + 1
        assert [m["sequence"] for m in got] == list(range(first, first + 7))
        uuids = [m["data"]["position"]["orders"][-1]["order_uuid"] for m in got]
        assert sorted(uuids) == sorted(validator.placed[1:])
        await running.until_shown(100, 8)
        assert await running.positions(0) == []
        log = open_reader(data_dir)
        assert log.floor() == first, "nothing was pruned"
        log.close()


async def test_what_is_old_is_late_even_if_the_clock_was_behind(validator: Validator, data_dir: Path) -> None:
    """An order whose time is a day old is marked late, no matter which clock is wrong."""
    validator.place()
    open_writer(data_dir, clock=lambda: wall_ms() - 2 * DAY_MS).close()  # a log in service since then
    async with (
        rooms(data_dir, validator) as running,
        connect(running.stream, open_timeout=PATIENCE_S) as connection,
    ):
        await connection.send(json.dumps({"api_key": "key-100", "version": 2}))
        await connection.recv()
        await connection.send(json.dumps({"type": "subscribe", "all": True}))
        old = factories.order(77, at=wall_ms() - DAY_MS)
        validator.write(factories.position(77, [old]))
        async for data in connection:
            frame = json.loads(data)
            if "sequence" in frame:
                assert frame["late"] is True
                break


@pytest.mark.parametrize("off_ms", [3 * DAY_MS, -3 * DAY_MS], ids=["ahead", "behind"])
async def test_a_start_with_a_wrong_clock_reveals_and_prunes_nothing(
    off_ms: int, validator: Validator, data_dir: Path
) -> None:
    """The log knows the time of the last sweep. However often the server is restarted, that is not spoilt."""
    async with rooms(data_dir, validator) as running:
        validator.place()
        await until_async(lambda: running.log.floor() <= running.log.head().sequence)
        floor = running.log.floor()
        await running.until_swept()
    for first in (True, False):
        async with rooms(data_dir, validator, off_ms=off_ms) as running:
            # The first start has followed a clock that is behind, and the log knows no later time now.
            assert ("clock_untrusted" in await running.problems()) == (first or off_ms > 0)
            validator.place()
            await until_async(lambda running=running: running.prunes > 1)  # type: ignore[misc]
            await running.until_swept()
            assert running.log.floor() == floor
            assert await running.positions(0) == []
            await running.until_shown(100, len(validator.placed))
    async with rooms(data_dir, validator) as running:
        await running.until_swept()
        assert await running.positions(0) == []


@pytest.mark.parametrize("has_event", [False, True])
async def test_a_log_without_a_sweep_knows_when_it_was_made(
    has_event: bool, validator: Validator, data_dir: Path
) -> None:
    """And when its last order came. A start at that time ended early, or the log is of an earlier version."""
    validator.place()
    made_ms = wall_ms() - 1_000
    with contextlib.closing(open_writer(data_dir, clock=lambda: made_ms - has_event * 30 * DAY_MS)) as log:
        log.baseline([], made_ms)
        if has_event:
            old = factories.order(77, at=made_ms - 1)
            log.append([factories.written(factories.position(77, [old]))], made_ms)
    async with rooms(data_dir, validator, off_ms=3 * DAY_MS) as running:
        await running.until_swept()
        assert await running.positions(0) == []
        assert "clock_untrusted" in await running.problems()
        running.clock.off_ms = 0
        assert "clock_untrusted" not in await running.problems()


async def test_a_log_that_was_made_long_before_its_baseline_tells_no_time(
    validator: Validator, data_dir: Path
) -> None:
    """As one of `ptn cluster init`: nothing was served meanwhile, so the first start follows the clock."""
    validator.place()
    made_ms = wall_ms() - DAY_MS
    with contextlib.closing(open_writer(data_dir, clock=lambda: made_ms)):
        pass
    for _ in "ab":
        async with rooms(data_dir, validator) as running:
            await running.until_swept()
            assert "clock_untrusted" not in await running.problems()


async def test_a_clock_that_is_set_right_is_followed_at_once(validator: Validator, data_dir: Path) -> None:
    """Even after it was wrong for so long that it was believed."""
    validator.place()
    long_ago = ClockStart(wall_ms() + 2 * DAY_MS - monotonic_ms(), monotonic_ms() - DAY_MS)
    async with rooms(data_dir, validator, off_ms=2 * DAY_MS, clock_start=long_ago) as running:
        assert len(await running.positions(0)) == 1
        running.clock.off_ms = 0
        await running.until_shown(0, 0)
        assert "clock_untrusted" in await running.problems()


async def test_a_restarted_process_goes_on_with_the_supervisors_clock(
    validator: Validator, data_dir: Path
) -> None:
    """The system's clock became wrong before the restart. The supervisor had seen the right time."""
    validator.place()
    right = ClockStart(wall_ms() - monotonic_ms(), monotonic_ms() - DAY_MS)
    async with rooms(data_dir, validator, off_ms=3 * DAY_MS, clock_start=right) as running:
        assert await running.positions(0) == []
        assert "clock_untrusted" in await running.problems()
        running.clock.off_ms = 0
        assert "clock_untrusted" not in await running.problems()


async def test_after_days_without_the_server_the_clock_is_believed_in_time(
    validator: Validator, data_dir: Path
) -> None:
    """At first, lower tiers are shown what they saw before the pause; `/health` says so until then."""
    old = factories.order(77, at=wall_ms() - 2 * DAY_MS)
    async with rooms(data_dir, validator, off_ms=-3 * DAY_MS) as running:
        validator.write(factories.position(77, [old]))
        await running.until_swept()
    async with rooms(data_dir, validator) as running:
        await running.until_swept()
        assert await running.positions(0) == []
        assert "clock_untrusted" in await running.problems()
    async with rooms(data_dir, validator, settle_ms=1) as running:
        await running.until_shown(0, 1)
        assert "clock_untrusted" not in await running.problems()
