"""CORS: scripts of allowed websites read every response, errors too; other websites' read public ones."""

from __future__ import annotations

import httpx
import pytest

from ptn_api.errors import SettingsError
from ptn_api.http.cross_origin import CrossOrigin
from ptn_api.http.request import ConnectionInfo, Request
from ptn_api.http.response import Exchange
from ptn_api.process.settings import load_settings
from tests.memory_log import MemoryLog
from tests.rest.serving import Served, serving
from tests.waiting import PATIENCE_S

ORIGIN = "https://app.example.com"
OTHER = "https://evil.example.com"
PUBLIC = ("/health", "/openapi.json", "/asyncapi.json", "/docs", "/docs/stream")
ALLOW = "access-control-allow-origin"


def may_read(origins: CrossOrigin, origin: str) -> bool:
    request = Request(b"GET", b"/", {"origin": origin}, ConnectionInfo("127.0.0.1"))
    return origins.mark(Exchange(request), public=False)


async def preflight(served: Served, path: str, origin: str = ORIGIN, method: str = "GET") -> httpx.Response:
    return await served.ask(
        "OPTIONS",
        path,
        None,
        origin=origin,
        access_control_request_method=method,
        access_control_request_headers="authorization",
    )


def varies(response: httpx.Response) -> set[str]:
    return {name.strip() for name in response.headers.get("vary", "").split(",")} - {""}


def allowed(response: httpx.Response) -> str | None:
    origin: str | None = response.headers.get(ALLOW)
    assert "access-control-allow-credentials" not in response.headers
    return origin


async def test_off_by_default() -> None:
    """Only the health and the descriptions can be read, from anywhere; they vary as before."""
    async with serving() as served:
        for path in PUBLIC:
            response = await served.get(path, None, origin=OTHER)
            assert allowed(response) == allowed(await served.get(path, None)) == "*"
            assert varies(response) == {"Accept-Encoding"}
            assert (await preflight(served, path, OTHER)).status_code == 204
        for path in ("/miners", "/trade-pairs", "/api/health", "/nope"):
            response = await served.get(path, origin=ORIGIN)
            assert allowed(response) is None
            assert "Origin" not in varies(response)
            refused = await preflight(served, path)
            assert refused.status_code in (404, 405)
            assert allowed(refused) is None


async def test_listed_origins() -> None:
    """Each is named in its own responses, which caches keep apart; others get no header."""
    async with serving(cors_origins=f" {ORIGIN}/ ,http://localhost:5173") as served:
        for origin in (ORIGIN, "http://localhost:5173"):
            response = await served.get("/miners", origin=origin)
            assert (response.status_code, allowed(response)) == (200, origin)
            assert varies(response) == {"Origin", "Accept-Encoding", "Authorization"}
            lines = await served.get("/messages?miner=x", origin=origin, accept="application/x-ndjson")
            exposed = response.headers["access-control-expose-headers"].lower().split(", ")
            for name in {*response.headers, *lines.headers}:
                assert name in exposed or not name.startswith(("x-ptn-", "ratelimit", "etag"))
            tag = response.headers["etag"]
            unchanged = await served.get("/miners", origin=origin, if_none_match=tag)
            assert (unchanged.status_code, allowed(unchanged)) == (304, origin)
            assert "Origin" in varies(unchanged)
        for headers in ({"origin": OTHER}, {"origin": "null"}, {"origin": ORIGIN + "/"}, {"origin": ""}, {}):
            response = await served.get("/miners", **headers)
            assert (response.status_code, allowed(response)) == (200, None)
            assert "Origin" in varies(response)
            refused = await preflight(served, "/miners", headers.get("origin", ""))
            assert (refused.status_code, allowed(refused)) == (405, None)
            assert "Origin" in varies(refused)
        assert allowed(await served.get("/health", None, origin=OTHER)) == "*"


async def test_a_preflight() -> None:
    """Answered without a key, on every path, with the methods and headers that the API understands."""
    async with serving(cors_origins=ORIGIN) as served:
        for path in ("/miners", "/miner-positions?tier=30", "/validator-checkpoint", "/nope", "/health"):
            for method in ("GET", "HEAD"):
                response = await preflight(served, path, method=method)
                assert (response.status_code, response.content) == (204, b"")
                assert allowed(response) == ("*" if path == "/health" else ORIGIN)
                assert response.headers["access-control-allow-methods"] == "GET, HEAD"
                granted = response.headers["access-control-allow-headers"].lower().split(", ")
                assert {"authorization", "if-none-match", "last-event-id"} <= set(granted)
                assert int(response.headers["access-control-max-age"]) > 0
                assert "content-length" not in response.headers
                assert ("Origin" in varies(response)) == (path != "/health")
        assert (await served.ask("OPTIONS", "/miners", origin=ORIGIN)).status_code == 405  # no preflight
        assert (await served.get("/me")).status_code == 200


@pytest.mark.parametrize("origins", [ORIGIN, "*"])
async def test_errors_can_be_read(origins: str) -> None:
    """401, 403, 404, 400, 405, 410 and 429 carry the headers, and vary where successes do."""
    expected = "*" if origins == "*" else ORIGIN
    async with serving(cors_origins=origins, requests_per_minute=4) as served:
        responses = [
            await served.get("/miners", None, origin=ORIGIN),
            await served.get("/miners", "wrong", origin=ORIGIN),
            await served.get("/validator-checkpoint", "k30", origin=ORIGIN),
            await served.get("/nope", None, origin=ORIGIN),
            await served.get("/miner-positions?tier=7", origin=ORIGIN),
            await served.get("/miner-positions?since=x:1", origin=ORIGIN),
            await served.ask("POST", "/miners", origin=ORIGIN),
            *[await served.get("/me", origin=ORIGIN) for _ in range(3)],
        ]
        codes = [response.status_code for response in responses]
        assert codes == [401, 401, 403, 404, 400, 410, 405, 200, 200, 429]
        for response in responses:
            assert allowed(response) == expected
            assert ("Origin" in varies(response)) == (origins != "*")
        assert "retry-after" in responses[-1].headers
        assert "Retry-After" in responses[-1].headers["access-control-expose-headers"]


async def test_any_origin() -> None:
    """The header is the same for all, so responses do not vary, and caches may share them."""
    async with serving(cors_origins="*") as served:
        for headers in ({}, {"origin": ORIGIN}, {"origin": "null"}):
            response = await served.get("/miners", **headers)
            assert (response.status_code, allowed(response)) == (200, "*")
            assert varies(response) == {"Accept-Encoding", "Authorization"}
        assert allowed(await preflight(served, "/miners", OTHER)) == "*"


@pytest.mark.parametrize("origins", ["", ORIGIN, "*"])
async def test_errors_that_precede_the_request(origins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every website may read them: the origin is unknown, and they contain nothing of the data."""
    monkeypatch.setattr("ipaddress.IPv4Address.is_loopback", False)
    async with serving(cors_origins=origins, connects_per_minute=3) as served:
        for path, headers, code in (
            ("/miners?miner=" + "5" * 9_000, {}, 414),
            ("/miners", {"x-long": "5" * 40_000}, 431),
            ("/miners", {f"x-{n}": "5" for n in range(101)}, 431),
            ("/miners", {}, 429),
        ):
            async with httpx.AsyncClient(base_url=served.url, verify=False, timeout=PATIENCE_S) as client:
                response = await client.get(path, headers={"origin": ORIGIN, **headers})
            assert (response.status_code, allowed(response)) == (code, "*")
            assert response.headers["access-control-expose-headers"] == "Retry-After"
        assert "retry-after" in response.headers


async def test_a_service_that_is_starting() -> None:
    """Its 503 can be read, too."""
    async with serving(MemoryLog(), cors_origins=ORIGIN) as served:
        response = await served.get("/miners", origin=ORIGIN)
        assert (response.status_code, allowed(response)) == (503, ORIGIN)


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com",
        "https://app.example.com/path",
        "https://",
        "null",
        "https://*.example.com",
        "https://user@app.example.com",
        "https://a.example.com https://b.example.com",
        "https://a.example.com\r\nx: y",
        "https://m\u00fcnchen.example",
        "https://a.example.com:port",
    ],
)
def test_a_malformed_origin(origin: str) -> None:
    """Refused at the start, by name of the flag."""
    with pytest.raises(SettingsError, match="--cors-origins"):
        CrossOrigin(f"https://sound.example.com,{origin}")


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        ("https://a.example:443", "https://a.example"),
        ("http://a.example:80/", "http://a.example"),
        ("https://a.example:0443", "https://a.example"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://a.example:80", "https://a.example:80"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://a.example:4430", "https://a.example:4430"),
        ("https://a.example:8443", "https://a.example:8443"),
        ("app://a.example:80", "app://a.example:80"),
    ],
)
def test_a_port(setting: str, sent: str) -> None:
    """Browsers leave out the scheme's default port, so it may be given or not."""
    origins = CrossOrigin(setting)
    assert may_read(origins, sent)
    assert not may_read(origins, sent + "0")


def test_the_setting() -> None:
    """By flag or variable; compared as browsers send an origin, in lower case."""
    settings = load_settings({}, {"PTN_CORS_ORIGINS": "HTTPS://App.Example.COM:8443, http://[::1]:5173,"})
    origins = CrossOrigin(settings.rest.cors_origins)
    assert origins.enabled
    assert may_read(origins, "https://app.example.com:8443")
    assert may_read(origins, "http://[::1]:5173")
    assert not may_read(origins, "https://app.example.com")
    assert not CrossOrigin("").enabled
    assert not CrossOrigin(" , ").enabled
