"""The description is complete and valid; tests/system/test_contracts.py holds responses to it."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from descriptions.asyncapi import asyncapi_document
from descriptions.html import asyncapi_page, openapi_page
from descriptions.openapi import errors_of, openapi_document
from ptn_api.http.errors import STATUS
from ptn_api.model.miner import MinerEntry
from ptn_api.rest.app import Router
from ptn_api.rest.routes import ROUTES
from tests.contract import schema_of


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document(ROUTES)


def references(value: Any) -> set[str]:
    """Returns every `$ref`."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(v) for v in value.values()))
    return set().union(*(references(v) for v in value)) if isinstance(value, list) else set()


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """By the schema of OpenAPI 3.1; and plain JSON."""
    validate(document)
    assert json.loads(json.dumps(document)) == document


def test_every_route_is_described(document: dict[str, Any]) -> None:
    """Both methods; parameters with descriptions, headers, errors; every reference resolves."""
    for route in ROUTES:
        for operation in document["paths"][route.path].values():
            assert operation["summary"]
            own = [p for p in operation["parameters"] if "$ref" not in p]
            assert all(p["schema"] and p["description"] for p in own)
            assert {"200", "400", "429", "500"} <= set(operation["responses"])
            assert ("304" in operation["responses"]) != route.is_endless
            assert ("401" in operation["responses"]) == (route.access != "anyone")
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    ids = {operation["operationId"] for operation in operations}
    assert len(ids) == len(operations)
    for reference in references(document):
        _, kind, section, name = reference.split("/")
        assert name in document[kind][section]


def test_every_error_has_its_example(document: dict[str, Any]) -> None:
    """By code, under its status; only the error of other methods is listed by no route."""
    listed = set()
    for route in ROUTES:
        responses = document["paths"][route.path]["get"]["responses"]
        for code in errors_of(route):
            content = responses[str(STATUS[code].value)]["content"]["application/json"]
            assert content["examples"][code]["value"]["code"] == code
            listed.add(code)
    assert set(STATUS) - listed == {"method_not_allowed"}


def test_every_example_matches_its_schema(document: dict[str, Any]) -> None:
    """Each example of each response, header and parameter."""
    seen = 0
    for item in document["paths"].values():
        for response in item["get"]["responses"].values():
            for content in response.get("content", {}).values():
                examples = [e["value"] for e in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                for example in examples:
                    jsonschema.validate(example, schema_of(document, content["schema"]))
                    seen += 1
    for named in (document["components"]["headers"], document["components"]["parameters"]):
        for part in named.values():
            jsonschema.validate(part["example"], part["schema"])
    assert seen > len(ROUTES)


def test_every_response_with_data_has_an_example(document: dict[str, Any]) -> None:
    """All but the descriptions themselves."""
    for path, item in document["paths"].items():
        content = item["get"]["responses"]["200"]["content"]
        if "json" not in path and "docs" not in path:
            assert all(part.get("examples") or part.get("example") for part in content.values()), path


def test_an_entry_is_described_completely(document: dict[str, Any]) -> None:
    """The type in the table is the model's."""
    schema = document["components"]["schemas"]["MinerEntry"]
    assert set(schema["properties"]) == set(MinerEntry.__struct_fields__)


def test_the_page_shows_every_route_and_loads_nothing(document: dict[str, Any]) -> None:
    """Self-contained: no script, no external resource; text is escaped."""
    html = openapi_page(document)
    for route in ROUTES:
        assert f"<code>GET {route.path}</code>" in html
    assert "<script" not in html
    assert "src=" not in html
    assert "`" not in re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
    assert "&lt;epoch&gt;" in html
    assert '<a href="/docs/stream">' in html


def test_the_pages_links_lead_somewhere(document: dict[str, Any]) -> None:
    """Each anchor exists once, on the page or on the other one; the contents list every route and type."""
    pages = {"/docs": openapi_page(document), "/docs/stream": asyncapi_page(asyncapi_document())}
    anchors = {path: re.findall(r' id="([^"]+)"', html) for path, html in pages.items()}
    for path, html in pages.items():
        assert len(anchors[path]) == len(set(anchors[path]))
        for target in re.findall(r'href="([^"]*#[^"]+)"', html):
            page, _, anchor = target.partition("#")
            assert anchor in anchors[page or path], target
    contents = pages["/docs"].partition("<nav>")[2].partition("</nav>")[0]
    assert all(f">{route.path}</a>" in contents for route in ROUTES)
    assert 'href="#type-Position">' in contents


def test_a_page_has_no_sentence_twice(document: dict[str, Any]) -> None:
    """Within an article about a route or a type, and in no two descriptions of parameters and fields."""
    for html in (openapi_page(document), asyncapi_page(asyncapi_document())):
        for article in html.split("<article ")[1:]:
            text = re.sub(r"<pre.*?</pre>|<[^>]+>", "", article.partition("</article>")[0], flags=re.DOTALL)
            sentences = [part for part in re.split(r"(?<=[.:;]) |\n", text) if len(part) > 60]
            assert len(sentences) == len(set(sentences)), article[:60]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/miner-positions", ("/miner-positions", "")),
        ("/miner-positions/", ("/miner-positions", "")),
        ("/miner-positions/5A", ("/miner-positions/{hotkey}", "5A")),
        ("/statistics/5A/", ("/statistics/{hotkey}", "5A")),
        ("/statistics/5A/x", None),
        ("/miner-positions/a/b", None),
        ("/perf-ledger", None),
        ("/docs/stream", ("/docs/stream", "")),
        ("/eliminations/5A", None),
        ("/{hotkey}", None),
        ("/", ("/", "")),
        ("//", ("/", "")),
    ],
)
def test_routing(path: str, found: tuple[str, str] | None) -> None:
    """Exact, or by prefix with one more part; one trailing slash is ignored."""
    result = Router(ROUTES).find(path)
    assert (result and (result[0].path, result[1])) == found
