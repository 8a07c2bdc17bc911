"""The stream's description is complete, with valid schemas."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from descriptions.asyncapi import asyncapi_document
from descriptions.html import asyncapi_page
from ptn_api.wire import frames
from ptn_api.wire.close_codes import CLOSE_CODES
from tests.contract import problems

PARTS_OF_OTHERS = {"MessageData"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return asyncapi_document()


def resolved(document: dict[str, Any], reference: str) -> Any:
    """Returns the target of a `#/...` reference."""
    value: Any = document
    for part in reference.removeprefix("#/").split("/"):
        value = value[part]
    return value


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(v) for v in value.values()))
    return set().union(*(references(v) for v in value)) if isinstance(value, list) else set()


def test_the_document_has_the_shape_of_asyncapi_3(document: dict[str, Any]) -> None:
    """The required parts of the specification, by name and type; every reference resolves.

    No package on PyPI ships the specification's own schema.
    """
    assert json.loads(json.dumps(document)) == document
    assert document["asyncapi"] == "3.1.0"
    assert {"title", "version"} <= set(document["info"])
    for server in document["servers"].values():
        assert {"host", "protocol"} <= set(server)
        assert {name.strip("{}") for name in server["host"].split(":")} == set(server["variables"])
    for name, operation in document["operations"].items():
        assert operation["action"] in ("send", "receive")
        channel = operation["channel"]["$ref"]
        assert channel in ("#/channels/version1", "#/channels/version2")
        replies = operation.get("reply", {}).get("messages", [])
        for reference in (*operation["messages"], *replies):
            assert reference["$ref"].startswith(f"{channel}/messages/"), name
    for reference in references(document):
        assert resolved(document, reference)


def test_every_frame_is_described(document: dict[str, Any]) -> None:
    """Each type of `wire.frames` is a message, and each message is sent or received in its versions."""
    messages = document["components"]["messages"]
    kinds = {n for n in frames.__all__ if isinstance(getattr(frames, n), type)}
    assert {message["title"] for message in messages.values()} == kinds - PARTS_OF_OTHERS
    for name, channel in document["channels"].items():
        operated = {
            reference["$ref"]
            for operation in document["operations"].values()
            if operation["channel"]["$ref"] == f"#/channels/{name}"
            for reference in operation["messages"]
        }
        assert operated == {f"#/channels/{name}/messages/{message}" for message in channel["messages"]}
    new = set(document["channels"]["version2"]["messages"]) - set(
        document["channels"]["version1"]["messages"]
    )
    assert new == {"error", "heartbeat", "positionChanged", "positionsRemoved", "resumeFailed", "resumed"}


def test_schemas_are_valid_and_examples_fit(document: dict[str, Any]) -> None:
    """JSON Schema 2020-12; each message has an example that matches no other message's schema."""
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    messages = document["components"]["messages"]
    for name, message in messages.items():
        assert message["examples"], name
        for example in message["examples"]:
            fits = {
                other
                for other, described in messages.items()
                if not problems(document, described["payload"]["schema"], example["payload"])
            }
            assert fits == {name}, example["name"]


def test_all_close_codes_are_listed(document: dict[str, Any]) -> None:
    """The table's and WebSocket's own, each with whether to reconnect."""
    for channel in document["channels"].values():
        told = {row["code"]: row["comeBack"] for row in channel["x-close-codes"]}
        assert set(CLOSE_CODES) | {1002, 1007, 1009} == set(told)
        assert not told[4101]
        assert told[4001]


def test_the_page_shows_every_frame_and_loads_nothing(document: dict[str, Any]) -> None:
    """Self-contained, escaped, linked with the other page."""
    html = asyncapi_page(document)
    for message in document["components"]["messages"].values():
        assert f"<h3>{message['title']}</h3>" in html
    for code in CLOSE_CODES:
        assert f"<code>{code}</code>" in html
    assert "<script" not in html
    assert "src=" not in html
    assert "`" not in re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
    assert '<a href="/docs">' in html
