"""The alerts of deploy/monitoring in a real Prometheus that scrapes a real server with faults.

The rules are those of the file, with shorter periods; promtool tries the periods (tests/test_monitoring.py).
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import requests
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from ptn_api.access import add_key
from tests.ports import reserved_ports
from tests.processes import suspended
from tests.system.api import ROOT, Api, api
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

MONITORING = ROOT / "deploy" / "monitoring"

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not installed (Debian: apt-get install prometheus)",
    ),
]


class Watched(NamedTuple):
    """A server, and the Prometheus that watches it."""

    server: Api
    validator: Validator
    keys: Path
    key: str
    metrics: str
    prometheus: str


def firing(prometheus: str) -> set[str]:
    """The names of the alerts that fire."""
    alerts = requests.get(f"{prometheus}/api/v1/alerts", timeout=PATIENCE_S).json()["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@contextmanager
def scraping(folder: Path, metrics: str) -> Iterator[str]:
    """Runs Prometheus with the shipped configuration; yields its address."""
    configuration = (MONITORING / "prometheus.yml").read_text().replace("127.0.0.1:9469", metrics)
    rules = (MONITORING / "alerts.yml").read_text()
    (folder / "prometheus.yml").write_text(configuration.replace("15s", "1s"))
    (folder / "alerts.yml").write_text(
        re.sub(r"for: \d+m", "for: 0s", re.sub(r"\[\d+[mh]\]", "[15s]", rules))
    )
    listening = ("--web.listen-address=127.0.0.1:0", f"--storage.tsdb.path={folder / 'data'}")
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}", *listening], stdout=log, stderr=log
        )
    try:
        sockets = lambda: psutil.Process(process.pid).net_connections("inet")  # noqa: E731
        (port,) = until(lambda: {s.laddr.port for s in sockets() if s.status == psutil.CONN_LISTEN})
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    validator, keys = Validator(folder / "validator"), folder / "api_keys.json"
    validator.place()
    key = add_key(keys, "alice", 100)
    settings: dict[str, Any] = {
        "metrics_port": 0,
        "trusted_proxies": "127.0.0.1",
        "send_buffer_bytes": 65_536,
    }
    with api(folder / "data", validator_dir=validator.root, keys=keys, **settings) as server:
        until(lambda: len(server.stdout) == 2)
        address = server.stdout[1].split("//")[1].removesuffix("/metrics\n")
        with scraping(folder, address) as prometheus:
            until(lambda: firing(prometheus) == set(), seconds=120)
            yield Watched(server, validator, keys, key, address, prometheus)


# --- how each alert is provoked ---------------------------------------------------------------------------


@contextmanager
def no_miners(watched: Watched) -> Iterator[None]:
    miners = watched.validator.root / "validation" / "miners"
    miners.rename(miners.with_name("away"))
    yield
    miners.with_name("away").rename(miners)


@contextmanager
def malformed_key(watched: Watched) -> Iterator[None]:
    good = watched.keys.read_text()
    watched.keys.write_text(json.dumps(json.loads(good) | {"bob": {"tier": "none"}}))
    yield
    watched.keys.write_text(good)


@contextmanager
def crashes(watched: Watched) -> Iterator[None]:
    for _ in range(5):
        watched.server.wait_restarted("rest", watched.server.kill("rest"))
    yield


@contextmanager
def repeated(action: Callable[[], object]) -> Iterator[None]:
    """Repeats the action in a thread, at most 20 times a second: a rate needs several scrapes."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(0.05):
            with suppress(OSError, WebSocketException):  # refused, or closed, as it should be
                action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def send_no_login(stream: str) -> None:
    with connect(stream, proxy=None) as socket:
        socket.send("hello")
        socket.recv(timeout=30)


def guess_key(rest: str) -> None:
    """Behind a proxy, since loopback addresses are exempt from the limits of an address."""
    headers = {"Authorization": "Bearer wrong", "X-Forwarded-For": "203.0.113.9"}
    requests.get(f"{rest}/me", headers=headers, timeout=PATIENCE_S)


@contextmanager
def subscribed(watched: Watched, **options: Any) -> Iterator[ClientConnection]:
    with connect(watched.server.stream, proxy=None, **options) as client:
        client.send(json.dumps({"api_key": watched.key}))
        client.recv(timeout=PATIENCE_S)
        client.send(json.dumps({"type": "subscribe", "all": True, "sender_timestamp": 0}))
        client.recv(timeout=PATIENCE_S)
        yield client


def place_late(watched: Watched) -> None:
    """An order that the stream's process cannot send to a client for more than a second."""
    with subscribed(watched) as client:
        with suspended(watched.server.children()["stream"].pid):
            watched.validator.place()
            placed_s = time.monotonic()
            until(lambda: time.monotonic() > placed_s + 1.5)
        client.recv(timeout=PATIENCE_S)


def slow_closes(watched: Watched) -> float:
    metrics = requests.get(f"http://{watched.metrics}/metrics", timeout=PATIENCE_S).text
    (line,) = re.findall(r"^ptn_stream_slow_closes_total (\S+)", metrics, flags=re.MULTILINE)
    return float(line)


def read_nothing(watched: Watched) -> None:
    """A client that leaves everything unread until the server disconnects it."""
    before = slow_closes(watched)
    host, _, port = watched.server.stream.removeprefix("ws://").partition(":")
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.connect((host, int(port)))
        unread: dict[str, Any] = {"max_queue": 1, "compression": None, "ping_interval": None}
        with subscribed(watched, sock=raw, close_timeout=1, **unread):
            watched.validator.place(100)  # each order is sent with all earlier ones of its position
            until(lambda: slow_closes(watched) > before)


@contextmanager
def refused_change(watched: Watched) -> Iterator[None]:
    """A trigger that refuses the next position stands for a bug in the log's schema."""
    log = watched.validator.root.parent / "data" / "log.sqlite3"
    with closing(sqlite3.connect(log)) as db:
        db.execute(
            "CREATE TRIGGER no BEFORE INSERT ON positions BEGIN SELECT RAISE(ABORT, 'constraint failed'); END"
        )
    watched.validator.place()
    yield
    with closing(sqlite3.connect(log)) as db:
        db.execute("DROP TRIGGER no")
    watched.server.wait_restarted("intake", watched.server.kill("intake"))


FAULTS: dict[str, Callable[[Watched], AbstractContextManager[None]]] = {
    "PTNDown": lambda watched: suspended(watched.server.process.pid),
    "PTNUnavailable": no_miners,
    "PTNDegraded": malformed_key,
    "PTNRestarting": crashes,
    "PTNChangesSkipped": refused_change,
    "PTNOrdersLate": lambda watched: repeated(lambda: place_late(watched)),
    "PTNClientsTooSlow": lambda watched: repeated(lambda: read_nothing(watched)),
    "PTNRateLimited": lambda watched: repeated(lambda: guess_key(watched.server.rest)),
    "PTNBadLogins": lambda watched: repeated(lambda: send_no_login(watched.server.stream)),
}


@pytest.mark.parametrize("alert", FAULTS)
def test_an_alert_fires_and_clears(watched: Watched, alert: str) -> None:
    with FAULTS[alert](watched):
        until(lambda: alert in firing(watched.prometheus), seconds=120, what=f"{alert} fires")
    until(lambda: alert not in firing(watched.prometheus), seconds=180, what=f"{alert} clears")


def test_a_server_that_waits_for_its_validator_fires(tmp_path: Path) -> None:
    validator = tmp_path / "validator"
    with reserved_ports(1) as [port], scraping(tmp_path, f"127.0.0.1:{port}") as prometheus:
        waiting: dict[str, Any] = {"wait": False, "wait_for_validator": True, "metrics_port": port}
        with api(tmp_path / "data", validator_dir=validator, **waiting) as server:
            until(lambda: "PTNStarting" in firing(prometheus), seconds=120, what="PTNStarting fires")
            Validator(validator).place()
            server.wait_ready()
            until(lambda: "PTNStarting" not in firing(prometheus), seconds=120, what="PTNStarting clears")
