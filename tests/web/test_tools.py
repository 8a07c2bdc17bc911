"""Common tools accept the descriptions without a warning, and the clients that they generate work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.rest.routes import ROUTES
from tests.live import Live, serving
from tests.system.api import ROOT

STATIC = ROOT / "ptn_api" / "rest" / "static"
TOOLS = ROOT / "web" / "tools"
GENERATOR = ROOT / ".venv-generator" / "bin" / "openapi-python-client"
SECONDS = 500
"""How long a tool may take on a busy machine."""

pytestmark = pytest.mark.timeout(2 * SECONDS)

needs_tools = pytest.mark.skipif(
    shutil.which("node") is None or not (TOOLS / "node_modules" / "@redocly").is_dir(),
    reason="the tools are not installed; run: npm ci, in web/tools (Node.js 20.19 or newer)",
)
needs_generator = pytest.mark.skipif(
    not GENERATOR.exists(), reason="openapi-python-client is not installed; run: make test"
)

PARSE = """
import {readFileSync} from "node:fs"
import {Parser} from "@asyncapi/parser"
const found = await new Parser().validate(readFileSync(process.argv[1], "utf8"))
console.log(JSON.stringify(found.map((row) => `${row.path.join(".")}: ${row.message}`)))
"""
TYPED = """
import type { operations, paths, components } from "./schema"
const query: operations["get_miner_positions"]["parameters"]["query"] = { tier: 30, status: ["open"] }
const path: keyof paths = "/orders/{hotkey}"
declare const position: components["schemas"]["Position"]
export const found: (number | null | undefined | string)[] = [position.unrealized_pnl, query?.tier, path]
"""
PROGRAM = """
import json, sys
from client import AuthenticatedClient
from client.api.about import get_me
from client.api.documents import get_miner_hotkeys, get_statistics, get_validator_checkpoint
from client.api.messages import get_messages
from client.api.orders import get_orders_by_hotkey
from client.api.positions import get_miner_positions, get_miner_positions_by_hotkey, get_miners

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2], timeout=60)
hotkey = get_miners.sync(client=client).miners[0].hotkey
entry = get_miner_positions_by_hotkey.sync(hotkey, client=client)
orders = [order for position in entry.positions for order in position.orders]
print(json.dumps({
    "hotkeys": len(get_miner_hotkeys.sync(client=client)),
    "types": sorted({type(order).__name__ for order in orders}),
    "average": entry.positions[0].average_entry_price,
    "quotes": sum(len(order.price_sources) for order in orders),
    "tier": get_miner_positions.sync(client=client, tier=50)[hotkey].tier,
    "filled": len(get_orders_by_hotkey.sync(hotkey, client=client, status=["filled"]).filled),
    "restored": hotkey in get_validator_checkpoint.sync(client=client).positions,
    "statistics": len(get_statistics.sync(client=client).data),
    "epoch": get_messages.sync(client=client, limit=1).epoch,
    "alias": get_me.sync(client=client).alias,
    "wrong": get_me.sync(client=AuthenticatedClient(base_url=sys.argv[1], token="wrong")).code,
}))
"""

LENIENT = """
[[operations]]
include-path = ["/entity/endpoint", "/messages", "/miner-positions", "/miner-positions/{hotkey}", "/orders"]
checks.positive_data_acceptance.enabled = false
"""
"""OpenAPI cannot express that one of two parameters is needed, nor which trade pairs, cursors and times the
server knows; it refuses others."""


def run(*command: str | Path, cwd: Path) -> str:
    """Returns what a command prints; it must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_tools
def test_redocly_has_nothing_to_say() -> None:
    """By its recommended rules."""
    document = STATIC / "openapi.json"
    found = json.loads(
        run("node", "node_modules/@redocly/cli/bin/cli.js", "lint", "--format=json", document, cwd=TOOLS)
    )
    assert found["problems"] == []


@needs_tools
def test_the_asyncapi_parser_accepts_the_stream() -> None:
    """Also without a hint or a suggestion."""
    document = STATIC / "asyncapi.json"
    assert json.loads(run("node", "--input-type=module", "-e", PARSE, document, cwd=TOOLS)) == []


@needs_tools
def test_openapi_typescript_generates_types(tmp_path: Path) -> None:
    """They compile, and have the names of operations and types."""
    schema = tmp_path / "schema.ts"
    run(
        "node", "node_modules/openapi-typescript/bin/cli.js", STATIC / "openapi.json", "-o", schema, cwd=TOOLS
    )
    (tmp_path / "use.ts").write_text(TYPED)
    run("node", "node_modules/typescript/bin/tsc", "--strict", "--noEmit", tmp_path / "use.ts", cwd=TOOLS)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("live")) as running:
        yield running


@needs_generator
def test_a_generated_python_client_works(tmp_path: Path, live: Live) -> None:
    """Without a warning; with sensible names; responses of a real server become its types."""
    folder = tmp_path / "client"
    options = ("--path", STATIC / "openapi.json", "--output-path", folder, "--meta", "none")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"post_hooks": [], "literal_enums": True}))
    printed = run(GENERATOR, "generate", *options, "--config", config, cwd=tmp_path)
    assert "arning" not in printed
    functions = {path.stem for path in folder.glob("api/*/get_*.py")}
    assert len(functions) == len(ROUTES)
    assert {"get_miner_positions", "get_orders_by_hotkey", "get_challenge_period_by_hotkey"} <= functions
    found: dict[str, Any] = json.loads(
        run(GENERATOR.with_name("python"), "-c", PROGRAM, live.rest, live.key, cwd=tmp_path)
    )
    assert found.pop("average") > 0
    assert found.pop("filled") > 0
    assert found.pop("quotes") >= 0
    assert len(found.pop("epoch")) == 32
    assert found == {
        "hotkeys": found["statistics"],
        "types": ["Order"],
        "tier": 50,
        "restored": True,
        "statistics": found["statistics"],
        "alias": "demo-100",
        "wrong": "unauthorized",
    }


def test_schemathesis_finds_nothing(tmp_path: Path, live: Live) -> None:
    """Valid and invalid requests to a real server: statuses, headers and bodies are as described.

    The same requests in every run. HEAD, and /stream, which has no end, are left to tests/hostile.
    """
    program = Path(sys.executable).with_name("schemathesis")
    config = tmp_path / "schemathesis.toml"
    config.write_text(LENIENT)
    options = ["--generation-deterministic", "--max-examples=3", "--workers=1", "--no-color"]
    options += ["--exclude-path=/stream", "--exclude-method=HEAD"]
    header = f"--header=Authorization: Bearer {live.key}"
    printed = run(
        program, "--config-file", config, "run", f"{live.rest}/openapi.json", header, *options, cwd=tmp_path
    )
    assert live.key not in printed
