"""Every route and every error, requested from a real server."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import shutil
import zlib
from typing import Any

import httpx
import pytest
import requests
import zstandard
from structlog.testing import capture_logs

from ptn_api import __version__
from ptn_api.errors import LogUnusableError
from ptn_api.event_log import Event, Head, SourceStatus
from ptn_api.http.body import body_of
from ptn_api.http.response import Response
from ptn_api.rest.context import AppContext, RequestContext
from ptn_api.rest.routes import ROUTES, Route
from tests.factories import MINER, OTHER_MINER, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.rest.serving import DAY, HOUR, NOW, Served, filled_log, serving, some_changes
from tests.waiting import PATIENCE_S

MOVING = ("date", "ratelimit")
"""Headers that differ from response to response."""
KEYED = [route for route in ROUTES if route.access != "anyone"]
STORED = [route for route in KEYED if not route.is_endless]


def path_of(route: Any, end: str = "") -> str:
    """Returns a target that the route answers with 200."""
    path: str = route.path.replace("{hotkey}", MINER)
    return path + end + (f"?subaccount={MINER}_0" if path == "/entity/endpoint" else "")


# --- responses --------------------------------------------------------------------------------------------


async def test_positions_of_all_miners() -> None:
    """Without `tier`, what tier 100 shows; an open position's close_ms is 0."""
    async with serving() as served:
        body = (await served.get("/miner-positions")).json()
        assert set(body) == {MINER, OTHER_MINER, "5Nobody"}
        assert [len(p["orders"]) for p in body[MINER]["positions"]] == [2, 2]
        assert body[MINER]["positions"][1]["close_ms"] == 0
        assert body[MINER]["tier"] == 100
        assert body["5Nobody"]["positions"] == []
        late = (await served.get("/miner-positions?tier=0")).json()
        assert [len(p["orders"]) for p in late[MINER]["positions"]] == [2, 1]
        assert set(late) == {MINER}  # the other miner's only order is too young, and the third has none


@pytest.mark.parametrize("key", ["k0", "k30", "k50", "k100"])
async def test_positions_of_one_miner_are_the_keys_own_tier(key: str) -> None:
    """The entry from the document of all miners; in tier 100 with the archived positions."""
    async with serving() as served:
        tier = key[1:]
        entry = (await served.get(f"/miner-positions?tier={tier}", key)).json()[MINER]
        own = (await served.get(f"/miner-positions/{MINER}", key)).json()
        assert (own == entry) == (key != "k100")
        if key == "k100":
            assert [p["position_uuid"] for p in own["positions"]] == [uuid(1), uuid(90), uuid(2)]
            assert (own["n_positions"], entry["n_positions"], own["tier"]) == (2, 1, 100)
        missing = await served.get("/miner-positions/5Unknown", key)
        assert (missing.status_code, missing.json()["error"]) == (404, "Miner ID not found")


async def test_documents() -> None:
    """Statistics, eliminations and hotkeys as the validator wrote them, and single miners' elements."""
    async with serving() as served:
        statistics = (await served.get("/statistics", "k0")).json()
        assert statistics["data"][0] == {"hotkey": MINER, "weight": 1.0, "checkpoints": [1, 2]}
        short = (await served.get("/statistics?checkpoints=false", "k0")).json()
        assert short["data"] == [{"hotkey": MINER, "weight": 1.0}, {"hotkey": OTHER_MINER}]
        assert short["constants"] == {}
        for slash in ("", "/"):
            one = await served.get(f"/statistics/{MINER}{slash}?checkpoints=false")
            assert one.json() == {"hotkey": MINER, "weight": 1.0}
        assert (await served.get(f"/statistics/{MINER}")).json() == statistics["data"][0]
        assert (await served.get("/eliminations")).json() == {
            "eliminations": [{"hotkey": OTHER_MINER, "dd": 0.9}]
        }
        assert (await served.get("/miner-hotkeys")).json() == [MINER, OTHER_MINER, "5Nobody"]
        assert set((await served.get(f"/perf-ledger/{MINER}")).json()) == {MINER}
        assert set((await served.get(f"/perf-ledger/{MINER}", "k0")).json()[MINER]) == {
            "initialization_time_ms",
            "cps",
        }


async def test_missing_documents() -> None:
    """404 with the documented sentences; the hotkeys are those with positions."""
    async with serving(filled_log()) as served:
        for path, sentence in [
            ("/statistics", "Statistics data not found"),
            (f"/statistics/{MINER}", "Statistics data not found"),
            ("/eliminations", "Eliminations data not found"),
            ("/validator-checkpoint", "Checkpoint data not found"),
            (f"/perf-ledger/{MINER}", "Miner ID not found"),
        ]:
            response = await served.get(path)
            assert (response.status_code, response.json()["error"]) == (404, sentence)
        assert (await served.get("/miner-hotkeys")).json() == []
        assert (await served.get("/miner-positions")).json() == {}


async def test_the_checkpoint_is_complete() -> None:
    """Entries without `tier`, portfolio ledgers, and the times of the first and the last order."""
    async with serving() as served:
        body = (await served.get("/validator-checkpoint")).json()
        assert list(body) == [
            "version",
            "created_timestamp_ms",
            "created_date",
            "challengeperiod",
            "miner_account_sizes",
            "eliminations",
            "entities",
            "youngest_order_processed_ms",
            "oldest_order_processed_ms",
            "positions",
            "perf_ledgers",
            "asset_selections",
            "limit_orders",
            "archived_positions",
        ]
        assert body["version"] == "9.1.0"
        assert body["challengeperiod"] == {"testing": {MINER: 7}, "success": {}}
        assert body["eliminations"] == [{"hotkey": OTHER_MINER, "dd": 0.9}]
        assert (body["youngest_order_processed_ms"], body["oldest_order_processed_ms"]) == (
            NOW - 9 * DAY,
            NOW - HOUR,
        )
        entries = (await served.get("/miner-positions")).json()
        for entry in entries.values():
            del entry["tier"]
        assert body["positions"] == entries
        assert set(body["perf_ledgers"]) == {MINER, "older"}
        assert body["created_timestamp_ms"] == NOW
        assert body["created_date"] == "2025-10-14 00:00:00"


async def test_about() -> None:
    """The request's key, the trade pairs, the description and its page."""
    async with serving() as served:
        assert (await served.get("/me", "k30")).json() == {
            "alias": "user30",
            "tier": 30,
            "expires_ms": None,
            "limits": {"websocket_connections": 0, "requests_per_minute": 600},
            "version": __version__,
        }
        assert (await served.get("/me")).json()["limits"]["websocket_connections"] == 5
        description = (await served.get("/openapi.json", None)).json()
        assert set(description["paths"]) == {route.path for route in ROUTES}
        page = await served.get("/docs", None)
        assert page.headers["content-type"].startswith("text/html")
        assert "/validator-checkpoint" in page.text
        assert not re.search(r"(href|src)=.https?://", page.text)


# --- codings, tags, headers -------------------------------------------------------------------------------


def decoded(coding: str, body: bytes) -> list[bytes]:
    """Returns the body as several decoders read it."""
    if coding == "gzip":
        whole = zlib.decompressobj(31)
        return [gzip.decompress(body), whole.decompress(body) + whole.flush()]
    if coding == "zstd":
        return [zstandard.ZstdDecompressor().decompressobj().decompress(body)]  # the first frame alone
    return [body]


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
@pytest.mark.parametrize(
    ("path", "joined"),
    [
        ("/miner-positions", True),
        (f"/miner-positions/{MINER}", False),
        ("/validator-checkpoint", True),
        ("/statistics", False),
    ],
)
async def test_every_coding_has_the_same_content(path: str, joined: bool, coding: str) -> None:
    """Every decoder reads it, also one that stops after a zstd frame: joined documents are not in zstd."""
    async with serving() as served:
        plain = await served.get(path)
        assert "content-encoding" not in plain.headers
        async with served.client.stream(
            "GET", path, headers={"authorization": "Bearer k100", "accept-encoding": coding}
        ) as response:
            body = b"".join([chunk async for chunk in response.aiter_raw()])
        used = "identity" if coding == "zstd" and joined else coding
        assert response.headers.get("content-encoding", "identity") == used
        assert int(response.headers["content-length"]) == len(body)
        assert all(text == plain.content for text in decoded(used, body))


async def test_clients_decode_it() -> None:
    """requests, httpx and curl, with their default Accept-Encoding."""
    async with serving() as served:
        plain = (await served.get("/miner-positions")).json()
        url, headers = f"{served.url}/miner-positions", {"Authorization": "Bearer k100"}
        response = await asyncio.to_thread(requests.get, url, headers=headers, timeout=PATIENCE_S)
        assert response.headers["content-encoding"] == "gzip"
        assert response.json() == plain
        async with httpx.AsyncClient(
            headers={**headers, "accept-encoding": "zstd"}, timeout=PATIENCE_S
        ) as client:
            assert (await client.get(url)).json() == plain
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed; the other clients were tried")
        assert json.loads(await curl("--compressed", "-H", "Authorization: Bearer k100", url)) == plain


async def curl(*arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "90", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output


JOINED = ("/miner-positions", "/validator-checkpoint")
"""Not in zstd, because they would be made of several frames."""


@pytest.mark.parametrize("route", STORED, ids=lambda route: route.path)
async def test_conditional_requests(route: Any) -> None:
    """One ETag per coding; 304 without a body; HEAD has the headers of GET."""
    async with serving() as served:
        tags = set()
        for coding in ("identity", "gzip", "zstd"):
            full = await served.get(path_of(route), "k200", accept_encoding=coding)
            tags.add(full.headers["etag"])
            again = await served.get(
                path_of(route), "k200", accept_encoding=coding, if_none_match=full.headers["etag"]
            )
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == full.headers["etag"]
            head = await served.ask("HEAD", path_of(route), "k200", accept_encoding=coding)
            assert (head.status_code, head.content) == (200, b"")
            expected = {k: v for k, v in full.headers.items() if k not in MOVING}
            if route.path in ("/messages", "/orders"):  # its body is not built for a HEAD
                for name in ("etag", "content-length", "content-encoding"):
                    expected.pop(name, None)
            assert {k: v for k, v in head.headers.items() if k not in MOVING} == expected
        assert len(tags) == (2 if route.path in JOINED else 3)


async def test_headers_of_each_tier() -> None:
    """Tier 100 states the log's position; lower tiers the cutoff, for any key."""
    async with serving() as served:
        response = await served.get("/miner-positions")
        head = served.log.head()
        assert response.headers["x-ptn-epoch"] == "e" * 32
        assert response.headers["x-ptn-sequence"] == str(head.sequence)
        assert response.headers["x-ptn-revision"] == str(head.revision)
        assert "x-ptn-as-of" not in response.headers
        for path, key in [("/miner-positions?tier=30", "k100"), (f"/miner-positions/{MINER}", "k50")]:
            response = await served.get(path, key)
            assert response.headers["x-ptn-as-of"] == str(NOW - DAY)
            assert not {"x-ptn-epoch", "x-ptn-sequence", "x-ptn-revision"} & set(response.headers)
        vary = {name.strip() for name in response.headers["vary"].split(",")}
        assert vary == {"Accept-Encoding", "Authorization"}
        assert response.headers["cache-control"] == "private, no-cache"
        assert "server" not in response.headers


async def test_tags_are_equal_across_servers_and_restarts() -> None:
    """Another log with the same state, created at another time, yields the same ETags."""
    found = []
    for epoch, created in [("a" * 32, NOW - 5000), ("b" * 32, NOW)]:
        log = MemoryLog(created_ms=created, epoch=epoch)
        log.baseline(some_changes(), created)
        async with serving(log) as served:
            paths = ["/miner-positions", "/miner-positions?tier=50", "/validator-checkpoint", "/statistics"]
            found.append([(await served.get(path)).headers["etag"] for path in paths])
    assert found[0] == found[1]


async def test_an_order_appears_and_changes_the_etag() -> None:
    """An append to the log shows in the next responses, with its sequence."""
    async with serving() as served:
        before = await served.get("/miner-positions")
        orders = [order(5, at=NOW - 2 * HOUR), order(9, at=NOW - 1)]
        head = served.log.append([written(position(3, orders, miner=OTHER_MINER))], NOW)

        async def seen() -> bool:
            response = await served.get(f"/miner-positions/{OTHER_MINER}")
            return int(response.headers["x-ptn-sequence"]) >= head.sequence

        await served.until(seen)
        after = await served.get("/miner-positions", if_none_match=before.headers["etag"])
        assert after.status_code == 200
        assert len(after.json()[OTHER_MINER]["positions"][0]["orders"]) == 2
        late = await served.get("/miner-positions?tier=0")
        assert OTHER_MINER not in late.json()


# --- access ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", KEYED, ids=lambda route: route.path)
async def test_requests_without_a_valid_key(route: Any) -> None:
    """401 for no key, an unknown key, and a key in the URL."""
    async with serving() as served:
        for path, key in [
            (path_of(route), None),
            (path_of(route), "unknown"),
            (path_of(route) + "?api_key=k100", None),
            (path_of(route) + "?key=k100&access_token=k100", None),
        ]:
            response = await served.get(path, key)
            assert (response.status_code, response.json()["error"]) == (401, "Unauthorized access")
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("Bearer k100", 200),
        ("bearer k100", 200),
        ("BEARER   k100", 200),
        ("k100", 200),
        ("Bearer", 401),
        ("", 401),
        ("Basic azEwMDo=", 401),
        ("Bearer k100 k100", 401),
        ("Bearer\tk100", 401),
        ("Bearer \xff\xfe", 401),
        ("B\xe9arer k100", 401),
        ("Bearer " + "x" * 5000, 401),
    ],
)
async def test_the_authorization_header(value: str, status: int) -> None:
    """The scheme in any case, or the key alone; anything else is 401, never a server error."""
    async with serving() as served:
        response = await served.client.get("/me", headers={"authorization": value.encode("latin-1")})
        assert response.status_code == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"api_key": "k100"}', 200),
        (b'{"api_key": "k100", "other": [1]}', 200),
        (b'{"api_key": "nope"}', 401),
        (b'{"api_key": 7}', 401),
        (b'{"api_key": "\\ud800"}', 401),
        (b"[]", 401),
        (b"no json", 401),
        (b"\xff\xfe", 401),
        (b"[" * 4000, 401),
        (b'{"api_key": "k100", "x": "' + b"x" * 5000 + b'"}', 401),
    ],
)
async def test_the_key_in_the_body(body: bytes, status: int) -> None:
    """Some existing clients send it so: a GET with JSON; at most 4 KiB are read."""
    async with serving() as served:
        response = await served.ask("GET", "/me", None, content=body)
        assert response.status_code == status
        assert response.headers["cache-control"] == "no-store"


async def test_the_header_wins_over_the_body() -> None:
    """The body is ignored if there is a header."""
    async with serving() as served:
        body = b'{"api_key": "k100"}'
        assert (await served.ask("GET", "/me", "k0", content=body)).json()["tier"] == 0
        assert (await served.ask("GET", "/me", "nope", content=body)).status_code == 401


async def test_curl_with_data_is_understood() -> None:
    """`-X GET -d '{"api_key": ...}'`, as in the original implementation's documentation."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    async with serving() as served:
        options = ("-X", "GET", "-d", '{"api_key": "k50"}', "-H", "Content-Type: application/json")
        assert json.loads(await curl(*options, f"{served.url}/me"))["tier"] == 50


async def test_tiers_above_the_keys_are_forbidden() -> None:
    """403, naming the requested tier; lower tiers are included."""
    async with serving() as served:
        for key in (0, 30, 50, 100):
            for tier in (0, 30, 50, 100):
                response = await served.get(f"/miner-positions?tier={tier}", f"k{key}")
                assert response.status_code == (200 if tier <= key else 403)
                if tier > key:
                    assert (
                        response.json()["error"] == f"Your API key does not have access to tier {tier} data"
                    )
        assert (await served.get("/miner-positions", "k50")).status_code == 403
        for route in KEYED:
            if route.lowest_tier:
                response = await served.get(path_of(route), "k100" if route.lowest_tier > 100 else "k50")
                assert (response.status_code, response.json()["error"]) == (403, route.tier_error)
        response = await served.get("/validator-checkpoint", "k50")
        assert response.json()["error"] == "Validator checkpoint data requires tier 100 access"


# --- malformed requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["7", "101", "-1", "abc", "30.0", "0x1e", "%00", "３０", "9" * 400])
async def test_invalid_tiers(tier: str) -> None:
    """400 with the sentence that existing clients expect."""
    async with serving() as served:
        response = await served.get(f"/miner-positions?tier={tier}")
        assert response.status_code == 400
        assert response.json()["error"] == "Invalid tier value. Allowed values are 0, 30, 50, or 100"


@pytest.mark.parametrize(
    "path",
    [
        "/statistics?checkpoints=maybe",
        "/messages?limit=0",
        "/messages?limit=10001",
        "/messages?after=x",
        "/messages?after=-2",
        "/messages?format=xml",
        "/miner-positions?status=half",
        "/miner-positions?since=nonsense",
        "/miner-positions?since=" + "e" * 32 + ":-1",
        "/miner-positions?since=" + "e" * 32 + ":0&tier=50",
    ],
)
async def test_malformed_parameters(path: str) -> None:
    """400, naming the parameter; never a server error."""
    async with serving() as served:
        response = await served.get(path)
        assert response.status_code == 400
        assert response.json()["code"] == "bad_parameter"


@pytest.mark.parametrize("path", ["/nope", "/miner-positions/a/b", "/statistics/a/b", "/nope//", "/..%2f"])
async def test_unknown_paths(path: str) -> None:
    """404 in JSON that does not repeat the path."""
    async with serving() as served:
        response = await served.get(path)
        assert (response.status_code, response.json()) == (404, {"error": "Not found", "code": "not_found"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods(method: str) -> None:
    """405 in JSON, with the allowed methods."""
    async with serving() as served:
        response = await served.ask(method, "/miner-positions")
        assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
        assert response.json()["error"] == "Method not allowed"


async def test_trailing_slashes() -> None:
    """A slash at the end changes nothing, and neither do repeated ones: an address may end in a slash."""
    async with serving() as served:
        for route in ROUTES:
            if route.is_endless:
                continue
            plain = await served.get(path_of(route), "k200")
            for path in (path_of(route, "/"), path_of(route, "//"), f"/{path_of(route)}"):
                odd = await served.client.get(served.url + path, headers={"authorization": "Bearer k200"})
                assert odd.status_code == plain.status_code == 200
                assert odd.headers.get("etag") == plain.headers.get("etag")


# --- starting, faults -------------------------------------------------------------------------------------


async def test_while_the_baseline_is_read() -> None:
    """503 with Retry-After, but only with a valid key; then everything, without a restart."""
    log = MemoryLog(created_ms=NOW)
    async with serving(log) as served:
        for route in KEYED:
            response = await served.get(path_of(route), "k200")
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert (await served.get(path_of(route), None)).status_code == 401
        health = await served.get("/health", None)
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        log.baseline(some_changes(), NOW)

        async def served_all() -> bool:
            return (await served.get("/miner-positions")).status_code == 200

        await served.until(served_all)
        assert (await served.get("/health", None)).json()["status"] == "ok"


async def test_health_names_the_problems() -> None:
    """Without a key; a stale or silent source is 503, a missing watch a mere problem."""
    async with serving() as served:
        cases: list[tuple[SourceStatus, int, list[str]]] = [
            (SourceStatus(swept_ms=NOW), 200, []),
            (SourceStatus(swept_ms=NOW, watching=False), 200, ["not_watching"]),
            (
                SourceStatus(swept_ms=NOW, stale=True, reason="root_missing"),
                503,
                ["source_stale", "root_missing"],
            ),
            (
                SourceStatus(swept_ms=NOW, invalid=3, invalid_documents=1),
                200,
                ["files_refused", "documents_refused"],
            ),
            (SourceStatus(swept_ms=NOW, watching=False, events_missing=True), 200, ["events_missing"]),
            (SourceStatus(swept_ms=NOW - HOUR), 503, ["source_silent"]),
        ]
        for source, status, problems in cases:
            served.log.set_source(source)
            response = await served.get("/health", None)
            assert (response.status_code, response.json()["problems"]) == (status, problems)
            assert response.json()["source"]["reason"] == source.reason
            assert response.headers["cache-control"] == "no-store"


async def test_health_does_not_move_with_orders() -> None:
    """It is public: neither body nor headers may reveal trading."""
    async with serving() as served:
        before = await served.get("/health", None)
        head = served.log.append([written(position(40, [order(77, at=NOW - 1)]))], NOW)

        async def seen() -> bool:
            response = await served.get("/me")
            positions = await served.get("/miner-positions")
            return response.status_code == 200 and int(positions.headers["x-ptn-revision"]) >= head.revision

        await served.until(seen)
        after = await served.get("/health", None)
        assert after.content == before.content
        assert set(after.headers) == set(before.headers)


class Broken(MemoryLog):
    """A log whose document reads fail."""

    def document_revision(self, document: Any) -> int:
        if getattr(self, "fault", None) is not None:
            raise self.fault
        return super().document_revision(document)


@pytest.mark.parametrize(
    ("fault", "status"),
    [(LogUnusableError("disk /secret/path", code="corrupt"), 503), (ZeroDivisionError("/secret/path"), 500)],
)
async def test_internal_faults_reveal_no_detail(fault: Exception, status: int) -> None:
    """One sentence in JSON; the server goes on."""
    log = Broken(created_ms=NOW)
    log.baseline(some_changes(), NOW)
    async with serving(log) as served:
        log.fault = fault  # type: ignore[attr-defined]
        with capture_logs() as logs:
            responses = [await served.get("/statistics") for _ in range(2)]
        for response in responses:
            assert response.status_code == status
            assert "secret" not in response.text
            assert set(response.json()) == {"error", "code"}
        # An unreadable log is an outage, logged once; any other fault is a bug, logged each time.
        errors = [entry["event"] for entry in logs if entry["log_level"] == "error"]
        assert errors == (["log_unreadable"] if status == 503 else ["request_failed"] * 2)
        log.fault = None  # type: ignore[attr-defined]
        assert (await served.get("/statistics")).status_code == 200


class UnreadableEvents(MemoryLog):
    """A log whose events cannot be read while `broken`; everything else can."""

    broken = True

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        if self.broken:
            raise LogUnusableError("disk trouble", code="corrupt")
        return super().read(after, limit, orders=orders)

    def add_order(self, number: int) -> Head:
        """Appends a position, so that the follower reads the log."""
        return self.append([written(position(number, [order(number, at=NOW + 1)]))], NOW)


def unreadable_events() -> UnreadableEvents:
    log = UnreadableEvents(created_ms=NOW)
    log.baseline(some_changes(), NOW)
    log.add_order(50)
    return log


async def test_a_route_that_cannot_read_the_log_is_an_outage_until_it_can() -> None:
    """Logged once and shown by /health, although the views and other routes go on reading."""
    log = unreadable_events()
    target = f"/messages?after={log.floor() - 1}"
    async with serving(log) as served:

        async def problems() -> Any:
            return (await served.get("/health", None)).json()["problems"]

        with capture_logs() as lines:
            for number in (51, 52):
                assert (await served.get(target)).status_code == 503
                assert (await served.get("/statistics")).status_code == 200
                head = log.add_order(number)

                async def followed(head: Head = head) -> bool:
                    response = await served.get("/miner-hotkeys")
                    return response.headers["x-ptn-revision"] == str(head.revision)

                await served.until(followed)
                assert await problems() == ["log_unreadable"]
            log.broken = False
            assert (await served.get(target)).status_code == 200
            assert await problems() == []
        events = [line["event"] for line in lines]
        assert [event for event in events if event.startswith("log_")] == [
            "log_unreadable",
            "log_readable_again",
        ]


async def test_a_route_that_is_not_requested_again_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed request does not keep /health failing."""
    monkeypatch.setattr("ptn_api.rest.app._FORGET_S", 0.1)
    log = unreadable_events()
    async with serving(log) as served:
        assert (await served.get(f"/messages?after={log.floor() - 1}")).status_code == 503

        async def healthy() -> bool:
            return (await served.get("/health", None)).json()["problems"] == []

        await served.until(healthy)


async def test_many_concurrent_requests() -> None:
    """All receive the same complete document, each in its coding."""
    async with serving() as served:

        async def ask(n: int, served: Served = served) -> Any:
            coding = ("identity", "gzip", "zstd")[n % 3]
            return (await served.get("/miner-positions", accept_encoding=coding)).json()

        responses = await asyncio.gather(*(ask(n) for n in range(30)))
        assert all(response == responses[0] for response in responses)


async def waiting_handler(app: AppContext, request: RequestContext) -> Response:
    """Uses asyncio as any coroutine may, in its first lines."""
    await asyncio.wait_for(asyncio.sleep(0), PATIENCE_S)
    if hasattr(asyncio, "TaskGroup"):  # since Python 3.11
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
    if request.head:
        raise ValueError
    return Response(body_of(b'"done"'))


async def test_a_handler_may_be_an_ordinary_coroutine_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in a task; its response and errors are treated like those of a plain function."""
    route = Route("/waiting", waiting_handler, "Waits", str)
    monkeypatch.setattr("ptn_api.rest.run.ROUTES", (route,))
    async with serving() as served:
        response = await served.get("/waiting")
        assert (response.status_code, response.json()) == (200, "done")
        assert response.headers["cache-control"] == "private, no-cache"
        assert (await served.ask("HEAD", "/waiting")).status_code == 500
        assert (await served.get("/waiting", None)).status_code == 401


async def test_a_repeated_request_is_answered_by_the_present_keys() -> None:
    """On one connection, byte for byte: what it asks for is kept, and no decision about it."""
    async with serving() as served:
        for _ in range(2):
            assert (await served.get("/miner-positions?tier=100")).status_code == 200
            assert (await served.get("/miner-positions?tier=31")).status_code == 400
            assert (await served.get("/miner-positions?tier=30", "k0")).status_code == 403
            shown = (await served.get("/miner-positions?tier=30")).json().values()
            assert {entry["tier"] for entry in shown} == {30}
        for _ in range(2):
            assert (await served.get("/miner-positions?tier=100")).status_code == 200
        served.keys.replace([("user100", "k100", 50)])
        for _ in range(2):
            assert (await served.get("/miner-positions?tier=100")).status_code == 403
        served.keys.replace([])
        assert (await served.get("/miner-positions?tier=100")).status_code == 401
