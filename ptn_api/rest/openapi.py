"""The OpenAPI 3.1 document, made from the table of routes and the types in it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from ptn_api import __version__
from ptn_api.http.answer import JSON
from ptn_api.http.errors import STATUS
from ptn_api.rest.examples import answer_examples, line_example, refusal_example
from ptn_api.rest.messages import NDJSON
from ptn_api.rest.response_headers import HEADERS, headers_of
from ptn_api.rest.route import Route

__all__ = ["cleaned", "description", "refusals_of"]

_REF = "#/components/schemas/{name}"
_ERROR = {
    "type": "object",
    "description": "Some codes come with more fields; programs go by `code`.",
    "properties": {
        "error": {"type": "string", "description": "a sentence for people"},
        "code": {"type": "string", "description": "a word for programs", "enum": sorted(STATUS)},
    },
    "required": ["error", "code"],
}
_SECURITY = {
    "type": "http",
    "scheme": "bearer",
    "description": 'An API key. A JSON body `{"api_key": ...}` in the GET is understood too; the URL never.',
}
_ABOUT = (
    "Positions, orders and statistics of a Proprietary Trading Network validator. `GET` and `HEAD`; any "
    "other method is refused with 405. Times are epoch milliseconds, returns factors (1.0 = unchanged). "
    "Fields may be added to any answer. The WebSocket is described at `/asyncapi.json`."
)
_ANYWHERE = (
    "bad_request",
    "request_timeout",
    "uri_too_long",
    "headers_too_large",
    "too_many_connections",
    "internal",
)
_WITH_KEY = ("unauthorized", "too_many_requests", "starting", "log_unreadable")
_REQUEST_HEADERS = {
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "the ETag of the answer that you have: if it is current still, 304 without a body",
        "schema": {"type": "string"},
        "example": '"9f86d081884c7d659a2feaa0c55ad015-gzip"',
    },
    "AcceptEncoding": {
        "name": "Accept-Encoding",
        "in": "header",
        "required": False,
        "description": "`gzip` or `zstd`: kept compressed, about a fifth of the size",
        "schema": {"type": "string"},
        "example": "gzip",
    },
}


def description(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document about these routes, as plain JSON values."""
    kinds = [k for route in routes for k in (route.answer, route.variant, route.line) if k is not None]
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "PTN API",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "where this document came from"}],
        "paths": {route.path: _path_item(route) for route in routes},
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "parameters": _REQUEST_HEADERS,
            "headers": HEADERS,
            "securitySchemes": {"apiKey": _SECURITY},
        },
    }
    clean: dict[str, Any] = cleaned(document)
    return clean


def cleaned(value: Any) -> Any:
    """Descriptions that were docstrings, without their indentation."""
    if isinstance(value, dict):
        return {
            key: inspect.cleandoc(part) if key == "description" and isinstance(part, str) else cleaned(part)
            for key, part in value.items()
        }
    return [cleaned(part) for part in value] if isinstance(value, list) else value


# --- operations -------------------------------------------------------------------------------------------


def _path_item(route: Route) -> dict[str, Any]:
    get = _operation(route)
    bodiless = {
        status: {key: part for key, part in answer.items() if key != "content"}
        for status, answer in get["responses"].items()
    }
    head = {
        **{key: get[key] for key in ("parameters", "security")},
        "summary": f"{route.summary}: the headers only",
        "operationId": f"{get['operationId']}_head",
        "responses": bodiless,
    }
    return {"get": get, "head": head}


def _operation(route: Route) -> dict[str, Any]:
    operation = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "parameters": _parameters(route),
        "responses": {"200": _success(route), "304": _unchanged(route), **_refusals(route)},
        "security": [] if route.access == "anyone" else [{"apiKey": []}],
    }
    notes = [route.description, "Tier 100 only." if route.access == "tier 100" else ""]
    if any(notes):
        operation["description"] = " ".join(filter(None, notes))
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if route.path.endswith("{hotkey}"):
        found.append(
            {
                "name": "hotkey",
                "in": "path",
                "required": True,
                "description": "the miner's hotkey",
                "schema": {"type": "string", "minLength": 1, "pattern": "^[^/]+$"},
            }
        )
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    for name, schema in components[route.query.__name__]["properties"].items():
        text = schema.pop("description", "")
        found.append({"name": name, "in": "query", "required": False, "description": text, "schema": schema})
    return found + [{"$ref": f"#/components/parameters/{name}"} for name in _REQUEST_HEADERS]


def _success(route: Route) -> dict[str, Any]:
    return {"description": "OK", "headers": headers_of(route, 200), "content": _content(route)}


def _content(route: Route) -> dict[str, Any]:
    media_type = route.media_type.partition(";")[0]
    schema = _schema(route.answer)
    if route.variant is not None:
        schema = {"anyOf": [schema, _schema(route.variant)]}
    content: dict[str, Any] = {media_type: {"schema": schema}}
    if examples := answer_examples(route.path):
        content[media_type]["examples"] = {name: {"value": value} for name, value in examples.items()}
    if route.line is not None:
        named = f"one JSON value per line, each a {route.line.__name__}"
        content[NDJSON] = {"schema": {"type": "string", "description": named}, "example": line_example()}
    return content


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema


def _unchanged(route: Route) -> dict[str, Any]:
    return {
        "description": "Not Modified: the ETag in If-None-Match is current",
        "headers": headers_of(route, 304),
    }


# --- refusals ---------------------------------------------------------------------------------------------


def refusals_of(route: Route) -> list[str]:
    """The codes of every refusal that this route can meet."""
    codes = [*route.refusals, *_ANYWHERE]
    if route.access != "anyone":
        codes += _WITH_KEY
    if route.access == "tier 100":
        codes.append("insufficient_tier")
    return list(dict.fromkeys(codes))


def _refusals(route: Route) -> dict[str, Any]:
    """Refusals by status; those with the same status share a description."""
    statuses: dict[HTTPStatus, list[str]] = {}
    for code in refusals_of(route):
        statuses.setdefault(STATUS[code], []).append(code)
    if route.failing:
        statuses.setdefault(HTTPStatus.SERVICE_UNAVAILABLE, [])
    return {str(status.value): _refusal(route, status, codes) for status, codes in sorted(statuses.items())}


def _refusal(route: Route, status: HTTPStatus, codes: list[str]) -> dict[str, Any]:
    schemas: list[dict[str, Any]] = [{"$ref": _REF.format(name="Error")}] if codes else []
    if route.failing and status == HTTPStatus.SERVICE_UNAVAILABLE:
        schemas.insert(0, _schema(route.answer))
    return {
        "description": f"{status.phrase}: {', '.join(codes)}".rstrip(": "),
        "headers": headers_of(route, status.value),
        "content": {
            JSON: {
                "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
                "examples": {code: {"value": refusal_example(code, route)} for code in codes},
            }
        },
    }
