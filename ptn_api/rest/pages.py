"""Pages for humans, and the API's descriptions for programs.

The files in static/ are made from the types by `make descriptions`; a test holds them equal. The page at `/`
is built by `make page`, and may be rebuilt while the server runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import msgspec

import ptn_api
from ptn_api.file_version import version_of
from ptn_api.http.body import Body, Segment, body_of, tag_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.negotiation import prefers
from ptn_api.http.response import JSON, Response, header_lines
from ptn_api.rest.context import AppContext, RequestContext

__all__ = [
    "HTML",
    "PAGE",
    "PLACEHOLDER_ADDRESS",
    "BuiltPage",
    "ServiceIndex",
    "asset",
    "asyncapi",
    "docs",
    "index",
    "openapi",
    "stream_docs",
]

HTML = "text/html; charset=utf-8"
PLACEHOLDER_ADDRESS = "http://localhost:48888"
"""Stands in the page of routes for the address at which the client reached the server."""
_ADDRESS = re.compile(r"[\w.-]{1,253}(:\d{1,5})?|\[[\da-fA-F:.]{2,45}\](:\d{1,5})?", re.ASCII)
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": JSON,
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_SECURITY = header_lines(
    {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
        "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
)
_FOREVER = "public, max-age=31536000, immutable"
"""For files whose name contains a hash of their content."""
_SETTLED_S = 2.0
"""A file that changed more recently may be incomplete."""
_NOT_BUILT = b"""<!doctype html>
<html lang="en">
<title>PTN API</title>
<meta http-equiv="refresh" content="5">
<p>The API is running, but its page has not been built. <code>make serve</code> builds it in the background,
and so does <code>make page</code> in a checkout of the repository. This address reloads itself until then.
The routes are described at <a href="/docs">/docs</a>.</p>
"""


class ServiceIndex(msgspec.Struct, kw_only=True):
    """Where everything is. Since: 0.2.0."""

    service: str
    """Always `PTN API`."""
    version: str
    """Version of the server."""
    docs: str
    """Path of the documentation for humans."""
    openapi: str
    """Path of the OpenAPI document."""
    asyncapi: str
    """Path of the AsyncAPI document."""
    routes: dict[str, str]
    """By path, a line about each route."""


class _Operation(msgspec.Struct):
    summary: str


class _Operations(msgspec.Struct):
    get: _Operation


class _Description(msgspec.Struct):
    paths: dict[str, _Operations]


class BuiltPage:
    """The files of the built page as responses: `index.html`, and by name those in `assets/`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions: dict[Path, str] = {}
        self._responses: dict[str, Response] = {}

    def index(self) -> Response | None:
        """Returns the page itself; None if it has not been built."""
        return self._read().get("")

    def asset(self, name: str) -> Response | None:
        """Returns a file that the page refers to. The name is looked up, never joined to a path."""
        return self._read().get(name) if name else None

    def _read(self) -> dict[str, Response]:
        """Reads the files again if one has changed, or may still be being written: no cache may keep that."""
        start, assets = self._folder / "index.html", self._folder / "assets"
        try:
            paths = [start]
            with contextlib.suppress(FileNotFoundError), os.scandir(assets) as entries:
                paths += sorted(Path(entry) for entry in entries if entry.is_file())
            found = {path: path.stat() for path in paths}
            versions = {path: version_of(status) for path, status in found.items()}
            if versions != self._versions:
                now = time.time()
                recent = {path for path in paths if 0 <= now - found[path].st_mtime < _SETTLED_S}
                responses = {
                    path.name: Response(
                        body_of(path.read_bytes()),
                        _SECURITY,
                        media_type=_MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
                        cache_control="" if path in recent else _FOREVER,
                    )
                    for path in paths[1:]
                }
                page = body_of(start.read_bytes())
                responses[""] = Response(page, _SECURITY, vary="Accept", media_type=HTML)
                self._versions, self._responses = {} if recent else versions, responses
        except OSError:  # not built, or replaced just now
            self._versions, self._responses = {}, {}
        return self._responses


PAGE = BuiltPage(Path(ptn_api.__file__).with_name("page"))


def index(app: AppContext, request: RequestContext) -> Response:
    """Returns the page to browsers, which ask for HTML, and an index of the routes to programs."""
    if not prefers(request.accept, "text/html", over=JSON):
        return Response(_routes(), vary="Accept")
    return PAGE.index() or Response(body_of(_NOT_BUILT), _SECURITY, vary="Accept", media_type=HTML)


def asset(app: AppContext, request: RequestContext) -> Response:
    response = PAGE.asset(request.hotkey)
    if response is None:
        raise HTTPError("not_found", "Not found")
    return response


@lru_cache
def _routes() -> Body:
    description = msgspec.json.decode(_static("openapi.json"), type=_Description)
    content = ServiceIndex(
        service="PTN API",
        version=ptn_api.__version__,
        docs="/docs",
        openapi="/openapi.json",
        asyncapi="/asyncapi.json",
        routes={path: operations.get.summary for path, operations in description.paths.items()},
    )
    return body_of(msgspec.json.encode(content))


def openapi(app: AppContext, request: RequestContext) -> Response:
    return _file("openapi.json", JSON)


def asyncapi(app: AppContext, request: RequestContext) -> Response:
    return _file("asyncapi.json", JSON)


def docs(app: AppContext, request: RequestContext) -> Response:
    """Returns the page with the request's own address in its examples."""
    assert request.http is not None
    headers = request.http.headers
    address, host = PLACEHOLDER_ADDRESS, headers.get("host", "")
    if _ADDRESS.fullmatch(host):
        https = app.tls or headers.get("x-forwarded-proto") == "https"
        address = f"http{'s' * https}://{host}"
    # Only the address is compressed for the request.
    shown = Segment(address.encode())
    parts, tag = _docs_parts()
    runs = [segment for part in parts for segment in (part, shown)][:-1]
    return Response(Body(runs, tag_of([shown.identity, tag.encode()])), media_type=HTML)


def stream_docs(app: AppContext, request: RequestContext) -> Response:
    return _file("stream_docs.html", HTML)


@lru_cache
def _docs_parts() -> tuple[tuple[Segment, ...], str]:
    """Returns what surrounds the address in the page of routes, and a hash of the page."""
    page = _static("docs.html")
    return tuple(map(Segment, page.split(PLACEHOLDER_ADDRESS.encode()))), tag_of([page])


@lru_cache
def _file(name: str, media_type: str) -> Response:
    return Response(body_of(_static(name)), media_type=media_type)


def _static(name: str) -> bytes:
    return files("ptn_api.rest").joinpath("static", name).read_bytes()
