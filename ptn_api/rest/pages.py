"""The API's descriptions: OpenAPI and AsyncAPI documents, and a page for each.

The files in static/ are made from the types by `make descriptions`; a test holds them equal.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from ptn_api.http.body import body_of
from ptn_api.http.response import JSON, Response
from ptn_api.rest.context import AppContext, RequestContext

__all__ = ["HTML", "asyncapi", "docs", "openapi", "stream_docs"]

HTML = "text/html; charset=utf-8"


def openapi(app: AppContext, request: RequestContext) -> Response:
    return _file("openapi.json", JSON)


def asyncapi(app: AppContext, request: RequestContext) -> Response:
    return _file("asyncapi.json", JSON)


def docs(app: AppContext, request: RequestContext) -> Response:
    return _file("docs.html", HTML)


def stream_docs(app: AppContext, request: RequestContext) -> Response:
    return _file("stream_docs.html", HTML)


@lru_cache
def _file(name: str, media_type: str) -> Response:
    content = files("ptn_api.rest").joinpath("static", name).read_bytes()
    return Response(body_of(content), media_type=media_type)
