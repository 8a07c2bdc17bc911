"""A server whose user cannot read the validator's files, which today's validators write with mode 0600."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.system.api import ROOT, Api, api
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

OWNER = 54_321
# Root without the capabilities that let it pass over modes is a user like any other. (A real other user often
# cannot reach the interpreter, which is in somebody's home directory.)
AS_ANOTHER_USER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)


@pytest.fixture
def locked(validator: Validator) -> Validator:
    """Three positions, a document, and everything belongs to another user alone."""
    for _ in range(3):
        validator.place()
    validator.document("validation/eliminations.json", {"eliminations": []})
    for path in validator.root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o600)
        os.chown(path, OWNER, OWNER)
    return validator


def health(server: Api) -> tuple[int, dict[str, Any]]:
    """The answer of /health, also of a server that is not ready and has not announced its port."""
    rest = until(lambda: server.children().get("rest"))
    (listener,) = until(lambda: [c for c in rest.net_connections("tcp") if c.status == psutil.CONN_LISTEN])
    response = requests.get(f"http://127.0.0.1:{listener.laddr.port}/health", timeout=PATIENCE_S)
    return response.status_code, response.json()


def doctor(validator: Validator, data_dir: Path) -> subprocess.CompletedProcess[str]:
    ptn = (sys.executable, "-c", "from ptn_api.cli.app import main; main()")
    command = [
        *AS_ANOTHER_USER,
        *ptn,
        "doctor",
        f"--validator-dir={validator.root}",
        f"--data-dir={data_dir}",
    ]
    ports = ("--api-rest-port=0", "--api-ws-port=0")
    return subprocess.run([*command, *ports], capture_output=True, text=True, check=False, cwd=ROOT)


def test_files_of_another_user(locked: Validator, data_dir: Path, keys: dict[int, str]) -> None:
    """/health is 503 with the reason, log and doctor name the user; readable files end it all."""
    with api(data_dir, validator_dir=locked.root, prefix=AS_ANOTHER_USER) as server:
        status, answer = until(
            lambda: (h := health(server))[1]["problems"][:2] == ["source_stale", "files_refused"] and h
        )
        assert (status, answer["source"]["reason"]) == (503, "files_refused")
        assert f"run the service as the files' owner, uid {OWNER}" in server.log.read_text()
        found = doctor(locked, data_dir)
        assert found.returncode == 1
        for what in ("3 of 3 files of miners", "1 of 1 documents"):
            assert f"{what} cannot be read" in found.stdout
        assert f"as the user they belong to: uid {OWNER}" in found.stdout
        for path in locked.root.rglob("*"):
            os.chown(path, 0, 0)
        until(lambda: health(server)[0] == 200)
        ask = {"headers": {"Authorization": f"Bearer {keys[100]}"}, "timeout": PATIENCE_S}
        (miner,) = requests.get(server.rest + "/miner-positions", **ask).json().values()
        assert len(miner["positions"]) == 3
    assert doctor(locked, data_dir).returncode == 0


@pytest.mark.parametrize(
    ("folder", "reason"), [("validation", "root_missing"), ("validation/miners", "files_refused")]
)
def test_a_directory_that_is_locked(locked: Validator, data_dir: Path, folder: str, reason: str) -> None:
    """The root or a folder above it cannot be entered: no start, except where the server is told to wait.

    Then 503 with a reason. All name the user.
    """
    (locked.root / folder).chmod(0o700)
    server_command = [sys.executable, str(ROOT / "api_manager.py"), "--serve", "--api-rest-port=0"]
    directories = ("--api-ws-port=0", f"--validator-dir={locked.root}", f"--data-dir={data_dir}")
    refused = subprocess.run(
        [*AS_ANOTHER_USER, *server_command, *directories],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 1
    assert f"cannot read validation/miners in it; run the server as its owner, uid {OWNER}" in refused.stderr
    settings = {"wait": False, "wait_for_validator": True}
    with api(data_dir, validator_dir=locked.root, prefix=AS_ANOTHER_USER, **settings) as server:  # type: ignore[arg-type]
        until(
            lambda: (
                "source_stale" in server.log.read_text() or "no_miners_directory" in server.log.read_text()
            )
        )
        status, answer = until(lambda: (h := health(server))[1]["source"]["stale"] and h)
        assert (status, answer["source"]["reason"]) == (503, reason)
        assert f"owner, uid {OWNER}" in server.log.read_text()
    found = doctor(locked, data_dir)
    assert found.returncode == 1
    assert f"as the user they belong to: uid {OWNER}" in found.stdout


def test_a_key_file_of_another_user(validator: Validator, data_dir: Path, keys: dict[int, str]) -> None:
    """The server starts and answers 401; /health and the log have the reason, and the log names the file."""
    validator.place()
    path = data_dir.parent / "api_keys.json"
    os.chown(path, OWNER, OWNER)
    ask = {"headers": {"Authorization": f"Bearer {keys[100]}"}, "timeout": PATIENCE_S}
    with api(data_dir, validator_dir=validator.root, prefix=AS_ANOTHER_USER) as server:
        until(lambda: health(server)[1]["problems"] == ["key_file_unreadable"])
        assert requests.get(server.rest + "/me", **ask).status_code == 401
        log = server.log.read_text()
        assert f'"file": "{path}"' in log
        assert "the key file cannot be read: Permission denied" in log
        os.chown(path, 0, 0)
        until(lambda: requests.get(server.rest + "/me", **ask).status_code == 200)
        until(lambda: health(server)[1]["problems"] == [])


def test_a_position_that_is_locked_while_the_server_runs(
    locked: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """As after an upgrade of the validator: each rewritten file is out of reach."""
    for path in locked.root.rglob("*"):
        os.chown(path, 0, 0)
    with api(data_dir, validator_dir=locked.root, prefix=AS_ANOTHER_USER) as server:
        until(lambda: health(server)[0] == 200)
        files = [path for path in (locked.root / "validation" / "miners").rglob("*") if path.is_file()]
        os.chown(files[0], OWNER, OWNER)
        status, answer = until(lambda: (h := health(server))[1]["problems"] == ["files_refused"] and h)
        assert (status, answer["status"]) == (200, "degraded")
        assert answer["details"]["files_refused"]["count"] == 1
        for path in files:
            os.chown(path, OWNER, OWNER)
        until(lambda: health(server)[1]["source"]["reason"] == "files_refused")
