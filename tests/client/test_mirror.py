"""The live mirror for blocking code."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest

from ptn_api.client.mirror import PositionMirror, open_mirror
from ptn_api.client.rest import Retries
from ptn_api.client.testing import quick_timing
from ptn_api.errors import AuthenticationError, SettingsError
from tests.answering import answering
from tests.client.test_real_server import REST_KEY, some, url
from tests.factories import MINER, T0, uuid
from tests.rest.serving import FakeClock, filled_log, serving
from tests.stream.live import LiveStream, running
from tests.waiting import PATIENCE_S, until, until_async


def test_its_parameters_are_those_of_the_mirror() -> None:
    """They are declared in one place."""
    assert inspect.signature(open_mirror) == inspect.signature(PositionMirror)


async def test_it_follows_in_its_own_thread() -> None:
    """Code without an event loop reads it; it is loaded when `with` is entered."""
    clock = FakeClock(T0)
    log = filled_log([some(1, 1, 2)], now_ms=T0)
    live = LiveStream(log=log, ready=False)
    live.keys.replace([("alice", REST_KEY, 100)])
    opened, closed = threading.Event(), threading.Event()
    changed: list[tuple[str, str]] = []

    def program(rest_url: str) -> list[int]:
        options: Any = {
            "timing": quick_timing(),
            "mend_within": 0.0,
            "on_change": lambda *key: changed.append(key),
        }
        with open_mirror(url(live), rest_url, REST_KEY, **options) as mirror:
            lengths = [len(mirror)]
            mirror.until_verified()
            opened.set()
            until(lambda: len(mirror) == 2)
            position = mirror.position(MINER, uuid(2))
            assert position is not None
            assert position.position_uuid == uuid(2)
            assert [p.position_uuid for p in mirror.positions(MINER, status="open")] == [uuid(1), uuid(2)]
            assert mirror.cursor.epoch == log.epoch
            assert mirror.verified in (True, False)
            lengths.append(len(mirror))
        closed.set()
        return lengths

    async with running(live, heartbeat_ms=100, clock=clock), serving(log, clock=clock) as served:
        working = asyncio.create_task(asyncio.to_thread(program, served.url))
        await until_async(lambda: opened.is_set() or working.done())
        log.append([some(2, 3)], clock.now_ms)
        assert await working == [1, 2]
    assert closed.is_set()
    assert (MINER, uuid(2)) in changed


def test_an_invalid_url_is_refused_by_open_mirror() -> None:
    """No thread is left behind."""
    with pytest.raises(SettingsError):
        open_mirror("ws://localhost:1", "localhost", "k")
    until(lambda: not any(thread.name == "ptn-client" for thread in threading.enumerate()))


def test_a_mirror_that_was_never_entered_can_be_closed() -> None:
    """Its thread ends."""
    mirror = open_mirror("ws://localhost:1", "http://localhost:1", "k", retries=Retries(times=0))
    mirror.close()
    until(lambda: not any(thread.name == "ptn-client" for thread in threading.enumerate()))


async def test_a_mirror_without_a_connection_is_not_verified() -> None:
    """Nothing tells what it misses."""
    clock = FakeClock(T0)
    log = filled_log([some(1, 1)], now_ms=T0)
    live = LiveStream(log=log, ready=False)
    live.keys.replace([("alice", REST_KEY, 100)])
    async with serving(log, clock=clock) as served:
        async with running(live, heartbeat_ms=100, clock=clock):
            mirror = PositionMirror(url(live), served.url, REST_KEY, timing=quick_timing(), mend_within=0.0)
            await mirror.__aenter__()
            await mirror.until_verified()
        await until_async(lambda: not mirror.verified, what="it knows of nothing")
        assert len(mirror) == 1
        await mirror.close()


async def test_callbacks_may_read() -> None:
    """They run in the mirror's thread, which must not wait for itself."""
    log = filled_log([some(1, 1, 2)], now_ms=T0)
    leverages: list[float] = []

    def program(rest_url: str) -> None:
        def on_change(hotkey: str, position_uuid: str) -> None:
            position = mirror.position(hotkey, position_uuid)
            assert position is not None
            leverages.append(position.net_leverage)
            with pytest.raises(RuntimeError, match="callback"):
                mirror.until_verified()

        mirror = open_mirror(
            "ws://127.0.0.1:1", rest_url, REST_KEY, timing=quick_timing(), on_change=on_change
        )
        with mirror:
            until(lambda: leverages)
            mirror.close()
            mirror.close()

    async with serving(log, clock=FakeClock(T0)) as served:
        await asyncio.to_thread(program, served.url)
    assert len(leverages) == 1


async def test_a_refused_key_is_raised_with_stop_on_auth_error(caplog: pytest.LogCaptureFixture) -> None:
    """Once, and nothing is left in a task. Without it the key is retried."""
    log = filled_log([some(1, 1)], now_ms=T0)

    def program(rest_url: str) -> None:
        mirror = open_mirror(
            "ws://127.0.0.1:1", rest_url, "wrong", stop_on_auth_error=True, timing=quick_timing()
        )
        with pytest.raises(AuthenticationError), mirror:
            pass

    async with serving(log, clock=FakeClock(T0)) as served:
        await asyncio.to_thread(program, served.url)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_proxys_403_page_does_not_end_a_mirror(caplog: pytest.LogCaptureFixture) -> None:
    """With stop_on_auth_error: it is retried. The server's own 401 through the same proxy ends it."""
    clock = FakeClock(T0)
    log = filled_log([some(1, 1)], now_ms=T0)
    live = LiveStream(log=log, ready=False)
    live.keys.replace([("alice", REST_KEY, 100)])
    blocks = True
    options: Any = {
        "stop_on_auth_error": True,
        "timing": quick_timing(),
        "mend_within": 0.0,
        "retries": Retries(times=0),
    }
    async with running(live, heartbeat_ms=100, clock=clock), serving(log, clock=clock) as served:

        def pass_on(handler: BaseHTTPRequestHandler) -> None:
            if blocks:
                handler.send_error(403)
                return
            headers = {"authorization": handler.headers["authorization"], "accept-encoding": "identity"}
            response = httpx.get(served.url + handler.path, headers=headers, timeout=PATIENCE_S)
            handler.send_response(response.status_code)
            for name, value in response.headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(response.content)

        with answering(pass_on) as proxy:
            async with PositionMirror(url(live), proxy, REST_KEY, **options) as mirror:
                await until_async(lambda: caplog.text.count("no snapshot: status 403 from BaseHTTP") > 1)
                blocks = False
                await mirror.until_verified()
                assert len(mirror) == 1
            with pytest.raises(AuthenticationError):
                async with PositionMirror(url(live), proxy, "wrong", **options) as mirror:
                    await mirror.loaded()
