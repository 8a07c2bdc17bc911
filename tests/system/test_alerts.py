"""The alerts of deploy/monitoring in a real Prometheus that scrapes a real server with faults.

The rules are those of the file, with shorter periods. promtool tries the other alerts, and the periods
(tests/test_monitoring.py).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import psutil
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from ptn_api.access import add_key
from tests.processes import suspended
from tests.system.api import ROOT, Api, api
from tests.system.validator import Validator
from tests.waiting import until

MONITORING = ROOT / "deploy" / "monitoring"


class Watched(NamedTuple):
    """A server, and the Prometheus that watches it."""

    server: Api
    validator: Validator
    keys: Path
    prometheus: str

    def firing(self) -> set[str]:
        with urlopen(f"{self.prometheus}/api/v1/alerts", timeout=30) as response:
            alerts = json.load(response)["data"]["alerts"]
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
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("watched")
    validator, keys = Validator(folder / "validator"), folder / "api_keys.json"
    validator.place()
    add_key(keys, "alice", 100)
    with api(folder / "data", validator_dir=validator.root, keys=keys, metrics_port=0) as server:
        until(lambda: len(server.stdout) == 2)
        address = server.stdout[1].split("//")[1].removesuffix("/metrics\n")
        with scraping(folder, address) as prometheus:
            watched = Watched(server, validator, keys, prometheus)
            until(lambda: watched.firing() == set(), seconds=120)
            yield watched


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


FAULTS: dict[str, Callable[[Watched], AbstractContextManager[None]]] = {
    "PTNDown": lambda watched: suspended(watched.server.process.pid),
    "PTNUnavailable": no_miners,
    "PTNDegraded": malformed_key,
    "PTNRestarting": crashes,
    "PTNBadLogins": lambda watched: repeated(lambda: send_no_login(watched.server.stream)),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("alert", FAULTS)
def test_an_alert_fires_and_clears(watched: Watched, alert: str) -> None:
    with FAULTS[alert](watched):
        until(lambda: alert in watched.firing(), seconds=120, what=f"{alert} fires")
    until(lambda: alert not in watched.firing(), seconds=180, what=f"{alert} clears")
