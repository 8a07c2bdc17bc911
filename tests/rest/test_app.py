"""Every route and every refusal, asked of a real server."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import shutil
import zlib
from typing import Any

import httpx
import pytest
import requests
import zstandard
from structlog.testing import capture_logs

from ptn_api.errors import LogUnusableError
from ptn_api.event_log import SourceStatus
from ptn_api.rest.routes import ROUTES
from tests.factories import MINER, OTHER_MINER, order, position, written
from tests.memory_log import MemoryLog
from tests.rest.serving import DAY, HOUR, NOW, Served, filled_log, serving, some_changes

MOVING = ("date", "ratelimit")
"""Headers that differ from answer to answer."""
KEYED = [route for route in ROUTES if route.access != "anyone"]


def path_of(route: Any) -> str:
    path: str = route.path
    return path.replace("{hotkey}", MINER)


# --- what is answered -------------------------------------------------------------------------------------


async def test_positions_of_all_miners() -> None:
    """Without `tier` what tier 100 shows; an open position's close_ms is 0."""
    async with serving() as served:
        body = (await served.get("/miner-positions")).json()
        assert set(body) == {MINER, OTHER_MINER, "5Nobody"}
        assert [len(p["orders"]) for p in body[MINER]["positions"]] == [2, 2]
        assert body[MINER]["positions"][1]["close_ms"] == 0
        assert body[MINER]["tier"] == 100
        assert body["5Nobody"]["positions"] == []
        late = (await served.get("/miner-positions?tier=0")).json()
        assert [len(p["orders"]) for p in late[MINER]["positions"]] == [2, 1]
        assert late[OTHER_MINER]["positions"] == []


@pytest.mark.parametrize("key", ["k0", "k30", "k50", "k100"])
async def test_positions_of_one_miner_are_the_keys_own_tier(key: str) -> None:
    """The entry of the whole document, without the rest of it."""
    async with serving() as served:
        tier = key[1:]
        whole = (await served.get(f"/miner-positions?tier={tier}", key)).json()
        assert (await served.get(f"/miner-positions/{MINER}", key)).json() == whole[MINER]
        missing = await served.get("/miner-positions/5Unknown", key)
        assert (missing.status_code, missing.json()["error"]) == (404, "Miner ID not found")


async def test_documents() -> None:
    """Statistics, eliminations and hotkeys as the validator wrote them, elements cut out of them."""
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
        assert set((await served.get(f"/perf-ledger/{MINER}")).json()) == {"portfolio", "BTCUSD"}


async def test_documents_that_are_not_there() -> None:
    """404 with the documented sentences; hotkeys are then those that have positions."""
    async with serving(filled_log()) as served:
        for path, sentence in [
            ("/statistics", "Statistics data not found"),
            (f"/statistics/{MINER}", "Statistics data not found"),
            ("/eliminations", "Eliminations data not found"),
            ("/validator-checkpoint", "Checkpoint data not found"),
            (f"/perf-ledger/{MINER}", "Miner ID not found"),
        ]:
            answer = await served.get(path)
            assert (answer.status_code, answer.json()["error"]) == (404, sentence)
        assert (await served.get("/miner-hotkeys")).json() == []
        assert (await served.get("/miner-positions")).json() == {}


async def test_the_checkpoint_holds_what_a_validator_restores_from() -> None:
    """Entries without `tier`, portfolio ledgers, and the times of the first and the last order."""
    async with serving() as served:
        body = (await served.get("/validator-checkpoint")).json()
        assert list(body) == [
            "version",
            "created_timestamp_ms",
            "created_date",
            "challengeperiod",
            "eliminations",
            "youngest_order_processed_ms",
            "oldest_order_processed_ms",
            "positions",
            "perf_ledgers",
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
    """The asking key, the pairs, the description and its page."""
    async with serving() as served:
        assert (await served.get("/me", "k30")).json() == {
            "alias": "user30",
            "tier": 30,
            "expires_ms": None,
            "limits": {"websocket_connections": 0, "requests_per_minute": 600},
        }
        assert (await served.get("/me")).json()["limits"]["websocket_connections"] == 5
        assert len((await served.get("/trade-pairs", "k0")).json()) == 49
        description = (await served.get("/openapi.json", None)).json()
        assert set(description["paths"]) == {route.path for route in ROUTES}
        page = await served.get("/docs", None)
        assert page.headers["content-type"].startswith("text/html")
        assert "/validator-checkpoint" in page.text
        assert "http://" not in page.text
        assert "https://" not in page.text


# --- codings, tags, headers -------------------------------------------------------------------------------


def decoded(coding: str, body: bytes) -> list[bytes]:
    """The body as several decoders read it."""
    if coding == "gzip":
        whole = zlib.decompressobj(31)
        return [gzip.decompress(body), whole.decompress(body) + whole.flush()]
    if coding == "zstd":
        stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True)
        return [stream.read()]
    return [body]


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
@pytest.mark.parametrize(
    "path", ["/miner-positions", f"/miner-positions/{MINER}", "/validator-checkpoint", "/statistics"]
)
async def test_every_coding_says_the_same(path: str, coding: str) -> None:
    """What was asked for is what comes, whoever decodes it."""
    async with serving() as served:
        plain = await served.get(path)
        assert "content-encoding" not in plain.headers
        async with served.client.stream(
            "GET", path, headers={"authorization": "Bearer k100", "accept-encoding": coding}
        ) as answer:
            body = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers.get("content-encoding", "identity") == coding
        assert int(answer.headers["content-length"]) == len(body)
        assert all(text == plain.content for text in decoded(coding, body))


async def test_clients_decode_it() -> None:
    """requests, httpx and curl, each with what it accepts by itself."""
    async with serving() as served:
        plain = (await served.get("/miner-positions")).json()
        url, headers = f"{served.url}/miner-positions", {"Authorization": "Bearer k100"}
        answer = await asyncio.to_thread(requests.get, url, headers=headers, timeout=10)
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json() == plain
        async with httpx.AsyncClient(headers={**headers, "accept-encoding": "zstd"}) as client:
            assert (await client.get(url)).json() == plain
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed; the other clients were tried")
        assert json.loads(await curl("--compressed", "-H", "Authorization: Bearer k100", url)) == plain


async def curl(*arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "10", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output


@pytest.mark.parametrize("route", KEYED, ids=lambda route: route.path)
async def test_unchanged_answers_cost_nothing(route: Any) -> None:
    """A tag per coding; with it 304 and no body; HEAD says the same as GET, without a body."""
    async with serving() as served:
        tags = set()
        for coding in ("identity", "gzip", "zstd"):
            full = await served.get(path_of(route), accept_encoding=coding)
            tags.add(full.headers["etag"])
            again = await served.get(
                path_of(route), accept_encoding=coding, if_none_match=full.headers["etag"]
            )
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == full.headers["etag"]
            head = await served.ask("HEAD", path_of(route), accept_encoding=coding)
            assert (head.status_code, head.content) == (200, b"")
            expected = {k: v for k, v in full.headers.items() if k not in MOVING}
            if route.path == "/messages":  # what is read for a GET is not read for a HEAD
                for name in ("etag", "content-length", "content-encoding"):
                    expected.pop(name, None)
            assert {k: v for k, v in head.headers.items() if k not in MOVING} == expected
        assert len(tags) == 3


async def test_headers_of_each_tier() -> None:
    """Tier 100 learns where the log stands; lower tiers the cutoff, whatever key asks for them."""
    async with serving() as served:
        answer = await served.get("/miner-positions")
        head = served.log.head()
        assert answer.headers["x-ptn-epoch"] == "e" * 32
        assert answer.headers["x-ptn-sequence"] == str(head.sequence)
        assert answer.headers["x-ptn-revision"] == str(head.revision)
        assert "x-ptn-as-of" not in answer.headers
        for path, key in [("/miner-positions?tier=30", "k100"), (f"/miner-positions/{MINER}", "k50")]:
            answer = await served.get(path, key)
            assert answer.headers["x-ptn-as-of"] == str(NOW - DAY)
            assert not {"x-ptn-epoch", "x-ptn-sequence", "x-ptn-revision"} & set(answer.headers)
        vary = {name.strip() for name in answer.headers["vary"].split(",")}
        assert vary == {"Accept-Encoding", "Authorization"}
        assert answer.headers["cache-control"] == "private, no-cache"
        assert "server" not in answer.headers


async def test_tags_are_equal_across_servers_and_restarts() -> None:
    """Another process over another log with the same state gives the same tags, made at another time."""
    found = []
    for epoch, created in [("a" * 32, NOW - 5000), ("b" * 32, NOW)]:
        log = MemoryLog(created_ms=created, epoch=epoch)
        log.baseline(some_changes(), created)
        async with serving(log) as served:
            paths = ["/miner-positions", "/miner-positions?tier=50", "/validator-checkpoint", "/statistics"]
            found.append([(await served.get(path)).headers["etag"] for path in paths])
    assert found[0] == found[1]


async def test_an_order_is_seen_and_changes_the_tag() -> None:
    """What is appended to the log is in the next answers, with the sequence that it was given."""
    async with serving() as served:
        before = await served.get("/miner-positions")
        orders = [order(5, at=NOW - 2 * HOUR), order(9, at=NOW - 1)]
        head = served.log.append([written(position(3, orders, miner=OTHER_MINER))], NOW)

        async def seen() -> bool:
            answer = await served.get(f"/miner-positions/{OTHER_MINER}")
            return int(answer.headers["x-ptn-sequence"]) >= head.sequence

        await served.until(seen)
        after = await served.get("/miner-positions", if_none_match=before.headers["etag"])
        assert after.status_code == 200
        assert len(after.json()[OTHER_MINER]["positions"][0]["orders"]) == 2
        late = await served.get("/miner-positions?tier=0")
        assert late.json()[OTHER_MINER]["positions"] == []


# --- who may ask ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", KEYED, ids=lambda route: route.path)
async def test_without_a_key_nothing_is_told(route: Any) -> None:
    """401 for no key, an unknown one, and one in the URL."""
    async with serving() as served:
        for path, key in [
            (path_of(route), None),
            (path_of(route), "unknown"),
            (path_of(route) + "?api_key=k100", None),
            (path_of(route) + "?key=k100&access_token=k100", None),
        ]:
            answer = await served.get(path, key)
            assert (answer.status_code, answer.json()["error"]) == (401, "Unauthorized access")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("Bearer k100", 200),
        ("bearer k100", 200),
        ("BEARER   k100", 200),
        ("k100", 401),
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
    """The scheme in any case; whatever else comes is no key, and never a server error."""
    async with serving() as served:
        answer = await served.client.get("/me", headers={"authorization": value.encode("latin-1")})
        assert answer.status_code == status


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
    """As some existing clients send it: a GET with JSON; at most 4 KiB of it are read."""
    async with serving() as served:
        answer = await served.ask("GET", "/me", None, content=body)
        assert answer.status_code == status
        assert answer.headers["cache-control"] == "no-store"


async def test_the_header_wins_over_the_body() -> None:
    """A body is not even looked at where there is a header."""
    async with serving() as served:
        body = b'{"api_key": "k100"}'
        assert (await served.ask("GET", "/me", "k0", content=body)).json()["tier"] == 0
        assert (await served.ask("GET", "/me", "nope", content=body)).status_code == 401


async def test_curl_with_data_is_understood() -> None:
    """`-X GET -d '{"api_key": ...}'`, as the documentation of the known implementation has it."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    async with serving() as served:
        options = ("-X", "GET", "-d", '{"api_key": "k50"}', "-H", "Content-Type: application/json")
        assert json.loads(await curl(*options, f"{served.url}/me"))["tier"] == 50


async def test_tiers_above_the_keys_are_refused() -> None:
    """403 with the tier that was asked for; lower ones are included."""
    async with serving() as served:
        for key in (0, 30, 50, 100):
            for tier in (0, 30, 50, 100):
                answer = await served.get(f"/miner-positions?tier={tier}", f"k{key}")
                assert answer.status_code == (200 if tier <= key else 403)
                if tier > key:
                    assert answer.json()["error"] == f"Your API key does not have access to tier {tier} data"
        assert (await served.get("/miner-positions", "k50")).status_code == 403
        for path in ("/validator-checkpoint", f"/perf-ledger/{MINER}", "/messages"):
            answer = await served.get(path, "k50")
            assert answer.status_code == 403
        answer = await served.get("/validator-checkpoint", "k50")
        assert answer.json()["error"] == "Validator checkpoint data requires tier 100 access"


# --- what is malformed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["7", "101", "-1", "", "abc", "30.0", "0x1e", "%00", "３０", "9" * 400])
async def test_tiers_that_are_none(tier: str) -> None:
    """400 with the sentence that existing clients know."""
    async with serving() as served:
        answer = await served.get(f"/miner-positions?tier={tier}")
        assert answer.status_code == 400
        assert answer.json()["error"] == "Invalid tier value. Allowed values are 0, 30, 50, or 100"


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
    """400, naming what is wrong; never a server error."""
    async with serving() as served:
        answer = await served.get(path)
        assert answer.status_code == 400
        assert answer.json()["code"] == "bad_parameter"


async def test_unknown_parameters_are_ignored() -> None:
    """So that cache busters and tracking parameters of proxies do no harm."""
    async with serving() as served:
        plain = await served.get("/miner-positions?tier=30")
        answer = await served.get("/miner-positions?_=123&tier=30&utm_source=x&%ff=%fe&&=")
        assert answer.headers["etag"] == plain.headers["etag"]


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/miner-positions/a/b", "/statistics//", "/miner-positions//", "/..%2f", "//me"]
)
async def test_unknown_paths(path: str) -> None:
    """404 in JSON that repeats nothing of the path."""
    async with serving() as served:
        answer = await served.get(path)
        assert (answer.status_code, answer.json()) == (404, {"error": "Not found", "code": "not_found"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods(method: str) -> None:
    """405 in JSON, with what is allowed."""
    async with serving() as served:
        answer = await served.ask(method, "/miner-positions")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json()["error"] == "Method not allowed"


async def test_trailing_slashes() -> None:
    """A slash at the end changes nothing."""
    async with serving() as served:
        for route in ROUTES:
            with_slash = await served.get(path_of(route) + "/")
            assert with_slash.status_code == (await served.get(path_of(route))).status_code == 200


# --- starting, trouble ------------------------------------------------------------------------------------


async def test_while_the_baseline_is_read() -> None:
    """503 with Retry-After, but only to those with a key; then everything, without a restart."""
    log = MemoryLog(created_ms=NOW)
    async with serving(log) as served:
        for route in KEYED:
            answer = await served.get(path_of(route))
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert (await served.get(path_of(route), None)).status_code == 401
        health = await served.get("/health", None)
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        log.baseline(some_changes(), NOW)

        async def answers() -> bool:
            return (await served.get("/miner-positions")).status_code == 200

        await served.until(answers)
        assert (await served.get("/health", None)).json()["status"] == "ok"


async def test_health_says_what_is_wrong() -> None:
    """Without a key; a stale or silent source is 503, a missing watch is only mentioned."""
    async with serving() as served:
        cases: list[tuple[SourceStatus, int, list[str]]] = [
            (SourceStatus(swept_ms=NOW), 200, []),
            (SourceStatus(swept_ms=NOW, watching=False), 200, ["not_watching"]),
            (SourceStatus(swept_ms=NOW, stale=True, reason="root_vanished"), 503, ["source_stale"]),
            (SourceStatus(swept_ms=NOW - HOUR), 503, ["source_silent"]),
        ]
        for source, status, problems in cases:
            served.log.set_source(source)
            answer = await served.get("/health", None)
            assert (answer.status_code, answer.json()["problems"]) == (status, problems)
            assert answer.json()["source"]["reason"] == source.reason
            assert answer.headers["cache-control"] == "no-store"


async def test_health_does_not_move_with_orders() -> None:
    """It is public: neither its body nor its headers may tell that somebody trades."""
    async with serving() as served:
        before = await served.get("/health", None)
        head = served.log.append([written(position(40, [order(77, at=NOW - 1)]))], NOW)

        async def seen() -> bool:
            answer = await served.get("/me")
            positions = await served.get("/miner-positions")
            return answer.status_code == 200 and int(positions.headers["x-ptn-revision"]) >= head.revision

        await served.until(seen)
        after = await served.get("/health", None)
        assert after.content == before.content
        assert set(after.headers) == set(before.headers)


class Broken(MemoryLog):
    """A log with faults at the places that a handler reads."""

    def document_revision(self, document: Any) -> int:
        if getattr(self, "fault", None) is not None:
            raise self.fault
        return super().document_revision(document)


@pytest.mark.parametrize(
    ("fault", "status"),
    [(LogUnusableError("disk /secret/path", code="corrupt"), 503), (ZeroDivisionError("/secret/path"), 500)],
)
async def test_faults_inside_are_told_in_a_sentence(fault: Exception, status: int) -> None:
    """JSON without any detail; the server goes on."""
    log = Broken(created_ms=NOW)
    log.baseline(some_changes(), NOW)
    async with serving(log) as served:
        log.fault = fault  # type: ignore[attr-defined]
        answer = await served.get("/statistics")
        assert answer.status_code == status
        assert "secret" not in answer.text
        assert set(answer.json()) == {"error", "code"}
        log.fault = None  # type: ignore[attr-defined]
        assert (await served.get("/statistics")).status_code == 200


async def test_an_unreadable_log_is_logged_once_however_many_requests_meet_it() -> None:
    """Each request is answered with 503."""
    log = Broken(created_ms=NOW)
    log.baseline(some_changes(), NOW)
    async with serving(log) as served:
        with capture_logs() as lines:
            log.fault = LogUnusableError("disk", code="corrupt")  # type: ignore[attr-defined]
            assert {(await served.get("/statistics")).status_code for _ in range(3)} == {503}
        log.fault = None  # type: ignore[attr-defined]
        assert [line["event"] for line in lines].count("log_unreadable") == 1


async def test_many_ask_at_once() -> None:
    """All get the same whole document, in whichever coding each wants."""
    async with serving() as served:

        async def ask(n: int, served: Served = served) -> Any:
            coding = ("identity", "gzip", "zstd")[n % 3]
            return (await served.get("/miner-positions", accept_encoding=coding)).json()

        answers = await asyncio.gather(*(ask(n) for n in range(30)))
        assert all(answer == answers[0] for answer in answers)
