"""A server process on a directory of a validator of 2026: files of mode 0600, and that validator's keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from ptn_api.rest.routes import ROUTES
from tests import newest
from tests.contract import answer_problems
from tests.system.api import Api, api
from tests.waiting import PATIENCE_S, until

MINER = "5Synr98gHa7RAmPKXBxQBMe4B4kLs8WYw1A64Ewmi21gB1Mu"
ENTITY = "5EntF8LjeU56zqG625LCRKjpGB2jyEH2av14rbJTmmBppUaG"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("newest")
    root = newest.unpack(home)
    keys = root / "vanta_api/api_keys.json"
    # No process is down because it has to wait for a busy machine.
    with api(home / "data", validator_dir=root, keys=keys, process_silent_ms=60_000) as running:
        yield running


def ask(server: Api, path: str, key: str | None = "synth-key-500") -> requests.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return requests.get(server.rest + path, headers=headers, timeout=PATIENCE_S)


def test_every_position_is_served(server: Api) -> None:
    """None refused: each file of the directory, with all of its orders."""
    everyone = ask(server, "/miner-positions").json()
    served = {
        position["position_uuid"]: len(position["orders"])
        for entry in everyone.values()
        for position in entry["positions"]
    }
    checkpoint = newest.expected()["checkpoint"]
    assert served == {
        position["position_uuid"]: len(position["orders"])
        for entry in checkpoint["positions"].values()
        for position in entry["positions"]
    }
    assert set(newest.expected()["quirks"]) <= served.keys()
    # The key file of the directory has such entries on purpose; no file is refused.
    until(lambda: ask(server, "/health", None).json()["problems"] == ["key_entries_left_out"])


def test_the_checkpoint_is_complete(server: Api) -> None:
    """All keys in order, and the documents that do not depend on the time."""
    checkpoint, expected = ask(server, "/validator-checkpoint").json(), newest.expected()["checkpoint"]
    assert list(checkpoint) == list(expected)
    for key in expected.keys() - {"created_timestamp_ms", "created_date", "positions", "archived_positions"}:
        assert checkpoint[key] == expected[key], key
    assert checkpoint["archived_positions"].keys() == expected["archived_positions"].keys()


def test_every_route_answers_as_described(server: Api) -> None:
    """With each key of the file: statuses by tier, headers and bodies as in the server's own description."""
    described: dict[str, Any] = ask(server, "/openapi.json", None).json()
    for key, tier in newest.expected()["keys"].items():
        for route in ROUTES:
            hotkey = ENTITY if route.path == "/entity/{hotkey}" else MINER
            path = route.path.replace("{hotkey}", hotkey)
            path += f"?subaccount={ENTITY}_0" if path == "/entity/endpoint" else ""
            path += "?tier=0" if path == "/miner-positions" else ""
            if route.is_endless:
                continue
            response = ask(server, path, key or None)
            if route.access == "anyone":
                expected = 200
            else:
                expected = 401 if tier is None else 403 if tier < route.lowest_tier else 200
            assert response.status_code == expected, (path, key)
            assert answer_problems(described, route.path, "get", response) == [], (path, key)
