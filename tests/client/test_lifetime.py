"""Followers across forks, threads, interrupts and other followers of the same cursor."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ptn_api.client.arguments import Timing
from ptn_api.client.delivery import Following, follow
from ptn_api.client.recording import Recording
from ptn_api.client.stream import Stream
from ptn_api.client.testing import FakeServer
from ptn_api.errors import ClientError
from ptn_api.wire.client_session import Gap
from tests.interrupts import in_thread, send_unnoticed, until_main_waits_in
from tests.waiting import PATIENCE_S, until, until_async


@pytest.fixture
def orders(server: FakeServer, timing: Timing, tmp_path: Path) -> Callable[..., Following]:
    """Returns a function that makes a follower."""

    def make(api_key: str = server.api_key, **options: Any) -> Following:
        return follow(server.url, api_key, **{"timing": timing, "state_dir": tmp_path} | options)

    return make


def first_of(following: Following, server: FakeServer) -> int:
    """Waits until the follower, which has not connected so far, is live, and receives an order."""
    until(lambda: not server.clients, what="the end of an earlier connection")
    with in_thread(lambda: (server.wait_until_live(), server.order())):
        return next(following).sequence


# --- forks ------------------------------------------------------------------------------------------------

FORKED = """
import multiprocessing, os, sys
from ptn_api.client import follow, open_mirror
from ptn_api.client.testing import quick_timing
from ptn_api.errors import ClientError

url, key, state_dir, how = sys.argv[1:]

def new(name):
    return follow(url, key, state_dir=state_dir, name=name, timing=quick_timing())

def error_of(call):
    try:
        return call()
    except ClientError as error:
        return error.code

orders, unused, mirror = new("used"), new("unused"), open_mirror(url, "http://127.0.0.1:9", key)
print("parent", next(orders).sequence, flush=True)

def child():
    codes = [error_of(call) for call in (lambda: next(orders), lambda: next(unused), lambda: len(mirror))]
    orders.close()
    mirror.close()
    print("child", *codes, flush=True)
    with new("own") as own:
        print("child", next(own).sequence, flush=True)

if how == "fork":
    pid = os.fork()
    if not pid:
        child()
        sys.exit(0)  # with all finalizers, as a worker of gunicorn ends
    os.waitpid(pid, 0)
else:
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
for following in (orders, unused):
    print("parent", next(following).sequence, flush=True)
orders.close()
"""


@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
def test_a_forked_child_is_told_at_once(server: FakeServer, how: str, tmp_path: Path) -> None:
    """Its parent's followers work on, also one that had not begun; a follower of its own works."""
    # From Python 3.12 on, a fork beside threads, which followers have, is warned of.
    ignored = ["-W", "ignore::ResourceWarning", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *ignored, "-c", FORKED, server.url, server.api_key, str(tmp_path), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        server.wait_until_live(seconds=PATIENCE_S)
        server.order()
        assert parent.stdout.readline() == "parent 101\n"
        assert parent.stdout.readline() == "child forked forked forked\n"
        server.wait_until_live(2, PATIENCE_S)
        server.order()
        assert parent.stdout.readline() == "child 102\n"
        assert parent.stdout.readline() == "parent 102\n"
        server.wait_until_live(2, PATIENCE_S)
        server.order()
        assert parent.stdout.readline() == "parent 103\n"
        assert parent.stderr.read() == ""


WORKER_LIVES_ON = """
import os, sys
from ptn_api.client import Recording, follow
from ptn_api.client.testing import quick_timing
from ptn_api.errors import ClientError
recording = Recording(sys.argv[3] + "/orders.ndjson")
orders = follow(sys.argv[1], sys.argv[2], state_dir=sys.argv[3], timing=quick_timing())
print(next(orders).sequence, flush=True)
orders.commit()
if os.fork():
    os._exit(0)
try:
    recording._write(b"{}", None)
except ClientError as error:
    print(error.code, flush=True)
recording.close()
print(sys.stdin.read())
"""


def test_a_worker_that_lives_on_does_not_keep_the_cursor(
    server: FakeServer, orders: Callable[..., Following], tmp_path: Path
) -> None:
    """Nor a recording; the next run resumes after the killed parent."""
    command = [sys.executable, "-c", WORKER_LIVES_ON, server.url, server.api_key, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server.wait_until_live(seconds=PATIENCE_S)
        server.order()
        assert parent.stdout.readline() == "101\n"
        assert parent.stdout.readline() == "forked\n"
        parent.wait()
        server.order()
        with orders() as following:
            assert next(following).sequence == 102
        Recording(tmp_path / "orders.ndjson").close()
        parent.communicate("")


# --- interrupts -------------------------------------------------------------------------------------------


def test_an_interrupted_loop_ends(server: FakeServer, orders: Callable[..., Following]) -> None:
    """Ctrl-C in a notebook, which keeps the traceback and so the follower."""
    previous = signal.signal(signal.SIGUSR1, signal.default_int_handler)

    def interrupt_the_wait() -> None:
        until_main_waits_in("__next__")
        server.wait_until_live()
        send_unnoticed()

    following = orders()
    try:
        with in_thread(interrupt_the_wait), pytest.raises(KeyboardInterrupt):
            next(following)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    until(lambda: not server.clients, what="the end of the connection")
    assert list(following) == []


def test_the_next_run_of_an_interrupted_loop_ends_the_older(
    server: FakeServer, orders: Callable[..., Following], caplog: pytest.LogCaptureFixture
) -> None:
    """The message that was being handled comes again, and what follows comes to the newer one."""
    older = orders()
    assert first_of(older, server) == 101
    newer = orders()
    server.order()
    assert [next(newer).sequence for _ in range(2)] == [101, 102]
    with pytest.raises(ClientError, match="name=") as error:
        next(older)
    assert error.value.code == "replaced"
    until(lambda: len(server.clients) == 1, what="the end of the older connection")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    newer.close()


def test_an_older_follower_that_waits_is_ended(server: FakeServer, orders: Callable[..., Following]) -> None:
    """In its thread, with the same error."""
    older = orders()
    first_of(older, server)
    errors: list[ClientError] = []

    def wait() -> None:
        with pytest.raises(ClientError) as error:
            next(older)
        errors.append(error.value)

    thread = threading.Thread(target=wait)
    thread.start()
    with orders() as newer, in_thread(lambda: (thread.join(), server.wait_until_live(), server.order())):
        assert next(newer).sequence == 102
    assert [error.code for error in errors] == ["replaced"]


async def test_an_older_stream_of_a_loop_is_ended(server: FakeServer, timing: Timing, tmp_path: Path) -> None:
    """As follow() is."""
    options: Any = {"timing": timing, "state_dir": tmp_path}
    async with Stream(server.url, server.api_key, **options) as older:
        await until_async(lambda: older.state == "live")
        waiting = asyncio.create_task(older.__anext__())
        async with Stream(server.url, server.api_key, **options) as newer:
            with pytest.raises(ClientError, match="name="):
                await waiting
            await until_async(lambda: len(server.clients) == 1 and newer.state == "live")
            server.order()
            assert (await anext(newer)).sequence == 101


# --- threads ----------------------------------------------------------------------------------------------


def test_a_second_thread_is_told(server: FakeServer, orders: Callable[..., Following]) -> None:
    """While the first one waits. One after the other they can share it."""
    with orders() as following:

        def wait() -> None:
            until(lambda: following._owner, what="the main thread inside")
            server.wait_until_live()
            with pytest.raises(ClientError) as error:
                next(following)
            assert error.value.code == "threads"
            server.order()

        with in_thread(wait):
            assert next(following).sequence == 101
        server.order()
        with in_thread(lambda: next(following)):
            pass


# --- cursors ----------------------------------------------------------------------------------------------


def test_a_rotated_key_goes_on(server: FakeServer, orders: Callable[..., Following]) -> None:
    """What was missed meanwhile comes, and nothing twice."""
    server.users = {server.api_key: "alice", "rotated": "alice"}
    server.keys.add("rotated")
    with orders() as following:
        assert first_of(following, server) == 101
        following.commit()
    server.order()
    with orders(api_key="rotated") as following:
        assert next(following).sequence == 102
        server.order()
        assert next(following).sequence == 103


def test_another_address_of_a_server_goes_on(server: FakeServer, timing: Timing, tmp_path: Path) -> None:
    """By the log that it has, not by its name."""
    server.users = {server.api_key: "alice"}
    numbers = []
    for host in ("127.0.0.1", "localhost", "127.0.0.1"):
        url = f"ws://{host}:{server.port}"
        with follow(url, server.api_key, timing=timing, state_dir=tmp_path) as following:
            if not numbers:
                numbers.append(first_of(following, server))
            else:
                numbers.append(next(following).sequence)
            following.commit()
        server.order()
    assert numbers == [101, 102, 103]


def test_a_run_without_resume_does_not_look_for_a_cursor(
    server: FakeServer, orders: Callable[..., Following]
) -> None:
    """It begins with the next order, also with another key."""
    server.users = {server.api_key: "alice", "rotated": "alice"}
    server.keys.add("rotated")
    with orders() as following:
        first_of(following, server)
        following.commit()
    server.order()
    with orders(api_key="rotated", resume=False) as following:
        assert first_of(following, server) == 103


HOLDER = """
import sys
from ptn_api.client import follow
from ptn_api.client.testing import quick_timing
orders = follow(sys.argv[1], sys.argv[2], state_dir=sys.argv[3], timing=quick_timing())
sequence = next(orders).sequence
orders.commit()
print(sequence, flush=True)
sys.stdin.readline()
"""


def test_a_cursor_in_use_elsewhere_is_told_before_anything_is_handed_over(
    server: FakeServer, orders: Callable[..., Following], timing: Timing, tmp_path: Path
) -> None:
    """What the other process has not handled and this run does not get is a gap."""
    command = [sys.executable, "-c", HOLDER, server.url, server.api_key, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        server.wait_until_live(seconds=30)
        server.order()
        assert holder.stdout.readline() == "101\n"
        server.order()
        server.order()
        gaps: list[Gap] = []
        told: list[Any] = []
        impatient = msgspec.structs.replace(timing, cursor=0.1)
        with orders(on_gap=gaps.append, timing=impatient) as following:
            with in_thread(lambda: (server.wait_until_live(2), server.order())):
                told += [next(following).sequence, *gaps]
            assert told == [104, Gap(101, 104, "cursor")]
        holder.communicate("\n")


def test_an_unreadable_cursor_is_a_gap(
    server: FakeServer, orders: Callable[..., Following], tmp_path: Path
) -> None:
    """Nobody knows since when."""
    with orders() as following:
        first_of(following, server)
        following.commit()
    for file in tmp_path.glob("*.json"):
        file.write_bytes(b"{")
    gaps: list[Gap] = []
    with orders(on_gap=gaps.append) as following:
        assert first_of(following, server) == 102
    assert gaps == [Gap(-1, 102, "cursor")]
