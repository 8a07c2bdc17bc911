"""REST compared with nginx, which serves the same bytes from files, and with Flask.

Server and peers run on one core in turn, the load on the other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import requests

from benchmarks.figures import Figures
from benchmarks.load import Rate, measured
from benchmarks.machine import SERVER, cpu_seconds, installed, pinned, start
from benchmarks.peers import INSTALL, Nginx
from benchmarks.server import DEFAULT_PERIODS, prepared
from ptn_api.access import add_key
from tests.system.api import Api, api

__all__ = ["run"]


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    if not installed("wrk"):
        figures.skip("load by wrk (a loop in Python instead)", INSTALL)
    # Counted as with a limit, but the limit is out of reach.
    limit = {"requests_per_minute": 1_000_000_000}
    with api(folder / "data", validator_dir=validator.root, wait=False, **DEFAULT_PERIODS | limit) as server:
        server.wait_ready(300)
        pinned([process.pid for process in server.children().values()], SERVER)
        _measure(server, key, folder, arguments, figures)


def _measure(server: Api, key: str, folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {key}"
    hotkey = session.get(f"{server.rest}/miner-hotkeys").json()[0]
    paths = {"full": "/miner-positions", "one": f"/miner-positions/{hotkey}", "me": "/me"}
    bodies = {name: session.get(server.rest + path, stream=True) for name, path in paths.items()}
    raw = {name: body.raw.read(decode_content=False) for name, body in bodies.items()}
    rest = server.children()["rest"].pid

    def asked(name: str, **headers: str) -> Rate:
        return measured(
            server.rest + paths[name],
            lambda: cpu_seconds(rest),
            connections=8 if name == "full" else 16,
            Authorization=f"Bearer {key}",
            Accept_Encoding="gzip",
            **headers,
        )

    ours = {name: asked(name) for name in paths}
    tag = session.head(server.rest + paths["full"], headers={"Accept-Encoding": "gzip"}).headers["etag"]
    ours["304"] = asked("full", If_None_Match=tag)
    for name, rate in ours.items():
        size = 0 if name == "304" else len(raw[name])
        _add(f"REST, {_TITLES[name]}", rate, size, figures)
    _beside_nginx(ours, raw, figures)
    identity = session.get(server.rest + "/miner-positions", headers={"Accept-Encoding": "identity"})
    _memory(server, len(identity.content), arguments, figures)
    _beside_naive(ours["full"].per_core_s, identity.content, folder, figures)


_TITLES = {
    "full": "/miner-positions gzip, full body",
    "one": "/miner-positions/<hotkey> gzip",
    "me": "/me",
    "304": "/miner-positions, 304",
}


def _beside_nginx(ours: dict[str, Rate], raw: dict[str, bytes], figures: Figures) -> None:
    if not installed("nginx"):
        figures.skip("nginx", INSTALL)
        return
    theirs = {}
    with Nginx() as nginx:
        for name, content in raw.items():
            (nginx.files / "gzip" / name).write_bytes(content)
        url = f"http://127.0.0.1:{nginx.port}/gzip"
        for name in raw:
            theirs[name] = measured(f"{url}/{name}", nginx.cpu, connections=8 if name == "full" else 16)
        tag = requests.head(f"{url}/full").headers["etag"]
        theirs["304"] = measured(f"{url}/full", nginx.cpu, connections=8, If_None_Match=tag)
    for name, rate in theirs.items():
        _add(f"nginx, the same bytes from a file: {_TITLES[name]}", rate, len(raw.get(name, b"")), figures)
    for name, wanted in (("full", 0.9), ("304", 0.4), ("one", 0.3), ("me", 0.3)):
        # For a large body the reader's core is a limit too; compare bytes per second there.
        field = "per_s" if name == "full" else "per_core_s"
        ratio = getattr(ours[name], field) / getattr(theirs[name], field)
        figures.target(f"{_TITLES[name]} / nginx", ratio, at_least=wanted)


def _add(what: str, rate: Rate, size: int, figures: Figures) -> None:
    figures.add(
        what,
        per_s=round(rate.per_s),
        per_core_s=round(rate.per_core_s),
        bytes=size,
        MB_per_core_s=round(rate.per_core_s * size / 1e6),
    )


def _memory(server: Api, identity: int, arguments: argparse.Namespace, figures: Figures) -> None:
    rest = server.children()["rest"].memory_info().rss
    size = f"{arguments.miners} x {arguments.positions}"
    figures.add(
        f"memory of the rest process ({size})", MB=round(rest / 1e6), identity_MB=round(identity / 1e6)
    )
    figures.target("memory of the rest process / tier 100's identity", rest / identity, at_most=2.5)


def _beside_naive(ours: float, content: bytes, folder: Path, figures: Figures) -> None:
    try:
        import flask  # noqa: F401
        import waitress  # noqa: F401
    except ImportError:
        figures.skip("naive Flask + Waitress", "pip install '.[bench]'")
        return
    path = folder / "positions.json"
    path.write_bytes(content)
    naive = start([sys.executable, "-m", "benchmarks.naive", str(path)], SERVER)
    assert naive.stdout is not None
    port = int(naive.stdout.readline())
    rate = _naive_rate(f"http://127.0.0.1:{port}/miner-positions", naive.pid)
    naive.kill()
    naive.communicate()
    figures.add("naive Flask + Waitress: /miner-positions gzip", per_core_s=round(rate, 3))
    figures.target("/miner-positions gzip / naive Flask + Waitress", ours / rate, at_least=500)


def _naive_rate(url: str, pid: int, times: int = 2) -> float:
    """Returns answers per second of its core, one request at a time; concurrency only adds memory."""
    before = cpu_seconds(pid)
    for _ in range(times):
        requests.get(url, stream=True, timeout=600).raw.read(decode_content=False)
    return times / (cpu_seconds(pid) - before)
