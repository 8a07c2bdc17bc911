"""Keys of a running server: changes apply to open sockets, usage is recorded, no log holds a key."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ptn_api.access import KeyFile, KeyRing, add_key, revoke_key
from ptn_api.access.key_entry import time_text
from ptn_api.problems import PROBLEMS
from ptn_api.process.settings import Settings
from ptn_api.wire import close_codes
from tests.system.api import ROOT, Api, api
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

SHIPPED_CHECK_MS = Settings().key_check_ms


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api_keys.json"


@pytest.fixture
def server(validator: Validator, data_dir: Path, path: Path) -> Iterator[Api]:
    path.write_text("{}")
    validator.place()
    with api(data_dir, validator_dir=validator.root, keys=path, key_check_ms=SHIPPED_CHECK_MS) as running:
        yield running


def ptn(*arguments: str, status: int = 0) -> str:
    """Runs the command; returns its standard output."""
    command = [sys.executable, "-c", "from ptn_api.cli.app import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


def rest_status(server: Api, key: str, session: Any = requests, path: str = "/miner-hotkeys") -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return int(session.get(server.rest + path, headers=headers, timeout=PATIENCE_S).status_code)


@contextlib.contextmanager
def logged_in(server: Api, key: str) -> Iterator[ClientConnection]:
    """A logged-in connection, as soon as the server knows the key."""
    until(lambda: rest_status(server, key) == 200)
    with contextlib.ExitStack() as stack:

        def try_once() -> ClientConnection | None:
            connection = stack.enter_context(connect(server.stream, open_timeout=PATIENCE_S))
            connection.send(json.dumps({"api_key": key}))
            return connection if json.loads(connection.recv())["status"] == "success" else None

        connection = until(try_once)
        assert connection is not None
        yield connection


def close_code(connection: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        connection.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def edited(path: Path, **changes: Any) -> Callable[[], None]:
    def edit() -> None:
        entries = json.loads(path.read_text())
        entries["alice"] |= changes
        path.write_text(json.dumps(entries))

    return edit


@pytest.mark.parametrize("how", ["revoked", "downgraded", "expired", "rotated"])
def test_a_key_that_ends_is_out_at_once(server: Api, path: Path, how: str) -> None:
    """Its open socket is closed with KEY_REVOKED and its requests are refused; other keys are unaffected."""
    key = add_key(path, "alice", 100)
    other = add_key(path, "bob", 100)
    with logged_in(server, key) as connection, logged_in(server, other) as bystander:
        {
            "revoked": lambda: revoke_key(path, "alice"),
            "downgraded": edited(path, tier=50),
            "expired": lambda: edited(path, expires=time_text(int(time.time() * 1000) + 2_000))(),
            "rotated": lambda: ptn("keys", "rotate", "alice", "--grace", "0", "--api-keys-file", str(path)),
        }[how]()
        assert close_code(connection) == close_codes.KEY_REVOKED.code
        refused = 403 if how == "downgraded" else 401
        until(lambda: rest_status(server, key, path="/messages") == refused)
        bystander.send(json.dumps({"type": "ping", "timestamp": 1}))
        assert json.loads(bystander.recv())["type"] == "pong"
        assert rest_status(server, other) == 200


def test_a_change_of_the_key_file_applies_within_a_second(server: Api, path: Path) -> None:
    """Its removal too, which counts when it is seen twice: the file may be about to be replaced."""
    assert 2 * SHIPPED_CHECK_MS < 1_000
    key = add_key(path, "alice", 100)
    with logged_in(server, key) as connection:
        path.unlink()
        assert close_code(connection) == close_codes.KEY_REVOKED.code
        until(lambda: rest_status(server, key) == 401)


def test_an_upgraded_key_sees_more_without_a_reconnect(server: Api, path: Path) -> None:
    """On the same persistent connection; the stream then accepts it too."""
    key = add_key(path, "alice", 30)
    with requests.Session() as session:
        until(lambda: rest_status(server, key, session) == 200)
        assert rest_status(server, key, session, "/miner-positions") == 403
        edited(path, tier=100)()
        until(lambda: rest_status(server, key, session, "/miner-positions") == 200)
    with logged_in(server, key):
        pass


def test_a_faulty_entry_harms_no_other(server: Api, path: Path) -> None:
    """It is named in the log once, and counted by /health and the metrics; a revoked key is invalid."""
    path.write_text('{"alice": "a-key", "bob": "b-key"}')
    until(lambda: [rest_status(server, key) for key in ("a-key", "b-key")] == [200, 200])
    path.write_text('{"alice": "a-key", "carol": {"tier": 100}, "dave": {"key": "d-key", "tier": 200}}')
    until(lambda: [rest_status(server, key) for key in ("a-key", "b-key", "d-key")] == [200, 401, 200])
    assert requests.get(server.rest + "/health", timeout=PATIENCE_S).json()["key_file"] == {"left_out": 1}
    me = requests.get(
        server.rest + "/me", headers={"Authorization": "Bearer d-key"}, timeout=PATIENCE_S
    ).json()
    assert (me["tier"], me["limits"]["websocket_connections"]) == (200, None)
    with logged_in(server, "d-key"):
        pass
    events = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    (problem,) = (event for event in events if event["event"] == "key_entry_problem")
    assert problem["reason"].startswith('user "carol": ')


def test_the_key_file_is_found_later_and_never_changed(validator: Validator, data_dir: Path) -> None:
    """Without --api-keys-file: the first of the default places with a file, for restarted processes too."""
    validator.place()
    with api(data_dir, validator_dir=validator.root, api_keys_file=None) as server:
        assert rest_status(server, "first") == 401
        first = validator.root / "vanta_api" / "api_keys.json"
        first.parent.mkdir()
        first.write_text('{"alice": "first"}')
        with logged_in(server, "first"):
            pass
        other = data_dir.parent / "ptn_api" / "api_keys.json"
        other.parent.mkdir()
        other.write_text('{"alice": "other"}')
        for process in ("rest", "stream"):
            server.wait_restarted(process, server.kill(process))
        with logged_in(server, "first"):
            assert rest_status(server, "other") == 401
        events = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
        assert [e["file"] for e in events if e["event"] == "key_file_chosen"] == [str(first)]
        assert {e["file"] for e in events if e["event"] == "keys_read"} == {str(first)}
        assert len([e for e in events if e["event"] == "no_key_file"]) == 1


def test_a_key_that_is_used_is_listed_and_accounted(server: Api, path: Path, data_dir: Path) -> None:
    """By user and day, over both servers; `ptn keys list` shows when it was last used."""
    files = ["--api-keys-file", str(path)]
    key = ptn("keys", "add", "alice", "--tier", "100", "--expires", "90d", "--note", "pays", *files).strip()
    ptn("keys", "add", "bob", "--tier", "30", *files)
    with logged_in(server, key):
        pass
    until(lambda: "alice" in ptn("keys", "usage", "--data-dir", str(data_dir)))
    (usage,) = (
        line.split("\t") for line in ptn("keys", "usage", "--data-dir", str(data_dir)).splitlines()[1:]
    )
    assert usage[0] == "alice"
    assert int(usage[2]) >= 1
    assert int(usage[3]) > 0
    listed = [
        line.split("\t") for line in ptn("keys", "list", *files, "--data-dir", str(data_dir)).splitlines()
    ]
    assert listed[0] == ["user", "tier", "fingerprint", "expires", "last_seen"]
    assert [(row[0], row[1], row[3] != "never", row[4] != "never") for row in listed[1:]] == [
        ("alice", "100", True, True),
        ("bob", "30", False, False),
    ]


def test_the_command_line_says_what_is_wrong_with_a_file(path: Path) -> None:
    """Every problem with its line, and status 1; a file that others can read is a problem."""
    path.write_text('{\n"a": 7,\n"b": {"key": "s3cret", "tier": "31"}\n}')
    path.chmod(0o644)
    told = ptn("keys", "check", "--api-keys-file", str(path), status=1)
    assert [line.removeprefix(str(path))[:3] for line in told.splitlines()] == [":2:", ":3:", ": t"]
    assert "s3cret" not in told
    path.write_text("{}")
    path.chmod(0o600)
    assert "no problems" in ptn("keys", "check", "--api-keys-file", str(path))


@pytest.fixture
def mounted(tmp_path: Path, path: Path) -> Iterator[Path]:
    """The source of a key file that is mounted by itself, as into a container."""
    source = tmp_path / "source.json"
    source.write_text('{"alice": "a-key"}')
    path.touch()
    command = ["mount", "--bind", str(source), str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount files")
    yield source
    subprocess.run(["umount", str(path)], check=True)


def test_a_key_file_that_is_mounted_alone_is_told(mounted: Path, path: Path) -> None:
    """The server cannot see that the file was replaced, so doctor warns; both report that it is deleted."""
    ring = KeyRing()
    file = KeyFile(path, ring)
    file.refresh()
    former = mounted.rename(mounted.with_name("former.json"))
    mounted.write_text('{"bob": "b-key"}')
    file.refresh()
    assert [ring.lookup(key) is None for key in ("a-key", "b-key")] == [False, True]
    assert not any(file.findings.values())
    doctor = ["doctor", "--api-rest-port=0", "--api-ws-port=0", f"--data-dir={path.parent / 'data'}"]
    told = ptn(*doctor, "--api-keys-file", str(path), f"--validator-dir={path.parent}", status=1)
    assert f"{path} is mounted as a single file" in told
    former.unlink()
    file.refresh()
    assert file.findings["key_file_detached"]
    told = ptn(*doctor, "--api-keys-file", str(path), f"--validator-dir={path.parent}", status=1)
    assert f"{path}: {PROBLEMS['key_file_detached'].sentence}" in told


def test_no_key_is_in_any_log(validator: Validator, data_dir: Path, path: Path) -> None:
    """Valid, wrong, misplaced or in half a frame, and at the debug level."""
    secrets = {name: f"{name}-S3CRET-{'x' * 20}" for name in ("plain", "legacy", "wrong", "lower")}
    path.write_text(
        json.dumps(
            {
                "plain": {"key": secrets["plain"], "tier": 100},
                "old": secrets["legacy"],
                "lower": {"key": secrets["lower"], "tier": 30},
            }
        )
    )
    validator.place()
    with api(data_dir, validator_dir=validator.root, keys=path, log_level="debug") as server:
        with Follower(server.stream, secrets["plain"]) as follower:
            validator.place()
            follower.wait_for(1)
        for secret in secrets.values():
            rest_status(server, secret)
            requests.get(f"{server.rest}/nope/{secret}?api_key={secret}", timeout=PATIENCE_S)
            requests.get(
                f"{server.rest}/miner-positions?tier={secret}", headers={"Authorization": secret}, timeout=30
            )
            requests.get(server.rest + "/me", json={"api_key": secret, "more": [secret]}, timeout=PATIENCE_S)
            misuse(server, secret)
        field = f'"expires": "{secrets["wrong"]}", "{secrets["wrong"]}": 1'
        path.write_text(f'{{"plain": {{"key": "{secrets["plain"]}", {field}, {field}}}}}')
        until(lambda: "key_entry_problem" in server.log.read_text())
        path.write_text(f'{{"plain": "{secrets["plain"]}", "other": {secrets["wrong"]}}}')
        until(lambda: "keys_not_read" in server.log.read_text())
        until(lambda: server.log.read_text().count('"login_refused"') >= 2)
        server.stop()
        log = server.log.read_text()
    assert "S3CRET" not in log
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    closed = [e for e in events if e["event"] == "connection_closed" and e.get("alias") == "plain"]
    assert {"alias", "fingerprint", "address", "reason"} <= set(closed[0])
    assert {e["process"] for e in events if e["event"] == "connection_closed"} == {"rest", "stream"}


def misuse(server: Api, secret: str) -> None:
    """Valid and malformed logins, each followed by a malformed frame."""
    for payload in (
        json.dumps({"api_key": secret}),
        json.dumps({"api_key": [secret]}),
        f'{{"api_key": "{secret}',
    ):
        with (
            connect(server.stream, open_timeout=PATIENCE_S) as connection,
            contextlib.suppress(ConnectionClosed),
        ):
            connection.send(payload)
            connection.recv(timeout=PATIENCE_S)
            connection.send(f'{{"type": "subscribe", "{secret}": "{secret}"')
