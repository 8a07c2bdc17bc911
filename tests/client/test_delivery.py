"""A plain `for` loop over a server's orders."""

from __future__ import annotations

import gc
import inspect
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ptn_api.client.arguments import Timing
from ptn_api.client.cursor_file import NoCursorFile
from ptn_api.client.delivery import Following, follow
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.stream import Stream
from ptn_api.client.testing import FakeServer
from ptn_api.errors import AuthenticationError
from ptn_api.wire.client_session import Cursor, Gap
from tests.factories import order, position
from tests.interrupts import (
    Interrupted,
    in_thread,
    interrupt,
    send_to_process,
    send_unnoticed,
    signal_raises,
    until_main_waits_in,
)
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def orders(server: FakeServer, timing: Timing, tmp_path: Path) -> Callable[..., Following]:
    """Returns a function that makes a follower with the cursor at the server's first sequence."""

    def make(**options: Any) -> Following:
        return follow(server.url, server.api_key, timing=timing, state_dir=tmp_path, **options)

    return make


@pytest.fixture
def known(orders: Callable[..., Following], server: FakeServer) -> None:
    """Saves a cursor at the server's first sequence, so that no order is missed before the login."""
    with orders(on_state=lambda state: state == "live" and following.stop()) as following:
        assert list(following) == []


def batch_of(server: FakeServer, count: int) -> None:
    server.publish(*(position(n, [order(n)]) for n in range(1, count + 1)))


def take(following: Following, count: int) -> list[int]:
    return [next(following).sequence for _ in range(count)]


pytestmark = pytest.mark.usefixtures("known")


def test_orders_come_one_by_one(server: FakeServer, orders: Callable[..., Following]) -> None:
    """Also those sent as a batch."""
    with orders() as following:
        batch_of(server, 3)
        server.order("EURUSD")
        assert take(following, 4) == [101, 102, 103, 104]


def test_its_parameters_are_those_of_the_stream() -> None:
    """They are declared in one place."""
    assert inspect.signature(follow) == inspect.signature(Stream)


def test_asking_for_the_next_message_commits_the_last(
    server: FakeServer, orders: Callable[..., Following]
) -> None:
    """Message by message, also within a batch; `commit` commits earlier."""
    batch_of(server, 4)
    with orders() as following:
        assert take(following, 2) == [101, 102]
    with orders() as following:
        assert take(following, 1) == [102]
        following.commit()
    with orders() as following:
        assert take(following, 2) == [103, 104]


def test_it_ends_when_it_is_garbage_collected(server: FakeServer, orders: Callable[..., Following]) -> None:
    """Without `with`: its connection closes, and another client may use the cursor."""
    server.order()
    for message in orders():
        assert message.sequence == 101
        break
    gc.collect()
    until(lambda: not server.clients)
    until(lambda: not any(thread.name == "ptn-client" for thread in threading.enumerate()))
    assert take(orders(), 1) == [101]
    until(lambda: not server.clients)


async def test_it_works_under_a_running_event_loop(
    server: FakeServer, orders: Callable[..., Following]
) -> None:
    """As in a notebook."""
    with orders() as following:
        server.order()
        assert take(following, 1) == [101]


def test_a_stop_from_another_thread_ends_the_loop(
    server: FakeServer, orders: Callable[..., Following]
) -> None:
    """Committed messages do not come again."""
    server.order()
    following = orders()
    assert take(following, 1) == [101]
    stopper = threading.Thread(target=following.stop)
    stopper.start()
    assert list(following) == []
    stopper.join()
    assert following.state == "stopped"
    assert list(following) == []
    server.order()
    with orders() as again:
        assert take(again, 1) == [102]


def test_a_stop_before_the_start_makes_it_empty(orders: Callable[..., Following]) -> None:
    """It does not connect."""
    following = orders()
    following.stop()
    assert list(following) == []


def test_closing_twice_or_before_the_start_is_harmless(orders: Callable[..., Following]) -> None:
    """As the end of `with` after `close`."""
    with orders() as following:
        following.close()
    assert following.state == "stopped"


def test_gaps_are_reported_between_the_messages(server: FakeServer, orders: Callable[..., Following]) -> None:
    """After the message before the gap has been committed."""
    reported: list[Any] = []
    with orders(on_gap=reported.append) as following:
        server.order()
        reported.append(next(following).sequence)
        server.skip(3)
        server.order()
        reported.append(next(following).sequence)
    assert reported == [101, Gap(101, 105, "hole"), 105]


def test_a_message_that_ages_while_others_are_processed_is_stale(
    server: FakeServer, orders: Callable[..., Following]
) -> None:
    """The age counts when the message is yielded."""
    now = [1_800_000_000_000]
    stale: list[PTNWebSocketMessage] = []
    batch = [position(n, [order(n, at=now[0])]) for n in range(3)]
    server.publish(*batch, timestamp_ms=now[0])
    with orders(max_age_ms=1_000, on_stale=stale.append, clock=lambda: now[0]) as following:
        following._stream._source.connection.clock_offset.learn = lambda *_: None  # type: ignore[method-assign]
        assert take(following, 1) == [101]
        now[0] += 2_000
        server.publish(position(9, [order(9, at=now[0])]), timestamp_ms=now[0])
        assert take(following, 1) == [104]
    assert [m.sequence for m in stale] == [102, 103]


def test_a_refused_key_is_raised(server: FakeServer, orders: Callable[..., Following]) -> None:
    """With `stop_on_auth_error`."""
    server.keys.clear()
    with orders(stop_on_auth_error=True) as following, pytest.raises(AuthenticationError):
        next(following)


SCRIPT = """
import signal, sys
from ptn_api.client import follow

orders = follow(sys.argv[1], "fake-key", state_dir=sys.argv[2])
if sys.argv[3] == "handler":
    signal.signal(signal.SIGTERM, lambda *_: orders.stop())
try:
    for message in orders:
        print(message.sequence, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
print("after", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "how", "last"), [(signal.SIGTERM, "handler", "101"), (signal.SIGINT, "", "interrupted")]
)
def test_a_signal_ends_the_loop(server: FakeServer, tmp_path: Path, number: int, how: str, last: str) -> None:
    """By the program's handler, or as KeyboardInterrupt; then the process ends by itself."""
    server.order()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url, str(tmp_path), how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "101\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert ("101\n" + out).split()[-2:] == [last, "after"]
    assert process.returncode == 0


# --- interrupts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("send", [send_unnoticed, send_to_process])
def test_an_interrupted_wait_loses_nothing(
    server: FakeServer, orders: Callable[..., Following], send: Callable[[], None]
) -> None:
    """The exception from a signal handler is raised, and the next message is the one waited for."""
    with orders() as following, signal_raises():
        for round_ in range(3):
            interrupted = threading.Event()

            def interrupt_the_wait(interrupted: threading.Event = interrupted) -> None:
                until_main_waits_in("__next__")
                send()
                if not interrupted.wait(PATIENCE_S):
                    server.order()  # ends the wait

            with in_thread(interrupt_the_wait):
                with pytest.raises(Interrupted):
                    next(following)
                interrupted.set()
            batch_of(server, 2)
            assert take(following, 2) == [101 + 2 * round_, 102 + 2 * round_]


class Store:
    """A cursor store that holds every commit against the messages received."""

    def __init__(self, server: FakeServer, received: list[int]) -> None:
        self.cursor = Cursor(100, server._log.epoch)
        self.received = received
        self.closed = False

    def load(self) -> Cursor:
        return self.cursor

    def save(self, cursor: Cursor) -> None:
        assert cursor.sequence in (100, *self.received)

    def close(self) -> None:
        self.closed = True


def receive(following: Following, received: list[int], count: int) -> None:
    """Continues the iteration until that many messages are received."""
    if len(received) < count:
        for message in following:
            received.append(message.sequence)
            if len(received) >= count:
                break


def ended(following: Following) -> bool:
    following.close()
    return not any(thread.name == "ptn-client" for thread in threading.enumerate())


def test_an_interrupt_at_any_point_of_the_iteration(
    server: FakeServer, orders: Callable[..., Following]
) -> None:
    """From the start of the thread on: every message comes once, and is committed after it came."""
    batch_of(server, 3)
    server.order("EURUSD")
    for step in itertools.count(1):
        received: list[int] = []
        following = orders(cursor_store=Store(server, received))
        interrupted = interrupt(step, partial(receive, following, received, 4))
        receive(following, received, 4)
        assert received == [101, 102, 103, 104], step
        assert ended(following)
        if not interrupted:
            break
    gc.collect()  # finds coroutines that were never awaited


def test_an_interrupt_at_any_point_of_the_end(server: FakeServer, orders: Callable[..., Following]) -> None:
    """The second `close` finishes."""
    server.order()
    for step in itertools.count(1):
        received: list[int] = []
        store = Store(server, received)
        following = orders(cursor_store=store)
        receive(following, received, 1)
        interrupted = interrupt(step, following.close)
        assert ended(following)
        assert (following.state, store.closed) == ("stopped", True), step
        if not interrupted:
            break
    gc.collect()


def test_an_interrupt_at_any_point_of_a_stale_message(
    server: FakeServer, orders: Callable[..., Following]
) -> None:
    """It is reported once."""
    now = 1_800_000_000_000
    server.publish(*(position(n, [order(n, at=now)]) for n in range(3)), timestamp_ms=now)
    server.publish(position(9, [order(9, at=now + 2_000)]), timestamp_ms=now + 2_000)
    for step in itertools.count(1):
        stale: list[int] = []
        received: list[int] = []
        clock = [now]
        following = orders(
            cursor_store=NoCursorFile(Cursor(100, server._log.epoch)),
            max_age_ms=1_000,
            on_stale=lambda message, stale=stale: stale.append(message.sequence),
            clock=lambda clock=clock: clock[0],
        )
        following._stream._source.connection.clock_offset.learn = lambda *_: None  # type: ignore[method-assign]
        receive(following, received, 1)
        clock[0] += 2_000
        interrupted = interrupt(step, partial(receive, following, received, 2))
        receive(following, received, 2)
        assert (received, stale) == ([101, 104], [102, 103]), step
        assert ended(following)
        if not interrupted:
            break
    gc.collect()


def test_an_interrupted_iteration_is_garbage_collected(
    server: FakeServer, orders: Callable[..., Following]
) -> None:
    """Although a batch is still being waited for."""

    def interrupt_the_wait() -> None:
        until_main_waits_in("__next__")
        send_unnoticed()

    with signal_raises(), in_thread(interrupt_the_wait), pytest.raises(Interrupted):
        next(orders())
    gc.collect()
    until(lambda: not server.clients)


def test_a_callback_may_close_it(server: FakeServer, orders: Callable[..., Following]) -> None:
    """Its thread does not wait for itself."""
    closed = threading.Event()

    def close(_: PTNWebSocketMessage) -> None:
        following.close()
        closed.set()

    with orders(on_stale=close, max_age_ms=60_000) as following:
        server.order(timestamp_ms=1)
        assert list(following) == []
    assert closed.wait(PATIENCE_S)
