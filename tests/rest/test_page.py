"""The page at `/` for browsers, the index for programs; the built files, however they change."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest

import ptn_api
from ptn_api.rest import pages
from ptn_api.rest.routes import ROUTES
from tests.rest.serving import Served, serving

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
HASHED = "index-C0ffee12.js"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the built page, not there yet."""
    built = tmp_path / "page"
    monkeypatch.setattr(pages, "PAGE", pages.BuiltPage(built))
    return built


def build(folder: Path, script: bytes = b"let a = 1;" * 99, page: bytes = b"<title>Built</title>") -> None:
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    (folder / "assets" / HASHED).write_bytes(script)
    (folder / "assets" / "style-Deadbee1.css").write_bytes(b"body{}")
    (folder / "index.html").write_bytes(page)
    for path in folder.rglob("*.*"):
        os.utime(path, (1e9, 1e9))


async def browse(served: Served, path: str = "/", **headers: str) -> httpx.Response:
    return await served.get(path, None, accept=BROWSER, **headers)


def assert_strict(response: httpx.Response) -> None:
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert {"frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} <= set(policy.split("; "))
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


async def test_programs_get_an_index(folder: Path) -> None:
    """Every route with a line, whether the page is built or not; also at the service's start."""
    async with serving() as served:
        for accept in ("*/*", "application/json", "application/json, text/html;q=0.9", "text/plain", ""):
            response = await served.get("/", None, accept=accept)
            assert response.headers["content-type"] == "application/json"
            assert "Accept" in response.headers["vary"].split(", ")
            listed = response.json()
            assert listed["routes"] == {route.path: route.summary for route in ROUTES}
            assert (listed["docs"], listed["openapi"]) == ("/docs", "/openapi.json")
        build(folder)
        assert (await served.get("/", None)).json() == listed
        assert (await served.get("/", None, if_none_match=response.headers["etag"])).status_code == 304
        assert (await served.ask("HEAD", "/", None)).status_code == 200


async def test_a_page_that_is_built_while_the_server_runs(folder: Path) -> None:
    """Until then HTML that tells how to build it and reloads itself; then each build at once."""
    async with serving() as served:
        missing = await browse(served)
        assert (missing.status_code, missing.headers["content-type"]) == (200, pages.HTML)
        assert "make page" in missing.text
        assert '"/docs"' in missing.text
        assert '<meta http-equiv="refresh" content="5">' in missing.text
        assert_strict(missing)
        assert (await browse(served, "/assets/" + HASHED)).status_code == 404
        build(folder)
        page = await browse(served, accept_encoding="gzip")
        assert page.content == b"<title>Built</title>"
        assert page.headers["cache-control"] == "no-cache"
        assert {"Accept", "Accept-Encoding"} <= set(page.headers["vary"].split(", "))
        assert_strict(page)
        tag = page.headers["etag"]
        assert (await browse(served, accept_encoding="gzip", if_none_match=tag)).status_code == 304
        build(folder, page=b"<title>Rebuilt</title>")
        again = await browse(served, accept_encoding="gzip", if_none_match=tag)
        assert (again.status_code, again.text) == (200, "<title>Rebuilt</title>")
        (folder / "index.html").unlink()
        assert "make page" in (await browse(served)).text
        assert (await browse(served, "/assets/" + HASHED)).status_code == 404


async def test_a_file_that_may_be_incomplete_is_not_cached(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells whether the build has written all of it; a browser would keep the part for a year."""
    monkeypatch.setattr(pages, "_SETTLED_S", 3_600.0)
    build(folder)
    script = folder / "assets" / HASHED
    async with serving() as served:
        for content in (b"let", b"let a = 1"):  # even if the time of its change is the same
            now = time.time()
            script.write_bytes(content)
            os.utime(script, (now, now))
            recent = await browse(served, "/assets/" + HASHED)
            assert (recent.content, recent.headers["cache-control"]) == (content, "no-cache")
        os.utime(script, (2e9, 2e9))  # the clock was set back since
        complete = await browse(served, "/assets/" + HASHED)
        assert "immutable" in complete.headers["cache-control"]
        os.utime(script, (1e9, 1e9))
        complete = await browse(served, "/assets/" + HASHED)
        assert "immutable" in complete.headers["cache-control"]


async def test_assets(folder: Path) -> None:
    """Cached forever, compressed, with types that browsers execute under nosniff."""
    build(folder)
    (folder / "assets" / "odd.bin").write_bytes(b"\0")
    os.utime(folder / "assets" / "odd.bin", (1e9, 1e9))
    async with serving() as served:
        script = await browse(served, "/assets/" + HASHED, accept_encoding="gzip")
        assert script.content == b"let a = 1;" * 99
        assert script.headers["content-encoding"] == "gzip"
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert_strict(script)
        style = await browse(served, "/assets/style-Deadbee1.css")
        assert style.headers["content-type"] == "text/css; charset=utf-8"
        odd = await browse(served, "/assets/odd.bin")
        assert odd.headers["content-type"] == "application/octet-stream"
        tag = style.headers["etag"]
        assert (await browse(served, "/assets/style-Deadbee1.css", if_none_match=tag)).status_code == 304
        head = await served.ask("HEAD", "/assets/odd.bin", None)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, "1", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/index.html",
        "/assets",
        "/assets/",
        "/assets/index.html",
        "/assets/../index.html",
        "/assets/..%2findex.html",
        "/assets/%2e%2e/index.html",
        "/assets/..%5cindex.html",
        "/assets/sub/inner.js",
        "/assets/sub",
        "/assets/sub%2finner.js",
        "/assets/" + HASHED + "%00",
        "/assets//etc/passwd",
        "/assets/%2fetc%2fpasswd",
        "/assets/.",
        "/page/index.html",
        "/__init__.py",
    ],
)
async def test_nothing_else_is_served(folder: Path, path: str) -> None:
    """Neither other files of the folder nor anything outside of it."""
    build(folder)
    (folder / "assets" / "sub").mkdir()
    (folder / "assets" / "sub" / "inner.js").write_bytes(b"secret")
    async with serving() as served:
        raw = httpx.URL(served.url).copy_with(raw_path=path.encode())
        response = await served.client.get(raw, headers={"accept": BROWSER})
        assert response.status_code == 404, response.text
        assert response.json()["code"] == "not_found"


async def test_an_unreadable_folder(folder: Path) -> None:
    """A file in its place, or a link that leads nowhere: as if it had not been built."""
    folder.write_text("no folder")
    async with serving() as served:
        assert "make page" in (await browse(served)).text
        folder.unlink()
        build(folder)
        os.symlink(folder / "nowhere", folder / "assets" / "dangling.js")
        assert (await browse(served)).text == "<title>Built</title>"
        assert (await browse(served, "/assets/dangling.js")).status_code == 404


def test_the_page_belongs_to_the_package() -> None:
    """As package data, beside the modules."""
    assert vars(pages.PAGE)["_folder"] == Path(ptn_api.__file__).parent / "page"
