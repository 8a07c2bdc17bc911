"""Checks of real responses and frames against the service's OpenAPI and AsyncAPI documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jsonschema

__all__ = ["Response", "answer_problems", "frame_kinds", "problems", "schema_of"]

PLAIN_HEADERS = {"connection", "content-length", "content-type", "date", "transfer-encoding"}
"""Those that HTTP itself needs."""


class Response(Protocol):
    """A response of `requests` or `schemathesis`."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...
    def json(self) -> Any: ...


def schema_of(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a part of a document as a standalone JSON Schema (2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": {"schemas": document["components"]["schemas"]},
        "allOf": [schema],
    }


def problems(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """Returns how the value violates the schema."""
    validator = jsonschema.Draft202012Validator(schema_of(document, schema))
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]


def answer_problems(document: dict[str, Any], path: str, method: str, response: Response) -> list[str]:
    """Returns how a response differs from the OpenAPI document: status, headers, body."""
    described = document["paths"][path][method.lower()]["responses"].get(str(response.status_code))
    if described is None:
        return [f"status {response.status_code} is not described"]
    return [*_header_problems(document, described, response), *_body_problems(document, described, response)]


def _header_problems(document: dict[str, Any], described: dict[str, Any], response: Response) -> list[str]:
    found = []
    known = {name.lower(): name for name in described.get("headers", {})}
    for name, value in response.headers.items():
        if name.lower() in PLAIN_HEADERS:
            continue
        if name.lower() not in known:
            found.append(f"header {name} is not described")
            continue
        schema = document["components"]["headers"][known[name.lower()]]["schema"]
        typed: Any = int(value) if schema["type"] == "integer" and value.isdigit() else value
        found += problems(document, schema, typed)
    return found


def _body_problems(document: dict[str, Any], described: dict[str, Any], response: Response) -> list[str]:
    if not response.content:
        return []
    media_type = response.headers["content-type"].partition(";")[0]
    content = described.get("content", {}).get(media_type)
    if content is None:
        return [f"{media_type} is not described"]
    body = response.json() if media_type == "application/json" else response.content.decode()
    return problems(document, content["schema"], body)


def frame_kinds(document: dict[str, Any], version: int, action: str, frame: Any) -> list[str]:
    """Returns the AsyncAPI messages of a version that the frame matches, without extra keys.

    `action` is the server's: `send` or `receive`.
    """
    found = []
    for name, operation in document["operations"].items():
        channel = f"#/channels/version{version}"
        if operation["action"] != action or operation["channel"]["$ref"] != channel:
            continue
        kind = operation["messages"][0]["$ref"].rpartition("/")[2]
        schema = document["components"]["messages"][kind]["payload"]["schema"]
        fields = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
        if set(frame) <= set(fields) and not problems(document, schema, frame):
            found.append(name.removesuffix(str(version)))
    return found
