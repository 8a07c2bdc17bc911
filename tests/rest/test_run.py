"""The REST server as the service runs it."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from ptn_api.clock import wall_ms
from ptn_api.errors import LogReplacedError
from ptn_api.event_log import EventLog, open_reader, open_writer
from ptn_api.rest.options import RestOptions
from ptn_api.rest.run import run_rest
from tests.factories import MINER, order, position, written
from tests.memory_log import MemoryLog
from tests.rest.serving import NOW, key_ring
from tests.waiting import PATIENCE_S


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def start(
    log: EventLog, sock: socket.socket, stop: asyncio.Event, ready: asyncio.Event
) -> asyncio.Task[None]:
    return asyncio.create_task(
        run_rest(log=log, keys=key_ring(), sock=sock, options=RestOptions(), stop=stop, ready=ready.set)
    )


async def test_over_the_log_on_disk(tmp_path: Path) -> None:
    """Appends of a writer appear after its notification; a stop ends the server."""
    writer = open_writer(tmp_path)
    now = wall_ms()
    writer.baseline([written(position(1, [order(1, at=now - 5000)]))], now)
    reader = open_reader(tmp_path)
    stop, ready = asyncio.Event(), asyncio.Event()
    with listening() as sock:
        url = "http://{}:{}".format(*sock.getsockname())
        running = start(reader, sock, stop, ready)
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        headers = {"authorization": "Bearer k100"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as client:
            assert len((await client.get(f"/miner-positions/{MINER}")).json()["positions"]) == 1
            writer.append([written(position(2, [order(2, at=now)]))], now)
            deadline = time.monotonic() + 10
            while len((await client.get(f"/miner-positions/{MINER}")).json()["positions"]) < 2:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.wait_for(running, PATIENCE_S)
    reader.close()
    writer.close()


async def test_it_is_ready_when_the_views_are_built() -> None:
    """Not before the baseline is complete; until then it responses 503."""
    log = MemoryLog(created_ms=NOW)
    stop, ready = asyncio.Event(), asyncio.Event()
    with listening() as sock:
        running = start(log, sock, stop, ready)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
            assert (await client.get("/health")).status_code == 503
            assert not ready.is_set()
            log.baseline([], NOW)
            await asyncio.wait_for(ready.wait(), PATIENCE_S)
            assert (await client.get("/health")).status_code == 200
        stop.set()
        await asyncio.wait_for(running, PATIENCE_S)


async def test_it_can_be_stopped_before_it_is_ready() -> None:
    """A stop during the start is not lost."""
    stop, ready = asyncio.Event(), asyncio.Event()
    stop.set()
    with listening() as sock:
        await asyncio.wait_for(start(MemoryLog(created_ms=NOW), sock, stop, ready), PATIENCE_S)


class Replaced(MemoryLog):
    """A log whose file was replaced."""

    def hotkeys(self) -> list[str]:
        raise LogReplacedError("another log")


async def test_a_replaced_log_ends_the_server() -> None:
    """With the error, so that the supervisor restarts the process."""
    log = Replaced(created_ms=NOW)
    log.baseline([], NOW)
    with listening() as sock, pytest.raises(LogReplacedError, match="another log"):
        await asyncio.wait_for(start(log, sock, asyncio.Event(), asyncio.Event()), PATIENCE_S)


async def test_the_clock_uses_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jump of the wall clock must last before it moves what lower tiers see."""
    from ptn_api.rest import run as module

    made: list[Any] = []

    class Spy(module.SteadyClock):
        def __init__(self, **options: Any) -> None:
            made.append(options)
            super().__init__(**options)

    monkeypatch.setattr(module, "SteadyClock", Spy)
    stop = asyncio.Event()
    stop.set()
    with listening() as sock:
        options = RestOptions(clock_jump_ms=5, clock_settle_ms=7)
        await run_rest(
            log=MemoryLog(created_ms=NOW),
            keys=key_ring(),
            sock=sock,
            options=options,
            stop=stop,
            ready=lambda: None,
        )
    assert (made[0]["jump_ms"], made[0]["settle_ms"]) == (5, 7)
