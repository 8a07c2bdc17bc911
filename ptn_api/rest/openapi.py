"""The OpenAPI 3.1 document, made from the table of routes and the types in it."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from ptn_api import __version__
from ptn_api.rest.answer import JSON
from ptn_api.rest.refusal import STATUS
from ptn_api.rest.route import Route

__all__ = ["description"]

_REF = "#/components/schemas/{name}"
_ERROR = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "a sentence for people"},
        "code": {"type": "string", "description": "a word for programs"},
    },
    "required": ["error"],
}
_SECURITY = {
    "type": "http",
    "scheme": "bearer",
    "description": 'An API key. A JSON body `{"api_key": ...}` in the GET is understood too; the URL never.',
}


def description(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document about these routes, as plain JSON values."""
    schemas, components = msgspec.json.schema_components(
        [route.answer for route in routes], ref_template=_REF
    )
    paths = {
        route.path: {"get": _operation(route, schema)} for route, schema in zip(routes, schemas, strict=True)
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PTN API",
            "version": __version__,
            "description": "Positions, orders and statistics of a Proprietary Trading Network validator.",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {"apiKey": _SECURITY},
        },
    }


def _operation(route: Route, schema: dict[str, Any]) -> dict[str, Any]:
    media_type = "text/html" if route.path == "/docs" else JSON
    operation = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "parameters": _parameters(route),
        "responses": {
            "200": {"description": "OK", "content": {media_type: {"schema": schema}}},
            **_refusals(route),
        },
        "security": [] if route.access == "anyone" else [{"apiKey": []}],
    }
    notes = [route.description, "Tier 100 only." if route.access == "tier 100" else ""]
    if any(notes):
        operation["description"] = " ".join(filter(None, notes))
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    found = []
    if route.path.endswith("{hotkey}"):
        found.append({"name": "hotkey", "in": "path", "required": True, "schema": {"type": "string"}})
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    for name, schema in components[route.query.__name__]["properties"].items():
        text = schema.pop("description", "")
        found.append({"name": name, "in": "query", "required": False, "description": text, "schema": schema})
    return found


def _refusals(route: Route) -> dict[str, Any]:
    """Refusals by status; those with the same status share a description."""
    codes = list(route.refusals)
    if route.access != "anyone":
        codes += ["unauthorized", "starting"]
    if route.access == "tier 100":
        codes.append("insufficient_tier")
    statuses: dict[HTTPStatus, list[str]] = {}
    for code in codes:
        statuses.setdefault(STATUS[code], []).append(code)
    answers: dict[str, Any] = {
        str(status.value): {
            "description": f"{status.phrase}: {', '.join(codes)}",
            "content": {JSON: {"schema": {"$ref": _REF.format(name="Error")}}},
        }
        for status, codes in sorted(statuses.items())
    }
    return {"304": {"description": "Not Modified: the ETag in If-None-Match is current"}, **answers}
