"""The description is complete, and true of what is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ptn_api.model.miner import MinerEntry
from ptn_api.rest.docs_page import page
from ptn_api.rest.openapi import description
from ptn_api.rest.refusal import STATUS
from ptn_api.rest.routes import ROUTES, find


def references(value: Any) -> set[str]:
    """Every `$ref` anywhere."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(v) for v in value.values()))
    return set().union(*(references(v) for v in value)) if isinstance(value, list) else set()


def test_every_route_is_described() -> None:
    """Summary, parameters with descriptions, the answer's type, refusals; no reference leads nowhere."""
    document = description(ROUTES)
    for route in ROUTES:
        operation = document["paths"][route.path]["get"]
        assert operation["summary"]
        assert all(p["schema"] and p.get("description", "x") for p in operation["parameters"])
        statuses = set(operation["responses"])
        assert {str(STATUS[code].value) for code in route.refusals} <= statuses
        assert ("401" in statuses) == (route.access != "anyone")
    ids = [item["get"]["operationId"] for item in document["paths"].values()]
    assert len(ids) == len(set(ids))
    for reference in references(document):
        assert reference.rpartition("/")[2] in document["components"]["schemas"]
    assert json.loads(json.dumps(document)) == document


def test_an_entry_is_described_as_it_is() -> None:
    """The type in the table is the model's."""
    schema = description(ROUTES)["components"]["schemas"]["MinerEntry"]
    assert set(schema["properties"]) == set(MinerEntry.__struct_fields__)


def test_the_page_shows_every_route_and_loads_nothing() -> None:
    """Self-contained: no script, no reference to another place; text is escaped."""
    html = page(description(ROUTES))
    for route in ROUTES:
        assert f"<code>GET {route.path}</code>" in html
    assert "<script" not in html
    assert "src=" not in html
    assert "`" not in html
    assert "&lt;epoch&gt;" in html


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/miner-positions", ("/miner-positions", "")),
        ("/miner-positions/", ("/miner-positions", "")),
        ("/miner-positions/5A", ("/miner-positions/{hotkey}", "5A")),
        ("/statistics/5A/", ("/statistics/{hotkey}", "5A")),
        ("/statistics/5A/x", None),
        ("/miner-positions//", None),
        ("/perf-ledger", None),
        ("/eliminations/5A", None),
        ("/{hotkey}", None),
        ("/", None),
        ("", None),
    ],
)
def test_paths_are_found_by_the_table(path: str, found: tuple[str, str] | None) -> None:
    """Exactly, or up to one last part; a slash at the end is tolerated."""
    result = find(path)
    assert (result and (result[0].path, result[1])) == found
