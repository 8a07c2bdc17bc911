"""The TypeScript client: its own tests, and real servers behind proxies that cut connections."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from descriptions.__main__ import TYPESCRIPT, typescript
from ptn_api.access import add_key
from ptn_api.rest.routes import ROUTES
from ptn_api.wire import close_codes
from tests import factories
from tests.chaos import ChaosProxy
from tests.live import serving
from tests.system.api import Api, api
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until
from tests.web import node, session_vectors

needs_node = pytest.mark.skipif(bool(node.missing()), reason=node.missing() or "-")

N_ORDERS = 10_000
PER_FILE = 50
ROUNDS = 10
OTHER_MINER = "5Other"
THIRD_MINER = "5Third"


def test_the_types_match_the_descriptions() -> None:
    """After a change of a route or a frame: `make descriptions`."""
    assert TYPESCRIPT.read_text() == typescript()


def test_both_clients_are_tested_with_the_same_sessions() -> None:
    """After a change of the client's session or its tests: `python -m tests.web.session_vectors`."""
    assert session_vectors.FILE.read_text() == session_vectors.text()


def test_evictions_are_recognised_by_the_server_s_words() -> None:
    """An event stream ends with the reason as a comment, without a code."""
    assert f'"{close_codes.REPLACED.reason}"' in (node.CLIENT / "src" / "links.ts").read_text()


def test_the_lock_file_names_no_registry() -> None:
    """npm installs from the one that it is configured to use."""
    packages = json.loads((node.CLIENT / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []


@needs_node
def test_its_own_tests_pass() -> None:
    """Compiled in strict mode."""
    tests = sorted(node.built().glob("*.test.js"))
    command = ["node", "--test", "--test-reporter=spec", *map(str, tests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_node
def test_a_strict_program_may_use_every_public_name() -> None:
    """With the declarations that the package contains."""
    node.compiled("tsconfig.json")
    node.compiled("tsconfig.sample.json")
    sample = (node.CLIENT / "test" / "sample" / "uses_everything.ts").read_text()
    names = (node.CLIENT / "src" / "index.ts").read_text().partition("{")[2].replace(";", ",")
    exported = {word for word in names.replace("type ", "").split() if word.endswith(",")}
    assert exported
    assert {name for name in exported if name[:-1].isidentifier() and name[:-1] not in sample} == set()


# --- real servers -----------------------------------------------------------------------------------------


class Served:
    """A server of a validator's directory, and a key for it."""

    def __init__(self, server: Api, validator: Validator, key: str, folder: Path) -> None:
        self.server = server
        self.validator = validator
        self.key = key
        self.folder = folder

    def place(self, number: int, miner: str = factories.MINER) -> dict[str, Any]:
        """Writes a position with several new orders at once."""
        now = time.time_ns() // 1_000_000
        orders = [factories.order(number * 1000 + n, 0.1, at=now + n) for n in range(PER_FILE)]
        self.validator.placed += [order["order_uuid"] for order in orders]
        position = factories.position(number, orders, miner=miner)
        self.validator.write(position)
        return position

    def positions(self) -> dict[str, dict[str, Any]]:
        """Returns what REST serves, by position_uuid; nothing while it is busy."""
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = requests.get(f"{self.server.rest}/miner-positions", headers=headers, timeout=PATIENCE_S)
        entries = answer.json() if answer.status_code == 200 else {}
        return {p["position_uuid"]: p for entry in entries.values() for p in entry["positions"]}

    def proxies(self, stack: ExitStack) -> dict[str, ChaosProxy]:
        """Returns a proxy for each transport, by its scheme."""
        ports = {"ws": self.server.ws_port, "http": int(self.server.rest.rpartition(":")[2])}
        return {scheme: stack.enter_context(ChaosProxy(port)) for scheme, port in ports.items()}

    def program(
        self, name: str, scheme: str, proxy: ChaosProxy, **environment: str
    ) -> AbstractContextManager[node.Program]:
        url = f"{scheme}://127.0.0.1:{proxy.port}"
        log = self.folder / f"{name}-{scheme}.txt"
        known = {"PTN_API_KEY": self.key, "PTN_REST_URL": self.server.rest, "PTN_URL": url}
        return node.program(name, log, **known, **environment)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    validator = Validator(tmp_path / "validator")
    key = add_key(tmp_path / "api_keys.json", "user", 100)
    with api(tmp_path / "data", validator_dir=validator.root) as server:
        yield Served(server, validator, key, tmp_path)


@needs_node
@pytest.mark.timeout(300)
def test_orders_survive_cut_connections(served: Served) -> None:
    """Over both transports, every order comes once and in order, and no gap is reported."""
    with ExitStack() as stack:
        proxies = served.proxies(stack)
        programs = [
            stack.enter_context(served.program("follow", scheme, proxy, PTN_ORDERS=str(N_ORDERS)))
            for scheme, proxy in proxies.items()
        ]
        for round_ in range(ROUNDS):
            for program in programs:
                program.wait_for("state", times=round_ + 1)
            for number in range(round_, N_ORDERS // PER_FILE, ROUNDS):
                served.place(number)
            for proxy in proxies.values():
                proxy.cut()
        placed = sorted(served.validator.placed)
        for program in programs:
            assert sorted(program.wait_for("uuids", seconds=120)) == placed
            assert program.wait_for("gaps") == []


@needs_node
def test_mirrors_survive_cut_connections(served: Served) -> None:
    """Over both transports, the chosen miners' positions become what REST returns, removals included."""
    numbers = itertools.count(500)  # the validator's own begin with 1
    first = [served.place(next(numbers)) for _ in range(3)]
    kept, closed, removed = (served.place(next(numbers), OTHER_MINER) for _ in range(3))
    served.place(next(numbers), THIRD_MINER)
    with ExitStack() as stack:
        proxies = served.proxies(stack)
        miners = f"{factories.MINER},{OTHER_MINER}"
        mirrors = [
            stack.enter_context(served.program("mirror", scheme, proxy, PTN_MINERS=miners))
            for scheme, proxy in proxies.items()
        ]
        for mirror in mirrors:
            mirror.wait_for("loaded")
            mirror.send("first")
            mirror.wait_for("first")
        for _ in range(10):
            kept = served.validator.add_order(kept)
            served.place(next(numbers), THIRD_MINER)
            first[0] = served.validator.add_order(first[0])
            for proxy in proxies.values():
                proxy.cut(0.7)
        served.validator.write(closed | {"is_closed_position": True, "close_ms": closed["open_ms"] + 9})
        served.validator.write(first[1] | {"current_return": 1.5})
        served.validator.path(removed).unlink()

        def all_is_served() -> bool:
            found = served.positions()
            return bool(
                found
                and removed["position_uuid"] not in found
                and found[closed["position_uuid"]]["is_closed_position"]
                and found[first[1]["position_uuid"]]["current_return"] == 1.5
                and all(len(found[p["position_uuid"]]["orders"]) == PER_FILE + 10 for p in (kept, first[0]))
            )

        until(all_is_served, what="the last changes in REST")
        for mirror in mirrors:
            mirror.send("last")
            assert mirror.wait_for("last")["positions"] == 5
            assert mirror.wait_for("last")["orders"] == 5 * PER_FILE + 20


@needs_node
def test_every_route_is_called(tmp_path: Path) -> None:
    """Documents are kept with their ETags; errors have the server's codes."""
    with serving(tmp_path) as live:
        environment = {"PTN_API_KEY": live.key, "PTN_REST_URL": live.rest}
        with node.program("routes", tmp_path / "routes.txt", **environment) as program:
            results = program.wait_for("results")
    # The demo trades, so any document may have changed between two calls, but not these.
    assert (results.pop("tradePairs"), results.pop("me"), results.pop("minerSelections")) == ("kept",) * 3
    errors = {name: text for name, text in results.items() if text not in ("kept", "read")}
    expected = dict.fromkeys(("entities", "entity"), "403 insufficient_tier")
    expected |= {"limitOrders": "404 not_found", "entityEndpoint": "404 not_found"}
    expected |= {"wrong key": "401 unauthorized", "no key": "401 no_key"}
    if not any(route.path == "/miners" for route in ROUTES):
        expected["miners"] = "404 not_found"
    assert errors == expected
