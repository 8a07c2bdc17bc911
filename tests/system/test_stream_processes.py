"""`--stream-processes 3`: one port, one limit per user, and orders that are the same for everybody."""

from __future__ import annotations

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ptn_api.access import add_key
from ptn_api.access.usage import UsageFile
from ptn_api.wire import close_codes
from tests.processes import suspended
from tests.system.api import Api, api
from tests.system.follower import Follower
from tests.system.test_watching import SILENT_MS, alone, health, scrape_all, value
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

STREAMS = ("stream-1", "stream-2", "stream-3")


@pytest.fixture
def unlimited(data_dir: Path) -> str:
    """The key of a user who may have any number of connections."""
    return add_key(data_dir.parent / "api_keys.json", "bots", 200)


@pytest.fixture
def server(validator: Validator, data_dir: Path, keys: dict[int, str], unlimited: str) -> Iterator[Api]:
    validator.place()
    settings = {"stream_processes": 3, "presence_ms": 200, "eviction_delay_ms": 0}
    # A restart is reported for as long as the longest backoff: here until the end of the test.
    settings |= {"metrics_port": 0, "process_silent_ms": SILENT_MS, "restart_backoff_max_ms": 600_000}
    with api(data_dir, validator_dir=validator.root, **settings) as running:
        until(lambda: len(running.stdout) == 2, what="the line about metrics")
        yield running


def clients(server: Api) -> Counter[str]:
    """The number of clients of each process."""
    found = scrape_all(server)
    return Counter({name: int(value(found, "ptn_stream_clients", process=name)) for name in STREAMS})


@contextlib.contextmanager
def followers(server: Api, key: str) -> Iterator[list[Follower]]:
    """As many followers as it takes for each process to have two of them or more."""
    started: list[Follower] = []
    try:
        while min(clients(server).values()) < 2:
            started.append(Follower(server.stream, key).__enter__())
        yield started
    finally:
        for follower in started:
            follower.__exit__()


@pytest.fixture
def login(server: Api) -> Iterator[Callable[[str], ClientConnection]]:
    """Logs in with a key."""
    with contextlib.ExitStack() as stack:

        def one(key: str) -> ClientConnection:
            connection = stack.enter_context(connect(server.stream, open_timeout=PATIENCE_S))
            connection.send(json.dumps({"api_key": key}))
            assert json.loads(connection.recv(PATIENCE_S))["status"] == "success"
            return connection

        yield one


def close_code(connection: ClientConnection) -> int | None:
    """Waits for the server's close; frames before it are skipped."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            connection.recv(PATIENCE_S)
    return connection.close_code


def is_open(connection: ClientConnection) -> bool:
    try:
        connection.send(json.dumps({"type": "ping", "timestamp": 1}))
        while json.loads(connection.recv(PATIENCE_S)).get("type") != "pong":
            pass
    except ConnectionClosed:
        return False
    return True


def all_same(started: list[Follower], orders: list[str]) -> None:
    """Every follower has every order once, with the same sequences."""
    for follower in started:
        follower.wait_for(len(orders))
        assert follower.order_uuids == orders
        assert follower.sequences == started[0].sequences
    assert started[0].sequences == list(range(started[0].sequences[0], started[0].sequences[0] + len(orders)))


def test_every_client_gets_every_order_once(server: Api, validator: Validator, unlimited: str) -> None:
    """Whichever process serves it, with the same sequences; what they were sent adds up in the usage."""
    with followers(server, unlimited) as started:
        for _ in range(20):
            validator.place()
        all_same(started, validator.placed[1:])
        usage = UsageFile(server.log.parent / "data")
        sent = 20 * len(started)
        until(lambda: sum(row.messages for row in usage.read() if row.alias == "bots") >= sent)
        assert [row.messages for row in usage.read() if row.alias == "bots"] == [sent]
        found = scrape_all(server)
        deliveries = [value(found, "ptn_stream_deliveries_total", process=name) for name in STREAMS]
        assert min(deliveries) >= 40
        assert sum(deliveries) == sent


def test_a_killed_process_costs_its_own_clients_a_reconnect(
    server: Api, validator: Validator, unlimited: str
) -> None:
    """They resume without a gap. The clients of the others stay connected."""
    with followers(server, unlimited) as started:
        validator.place()
        before = clients(server)
        killed = server.kill("stream-2")
        for _ in range(5):
            validator.place()
        all_same(started, validator.placed[1:])
        server.wait_restarted("stream-2", killed)
        until(lambda: clients(server).total() == len(started))
        again = [follower for follower in started if len(follower.success) > 1]
        assert len(again) == before["stream-2"]
        status, told = alone(server, "process_restarting")
        assert (status, told["processes"]["stream-2"]) == (200, "up")


def test_a_rolling_restart_loses_nothing(server: Api, validator: Validator, unlimited: str) -> None:
    """Each process in turn is asked to stop, and closes its connections with "reconnect"."""
    with followers(server, unlimited) as started:
        for name in STREAMS:
            process = server.children()[name]
            process.send_signal(signal.SIGTERM)
            validator.place()
            server.wait_restarted(name, process.pid)
            validator.place()
        all_same(started, validator.placed[1:])
        until(lambda: clients(server).total() == len(started))


def test_a_user_has_one_limit_in_all_processes(
    server: Api, keys: dict[int, str], login: Callable[[str], ClientConnection]
) -> None:
    """The sixth connection evicts the oldest; those of a killed process no longer count."""
    connections: list[ClientConnection] = []
    served: set[str] = set()
    while served != set(STREAMS) or len(connections) < 8:
        connections.append(login(keys[100]))
        served |= set(+clients(server))
        if len(connections) > 5:
            assert close_code(connections[-6]) == close_codes.REPLACED.code
            until(lambda: clients(server).total() == 5)
    last = connections[-5:]
    victim = max(now := clients(server), key=lambda name: now[name])
    server.wait_restarted(victim, server.kill(victim))
    left = 5 - now[victim]
    until(lambda: clients(server).total() == left)
    for _ in range(5 - left):
        last.append(login(keys[100]))
    until(lambda: clients(server).total() == 5)
    assert [is_open(connection) for connection in last].count(True) == 5


def test_a_revoked_key_is_out_in_every_process(
    server: Api,
    data_dir: Path,
    keys: dict[int, str],
    unlimited: str,
    login: Callable[[str], ClientConnection],
) -> None:
    """As soon as each has read the changed key file. Connections of other users stay."""
    path, connections = data_dir.parent / "api_keys.json", [login(keys[100])]
    while min(clients(server).values()) < 2:
        connections.append(login(unlimited))
    entries = json.loads(path.read_text())
    del entries["bots"]
    replacement = path.with_suffix(".new")
    replacement.write_text(json.dumps(entries))
    replacement.chmod(0o600)
    replacement.replace(path)
    assert {close_code(connection) for connection in connections[1:]} == {close_codes.KEY_REVOKED.code}
    assert is_open(connections[0])
    until(lambda: clients(server).total() == 1)


def test_every_process_is_reported(server: Api) -> None:
    """In /health and the problems table."""
    up = dict.fromkeys(("intake", "rest", *STREAMS), "up")
    until(lambda: health(server)[1]["processes"] == up)
    children = server.children()
    with suspended(children["stream-1"].pid), suspended(children["stream-3"].pid):
        down = up | {"stream-1": "down", "stream-3": "down"}
        status, told = until(lambda: (now := alone(server, "process_down"))[1]["processes"] == down and now)
        assert status == 503
        assert told["details"]["process_down"]["count"] == 2
    until(lambda: health(server)[0] == 200)
