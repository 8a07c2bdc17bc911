"""The OpenAPI 3.1 document, generated from the table of routes and the types in it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from descriptions.examples import error_example, ndjson_example, response_examples
from descriptions.fields import add_descriptions
from ptn_api import __version__
from ptn_api.http.errors import STATUS
from ptn_api.http.response import JSON
from ptn_api.rest.messages import NDJSON
from ptn_api.rest.routes import Route
from ptn_api.wire.examples import EPOCH

__all__ = ["cleaned", "common_errors", "errors_of", "openapi_document"]

_REF = "#/components/schemas/{name}"
_ERROR = {
    "type": "object",
    "description": "Match on `code`; `error` may be reworded. Some codes add fields.",
    "properties": {
        "error": {"type": "string", "description": "a sentence for humans"},
        "code": {"type": "string", "description": "a stable identifier", "enum": sorted(STATUS)},
        "parameter": {"type": "string", "description": "the parameter that is wrong (400)"},
        "epoch": {"type": "string", "description": "epoch of the log (410)"},
        "oldest_sequence": {"type": "integer", "description": "oldest sequence that can be read (410)"},
        "head": {"type": "integer", "description": "newest sequence (410)"},
        "oldest_cursor": {"type": "string", "description": "oldest cursor that can be used (410)"},
    },
    "required": ["error", "code"],
}
_TAGS = {
    "positions": "Positions and the leaderboard, as a tier shows them.",
    "orders": "Orders by miner (tier 100).",
    "messages": "The stream's messages (tier 100).",
    "documents": "The validator's documents.",
    "accounts": "Ledgers, accounts and entities.",
    "about": "The service itself: health, the request's key, trade pairs.",
    "pages": "Descriptions of the API.",
}
"""By the module of the routes' handlers."""
_SECURITY = {
    "type": "http",
    "scheme": "bearer",
    "description": "The API key: `Authorization: Bearer <key>`. `Authorization: <key>` is accepted too, and "
    'without that header a JSON body `{"api_key": ...}` in the GET. A key in the URL is ignored.',
}
_ABOUT = (
    "Positions, orders and statistics of a Proprietary Trading Network validator. Methods are `GET` and "
    "`HEAD`; others are 405. Times are epoch milliseconds, returns factors (1.0 = unchanged). Fields may be "
    "added to any response. The WebSocket is described at `/asyncapi.json`."
)
_ALWAYS = (
    "bad_request",
    "request_timeout",
    "uri_too_long",
    "headers_too_large",
    "too_many_connections",
    "version_not_supported",
    "internal",
)
_WITH_KEY = ("unauthorized", "too_many_requests", "too_many_downloads", "starting", "log_unreadable")
_PHRASES = {HTTPStatus.REQUEST_URI_TOO_LONG: "URI Too Long"}
"""Reason phrases that changed between versions of Python: the document must not depend on them."""
_REQUEST_HEADERS = {
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "ETag of a stored response; 304 without a body if it is current",
        "schema": {"type": "string"},
        "example": '"9f86d081884c7d659a2feaa0c55ad015-gzip"',
    },
    "AcceptEncoding": {
        "name": "Accept-Encoding",
        "in": "header",
        "required": False,
        "description": "`gzip`: about a fifth of the size. `zstd` is used for small responses only",
        "schema": {"type": "string"},
        "example": "gzip",
    },
    "LastEventID": {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "description": "the `id` of the last event received: resume after it",
        "schema": {"type": "string"},
        "example": f"{EPOCH}:1763800237:1763812345",
    },
}


def _header(text: str, example: Any) -> dict[str, Any]:
    kind = "integer" if isinstance(example, int) else "string"
    return {"description": text, "schema": {"type": kind}, "example": example}


_TAG = "9f86d081884c7d659a2feaa0c55ad015"
_EPOCH = "0b1f6d3a9c8e4f7782d4a1b2c3d4e5f6"

_RESPONSE_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": _header("hash of the content and its coding, equal on every server", f'"{_TAG}-gzip"'),
    "Vary": _header("request headers that the response depends on", "Accept-Encoding, Authorization"),
    "Cache-Control": _header(
        "`no-cache`: store and revalidate; `no-store`: do not store", "private, no-cache"
    ),
    "Content-Encoding": _header("`gzip` or `zstd`; absent if not compressed", "gzip"),
    "X-PTN-Epoch": _header("tier 100: the log that sequence and revision belong to", _EPOCH),
    "X-PTN-Sequence": _header("tier 100: the response contains every order up to this one", 1_763_800_237),
    "X-PTN-Revision": _header("tier 100: the response contains every change up to this one", 90_412),
    "X-PTN-As-Of": _header(
        "lower tiers: the response is complete up to this time, epoch ms", 1_763_713_901_000
    ),
    "X-Accel-Buffering": _header("`no`: nginx passes each event on at once", "no"),
    "X-PTN-Next": _header("NDJSON: `after` of the next request", 1_763_800_237),
    "X-PTN-Head": _header("NDJSON: the newest sequence", 1_763_800_237),
    "X-PTN-Unknown-Miners": _header(
        "up to ten miners of the filter that the validator does not have, quoted as in a URL",
        "5Misspelt,5Gone",
    ),
    "WWW-Authenticate": _header("how to send the key", "Bearer"),
    "Retry-After": _header("seconds to wait before the next request", 2),
    "RateLimit": _header("requests left to the key, and seconds until all are restored", '"key";r=599;t=60'),
    "RateLimit-Policy": _header(
        "requests per window of the key, and the window in seconds", '"key";q=600;w=60'
    ),
    "Access-Control-Allow-Origin": _header("the website whose scripts may read the response, or any", "*"),
    "Access-Control-Expose-Headers": _header("headers that they may read", "ETag, Retry-After"),
}
_CROSS_ORIGIN_HEADERS = ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers")
_FRESHNESS_HEADERS = ("X-PTN-Epoch", "X-PTN-Sequence", "X-PTN-Revision", "X-PTN-As-Of")
_LIMIT_HEADERS = ("RateLimit", "RateLimit-Policy")


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """Returns the document as JSON values."""
    kinds = [
        k for route in routes for k in (route.response, route.variant, route.ndjson_line) if k is not None
    ]
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    add_descriptions(components)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "PTN API",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "the server of this document"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": {route.path: _path_item(route) for route in routes},
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "parameters": _REQUEST_HEADERS,
            "headers": _RESPONSE_HEADERS,
            "securitySchemes": {"apiKey": _SECURITY},
        },
    }
    clean: dict[str, Any] = cleaned(document)
    return clean


def cleaned(value: Any) -> Any:
    """Returns the document as generators of clients accept it.

    Without indentation in descriptions, and with an object as `items` of every array; `maxItems` already says
    that nothing follows the `prefixItems`.
    """
    if isinstance(value, list):
        return [cleaned(part) for part in value]
    if not isinstance(value, dict):
        return value
    parts = {key: cleaned(part) for key, part in value.items()}
    if isinstance(parts.get("description"), str):
        parts["description"] = inspect.cleandoc(parts["description"])
    if parts.get("type") == "array" and not parts.get("items"):
        parts |= {} if "prefixItems" in parts else {"items": {}}
        parts = {key: part for key, part in parts.items() if key != "items" or part is not False}
    return parts


# --- operations -------------------------------------------------------------------------------------------


def _path_item(route: Route) -> dict[str, Any]:
    get = _operation(route)
    bodiless = {
        status: {key: part for key, part in answer.items() if key != "content"}
        for status, answer in get["responses"].items()
    }
    head = {
        **{key: get[key] for key in ("tags", "parameters", "security")},
        "summary": f"{route.summary}: the headers only",
        "operationId": get["operationId"].replace("get_", "head_", 1),
        "responses": bodiless,
    }
    return {"get": get, "head": head}


def _operation(route: Route) -> dict[str, Any]:
    operation = {
        "tags": [route.handler.__module__.rpartition(".")[2]],
        "summary": route.summary,
        "operationId": _operation_id(route.path),
        "parameters": _parameters(route),
        "responses": {
            "200": _success(route),
            **({} if route.is_endless else {"304": _unchanged(route)}),
            **_errors(route),
        },
        "security": [] if route.access == "anyone" else [{"apiKey": []}],
    }
    notes = [route.description, f"Tier {route.lowest_tier} or higher." if route.lowest_tier else ""]
    if any(notes):
        operation["description"] = " ".join(filter(None, notes))
    return operation


def _operation_id(path: str) -> str:
    """`/orders/{hotkey}` -> `get_orders_by_hotkey`, of which generators make the names of functions."""
    words = path.strip("/").removesuffix(".json").replace("{", "by_").replace("}", "")
    return "get_" + (re.sub(r"\W", "_", words) or "index")


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
    endless = ("LastEventID",)
    names = [name for name in _REQUEST_HEADERS if (name in endless) == route.is_endless]
    return found + [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _success(route: Route) -> dict[str, Any]:
    return {"description": "OK", "headers": _headers_of(route, 200), "content": _content(route)}


def _content(route: Route) -> dict[str, Any]:
    media_type = route.media_type.partition(";")[0]
    schema = _schema(route.response)
    if route.variant is not None:
        schema = {"anyOf": [schema, _schema(route.variant)]}
    content: dict[str, Any] = {media_type: {"schema": schema}}
    if examples := response_examples(route.path):
        content[media_type]["examples"] = {name: {"value": value} for name, value in examples.items()}
    if route.ndjson_line is not None:
        named = f"one JSON value per line, each a {route.ndjson_line.__name__}"
        content[NDJSON] = {"schema": {"type": "string", "description": named}, "example": ndjson_example()}
    return content


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema


def _unchanged(route: Route) -> dict[str, Any]:
    return {
        "description": "Not Modified: the ETag in If-None-Match is current",
        "headers": _headers_of(route, 304),
    }


def _headers_of(route: Route, status: int) -> dict[str, Any]:
    """Returns the headers of the route's responses with this status, as references."""
    names = ["Cache-Control", "Vary", *_CROSS_ORIGIN_HEADERS]
    if status in (200, 304) or (route.also_503 and status == 503):
        names += [] if route.is_endless else ["ETag"]
    if status == 200 and route.is_endless:
        names += ["X-Accel-Buffering"]
    elif status == 200 or (route.also_503 and status == 503):
        names += ["Content-Encoding"]
    if status in (200, 304) and route.freshness:
        names += _FRESHNESS_HEADERS
    if status in (200, 304) and route.unknown_miners:
        names.append("X-PTN-Unknown-Miners")
    if status == 200 and route.ndjson_line is not None:
        names += ["X-PTN-Next", "X-PTN-Head"]
    if status == 401:
        names.append("WWW-Authenticate")
    if status in (429, 503):
        names.append("Retry-After")
    if route.access != "anyone":
        names += _LIMIT_HEADERS
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


# --- errors ------------------------------------------------------------------------------------------------


def errors_of(route: Route) -> list[str]:
    """Returns the codes of every error that the route may respond with."""
    codes = [*route.errors, *_ALWAYS]
    if route.access != "anyone":
        codes += _WITH_KEY
    if route.lowest_tier:
        codes.append("insufficient_tier")
    return list(dict.fromkeys(codes))


def common_errors() -> tuple[str, ...]:
    """Returns the codes that every route, or every route with a key, may respond with."""
    return (*_ALWAYS, *_WITH_KEY, "insufficient_tier")


def _errors(route: Route) -> dict[str, Any]:
    """Returns error responses by status; codes with the same status share one."""
    statuses: dict[HTTPStatus, list[str]] = {}
    for code in errors_of(route):
        statuses.setdefault(STATUS[code], []).append(code)
    if route.also_503:
        statuses.setdefault(HTTPStatus.SERVICE_UNAVAILABLE, [])
    return {
        str(status.value): _error_response(route, status, codes) for status, codes in sorted(statuses.items())
    }


def _error_response(route: Route, status: HTTPStatus, codes: list[str]) -> dict[str, Any]:
    schemas: list[dict[str, Any]] = [{"$ref": _REF.format(name="Error")}] if codes else []
    if route.also_503 and status == HTTPStatus.SERVICE_UNAVAILABLE:
        schemas.insert(0, _schema(route.response))
    return {
        "description": f"{_PHRASES.get(status, status.phrase)}: {', '.join(codes)}".rstrip(": "),
        "headers": _headers_of(route, status.value),
        "content": {
            JSON: {
                "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
                "examples": {code: {"value": error_example(code, route)} for code in codes},
            }
        },
    }
