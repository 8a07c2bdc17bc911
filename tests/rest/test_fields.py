"""The table of fields has a row for every key that is sent, and no row of a key that nothing has."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest

from descriptions.examples import response_examples
from descriptions.fields import Field, fields_of, structs
from ptn_api.event_log import Change
from ptn_api.http.response import JSON
from ptn_api.model.documents import MinerLedger
from ptn_api.model.position import Position
from ptn_api.model.statistics import Eliminations, PerfLedger, Statistics
from ptn_api.rest.app import App
from ptn_api.rest.routes import ROUTES, Route
from ptn_api.simulator.options import Network, SimulatorOptions
from ptn_api.simulator.simulator import Simulator
from ptn_api.wire.examples import examples_of
from tests import newest
from tests.rest.serving import FakeClock, context_over, filled_log, key_ring, respond, some_changes

MODEL_DATA = Path(__file__).parents[1] / "model" / "data"
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
NOW = 1_795_610_096_789

OF_2024: dict[str, Any] = {
    "miner_hotkey": "5Miner",
    "position_uuid": "of 2024",
    "trade_pair": ["BTCUSD", "BTC/USD", 0.003, 0.001, 20],
    "open_ms": 1_714_000_000_000,
    "close_ms": None,
    "initial_entry_price": 64_000.0,
    "orders": [
        {
            "order_type": "LONG",
            "leverage": 0.1,
            "price": 64_000.0,
            "processed_ms": 1_714_000_000_000,
            "order_uuid": "1",
            "price_sources": [{"source": "feed", "volume": 12.5, "lag_ms": 90}],
        }
    ],
}
"""A position as validators of 2024 wrote it."""
RARE: dict[str, dict[str, Any]] = {
    "Order": {
        "order_type": "LONG",
        "processed_ms": NOW,
        "order_uuid": "2",
        "trailing_stop": {"trailing_percent": 0.02, "trailing_value": 5.0},
        "bracket_orders": [
            {"stop_loss": 1.0, "take_profit": 2.0, "trailing_percent": 0.1, "trailing_value": 5.0}
        ],
        "bracket_pct": 0.5,
    },
    "PerfLedger": {"tp_id": "portfolio"},
}
"""Keys that no stored data has, by type."""


@cache
def types_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}


class Table:
    """The rows, of which every key that occurs in data marks one."""

    def __init__(self) -> None:
        self.rows = {name: dict(fields_of(kind)) for name, kind in structs().items()}
        self.seen: set[tuple[str, str]] = set()
        self.unknown: set[str] = set()
        self.mistyped: set[str] = set()

    def walk(self, kind: Any, value: Any) -> None:
        """Marks the rows of a value of this type and of its parts."""
        while get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if isinstance(value, dict):
                self._walk_struct(kind, value)
        elif isinstance(value, dict) and get_origin(kind) is dict:
            for part in value.values():
                self.walk(get_args(kind)[1], part)
        elif isinstance(value, list) and get_origin(kind) is list:
            for part in value:
                self.walk(get_args(kind)[0], part)
        else:
            union = get_args(kind) if get_origin(kind) not in (dict, list, tuple) else ()
            structs_ = [part for part in union if isinstance(part, type) and issubclass(part, msgspec.Struct)]
            fitting = [
                part for part in structs_ if isinstance(value, dict) and types_of(part).keys() & value.keys()
            ]
            for part in fitting or [part for part in union if part not in structs_]:
                self.walk(part, value)

    def _walk_struct(self, kind: type[msgspec.Struct], value: dict[str, Any]) -> None:
        name = kind.__name__
        types = types_of(kind)
        tag = kind.__struct_config__.tag_field
        for key, part in value.items():
            if key == tag:
                continue
            row = self.rows[name].get(key)
            self._mark(name, key, row, part)
            if row is None or "as in `" in row.meaning:
                continue
            if key not in types or any(other.startswith(f"{key}.") for other in self.rows[name]):
                self._walk_rows(name, key, part)
            elif row.type == "PriceSource":
                self.walk(structs()["PriceSource"], part)
            else:
                self.walk(types[key], part)

    def _walk_rows(self, name: str, path: str, value: Any) -> None:
        """Walks a value without a type, whose keys have dotted rows."""
        if isinstance(value, list):
            for part in value:
                self._walk_rows(name, path, part)
        if not isinstance(value, dict) or "shape is not fixed" in self.rows[name][path].meaning:
            return
        for key, part in value.items():
            rows = self.rows[name]
            inner = next((p for p in (f"{path}.{key}", f"{path}.*") if _begins(rows, p)), f"{path}.{key}")
            if inner in rows or not _begins(rows, inner):
                self._mark(name, inner, rows.get(inner), part)
            if inner in rows:
                self._walk_rows(name, inner, part)
            elif _begins(rows, inner):
                self.rows[name].setdefault(inner, Field(inner, "object", ""))
                self.seen.add((name, inner))
                self._walk_rows(name, inner, part)

    def _mark(self, name: str, path: str, row: Field | None, value: Any) -> None:
        if row is None:
            self.unknown.add(f"{name}.{path}")
            return
        self.seen.add((name, path))
        if not _fits(row, value):
            self.mistyped.add(f"{name}.{path} is {row.type}: {str(value)[:60]}")


def _begins(rows: dict[str, Field], path: str) -> bool:
    return any(f"{row}.".startswith(f"{path}.") for row in rows)


def _fits(row: Field, value: Any) -> bool:
    """Whether the row allows the value's JSON type; a whole float is an integer, as validators write some."""
    if value is None:
        return bool(row.null)
    words = row.type
    match value:
        case bool():
            return "true or false" in words
        case int() | float():
            whole = float(value).is_integer()
            return "number" in words or (whole and "integer" in words) or words == "anything"
        case str():
            return "text" in words or "`" in words or words == "anything"
        case list():
            return "list" in words or "object" in words or words.startswith("[") or "anything" in words
    return "object" in words or "by key" in words or "anything" in words or any(n in words for n in structs())


def position_objects(value: Any) -> Iterator[dict[str, Any]]:
    """Returns every position anywhere in a value."""
    if isinstance(value, dict):
        if {"position_uuid", "trade_pair", "orders"} <= value.keys() and "after_order" not in value:
            yield value
        for part in value.values():
            yield from position_objects(part)
    elif isinstance(value, list):
        for part in value:
            yield from position_objects(part)


QUERIES = {
    "/miner-positions": "?since={epoch}:{revision}",
    "/miner-positions/{hotkey}": "?at={now}",
    "/challenge-period/{hotkey}": "?history=true",
    "/limit-orders/{hotkey}": "?status=unfilled,cancelled",
    "/entity/endpoint": "?subaccount={hotkey}_0",
}
"""Requests besides the plain one of each route."""


async def walk_responses(table: Table, changes: list[Change]) -> None:
    """Walks the response of every route of a server with this data."""
    log = filled_log(changes, now_ms=NOW)
    app = App(await context_over(log, FakeClock(NOW), requests_per_minute=0), key_ring(), ROUTES)

    async def ask(path: str) -> Any:
        response = await respond(app, path, "k200")
        return json.loads(response.body) if response.status == 200 else None

    hotkeys = [*await ask("/miner-hotkeys"), *(await ask("/entities"))["entities"]]
    for route in ROUTES:
        if route.media_type != JSON or "json" in route.path:
            continue
        for hotkey, query in itertools.product(hotkeys, ("", QUERIES.get(route.path, ""))):
            values = {"hotkey": hotkey, "epoch": log.epoch, "revision": log.head().revision - 1, "now": NOW}
            body = await ask((route.path + query).format(**values))
            if body is not None:
                walk_response(table, route, body)
            if "{hotkey}" not in route.path + query:
                break


def walk_response(table: Table, route: Route, body: Any) -> None:
    try:
        msgspec.convert(body, route.response, strict=False)
    except msgspec.ValidationError:
        table.walk(route.variant, body)
    else:
        table.walk(route.response, body)


FILES: dict[str, Any] = {
    "minerstatistics": Statistics,
    "eliminations": Eliminations,
    "perf_ledgers": dict[str, PerfLedger | dict[str, PerfLedger]],
    "debt_ledger": dict[str, dict[str, MinerLedger]],
    "emissions_ledger": dict[str, dict[str, MinerLedger]],
    "penalty_ledger": dict[str, dict[str, MinerLedger]],
}


def walk_files(table: Table, folder: Path) -> None:
    """Walks a validator's directory: positions and documents."""
    for path in folder.rglob("*"):
        kind = FILES.get(path.name.partition(".")[0], Position if "positions" in path.parts else None)
        if path.is_file() and kind is not None:
            content = path.read_bytes()
            table.walk(kind, json.loads(gzip.decompress(content) if path.suffix == ".gz" else content))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """The table, marked with all there is: stored data, simulated files, responses, frames, examples."""
    table = Table()
    for changes in (newest.changes(), some_changes()):
        asyncio.run(walk_responses(table, changes))
    for network in get_args(Network):
        folder = tmp_path_factory.mktemp(network)
        options = SimulatorOptions(network=network, miners=3, positions=5, history_ms=10 * 86_400_000)
        simulator = Simulator(folder, options)
        simulator.prepare(NOW)
        simulator.close()
        walk_files(table, folder)
    stored = [*MODEL_DATA.glob("*.json.gz"), *(SHARED.rglob("*.json.gz") if SHARED.exists() else ())]
    for path in stored:
        for position in position_objects(json.loads(gzip.decompress(path.read_bytes()))):
            table.walk(Position, position)
    table.walk(Position, OF_2024)
    for name, value in RARE.items():
        table.walk(structs()[name], value)
    for route in ROUTES:
        for example in response_examples(route.path).values():
            if not isinstance(example, str):
                walk_response(table, route, example)
    for kind in structs().values():
        for frame in examples_of(kind).values():
            table.walk(kind, frame)
    return table


def test_every_row_is_complete() -> None:
    """A meaning; for numbers a unit; for values that may be null or absent, when they are."""
    wrong = []
    for name, kind in structs().items():
        types = types_of(kind)
        for row in fields_of(kind).values():
            complete = row.meaning.endswith(".")
            complete &= bool(row.unit) or not re.match("integer|number", row.type)
            complete &= bool(row.null) or "null" not in row.type
            if row.name in types:
                absent = msgspec.UnsetType in get_args(types[row.name])
                complete &= bool(row.null) or not absent
            if not complete:
                wrong.append(f"{name}.{row.name}: {row}")
    assert wrong == []


def test_nothing_is_sent_that_the_table_lacks(table: Table) -> None:
    """No key of any data, and no value of another type than the row's."""
    assert table.unknown == set()
    assert table.mistyped == set()


def test_no_row_is_of_a_field_that_nothing_has(table: Table) -> None:
    """Every row occurs in some data."""
    unseen = {
        f"{name}.{row}"
        for name, kind in structs().items()
        for row in fields_of(kind)
        if not any((base.__name__, row) in table.seen for base in kind.__mro__)
    }
    assert unseen == set()
