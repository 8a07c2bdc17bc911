"""Server starts, with an empty and with a filled log, beside the least work that a start has to do."""

from __future__ import annotations

import argparse
import contextlib
import gc
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil
import requests
from isal import isal_zlib

from benchmarks.contest import Rounds, alternate
from benchmarks.figures import Figures
from benchmarks.machine import cpu_seconds
from benchmarks.server import DEFAULT_PERIODS, BenchValidator, prepared
from ptn_api.access import add_key
from ptn_api.event_log.schema import SCHEMA
from ptn_api.model.position import Position
from tests.system.api import Api, api

__all__ = ["run_documents", "run_filled", "run_first"]

_POSITIONS = "validation/miners/*/positions/*/*/*"
_DOCUMENTS = ("validation/*.json", "runnable/*.json")
_TABLES = ("positions", "orders", "seen", "documents", "chunks")
_GZIP = {"Accept-Encoding": "gzip"}


@dataclass
class Start:
    """The seconds that a start took, and the CPU seconds: in total and by process."""

    seconds: float
    cpu: float
    processes: dict[str, float] = field(default_factory=dict)


def run_first(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Starts with an empty log / reads and decodes every file, and inserts the same rows."""
    validator = prepared(folder, arguments)
    tables = _tables(folder / "data" / "log.sqlite3")

    def this() -> Start:
        shutil.rmtree(folder / "data")
        return _started(folder, validator)

    def limit() -> Start:
        return _timed(lambda: _read_and_insert(validator.root, folder / "limit.sqlite3", tables))

    rounds = alternate({"this": this, "limit": limit}, rounds=arguments.start_rounds)
    what = f"first start ({_size(arguments)}) / files read, decoded and inserted"
    _compare(what, rounds, figures)


def run_filled(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Starts with a filled log, until the compressed document / reads the rows and compresses entries."""
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    with api(folder / "data", validator_dir=validator.root, **DEFAULT_PERIODS) as server:
        answer = requests.get(f"{server.rest}/miner-positions", headers={"Authorization": f"Bearer {key}"})
    entries = [
        bytes(raw) for raw in msgspec.json.decode(answer.content, type=dict[str, msgspec.Raw]).values()
    ]

    def this() -> Start:
        return _started(folder, validator, key)

    def limit() -> Start:
        return _timed(lambda: _read_and_compress(folder / "data" / "log.sqlite3", entries))

    rounds = alternate({"this": this, "limit": limit}, rounds=arguments.start_rounds)
    what = f"start, log filled ({_size(arguments)}) / rows read, entries compressed"
    _compare(what, rounds, figures)


def _compare(what: str, rounds: Rounds[Start], figures: Figures) -> None:
    figures.ratio(f"{what}, s", rounds, "this", "limit", value=lambda start: start.seconds, at_most=1.5)
    figures.ratio(f"{what}, CPU s", rounds, "this", "limit", value=lambda start: start.cpu)
    for process in ("intake", "rest", "stream"):
        seconds = rounds.values("this", lambda start: start.processes.get(process, 0))  # noqa: B023
        figures.add(f"  CPU s of {process}", rounds=", ".join(f"{one:.2f}" for one in seconds))


def _size(arguments: argparse.Namespace) -> str:
    return f"{arguments.miners} x {arguments.positions}"


def _started(folder: Path, validator: BenchValidator, key: str | None = None) -> Start:
    """Starts the server until it is ready; with a key, until it has answered with the whole document."""
    began = time.perf_counter()
    with api(folder / "data", validator_dir=validator.root, wait=False, **DEFAULT_PERIODS) as server:
        server.wait_ready(300)
        if key is not None:
            with requests.Session() as session:
                session.headers["Authorization"] = f"Bearer {key}"
                _request(session, f"{server.rest}/miner-positions")
        took = time.perf_counter() - began
        pids = {name: process.pid for name, process in server.children().items()}
        used = {name: cpu_seconds(pid) for name, pid in (pids | {"supervisor": server.process.pid}).items()}
    return Start(took, sum(used.values()), used)


# --- the least work ---------------------------------------------------------------------------------------


def _timed(work: Callable[[], object]) -> Start:
    gc.collect()
    gc.freeze()
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return Start(time.perf_counter() - began, time.process_time() - cpu)


def _tables(log: Path) -> dict[str, list[tuple[Any, ...]]]:
    with contextlib.closing(sqlite3.connect(log)) as db:
        return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in _TABLES}


def _read_and_insert(root: Path, log: Path, tables: dict[str, list[tuple[Any, ...]]]) -> None:
    decode = msgspec.json.Decoder(Position).decode
    for path in root.glob(_POSITIONS):
        with open(path, "rb", buffering=0) as file:
            decode(file.read())
    decode_document = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    for pattern in _DOCUMENTS:
        for path in root.glob(pattern):
            decode_document(path.read_bytes())
    for old in log.parent.glob(f"{log.name}*"):
        old.unlink()
    with contextlib.closing(sqlite3.connect(log, isolation_level=None)) as db:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -65536"):
            db.execute(f"PRAGMA {pragma}")
        db.executescript(SCHEMA)
        db.execute("BEGIN")
        for table, rows in tables.items():
            db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _read_and_compress(log: Path, entries: list[bytes]) -> None:
    with contextlib.closing(sqlite3.connect(log)) as db:
        for table in ("positions", "orders"):
            db.execute(f"SELECT * FROM {table}").fetchall()
    for entry in entries:
        isal_zlib.compress(entry, 2)


# --- the document -----------------------------------------------------------------------------------------


def run_documents(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Times the all-positions document at each tier, and the memory that the processes take."""
    validator, size = prepared(folder, arguments), _size(arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    with (
        api(folder / "data", validator_dir=validator.root, **DEFAULT_PERIODS) as server,
        requests.Session() as session,
    ):
        session.headers["Authorization"] = f"Bearer {key}"
        for tier in (0, 30, 50, 100):
            url = f"{server.rest}/miner-positions?tier={tier}"
            _request(session, url)
            unchanged = [_request(session, url) for _ in range(10)]
            figures.add_times(f"/miner-positions tier {tier}, nothing changed ({size})", unchanged)
            after = []
            for _ in range(10):
                validator.place()
                after.append(_request(session, url))
            figures.add_times(f"/miner-positions tier {tier}, right after an order ({size})", after)
        _memory(server, session, size, figures)


def _memory(server: Api, session: requests.Session, size: str, figures: Figures) -> None:
    body = session.get(server.rest + "/miner-positions", headers={"Accept-Encoding": "identity"})
    rest = server.children()["rest"].memory_info().rss
    figures.add(
        f"memory of the rest process ({size})",
        MB=round(rest / 1e6),
        times_identity=round(rest / len(body.content), 2),
    )
    family = psutil.Process(server.process.pid).children()
    figures.add("memory of all processes", MB=round(sum(p.memory_info().rss for p in family) / 1e6))


def _request(session: requests.Session, url: str) -> float:
    """Returns milliseconds until the gzip body has arrived, without decompression."""
    started = time.perf_counter()
    with session.get(url, headers=_GZIP, stream=True) as response:
        assert response.status_code == 200, response.status_code
        while response.raw.read(1 << 20):
            pass
    return (time.perf_counter() - started) * 1000
