"""A server that cannot start says why in one clear line, with exit status 1 or 2."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from ptn_api.cli.doctor import diagnose
from ptn_api.event_log import open_reader
from ptn_api.process.settings import load_settings
from tests import factories
from tests.system.api import ROOT, api
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

PTN = "from ptn_api.cli.app import main; main()"


def run(
    *arguments: str, script: str = "api_manager.py", cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PTN_")}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment,
        cwd=cwd,
        check=False,
    )


@pytest.mark.parametrize("script", ["api_manager.py", "main.py"])
def test_without_serve_it_prints_its_help(script: str) -> None:
    """Both scripts, with the documented options in it."""
    result = run(script=script)
    assert result.returncode == 0
    for option in ("--serve", "--api-host", "--api-rest-port", "--api-ws-port", "--netuid", "--demo"):
        assert option in result.stdout


def test_a_port_in_use(validator: Validator, data_dir: Path) -> None:
    """The message names the port and the option that changes it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(
            "--serve",
            f"--validator-dir={validator.root}",
            f"--data-dir={data_dir}",
            "--api-rest-port=0",
            f"--api-ws-port={port}",
        )
    assert result.returncode == 1
    assert str(port) in result.stderr
    assert "--api-ws-port" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_data_directory_that_cannot_be_written(validator: Validator, tmp_path: Path) -> None:
    """A file is in its place."""
    (tmp_path / "data").write_text("in the way")
    result = run("--serve", f"--validator-dir={validator.root}", f"--data-dir={tmp_path / 'data'}")
    assert result.returncode == 1
    assert f"--data-dir {tmp_path / 'data'} is not a directory" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_read_only_disk(validator: Validator, data_dir: Path) -> None:
    """A data directory on a file system that is mounted read-only."""
    data_dir.mkdir()
    mounts = f"mount --bind {data_dir} {data_dir} && mount -o remount,ro,bind {data_dir}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounts], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let us mount anything")
    server = f"{sys.executable} {ROOT / 'api_manager.py'} --serve --api-rest-port 0 --api-ws-port 0"
    where = f"--validator-dir {validator.root} --data-dir {data_dir}"
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mounts} && {server} {where}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode == 1
    assert "Read-only file system" in result.stderr
    assert "--data-dir" in result.stderr


def test_files_of_another_user_in_the_data_directory(validator: Validator, data_dir: Path) -> None:
    """As left by a server that root started; here the file is on a read-only mount."""
    data_dir.mkdir()
    log = data_dir / "log.sqlite3"
    log.touch()
    mounts = f"mount --bind {log} {log} && mount -o remount,ro,bind {log}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounts], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let us mount anything")
    server = f"{sys.executable} {ROOT / 'api_manager.py'} --serve --api-rest-port 0 --api-ws-port 0"
    where = f"--validator-dir {validator.root} --data-dir {data_dir}"
    command = ["unshare", "-m", "sh", "-c", f"{mounts} && {server} {where}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 1
    assert "--data-dir: log.sqlite3 cannot be written by this user" in result.stderr


def test_a_file_that_is_not_a_log(validator: Validator, data_dir: Path) -> None:
    """Another program's database: a restart would not help. The reason is logged, with exit status 1."""
    data_dir.mkdir()
    with contextlib.closing(sqlite3.connect(data_dir / "log.sqlite3")) as db:
        db.execute("CREATE TABLE notes (text)")
    ports = ("--api-rest-port=0", "--api-ws-port=0")
    result = run("--serve", f"--validator-dir={validator.root}", f"--data-dir={data_dir}", *ports)
    assert result.returncode == 1
    assert "not an event log" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("::1", False)])
def test_keys_in_the_clear_are_warned_about(
    host: str, warned: bool, validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """Beyond loopback without TLS. The ready line has an IPv6 address in brackets."""
    validator.place()
    if host == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    with api(data_dir, validator_dir=validator.root, api_host=host) as server:
        url = server.stdout[0].split()[4]
        assert url.startswith("http://[::1]:" if host == "::1" else "http://0.0.0.0:")
        reachable = url.replace("0.0.0.0", "127.0.0.1")
        ask = lambda: requests.get(reachable + "/health", timeout=PATIENCE_S).json()  # noqa: E731
        until(lambda: ask()["status"] == "ok")
    assert ('"keys_in_the_clear"' in server.log.read_text()) is warned


def test_output_that_cannot_be_written_ends_nothing(validator: Validator, data_dir: Path) -> None:
    """With standard output and error on a full disk it still serves, and stops in order."""
    validator.place()
    command = [sys.executable, str(ROOT / "api_manager.py"), "--serve", f"--validator-dir={validator.root}"]
    command += [f"--data-dir={data_dir}", "--api-rest-port=0", "--api-ws-port=0"]
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(command, stdout=full, stderr=full)
    try:
        until(lambda: any(map(healthy, listening(process.pid))) or process.poll() is not None)
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_a_process_inherits_only_what_it_needs(validator: Validator, data_dir: Path) -> None:
    """Intake has no listener, each server its own; nothing would be inherited by a program they start."""
    validator.place()
    with api(data_dir, validator_dir=validator.root) as server:
        children = server.children()
        ports = {name: listening(process.pid) for name, process in children.items()}
        rest_port, ws_port = int(server.rest.rpartition(":")[2]), server.ws_port
        assert ports == {"intake": [], "rest": [rest_port], "stream": [ws_port]}
        for process in children.values():
            for entry in Path(f"/proc/{process.pid}/fdinfo").iterdir():
                flags = next(line for line in entry.read_text().splitlines() if line.startswith("flags:"))
                assert int(entry.name) <= 2 or int(flags.split()[1], 8) & os.O_CLOEXEC, entry


def listening(pid: int) -> list[int]:
    """The ports on which the process listens."""
    connections = psutil.Process(pid).net_connections("tcp")
    return [connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN]


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def healthy(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE_S).status_code == 200
    except requests.RequestException:  # not listening, or no HTTP
        return False


def test_no_validator_here(tmp_path: Path) -> None:
    """The usage error names the options."""
    result = run("--serve", cwd=tmp_path)
    assert result.returncode == 2
    assert "--validator-dir" in result.stderr
    assert "--demo" in result.stderr


@pytest.mark.parametrize(
    ("given", "found", "meant", "where"),
    [
        ("empty", "an empty directory", "", ""),
        ("file", "a file, not a directory", "", ""),
        ("nowhere/at/all", "no such directory", "", ""),
        ("abov", "no such directory", "above", "next to this one"),
        ("above/validation", "no validation/miners in it", "above", "this is a folder in it"),
        ("above/validation/miners", "an empty directory", "above", "this is a folder in it"),
        ("above/validation/missing", "no such directory", "above", "this is a folder in it"),
        ("parent", "no validation/miners in it", "parent/checkout", "it is in this one"),
    ],
)
def test_a_directory_that_is_no_validators(
    tmp_path: Path, given: str, found: str, meant: str, where: str
) -> None:
    """At once, with the path and what was expected there, and the directory that was probably meant."""
    Validator(tmp_path / "above")
    Validator(tmp_path / "parent" / "checkout")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    result = run(
        "--serve",
        f"--validator-dir={tmp_path / given}",
        f"--data-dir={tmp_path / 'data'}",
        "--api-rest-port=0",
        "--api-ws-port=0",
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"--validator-dir {tmp_path / given}: {found}; expected the validator's checkout" in result.stderr
    assert "--wait-for-validator" in result.stderr
    assert ("did you mean" in result.stderr) is bool(meant)
    if meant:
        assert f"did you mean {tmp_path / meant}? " in result.stderr
        assert where in result.stderr


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_checkpoint_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    """Missing, empty or cut off: an error that names it, and no restart that could not help."""
    path = tmp_path / "checkpoint.json"
    if content is not None:
        path.write_text(content)
    arguments = ["--api-rest-port=0", "--api-ws-port=0", f"--data-dir={tmp_path / 'data'}"]
    result = run("--serve", f"--checkpoint={path}", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert f"--checkpoint {path} cannot be used: " in result.stderr
    assert "process_ended" not in result.stderr


def test_a_second_server_on_the_same_data(validator: Validator, data_dir: Path) -> None:
    """The second server is refused and ends; the first does not notice."""
    validator.place()
    with api(data_dir, validator_dir=validator.root) as server:
        pids = {name: process.pid for name, process in server.children().items()}
        result = run(
            "--serve",
            f"--validator-dir={validator.root}",
            f"--data-dir={data_dir}",
            "--api-rest-port=0",
            "--api-ws-port=0",
        )
        assert result.returncode == 1
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert f"another server uses it (process {server.process.pid})" in result.stderr
        assert {name: process.pid for name, process in server.children().items()} == pids


def test_a_demo_and_a_validator_share_no_log(validator: Validator, tmp_path: Path) -> None:
    """Clients of one would get all orders of the other as news, so the second server is refused."""
    validator.place()
    real = ("--serve", f"--validator-dir={validator.root}", "--api-rest-port=0", "--api-ws-port=0")
    demo = ("--serve", "--demo", "--api-rest-port=0", "--api-ws-port=0")
    with api(tmp_path / "demo", demo=True, demo_miners=1, demo_positions=1):
        pass
    with api(tmp_path / "real", validator_dir=validator.root):
        pass
    for arguments, whose in ((real, "demo"), (demo, "real")):
        result = run(*arguments, f"--data-dir={tmp_path / whose}", cwd=tmp_path)
        assert (result.returncode, "validator's log" in result.stderr) == (1, whose == "real")
        assert "--data-dir holds a" in result.stderr
        assert "Traceback" not in result.stderr


def test_the_log_of_another_validator(
    validator: Validator, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The start is refused in one line, and the doctor says the same; nothing is announced or removed."""
    for _ in range(5):
        validator.place()
    with api(data_dir, validator_dir=validator.root):
        pass
    other = Validator(tmp_path / "other")
    other.write(factories.position(50, [factories.order(50)]))
    settings = {"validator_dir": str(other.root), "data_dir": str(data_dir)}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    result = run("--serve", *arguments, "--api-rest-port=0", "--api-ws-port=0", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = [line for line in result.stderr.splitlines() if '"level": "error"' in line]
    for said in (str(data_dir), str(other.root), "another validator", "log.sqlite3*", "DATA_DIR"):
        assert said in line
    diagnose(load_settings(settings | {"api_rest_port": 0, "api_ws_port": 0}, {}))
    assert f"bad   data        {data_dir} holds the log of another validator" in capsys.readouterr().out
    with contextlib.closing(open_reader(data_dir)) as log:
        assert log.read(log.floor() - 1, 10) == []
        assert (log.removed(0), len(list(log.positions()))) == ([], 5)


def test_the_demo_runs_on_nothing_and_keeps_to_its_directory(tmp_path: Path) -> None:
    """It makes its own keys, mode 0600, prints none without a terminal, and writes nowhere else.

    Keys can be added to its file while it runs. A real server's key file next to it is not used.
    """
    data_dir = tmp_path / "data"
    real = tmp_path / "ptn_api" / "api_keys.json"
    real.parent.mkdir()
    real.write_text('{"alice": {"key": "a real key", "tier": 100}}')
    options = {"demo_miners": 3, "demo_positions": 3, "demo_orders_per_minute": 600}
    with api(data_dir, demo=True, api_keys_file=None, **options) as server:
        keys = data_dir / "demo_api_keys.json"
        assert keys.stat().st_mode & 0o777 == 0o600
        header = (data_dir / "demo-100.header").read_text().strip()
        assert header.split()[-1] not in server.log.read_text()
        result = subprocess.run(
            ["curl", "-sf", "--compressed", "-H", f"@{data_dir / 'demo-100.header'}", server.rest + "/me"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert '"tier":100' in result.stdout.replace(" ", "")
        added = subprocess.run(
            [sys.executable, "-c", PTN, "keys", "add", "alice", "--tier=30", f"--api-keys-file={keys}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        ).stdout.split()[-1]
        ask = {"headers": {"Authorization": f"Bearer {added}"}, "timeout": 30}
        until(lambda: requests.get(server.rest + "/me", **ask).status_code == 200, what="the added key")
    assert "a real key" in real.read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"data", "ptn_api", "server.log"}


def test_a_start_as_with_the_networks_own_manager(
    validator: Validator, data_dir: Path, tmp_path: Path, keys: dict[int, str]
) -> None:
    """All its documented options, in a validator's checkout of 2025, where its key file is found.

    The checkout has a package `ptn_api` of its own.
    """
    validator.place()
    package = validator.root / "ptn_api"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('the package of the checkout')")
    (tmp_path / "api_keys.json").rename(package / "api_keys.json")
    command = [sys.executable, str(ROOT / "api_manager.py"), "--serve", "--api-host", "127.0.0.1"]
    command += ["--api-rest-port", "0", "--api-ws-port", "0", "--netuid", "8", f"--data-dir={data_dir}"]
    process = subprocess.Popen(command, cwd=validator.root, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[4]
        ask = {"headers": {"Authorization": f"Bearer {keys[100]}"}, "timeout": 30}
        (miner,) = until(lambda: requests.get(f"{url}/miner-positions", **ask).json()).values()
        assert len(miner["positions"]) == 1
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        process.stdout.close()
