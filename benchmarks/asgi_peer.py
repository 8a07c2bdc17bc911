"""The service's requests answered by Starlette, to be run by Uvicorn or Granian.

Endpoints without middleware, which is the fastest form of a Starlette application.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.checks import Checks, Refused, accepts, has, read_setup
from ptn_api import __version__
from ptn_api.wire.about import KeyLimits, Me

__all__ = ["make"]


def make() -> Starlette:
    setup = read_setup()
    checks = Checks(setup)
    bodies = {path: Path(captured.file).read_bytes() for path, captured in setup.documents.items()}
    whole = {path: captured.headers for path, captured in setup.documents.items()}
    short = {
        path: {name: value for name, value in headers.items() if not name.startswith("content-")}
        for path, headers in whole.items()
    }

    async def document(request: Request) -> Response:
        headers, path = request.headers, request.scope["path"]
        try:
            holder, limit = checks.admit(headers.get("authorization"))
        except Refused as refused:
            return Response(status_code=refused.status, headers=refused.headers)
        if request.scope["query_string"] and int(request.query_params.get("tier", 100)) > holder.tier:
            return Response(status_code=403, headers=limit)
        if not accepts(headers.get("accept-encoding"), "gzip"):
            return Response(status_code=406, headers=limit)
        if has(headers.get("if-none-match"), whole[path]["etag"]):
            checks.count(holder, path, 304, 0)
            return Response(status_code=304, headers=short[path] | limit)
        checks.count(holder, path, 200, len(bodies[path]))
        return Response(bodies[path], headers=whole[path] | limit)

    async def me(request: Request) -> Response:
        headers, path = request.headers, request.scope["path"]
        try:
            holder, limit = checks.admit(headers.get("authorization"))
        except Refused as refused:
            return Response(status_code=refused.status, headers=refused.headers)
        limits = KeyLimits(websocket_connections=5, requests_per_minute=setup.requests_per_minute)
        shown = Me(alias=holder.alias, tier=holder.tier, limits=limits, version=__version__)
        content = msgspec.json.encode(shown)
        if has(headers.get("if-none-match"), whole[path]["etag"]):
            checks.count(holder, path, 304, 0)
            return Response(status_code=304, headers=short[path] | limit)
        checks.count(holder, path, 200, len(content))
        return Response(content, headers=whole[path] | limit)

    return Starlette(routes=[Route(path, me if path == "/me" else document) for path in bodies])
