"""Monitoring of a running server's real processes: metrics, /health, `ptn doctor`."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from ptn_api.cli import doctor
from ptn_api.event_log import open_writer
from ptn_api.process.metrics import METRICS
from ptn_api.process.settings import load_settings
from tests.system.api import PROCESSES, ROOT, Api, api
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

ANNOUNCED = re.compile(r"PTN API metrics: (http://127\.0\.0\.1:\d+/metrics)\n")
SILENT_MS = 4_000
"""Shorter than the default, longer than a busy machine keeps a process waiting."""
Found = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def server(validator: Validator, data_dir: Path, keys: dict[int, str]) -> Iterator[Api]:
    validator.place()
    settings = {"metrics_port": 0, "process_silent_ms": SILENT_MS}
    with api(data_dir, validator_dir=validator.root, **settings) as running:
        until(lambda: len(running.stdout) == 2, what="the line about metrics")
        yield running


def scrape(server: Api) -> Found:
    """The value for each sample's name and labels, as Prometheus reads them."""
    match = ANNOUNCED.fullmatch(server.stdout[1])
    assert match
    text = requests.get(match[1], timeout=PATIENCE_S).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Found, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def scrape_all(server: Api) -> Found:
    """The samples of all processes: one that does not answer in time has none."""

    def complete() -> Found | None:
        found = scrape(server)
        return found if all(up for (name, _), up in found.items() if name == "ptn_process_up") else None

    return until(complete, what="metrics of all processes")


def ptn_doctor(*arguments: str, **environment: str) -> tuple[int, str]:
    command = [sys.executable, "-c", "from ptn_api.cli.app import main; main()", "doctor", *arguments]
    whole = os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=whole)
    return done.returncode, done.stdout + done.stderr


def health(server: Api) -> tuple[int, dict[str, Any]]:
    answer = requests.get(server.rest + "/health", timeout=PATIENCE_S)
    return answer.status_code, answer.json()


def alone(server: Api, problem: str) -> tuple[int, dict[str, Any]]:
    """The health with this problem and no other: on a busy machine, others come and go."""
    return until(lambda: (now := health(server))[1]["problems"] == [problem] and now, what=problem)


def test_metrics_tell_what_happened(server: Api, validator: Validator, keys: dict[int, str]) -> None:
    """For all three processes, under the table's names, in Prometheus' format."""
    with Follower(server.stream, keys[100]) as follower:
        validator.place(3)
        follower.wait_for(3)
        headers = {"Authorization": f"Bearer {keys[100]}", "Accept-Encoding": "gzip"}
        requests.get(server.rest + "/miner-positions", headers=headers, timeout=PATIENCE_S)
        requests.get(server.rest + "/miner-positions", timeout=PATIENCE_S)
        asked = {"route": "/miner-positions", "status": "200", "encoding": "gzip"}

        def counted() -> Found | None:
            """A response is counted once it has been sent, and so received."""
            found = scrape_all(server)
            return found if value(found, "ptn_rest_requests_total", **asked) else None

        found = until(counted, what="the response to be counted")
        assert value(found, "ptn_stream_clients") == 1
    assert value(found, "ptn_log_head_sequence") == follower.sequences[-1]
    assert value(found, "ptn_log_head_sequence") - value(found, "ptn_log_floor_sequence") == 2
    assert value(found, "ptn_log_events_total") == value(found, "ptn_stream_deliveries_total") == 3
    assert value(found, "ptn_log_append_seconds_count") >= 1
    assert value(found, "ptn_stream_seen_lag_seconds_count") == 3
    assert value(found, "ptn_stream_order_lag_seconds_bucket", le="+Inf") == 3
    assert value(found, "ptn_rest_requests_total", **asked) == 1
    assert value(found, "ptn_rest_sent_bytes_total", **asked) > 0
    assert value(found, "ptn_rest_view_assembly_seconds_count") >= 1
    assert value(found, "ptn_auth_failures_total", process="rest") == 1
    assert value(found, "ptn_keys", process="stream") == 4
    assert value(found, "ptn_key_reloads_total", process="rest", result="read") == 1
    assert value(found, "ptn_log_size_bytes") > 0
    assert value(found, "ptn_source_swept_timestamp_seconds") > 1.7e9
    for process in (*PROCESSES, "supervisor"):
        assert value(found, "process_resident_memory_bytes", process=process) > 1e6
    suffixes = {"histogram": "_count", "counter": "", "gauge": ""}
    unlabelled = {metric.name + suffixes[metric.kind] for metric in METRICS if not metric.labels}
    here = {name for name in unlabelled if not name.startswith("ptn_cluster_")}  # others are a cluster's
    assert here <= {name for name, _ in found}


def test_metrics_outlive_a_process(server: Api) -> None:
    """A process that hangs or ended is not up, the others are still reported; a restarted one is back."""
    intake = server.children()["intake"]
    intake.suspend()
    try:

        def up() -> list[float]:
            found = scrape(server)
            assert value(found, "ptn_process_up", process="intake") == 0
            return [value(found, "ptn_process_up", process=name) for name in PROCESSES]

        until(lambda: up() == [0, 1, 1])
        until(lambda: value(scrape(server), "ptn_log_head_sequence") > 0)
    finally:
        intake.resume()
    server.wait_restarted("rest", server.kill("rest"))
    until(lambda: value(scrape(server), "ptn_process_up", process="rest") == 1)
    assert value(scrape(server), "ptn_process_restarts_total", process="rest") == 1


def test_health_says_which_process_is_down(server: Api) -> None:
    """503 with the process in a field; doctor names it too; it recovers."""
    until(lambda: health(server)[0] == 200)
    stream = server.children()["stream"]
    stream.send_signal(signal.SIGSTOP)
    try:
        down = {"intake": "up", "rest": "up", "stream": "down"}
        status, told = until(lambda: (now := alone(server, "process_down"))[1]["processes"] == down and now)
        assert (status, told["status"]) == (503, "failing")
        port = server.rest.rpartition(":")[2]
        asked = lambda: ptn_doctor("--api-rest-port", port, "--demo")  # noqa: E731
        until(lambda: (now := asked())[0] == 1 and "down: stream" in now[1], what="the process that is down")
    finally:
        stream.send_signal(signal.SIGCONT)
    until(lambda: health(server)[0] == 200)


def test_health_does_not_trust_a_supervisor_that_hangs(server: Api) -> None:
    """It could neither report a process that went down nor restart it: 503 until it is back."""
    until(lambda: health(server)[0] == 200)
    server.process.send_signal(signal.SIGSTOP)
    try:
        down = {"intake": "down", "rest": "up", "stream": "down"}
        until(lambda: health(server)[1]["processes"] == down)
    finally:
        server.process.send_signal(signal.SIGCONT)
    until(lambda: health(server)[0] == 200)
    assert value(scrape(server), "ptn_process_restarts_total", process="stream") == 0


def test_health_says_that_the_log_cannot_be_written(server: Api) -> None:
    """As on a full disk: here no file may grow. Reads are served meanwhile."""
    intake = server.children()["intake"].pid
    before = resource.prlimit(intake, resource.RLIMIT_FSIZE, (0, -1))
    status, told = alone(server, "log_unwritable")
    assert (status, told["log"]["writable"]) == (503, False)
    found = scrape_all(server)
    assert value(found, "ptn_log_writable") == 0
    assert value(found, "ptn_log_append_failures_total") > 0
    resource.prlimit(intake, resource.RLIMIT_FSIZE, before)
    until(lambda: health(server)[0] == 200)


def test_doctor_finds_nothing_wrong_with_a_healthy_server(
    server: Api, validator: Validator, data_dir: Path
) -> None:
    """Server, keys and directories are fine; the request does not go through HTTP_PROXY."""
    until(lambda: health(server)[0] == 200)
    options = (
        f"--api-rest-port={server.rest.rpartition(':')[2]}",
        f"--validator-dir={validator.root}",
        f"--data-dir={data_dir}",
        f"--api-keys-file={data_dir.parent / 'api_keys.json'}",
    )
    said = ""

    def finds_nothing() -> bool:
        nonlocal said
        code, said = ptn_doctor(*options, HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="")
        return code == 0

    until(finds_nothing, what="a healthy server")
    for words in (
        "all is well",
        "4 keys in",
        "is writable",
        "1 miners",
        "watches are needed",
    ):
        assert words in said


def test_doctor_tells_its_server_from_another_one(server: Api, tmp_path: Path) -> None:
    """The port answers, but not for this data directory: doctor says whose the server is."""
    until(lambda: health(server)[0] == 200)
    port = server.rest.rpartition(":")[2]
    mine = tmp_path / "mine"
    open_writer(mine).close()
    for data_dir in (mine, tmp_path / "none-yet"):
        words = f"port {port} is another server's, not that of {data_dir}"

        def told(words: str = words, data_dir: Path = data_dir) -> str:
            code, said = ptn_doctor(f"--api-rest-port={port}", f"--data-dir={data_dir}", "--demo")
            assert code == 1
            return said if words in said else ""

        said = until(told, what=words)
        assert f"process {server.process.pid}: " in said
        assert "all is well" not in said


def test_doctor_reads_positions_as_intake_does(validator: Validator, tmp_path: Path) -> None:
    """A malformed one is named with the reason, before any server runs."""
    validator.place()
    path = validator.path(validator.place())
    path.write_text(path.read_text()[:-20])
    said = ptn_doctor(f"--validator-dir={validator.root}", f"--data-dir={tmp_path / 'data'}")[1]
    assert f"1 of 2 position files are refused, or a part of them; the first is {path}: " in said


def test_doctor_knows_file_systems_without_events(
    validator: Validator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and its kin tell nothing of changes made elsewhere."""
    settings = load_settings({"validator_dir": str(validator.root)})
    assert [*doctor.file_system(settings)] == []
    for kind in ("nfs4", "fuse.sshfs", "9p", "virtiofs", "cifs"):
        monkeypatch.setattr(doctor, "mount_of", lambda _, kind=kind: ("/mnt", kind))
        (finding,) = doctor.file_system(settings)
        assert finding.level == "warn"
        assert f"/mnt is a {kind} file system" in finding.sentence


def test_doctor_finds_each_problem(tmp_path: Path) -> None:
    """Each with a remedy; it changes nothing."""
    keys = tmp_path / "keys.json"
    keys.write_text(
        '{"old": {"key": "s3cret", "tier": 30, "expires": "2020-01-01T00:00:00Z"},\n"bad": {"tier": 30}}'
    )
    keys.chmod(0o644)
    (tmp_path / "data").write_text("a file")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = ptn_doctor(
            f"--api-rest-port={port}",
            "--api-ws-port=0",
            f"--validator-dir={tmp_path}",
            f"--data-dir={tmp_path / 'data'}",
            f"--api-keys-file={keys}",
            f"--tls-cert={keys}",
            f"--tls-key={keys}",
            "--memory-limit-bytes=500000000",
            PTN_METRIC_PORT="9469",
        )
    assert code == 1
    for words in (
        f"port {port}: Address already in use by ",
        f", process {os.getpid()}: ",
        "; choose another with --api-rest-port",
        f"{keys}:2:",
        "chmod o-rw",
        "is not a directory that this user can write",
        "see --validator-dir",
        "not a PEM certificate chain",
        "limited to 476 MiB (setting); a server of all miners needs about 1 GiB",
        "unknown environment variable PTN_METRIC_PORT",
    ):
        assert words in said, said
    assert "s3cret" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "keys.json"]


def test_a_taken_metrics_port_ends_the_start_with_one_line(
    validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """As for the other ports: exit status 1, and the flag to change."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        api(
            data_dir, validator_dir=validator.root, wait=False, metrics_port=taken.getsockname()[1]
        ) as server,
    ):
        assert server.process.wait(timeout=PATIENCE_S) == 1
        assert "--metrics-port" in server.log.read_text()
        assert server.stdout == []
