"""A server process on a validator's directory answers as documented to curl, requests and old clients."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from ptn_api.cli.doctor import diagnose
from ptn_api.process.settings import load_settings
from tests import factories
from tests.system.api import api
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

ELIMINATIONS = {
    "eliminations": [
        {"hotkey": factories.OTHER_MINER, "dd": 0.11, "reason": "ZOMBIE", "elimination_initiated_time_ms": 1}
    ]
}
STATISTICS = {
    "version": 1,
    "data": [{"hotkey": factories.MINER, "weight": 0.5, "checkpoints": [{"gain": 1}]}],
}
LEDGERS = {factories.MINER: {"portfolio": {"max_return": 1.1, "cps": []}}}


def fill(validator: Validator) -> dict[str, Any]:
    validator.write(factories.position(10**6, [factories.order(10**6), factories.order(10**6 + 1)]))
    validator.document("validation/eliminations.json", ELIMINATIONS)
    validator.document("validation/perf_ledgers.json", LEDGERS)
    validator.document("validation/challengeperiod.json", {"testing": {}, "success": {factories.MINER: 1}})
    validator.document("runnable/minerstatistics.json", STATISTICS)
    return factories.position(10**6, [factories.order(10**6), factories.order(10**6 + 1)])


def test_every_route_answers(validator: Validator, data_dir: Path, keys: dict[int, str]) -> None:
    """With a validator's files and a key in the header; without a key it is refused."""
    position = fill(validator)
    with api(data_dir, validator_dir=validator.root) as server, requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {keys[100]}"

        def get(path: str) -> Any:
            response = session.get(server.rest + path)
            assert response.status_code == 200, (path, response.text)
            return response.json()

        entry = get("/miner-positions")[factories.MINER]
        assert entry["positions"][0] == position | {"close_ms": 0, "orders": entry["positions"][0]["orders"]}
        assert get(f"/miner-positions/{factories.MINER}")["n_positions"] == entry["n_positions"]
        assert get("/miner-hotkeys") == [factories.MINER]
        assert get("/statistics") == STATISTICS
        assert "checkpoints" not in get("/statistics?checkpoints=false")["data"][0]
        assert get(f"/statistics/{factories.MINER}/") == STATISTICS["data"][0]  # type: ignore[index]
        assert get("/eliminations") == ELIMINATIONS
        checkpoint = get("/validator-checkpoint")
        assert checkpoint["eliminations"] == ELIMINATIONS["eliminations"]
        assert list(checkpoint["positions"]) == [factories.MINER]
        assert get(f"/perf-ledger/{factories.MINER}")
        assert get("/me")["tier"] == 100
        assert get("/trade-pairs")["total_allowed"] > 1_000
        assert get("/openapi.json")["openapi"].startswith("3.")
        assert session.get(server.rest + "/docs").headers["Content-Type"].startswith("text/html")
        until(lambda: requests.get(server.rest + "/health", timeout=PATIENCE_S).status_code == 200)
        assert requests.get(server.rest + "/miner-positions", timeout=PATIENCE_S).status_code == 401
        body_key = requests.get(server.rest + "/eliminations", json={"api_key": keys[0]}, timeout=PATIENCE_S)
        assert body_key.json() == ELIMINATIONS


def test_curl_gets_plain_and_compressed(validator: Validator, data_dir: Path, keys: dict[int, str]) -> None:
    """Plain JSON, or the same document compressed, with the key in the header or in the body."""
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    fill(validator)
    with api(data_dir, validator_dir=validator.root) as server:
        url = server.rest + "/miner-positions"

        def curl(*options: str) -> bytes:
            return subprocess.run(["curl", "-sf", *options, url], capture_output=True, check=True).stdout

        header = f"Authorization: Bearer {keys[100]}"
        plain = curl("-H", header)
        assert factories.MINER in json.loads(plain)
        assert curl("--compressed", "-H", header) == plain
        raw = curl("-H", "Accept-Encoding: gzip", "-H", header)
        assert gzip.decompress(raw) == plain
        body = json.dumps({"api_key": keys[100]})
        sent = curl("-X", "GET", "-H", "Content-Type: application/json", "-d", body)
        assert sent == plain


def test_an_order_is_on_the_socket_and_in_rest(
    validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """Once on the socket, promptly in the live tier, and not at all in the late one."""
    validator.place()
    with (
        api(data_dir, validator_dir=validator.root) as server,
        Follower(server.stream, keys[100]) as follower,
    ):
        position = validator.place(3)
        follower.wait_for(3)
        assert follower.order_uuids == validator.placed[1:]
        assert [len(m["data"]["position"]["orders"]) for m in follower.messages] == [1, 2, 3]

        def seen(tier: int) -> bool:
            headers = {"Authorization": f"Bearer {keys[tier]}"}
            answer = requests.get(
                f"{server.rest}/miner-positions?tier={tier}", headers=headers, timeout=PATIENCE_S
            )
            return position["position_uuid"] in answer.text

        until(lambda: seen(100))
        assert not seen(0)


def test_a_new_key_works_and_a_removed_one_does_not(
    validator: Validator, data_dir: Path, tmp_path: Path
) -> None:
    """Without a restart. Without a key file every request gets 401; log, /health and doctor say why."""
    validator.place()
    path = tmp_path / "late_keys.json"
    with api(data_dir, validator_dir=validator.root, keys=path) as server:
        headers = {"Authorization": "Bearer new-key"}

        def status() -> int:
            return requests.get(
                server.rest + "/miner-hotkeys", headers=headers, timeout=PATIENCE_S
            ).status_code

        assert status() == 401
        assert "ptn keys add" in server.log.read_text()

        def problems() -> list[str]:
            found: list[str] = requests.get(server.rest + "/health", timeout=PATIENCE_S).json()["problems"]
            return found

        until(lambda: problems() == ["no_key_file"])
        until(lambda: '"code": "no_key_file"' in server.log.read_text())
        settings = {"api_rest_port": server.rest.rpartition(":")[2], "api_keys_file": str(path)}

        def diagnosed() -> str:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                diagnose(load_settings(settings | {"validator_dir": str(validator.root)}, {}))
            return printed.getvalue()

        assert f"key file not found: {path}" in diagnosed()
        until(lambda: "no_key_file: There is no key file" in diagnosed())
        path.write_text('{"alice": {"key": "new-key", "tier": 30}}')
        until(lambda: status() == 200)
        until(lambda: problems() == [])
        path.write_text('{"alice": {"key": "new-k')
        until(lambda: "keys_not_read" in server.log.read_text())
        assert status() == 200
        path.write_text("{}")
        until(lambda: status() == 401)
        assert "new-key" not in server.log.read_text()


def test_a_server_that_stops_is_not_ready(validator: Validator, data_dir: Path) -> None:
    """It says so before it stops to answer, here while its intake hangs; /health stays as it is."""
    validator.place()
    with (
        api(
            data_dir, validator_dir=validator.root, stop_timeout_ms=40_000, process_silent_ms=60_000
        ) as server,
        requests.Session() as session,
    ):

        def answer() -> tuple[int, Any]:
            response = session.get(server.rest + "/ready", timeout=PATIENCE_S)
            return response.status_code, response.json()

        until(lambda: answer() == (200, {"ready": True}))
        intake = server.children()["intake"]
        intake.send_signal(signal.SIGSTOP)
        server.process.terminate()
        until(lambda: answer() == (503, {"ready": False, "reason": "stopping"}), what="not ready")
        until(lambda: session.get(server.rest + "/health", timeout=PATIENCE_S).status_code == 200)
        intake.send_signal(signal.SIGCONT)
        assert server.process.wait(PATIENCE_S) == 0
