"""The documented entry point for bots, used as bots use it."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.client.arguments import Timing
from ptn_api.client.delivery import OnError
from ptn_api.client.testing import FakeServer
from ptn_api.errors import AuthenticationError, SettingsError
from ptn_api.websocket_client import PTNWebSocketClient, PTNWebSocketMessage
from ptn_api.wire.client_session import Gap
from tests.factories import order, position
from tests.waiting import PATIENCE_S, until

TIMING = Timing(connect=5, close=0.2, tick=0.02, backoff=0.02, backoff_max=0.1, refused=0.05, retry=0.01)


def test_a_misspelt_reaction_to_errors_is_refused_at_once() -> None:
    with pytest.raises(SettingsError, match="on_error must be one of 'retry', 'skip', 'stop', not 'ignore'"):
        PTNWebSocketClient("key", on_error="ignore")  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(first_sequence=101) as server:
        yield server


class Bot:
    """A client run in a thread; `seen` are the lists passed to its handler."""

    def __init__(self, server: FakeServer, state_dir: Path, **options: Any) -> None:
        self.received: list[list[int]] = []
        self.gaps: list[Gap] = []
        self.error: Exception | None = None
        self.handler: Callable[[list[PTNWebSocketMessage]], Any] = options.pop(
            "handler", lambda messages: None
        )
        self.client = PTNWebSocketClient(
            server.api_key,
            server.host,
            server.port,
            state_dir=state_dir,
            timing=TIMING,
            on_gap=self.gaps.append,
            **options,
        )
        self._thread = threading.Thread(target=self._run)

    @property
    def numbers(self) -> list[int]:
        return [n for numbers in self.received for n in numbers]

    def __enter__(self) -> Bot:
        self._thread.start()
        until(lambda: self.client.state == "live" or self.error, what="live")
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.stop()
        self.ended()

    def ended(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def received_numbers(self, count: int) -> list[int]:
        until(lambda: len(self.numbers) >= count, what=f"{count} messages, have {self.numbers}")
        return self.numbers

    def _run(self) -> None:
        try:
            self.client.run(self._handle)
        except Exception as error:  # noqa: BLE001 - told to the test
            self.error = error

    def _handle(self, messages: list[PTNWebSocketMessage]) -> Any:
        self.received.append([message.sequence for message in messages])
        return self.handler(messages)


# --- what existing users rely on --------------------------------------------------------------------------


def test_the_positional_parameters_are_the_original_ones() -> None:
    """Additions are keyword-only, so that the calls of existing bots keep their meaning."""
    parameters = inspect.signature(PTNWebSocketClient).parameters.values()
    original = [(p.name, p.default) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert original == [("api_key", None), ("host", "localhost"), ("port", 8765), ("secure", False)]
    assert list(inspect.signature(PTNWebSocketClient.run).parameters) == ["self", "handler"]


def test_secure_is_wss() -> None:
    """An IPv6 address is put in brackets."""
    assert PTNWebSocketClient("k", "h", 1, True).uri == "wss://h:1"
    assert PTNWebSocketClient("k", "::1", 1).uri == "ws://[::1]:1"


def test_a_plain_handler_is_called_with_a_list_in_the_calling_thread(
    server: FakeServer, tmp_path: Path
) -> None:
    """A batch is one list; objects bound to a thread, such as SQLite's, may be used."""
    threads: list[threading.Thread] = []
    with Bot(server, tmp_path, handler=lambda _: threads.append(threading.current_thread())) as bot:
        server.order()
        bot.received_numbers(1)
        server.publish(position(1, [order(1)]), position(2, [order(2)]))
        assert bot.received_numbers(3) == [101, 102, 103]
    assert set(threads) == {bot._thread}


def test_the_documented_async_example_works(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the network's documentation, except for the state folder and the stop."""

    async def process_message(msg: PTNWebSocketMessage) -> str | None:
        if msg.new_order.bid and msg.new_order.ask:
            spread = msg.new_order.ask - msg.new_order.bid
            spread_bps = (spread / msg.new_order.price) * 10000
            if spread_bps > 10:
                return f"{msg.new_order.trade_pair}: Spread {spread_bps:.1f} bps"
        if msg.new_order.trade_pair == "BTCUSD":
            return f"BTC: ${msg.new_order.price:.2f} ({msg.new_order.order_type})"
        return None

    async def async_handler(messages: list[PTNWebSocketMessage]) -> None:
        results = await asyncio.gather(*[process_message(msg) for msg in messages])
        for result in filter(None, results):
            print(result)
        if messages[-1].new_order.trade_pair == "EURUSD":
            client.stop()

    client = PTNWebSocketClient(server.api_key, server.host, server.port, state_dir=tmp_path, timing=TIMING)
    client.subscribe()
    runner = threading.Thread(target=client.run, args=(async_handler,))
    runner.start()
    until(lambda: client.state == "live")
    server.publish(position(1, [order(0, price=100.0, bid=99.0, ask=101.0)]))
    server.order("BTCUSD", leverage=-0.1, price=64_000.5)
    server.order("EURUSD")
    runner.join(PATIENCE_S)
    assert capsys.readouterr().out == "BTCUSD: Spread 200.0 bps\nBTC: $64000.50 (SHORT)\n"


def test_unsubscribe_and_subscribe_take_effect_while_running(server: FakeServer, tmp_path: Path) -> None:
    """No order comes in between."""
    with Bot(server, tmp_path) as bot:
        bot.client.unsubscribe()
        until(lambda: server.clients[0].session.state.value == "idle")
        server.order()
        bot.client.subscribe()
        until(lambda: server.clients[0].session.state.value == "live")
        server.order()
        assert bot.received_numbers(1) == [102]


# --- stopping ---------------------------------------------------------------------------------------------


def test_a_stop_from_the_handler_ends_the_run(server: FakeServer, tmp_path: Path) -> None:
    """Messages not yet handled come in the next run; none is repeated."""
    first = Bot(server, tmp_path)
    first.handler = lambda messages: first.client.stop()
    with first:
        server.order()
        server.order()
        first.ended()
        assert first.error is None
    with Bot(server, tmp_path) as second:
        server.order()
        second.received_numbers(3 - len(first.numbers))
    assert first.numbers + second.numbers == [101, 102, 103]


def test_a_stop_before_run_makes_run_return(server: FakeServer, tmp_path: Path) -> None:
    """The stopping thread need not know whether the client runs."""
    client = PTNWebSocketClient(server.api_key, server.host, server.port, state_dir=tmp_path, timing=TIMING)
    client.stop()
    client.run(lambda messages: None)
    assert client.state == "stopped"


def test_a_stop_ends_the_delay_before_a_reconnection(tmp_path: Path) -> None:
    """`run` does not wait for its end."""
    with FakeServer() as server:
        pass
    slow = Timing(backoff=1_000, backoff_max=1_000)
    client = PTNWebSocketClient("k", server.host, server.port, state_dir=tmp_path, timing=slow)
    runner = threading.Thread(target=client.run)
    runner.start()
    until(lambda: client.state == "connecting")
    client.stop()
    runner.join(PATIENCE_S)
    assert not runner.is_alive()


async def test_it_runs_under_a_running_event_loop(server: FakeServer, tmp_path: Path) -> None:
    """As in a notebook: in another thread, and still blocking."""
    client = PTNWebSocketClient(server.api_key, server.host, server.port, state_dir=tmp_path, timing=TIMING)
    received: list[int] = []

    def handler(messages: list[PTNWebSocketMessage]) -> None:
        received.extend(m.sequence for m in messages)
        client.stop()

    def trade() -> None:
        until(lambda: client.state == "live")
        server.order()

    trader = threading.Thread(target=trade)
    trader.start()
    client.run(handler)
    trader.join()
    assert received == [101]


# --- a handler that fails ---------------------------------------------------------------------------------


def failing(*bad: int, times: int = 1_000_000) -> Callable[[list[PTNWebSocketMessage]], None]:
    """Returns a handler that raises `times` times for lists with these sequences."""
    remaining = [times]

    def handler(messages: list[PTNWebSocketMessage]) -> None:
        if {m.sequence for m in messages} & set(bad) and remaining[0]:
            remaining[0] -= 1
            raise ValueError("cannot bear it")

    return handler


def batch_of(server: FakeServer, count: int) -> None:
    server.publish(*(position(n, [order(n)]) for n in range(1, count + 1)))


def test_a_failed_handler_is_retried(server: FakeServer, tmp_path: Path) -> None:
    """By default; no message is lost, and no gap reported."""
    with Bot(server, tmp_path, handler=failing(101, times=2)) as bot:
        server.order()
        assert bot.received_numbers(3) == [101, 101, 101]
        server.order()
        assert bot.received_numbers(4)[-1] == 102
    assert bot.gaps == []


def test_a_failed_list_is_retried_one_by_one(server: FakeServer, tmp_path: Path) -> None:
    """The message that still fails is skipped and reported as a gap."""
    with Bot(server, tmp_path, handler=failing(102), retries=2) as bot:
        batch_of(server, 3)
        bot.received_numbers(7)
        assert bot.received == [[101, 102, 103], [101], [102], [102], [103]]
        until(lambda: bot.gaps)
        server.order()
        bot.received_numbers(8)
    assert bot.gaps == [Gap(101, 103, "handler")]


def test_skipping_repeats_nothing(server: FakeServer, tmp_path: Path) -> None:
    """The list is skipped at once and reported as a gap."""
    with Bot(server, tmp_path, handler=failing(102), on_error="skip") as bot:
        batch_of(server, 3)
        bot.received_numbers(3)
        server.order()
        bot.received_numbers(4)
        assert bot.numbers == [101, 102, 103, 104]
    assert bot.gaps == [Gap(100, 104, "handler")]


@pytest.mark.parametrize("on_error", ["retry", "skip"])
def test_a_handler_may_empty_its_list(server: FakeServer, tmp_path: Path, on_error: OnError) -> None:
    """As one that works it off; what it has taken is lost neither to a retry nor to the next handler."""
    bot = Bot(server, tmp_path, on_error=on_error)
    taken: list[int] = []

    @bot.client.add_handler
    def work_off(messages: list[PTNWebSocketMessage]) -> None:
        while messages:
            taken.append(messages.pop(0).sequence)
            if taken == [101]:
                raise ValueError("not yet")

    with bot:
        batch_of(server, 3)
        bot.received_numbers(3)
    assert bot.numbers == [101, 102, 103]
    assert taken == ([101, 101, 102, 103] if on_error == "retry" else [101])
    assert bot.gaps == ([] if on_error == "retry" else [Gap(100, 104, "handler")])


def test_stopping_raises_and_keeps_the_message_for_the_next_run(server: FakeServer, tmp_path: Path) -> None:
    """No unhandled message is committed."""
    with Bot(server, tmp_path, handler=failing(101), on_error="stop") as first:
        server.order()
        first.ended()
        assert isinstance(first.error, ValueError)
    with Bot(server, tmp_path) as second:
        assert second.received_numbers(1) == [101]


def test_a_stop_during_retries_keeps_the_message(server: FakeServer, tmp_path: Path) -> None:
    """And does not wait for the delays."""
    with Bot(server, tmp_path, handler=failing(101), retries=1_000_000) as first:
        server.order()
        first.received_numbers(3)
    with Bot(server, tmp_path) as second:
        assert second.received_numbers(1) == [101]


# --- several handlers -------------------------------------------------------------------------------------


def test_several_handlers_each_get_every_message(server: FakeServer, tmp_path: Path) -> None:
    """Plain and async ones, in the order in which they were added."""
    calls: list[tuple[str, list[int]]] = []
    bot = Bot(server, tmp_path, handler=lambda ms: calls.append(("run", [m.sequence for m in ms])))

    @bot.client.add_handler
    def first(messages: list[PTNWebSocketMessage]) -> None:
        calls.append(("first", [m.sequence for m in messages]))

    async def second(messages: list[PTNWebSocketMessage]) -> None:
        calls.append(("second", [m.sequence for m in messages]))

    assert bot.client.add_handler(second) is second
    with bot:
        batch_of(server, 2)
        bot.received_numbers(2)
    assert calls == [("first", [101, 102]), ("second", [101, 102]), ("run", [101, 102])]


def test_only_the_failed_handler_is_retried(server: FakeServer, tmp_path: Path) -> None:
    """No handler sees a message again after returning from it."""
    received: list[list[int]] = []
    bot = Bot(server, tmp_path)
    bot.client.add_handler(lambda messages: received.append([m.sequence for m in messages]))
    bot.client.add_handler(failing(102, times=2))
    with bot:
        batch_of(server, 3)
        bot.received_numbers(3)
    assert received == bot.received == [[101, 102, 103]]
    assert bot.gaps == []


def test_a_message_is_committed_after_every_handler_returned(server: FakeServer, tmp_path: Path) -> None:
    """Although the first handler has finished a part of the list, the others have not seen it."""
    attempts: list[int] = []
    fail = failing(102)

    def stuck(messages: list[PTNWebSocketMessage]) -> None:
        attempts.append(messages[0].sequence)
        fail(messages)

    first = Bot(server, tmp_path, retries=1_000_000)
    first.client.add_handler(stuck)
    with first:
        batch_of(server, 3)
        until(lambda: attempts.count(102) > 1)
    assert first.received == []
    with Bot(server, tmp_path) as second:
        assert second.received_numbers(3) == [101, 102, 103]


# --- keys -------------------------------------------------------------------------------------------------


def test_a_key_that_is_added_later_works(server: FakeServer, tmp_path: Path) -> None:
    """The client keeps retrying."""
    server.keys.clear()
    bot = Bot(server, tmp_path)
    threading.Thread(
        target=lambda: (until(lambda: server.logins >= 2), server.keys.add(server.api_key))
    ).start()
    with bot:
        server.order()
        assert bot.received_numbers(1) == [101]


def test_a_refused_key_can_stop_it(server: FakeServer, tmp_path: Path) -> None:
    """`run` raises AuthenticationError."""
    server.keys.clear()
    with Bot(server, tmp_path, stop_on_auth_error=True) as bot:
        bot.ended()
    assert isinstance(bot.error, AuthenticationError)


def test_without_a_key_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither argument nor PTN_API_KEY."""
    monkeypatch.delenv("PTN_API_KEY", raising=False)
    with pytest.raises(AuthenticationError):
        PTNWebSocketClient().run()


# --- processes --------------------------------------------------------------------------------------------

BOT = """
import os, signal, sys
from ptn_api.websocket_client import PTNWebSocketClient

port, state_dir, seen, die_at = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

def handler(messages):
    for message in messages:
        with open(seen, "a") as file:
            file.write(f"{message.sequence}\\n")
        if message.sequence == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

client = PTNWebSocketClient(host="127.0.0.1", port=port, state_dir=state_dir,
                            on_state=lambda state: print(state, flush=True))
client.run(handler)
print("returned", flush=True)
"""


class Process:
    """A bot in a process that writes its sequences to a file."""

    def __init__(self, server: FakeServer, tmp_path: Path, die_at: int = -1) -> None:
        self.file = tmp_path / "seen"
        self.file.touch()
        arguments = [str(server.port), str(tmp_path / "state"), str(self.file), str(die_at)]
        self.popen = subprocess.Popen(
            [sys.executable, "-c", BOT, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PTN_API_KEY": server.api_key},
        )

    def __enter__(self) -> Process:
        assert self.popen.stdout is not None
        while self.popen.stdout.readline().strip() not in ("live", "replaying", ""):
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        self.popen.kill()
        self.popen.communicate()

    def received_numbers(self, *numbers: int) -> None:
        expected = [str(n) for n in numbers]
        until(lambda: self.file.read_text().split() == expected, what=f"{expected}: {self.file.read_text()}")


def test_a_bot_killed_in_its_handler_sees_the_message_again(server: FakeServer, tmp_path: Path) -> None:
    """At least once across a crash: the cursor moves after the handler returned."""
    with Process(server, tmp_path, die_at=102) as bot:
        server.order()
        bot.received_numbers(101)
        server.order()
        assert bot.popen.wait(PATIENCE_S) == -signal.SIGKILL
    server.order()
    with Process(server, tmp_path) as bot:
        bot.received_numbers(101, 102, 102, 103)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run(server: FakeServer, tmp_path: Path, number: int) -> None:
    """`run` returns, and the next run repeats no message."""
    with Process(server, tmp_path) as bot:
        server.order()
        bot.received_numbers(101)
        bot.popen.send_signal(number)
        out, _ = bot.popen.communicate(timeout=PATIENCE_S)
        assert out.split()[-2:] == ["stopped", "returned"]
        assert bot.popen.returncode == 0
    with Process(server, tmp_path) as bot:
        server.order()
        bot.received_numbers(101, 102)


def test_no_file_contains_a_key(server: FakeServer, tmp_path: Path) -> None:
    """Neither as content nor in its name."""
    with Bot(server, tmp_path) as bot:
        server.order()
        bot.received_numbers(1)
    everything = "".join(p.name + p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert server.api_key not in everything
    assert everything


def test_importing_it_loads_no_server_and_does_nothing() -> None:
    """No server library, no logging handler, no thread."""
    program = """
        import json, logging, sys, threading
        import ptn_api.websocket_client
        print(json.dumps({
            "modules": [name for name in sys.modules],
            "handlers": len(logging.root.handlers) + len(logging.getLogger("ptn_api.client").handlers),
            "level": logging.getLogger("ptn_api.client").level,
            "threads": threading.active_count(),
        }))
    """
    run = [sys.executable, "-c", textwrap.dedent(program)]
    result = json.loads(subprocess.run(run, capture_output=True, check=True, text=True).stdout)
    servers = {
        "httptools",
        "uvloop",
        "picows",
        "structlog",
        "asyncinotify",
        "isal",
        "zstandard",
        "sqlite3",
        "httpx",
    }
    packages = {f"ptn_api.{name}" for name in ("access", "event_log", "intake", "rest", "stream", "process")}
    assert {name for name in result["modules"] if name.split(".")[0] in servers} == set()
    assert packages.isdisjoint(result["modules"])
    assert (result["handlers"], result["level"], result["threads"]) == (0, 0, 1)
