"""REST compared with servers in Python that do the same checks, and with nginx, which copies files.

Server and peers run on one core in turn, the load on the other. Peers serve what was captured from the
service: the same bytes and headers.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import requests

from benchmarks.checks import Captured, Holder, Setup
from benchmarks.contest import alternate
from benchmarks.figures import Figures
from benchmarks.load import Rate, measured
from benchmarks.machine import SERVER, cpu_seconds, installed, pinned
from benchmarks.peers import INSTALL, INSTALL_PYTHON, PYTHON_SERVERS, Nginx, PythonServer
from benchmarks.server import DEFAULT_PERIODS, BenchValidator, prepared
from ptn_api.access import add_key
from tests.system.api import Api, api
from tests.waiting import until

__all__ = ["NoSendfile", "Service", "run", "run_requests", "served"]

_PER_MINUTE = 1_000_000_000
"""Requests are counted as with a limit, but the limit is out of reach."""
_VARYING = {"date", "ratelimit", "server", "connection", "keep-alive"}
"""Headers that differ from response to response, or by the server's habits."""


class NoSendfile(Nginx):
    """nginx that reads its files and writes them, as a server of changing documents has to."""

    sendfile = "off"


class Service(NamedTuple):
    """The service with one key."""

    api: Api
    validator: BenchValidator
    key: str
    pid: int
    """The process of REST."""

    def ask(self, path: str, *, of: str = "", **headers: str) -> requests.Response:
        """Sends a request to the service, or to a peer at the address `of`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"Authorization": f"Bearer {self.key}", "Accept-Encoding": "identity"} | named
        return requests.get((of or self.api.rest) + path, headers=named, stream=True, timeout=120)

    def settled_tag(self) -> str:
        """Waits until the document no longer changes, as it does after a start; returns its tag."""
        tags = [""]

        def is_settled() -> bool:
            time.sleep(1)
            tags.append(self.ask("/miner-positions", Accept_Encoding="gzip").headers["etag"])
            return tags[-1] == tags[-2]

        until(is_settled, what="a document that does not change")
        return tags[-1]


@contextlib.contextmanager
def served(folder: Path, arguments: argparse.Namespace, **settings: object) -> Iterator[Service]:
    """Starts the service on a directory of the given size; its processes run on the server's core."""
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    options = DEFAULT_PERIODS | {"requests_per_minute": _PER_MINUTE} | settings
    with api(folder / "data", validator_dir=validator.root, wait=False, **options) as server:
        server.wait_ready(300)
        pinned([process.pid for process in server.children().values()], SERVER)
        yield Service(server, validator, key, server.children()["rest"].pid)


def run_requests(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Compares small responses, whose cost is that of checks and framework."""
    with served(folder, arguments) as service, contextlib.ExitStack() as stack:
        tag = service.settled_tag()
        asked = {
            "/miner-positions": {"Accept_Encoding": "gzip", "If_None_Match": tag},
            "/me": {"Accept_Encoding": "identity"},
        }
        ours = {path: service.ask(path, **headers) for path, headers in asked.items()}
        assert ours["/miner-positions"].status_code == 304
        setup = _captured(service, folder)
        servers: dict[str, tuple[str, Callable[[], list[int]]]] = {
            "this": (service.api.rest, lambda: [service.pid])
        }
        for name in PYTHON_SERVERS:
            try:
                peer = stack.enter_context(PythonServer(name, setup, folder / "identity.json"))
            except RuntimeError as error:
                figures.skip(name, f"{INSTALL_PYTHON} ({str(error).splitlines()[-1]})")
                continue
            servers[name] = (f"http://127.0.0.1:{peer.port}", peer.pids)
        for path, headers in asked.items():
            for name, (url, _) in servers.items():
                if name.startswith("fixed"):
                    continue
                _require_same(name, ours[path], service.ask(path, of=url, **headers))
                assert service.ask(path, of=url, Authorization="Bearer another").status_code == 401, name
            contestants = {
                name: partial(_cost, service, path, url, pids, headers)
                for name, (url, pids) in servers.items()
            }
            rounds = alternate(contestants)
            what = "304" if path == "/miner-positions" else path
            for name in [*servers][1:]:
                figures.ratio(
                    f"{what}, requests per core-second / {name}",
                    rounds,
                    "this",
                    name,
                    value=lambda cost: cost.per_core_s,
                    at_least=4 if name.startswith("uvicorn") else None,
                )
                figures.ratio(
                    f"{what}, us of CPU outside the kernel / {name}",
                    rounds,
                    "this",
                    name,
                    value=lambda cost: cost.user_us,
                )


class _Cost(NamedTuple):
    """What a request costs a server."""

    per_core_s: float
    user_us: float
    """CPU time outside the kernel."""


def _cost(
    service: Service, path: str, url: str, pids: Callable[[], list[int]], headers: Mapping[str, str]
) -> _Cost:
    sent = dict(headers, Authorization=f"Bearer {service.key}")
    if url == service.api.rest and "If_None_Match" in headers:
        # The document ages: in a later round, the first one's tag may be that of an earlier version.
        sent["If_None_Match"] = service.ask(path, Accept_Encoding="gzip").headers["etag"]

    def user_s() -> float:
        return sum(float(psutil.Process(pid).cpu_times().user) for pid in pids())

    before = user_s()
    rate = measured(url + path, lambda: sum(map(cpu_seconds, pids())), seconds=1, **sent)
    return _Cost(rate.per_core_s, 1e6 * (user_s() - before) / (rate.per_s * rate.seconds))


def _captured(service: Service, folder: Path) -> Path:
    """Stores what peers need: the key's hash, bodies, and the headers of the service's own responses."""
    documents = {}
    for path, coding in (("/miner-positions", "gzip"), ("/me", "identity")):
        response = service.ask(path, Accept_Encoding=coding)
        file = folder / f"{path.strip('/')}.{coding}"
        file.write_bytes(response.raw.read(decode_content=False))
        headers = {name.lower(): value for name, value in response.headers.items()}
        kept = headers.keys() - _VARYING - {"ratelimit-policy"}
        documents[path] = Captured(str(file), {name: headers[name] for name in sorted(kept)})
    (folder / "identity.json").write_bytes(service.ask("/miner-positions").content)
    digest = hashlib.sha256(service.key.encode()).hexdigest()
    setup = Setup({digest: Holder("bench", 100)}, _PER_MINUTE, documents)
    path = folder / "setup.json"
    path.write_bytes(msgspec.json.encode(setup))
    return path


def _require_same(name: str, ours: requests.Response, theirs: requests.Response) -> None:
    """Asserts that a peer does the same work; Flask, whose habits differ, only has to agree on the status."""
    assert theirs.status_code == ours.status_code, (name, theirs.status_code)
    if "starlette" in name:
        assert theirs.content == ours.content, name
        shown = [
            {key.lower(): value for key, value in one.headers.items() if key.lower() not in _VARYING}
            for one in (theirs, ours)
        ]
        assert shown[0] == shown[1], (name, shown)


def _per_core_s(rate: Rate) -> float:
    return rate.per_core_s


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Compares large responses, whose cost is copying."""
    if not installed("nginx", "wrk"):
        figures.skip("full documents beside nginx", INSTALL)
        return
    with served(folder, arguments) as service:
        hotkey = service.ask("/miner-hotkeys").json()[0]
        service.settled_tag()
        _beside_nginx(service, f"/miner-positions/{hotkey}", "/miner-positions/<hotkey> gzip", None, figures)
        rate = _beside_nginx(service, "/miner-positions", "/miner-positions gzip", 0.9, figures)
        with PythonServer("waitress + flask", _captured(service, folder), folder / "identity.json") as flask:
            before = flask.cpu()
            # One at a time: concurrency would only add memory.
            url = f"http://127.0.0.1:{flask.port}"
            service.ask("/miner-positions", of=url, Accept_Encoding="gzip").raw.read(decode_content=False)
            ratio = rate * (flask.cpu() - before)
        figures.add("/miner-positions gzip, per core-second / waitress + flask", ratio=round(ratio))


def _beside_nginx(service: Service, path: str, what: str, wanted: float | None, figures: Figures) -> float:
    """Returns our responses per core-second."""
    body = service.ask(path, Accept_Encoding="gzip").raw.read(decode_content=False)
    key = f"Bearer {service.key}"
    with NoSendfile() as nginx:
        (nginx.files / "gzip" / "body").write_bytes(body)
        load = partial(measured, connections=8, seconds=2, Authorization=key, Accept_Encoding="gzip")
        url = f"http://127.0.0.1:{nginx.port}/gzip/body"
        contestants = {
            "this": partial(load, service.api.rest + path, partial(cpu_seconds, service.pid)),
            "nginx": partial(load, url, nginx.cpu),
        }
        rounds = alternate(contestants)
    figures.ratio(
        f"{what}, MB per core-second / nginx without sendfile",
        rounds,
        "this",
        "nginx",
        value=lambda rate: rate.per_core_s * len(body) / 1e6,
        at_least=wanted,
    )
    return statistics.median(rounds.values("this", _per_core_s))
