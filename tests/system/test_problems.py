"""Every problem of the table is seen alike by /health, heartbeats, metrics, log and doctor, and then gone."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import resource
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from ptn_api.access import add_key
from ptn_api.cli.doctor import diagnose
from ptn_api.client import PTNClient
from ptn_api.errors import APIStatusError
from ptn_api.problems import CODES, PROBLEMS, Code
from ptn_api.process.settings import load_settings
from tests import factories
from tests.system.api import ROOT, Api, api, unreadable_log
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

ELSEWHERE: dict[Code, str] = {
    "source_silent": "rest/test_app.py",
    "log_unusable": "system/test_damage.py",
    "log_damaged": "system/test_damage.py",
    "not_watching": "rest/test_app.py",
    "events_missing": "intake/test_follow.py",
    "queue_items_refused": "intake/test_queue.py",
    "clock_untrusted": "system/test_clock_jumps.py",
    "certificate_unreadable": "process/test_certificate.py",
    "event_loop_busy": "process/test_background.py",
    "cluster_behind": "cluster/test_nodes.py",
    "cluster_unreachable": "cluster/test_nodes.py",
    "cluster_forked": "cluster/test_nodes.py",
    "cluster_outdated": "cluster/test_serve.py",
    "cluster_leaderless": "cluster/test_ready.py",
    "cluster_clock_skew": "cluster/test_nodes.py",
    "cluster_keys_stale": "process/test_shared.py",
    "connections_at_limit": "stream/test_connection_limit.py",
    "clients_too_slow": "stream/test_catch_up.py",
    "checks_failing": "test_problems.py",
}
"""Problems that real processes cannot be given here, and the files whose tests provoke them."""


class Heartbeats:
    """The problems in the newest heartbeat of a version 2 client, which reconnects."""

    def __init__(self, url: str, key: str) -> None:
        self.problems: list[str] = []
        self.connected = threading.Event()
        self._url, self._key = url, key
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping = True
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        while not self._stopping:
            try:
                with connect(self._url, ping_interval=None, open_timeout=PATIENCE_S) as connection:
                    connection.send(json.dumps({"api_key": self._key, "version": 2}))
                    while not self._stopping:
                        frame = json.loads(connection.recv(timeout=PATIENCE_S))
                        self.connected.set()
                        if frame.get("type") == "heartbeat":
                            self.problems = frame.get("problems", [])
            except (WebSocketException, OSError, EOFError):
                self.connected.clear()
                threading.Event().wait(0.05)


class Patient:
    """A server that is made ill in every way, and its observers."""

    def __init__(self, folder: Path) -> None:
        self.validator = Validator(folder / "validator")
        self.data_dir = folder / "data"
        self.keys = folder / "api_keys.json"
        self.key = add_key(self.keys, "alice", 100)
        self.positions = [self.validator.place() for _ in range(25)]
        self.eliminations = {"eliminations": [{"hotkey": factories.OTHER_MINER}]}
        self.validator.document("validation/eliminations.json", self.eliminations)
        self.server: Api
        self.heartbeats: Heartbeats

    @property
    def miners(self) -> Path:
        return self.validator.root / "validation" / "miners"

    def health(self) -> tuple[int, dict[str, Any]]:
        response = requests.get(self.server.rest + "/health", timeout=PATIENCE_S)
        return response.status_code, response.json()

    def logged(self, event: str, code: str) -> int:
        lines = self.server.log.read_text().splitlines()
        return sum(f'"{event}"' in line and f'"code": "{code}"' in line for line in lines)

    def metric(self, code: str) -> float | None:
        """None if the supervisor did not answer in time."""
        url = self.server.stdout[1].split()[-1]
        families = text_string_to_metric_families(requests.get(url, timeout=PATIENCE_S).text)
        samples = [sample for family in families for sample in family.samples]
        found = (s.value for s in samples if s.name == "ptn_problem" and s.labels["code"] == code)
        return next(found, None)

    def doctor(self) -> str:
        """What `ptn doctor` prints for these settings."""
        settings = load_settings(
            {
                "api_rest_port": self.server.rest.rpartition(":")[2],
                "validator_dir": str(self.validator.root),
                "data_dir": str(self.data_dir),
                "api_keys_file": str(self.keys),
            }
        )
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            diagnose(settings)
        return printed.getvalue()


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    patient = Patient(tmp_path_factory.mktemp("patient"))
    settings = {"metrics_port": 0, "process_silent_ms": 3_000, "restart_backoff_max_ms": 3_000}
    with api(patient.data_dir, validator_dir=patient.validator.root, keys=patient.keys, **settings) as server:
        until(lambda: len(server.stdout) == 2)
        patient.server = server
        patient.heartbeats = Heartbeats(server.stream, patient.key)
        yield patient
        patient.heartbeats.close()


# --- how each begins and ends -----------------------------------------------------------------------------


@contextmanager
def without_root(patient: Patient) -> Iterator[None]:
    away = patient.miners.with_name("away")
    patient.miners.rename(away)
    yield
    away.rename(patient.miners)


@contextmanager
def mass_removal(patient: Patient) -> Iterator[None]:
    (patient.miners / factories.MINER).rename(patient.validator.root / "lost")  # all at once
    yield
    for position in patient.positions:
        patient.validator.write(position)


@contextmanager
def full_disk(patient: Patient) -> Iterator[None]:
    intake = patient.server.children()["intake"].pid
    before = resource.prlimit(intake, resource.RLIMIT_FSIZE, (0, -1))
    patient.positions.append(patient.validator.place())
    yield
    resource.prlimit(intake, resource.RLIMIT_FSIZE, before)


@contextmanager
def hanging_process(patient: Patient) -> Iterator[None]:
    intake = patient.server.children()["intake"]
    intake.send_signal(signal.SIGSTOP)
    yield
    intake.send_signal(signal.SIGCONT)


@contextmanager
def killed_process(patient: Patient) -> Iterator[Callable[[], None]]:
    """The problem lasts for seconds, which may be too short for a busy machine to see it everywhere."""

    def again() -> None:
        if "process_restarting" not in patient.health()[1]["problems"]:
            patient.server.kill("intake")

    again()
    yield again


@contextmanager
def malformed_file(patient: Patient) -> Iterator[None]:
    path = patient.validator.path(patient.positions[0])
    before = path.read_text()
    path.write_text("{")
    yield
    path.write_text(before)


@contextmanager
def malformed_document(patient: Patient) -> Iterator[None]:
    patient.validator.document("validation/eliminations.json", [])
    yield
    patient.validator.document("validation/eliminations.json", patient.eliminations)


@contextmanager
def refused_change(patient: Patient) -> Iterator[None]:
    """A trigger that refuses the next position stands for a bug in the log's schema."""
    log = patient.data_dir / "log.sqlite3"
    with contextlib.closing(sqlite3.connect(log)) as db:
        db.execute(
            "CREATE TRIGGER no BEFORE INSERT ON positions BEGIN SELECT RAISE(ABORT, 'constraint failed'); END"
        )
    patient.positions.append(patient.validator.place())
    yield
    with contextlib.closing(sqlite3.connect(log)) as db:
        db.execute("DROP TRIGGER no")
    patient.server.kill("intake")


@contextmanager
def changed_keys(patient: Patient, change: Callable[[Path], None]) -> Iterator[None]:
    before = patient.keys.read_bytes()
    change(patient.keys)
    yield
    patient.keys.unlink(missing_ok=True)
    patient.keys.write_bytes(before)


@contextmanager
def detached_key_file(patient: Patient) -> Iterator[None]:
    """As a file bound into a container and replaced outside: it can be read, but has no name."""
    kept = patient.keys.with_name("kept.json")
    patient.keys.rename(kept)
    with kept.open() as file:
        patient.keys.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        copy = kept.read_bytes()
        kept.unlink()
        yield
        patient.keys.unlink()
        patient.keys.write_bytes(copy)


@contextmanager
def lost_usage(patient: Patient) -> Iterator[None]:
    for path in patient.data_dir.glob("usage.db*"):
        path.unlink()
    (patient.data_dir / "usage.db").mkdir()
    requests.get(
        patient.server.rest + "/me", headers={"Authorization": f"Bearer {patient.key}"}, timeout=PATIENCE_S
    )
    yield
    (patient.data_dir / "usage.db").rmdir()


@contextmanager
def no_more_files(patient: Patient) -> Iterator[None]:
    until(patient.heartbeats.connected.is_set)
    stream = patient.server.children()["stream"].pid
    logged = patient.server.log.stat().st_size
    before = resource.prlimit(stream, resource.RLIMIT_NOFILE)
    resource.prlimit(stream, resource.RLIMIT_NOFILE, (3, before[1]))
    with contextlib.ExitStack() as stack:
        for _ in range(4):  # the lowest numbers may be free
            address = ("127.0.0.1", patient.server.ws_port)
            stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
        yield
        resource.prlimit(stream, resource.RLIMIT_NOFILE, before)
    log = patient.server.log.read_text()[logged:]
    assert "Traceback" not in log


@contextmanager
def crowded_server(patient: Patient) -> Iterator[None]:
    """More expensive requests of one user, arriving at once, than may wait: until the block ends."""
    address = patient.server.rest.removeprefix("http://")
    headers = {"Authorization": f"Bearer {patient.key}"}
    connections = [http.client.HTTPConnection(address, timeout=PATIENCE_S) for _ in range(140)]
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            rest = patient.server.children()["rest"]
            rest.send_signal(signal.SIGSTOP)  # so that all arrive before the first is answered
            for connection in connections:
                connection.request("GET", "/miner-positions?status=open", headers=headers)
            rest.send_signal(signal.SIGCONT)
            for connection in connections:
                connection.getresponse().read()

    for connection in connections:
        connection.request("GET", "/me", headers=headers)
        connection.getresponse().read()
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for connection in connections:
            connection.close()


@contextmanager
def little_memory(patient: Patient) -> Iterator[None]:
    """The address space of a process is nearly as large as it may be."""
    stream = patient.server.children()["stream"]
    before = resource.prlimit(stream.pid, resource.RLIMIT_AS)
    most = int(stream.memory_info().vms * 1.06)
    resource.prlimit(stream.pid, resource.RLIMIT_AS, (most, before[1]))
    yield
    resource.prlimit(stream.pid, resource.RLIMIT_AS, before)


def left_out(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bob": {"tier": 100}}))


PROVOKED: dict[Code, Any] = {
    "source_stale": without_root,
    "root_missing": without_root,
    "mass_removal": mass_removal,
    "log_unwritable": full_disk,
    "log_unreadable": lambda patient: unreadable_log(patient.data_dir),
    "process_down": hanging_process,
    "process_restarting": killed_process,
    "files_refused": malformed_file,
    "documents_refused": malformed_document,
    "changes_skipped": refused_change,
    "no_key_file": lambda patient: changed_keys(patient, lambda path: path.unlink()),
    "key_file_unreadable": lambda patient: changed_keys(patient, lambda path: path.write_text("{") and None),
    "key_file_detached": detached_key_file,
    "key_entries_left_out": lambda patient: changed_keys(patient, left_out),
    "usage_unwritable": lost_usage,
    "accept_paused": no_more_files,
    "work_refused": crowded_server,
    "memory_near_limit": little_memory,
}
COUNTS: dict[Code, int] = {"files_refused": 1, "documents_refused": 1, "key_entries_left_out": 1}


def test_every_problem_is_provoked() -> None:
    """Here, or by a test in another file, which names it."""
    assert {*PROVOKED, *ELSEWHERE, "starting"} == {*CODES} == {*PROBLEMS}
    for code, file in ELSEWHERE.items():
        assert code in (ROOT / "tests" / file).read_text(), code


@pytest.mark.parametrize("code", PROVOKED)
def test_a_problem_is_seen_everywhere_and_then_gone(patient: Patient, code: Code) -> None:
    """With the HTTP status of its severity, and since when.

    On a busy machine, a process may be down for a moment, or a problem end and begin again.
    """
    problem = PROBLEMS[code]

    def logged_as_present() -> int:
        return patient.logged("problem", code) - patient.logged("problem_ended", code)

    with PROVOKED[code](patient) as again:

        def until_seen(observe: Callable[[], Any], what: str) -> Any:
            return until(lambda: observe() or (again is not None and again()), what=what)

        status, told = until_seen(lambda: code in (h := patient.health())[1]["problems"] and h, code)
        if problem.severity == "degraded" and "failing" not in told["status"]:
            assert (status, told["status"]) == (200, "degraded")
        if problem.severity == "unavailable":
            assert (status, told["status"]) == (503, "failing")
        assert told["details"][code]["since_ms"] > 1_700_000_000_000
        assert told["details"][code].get("count", 0) >= COUNTS.get(code, 0)
        until_seen(logged_as_present, "a log line")
        until_seen(lambda: patient.metric(code) == 1, "the metric")
        if code != "no_key_file":  # then nobody may log in
            until_seen(lambda: code in patient.heartbeats.problems, "a heartbeat")
        sentence = problem.sentence.replace("`", "")[:60]
        until_seen(lambda: sentence in patient.doctor(), "doctor")
    until(lambda: code not in patient.health()[1]["problems"], what=f"no {code}")
    until(lambda: not logged_as_present(), what="the end in the log")
    until(lambda: patient.metric(code) == 0)
    until(lambda: code not in patient.heartbeats.problems)


def test_the_server_is_well_afterwards(patient: Patient) -> None:
    """No problem leaves another one behind."""
    until(lambda: patient.health()[1]["problems"] == [], what=str(patient.health()))
    until(lambda: "all is well" in patient.doctor(), what="doctor")


def test_a_server_that_waits_for_its_validator_is_starting(tmp_path: Path) -> None:
    """With --wait-for-validator; /health names the missing directory, and nothing was announced."""
    root = tmp_path / "validator"
    add_key(tmp_path / "api_keys.json", "alice", 100)
    with api(tmp_path / "data", validator_dir=root, wait=False, wait_for_validator=True) as server:
        rest = until(lambda: server.children().get("rest"))
        (port,) = until(
            lambda: [c.laddr.port for c in rest.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        )

        def problems() -> Any:
            response = requests.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE_S)
            assert response.status_code == 503 or response.json()["status"] in ("ok", "degraded")
            return response.json()["problems"]

        until(lambda: {"starting", "root_missing", "source_stale"} <= {*problems()})
        assert server.stdout == []
        Validator(root).place()
        server.wait_ready()
        until(lambda: problems() == [])


def test_documents_with_what_is_no_number_are_read_by_the_client(patient: Patient) -> None:
    """NaN, infinities and numbers beyond a float are null, also where an int is expected; none is refused."""
    checkpoint = b'{"last_update_ms": NaN, "gain": Infinity, "mdd": 1e999, "n_updates": 3.0}'
    statistics = (
        b'{"created_timestamp_ms": 1e999, "constants": {"SET_WEIGHT_LOOKBACK_RANGE_DAYS": NaN}, "data": ['
        b'{"hotkey": "m", "weight": {"value": -Infinity}, "scores": NaN, "checkpoints": [%b]}]}' % checkpoint
    )
    root = patient.validator.root
    (root / "runnable").mkdir(exist_ok=True)
    (root / "runnable" / "minerstatistics.json").write_bytes(statistics)
    ledgers = b'{"m": {"max_return": NaN, "initialization_time_ms": Infinity, "cps": [%b]}}' % checkpoint
    (root / "validation" / "perf_ledgers.json").write_bytes(ledgers)
    gone = b'{"eliminations": [{"hotkey": "m", "dd": NaN, "elimination_initiated_time_ms": 1e999}]}'
    (root / "validation" / "eliminations.json").write_bytes(gone)
    with PTNClient(patient.server.rest, patient.key) as client:

        def is_there(read: Callable[[], Any]) -> bool:
            with contextlib.suppress(APIStatusError):  # not read yet
                return bool(read())
            return False

        until(lambda: is_there(client.statistics) and client.statistics().data)
        (miner,) = client.statistics().data
        assert (miner.weight, miner.scores) == ({"value": None}, None)
        assert miner.checkpoints is not None
        assert (miner.checkpoints[0].gain, miner.checkpoints[0].n_updates) == (None, 3)
        assert client.miner_statistics("m") == miner
        until(lambda: is_there(lambda: client.perf_ledger("m")))
        assert client.perf_ledger("m")["portfolio"].max_return is None
        until(lambda: [gone.hotkey for gone in client.eliminations()] == ["m"])
        assert client.eliminations()[0].dd is None
    until(lambda: patient.health()[1]["problems"] == [], what="no problem")
