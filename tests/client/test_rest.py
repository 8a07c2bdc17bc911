"""REST requests without a server: retries, errors, decoding, downloads."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ptn_api.client.calls import Call
from ptn_api.client.mirror_state import snapshot
from ptn_api.client.rest import AsyncPTNClient, PTNClient, Retries
from ptn_api.errors import (
    APIStatusError,
    AuthenticationError,
    ClientError,
    InvalidInputError,
    ServerUnreachableError,
    SettingsError,
)

QUICK = Retries(times=2, first=0.001, longest=0.01)
URL = "http://server"
HEALTH = {"status": "ok", "problems": [], "processes": {}, "source": {}, "log": {"ready": True}}


class Script:
    """Responses in turn, the last one repeated. `requests` are the requests received."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def answer(status: int = 200, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers=headers)


def client(script: Script, retries: Retries = QUICK) -> PTNClient:
    return PTNClient(URL, "the-key", retries=retries, transport=httpx.MockTransport(script))


def raised(script: Script, act: Callable[[PTNClient], object] = lambda api: api.hotkeys()) -> ClientError:
    with client(script) as api, pytest.raises(ClientError) as caught:
        act(api)
    return caught.value


def test_the_key_is_sent_in_the_header_only() -> None:
    """Proxies would log it in the URL."""
    script = Script(answer(body=["5A"]))
    with client(script) as api:
        assert api.hotkeys() == ["5A"]
    [request] = script.requests
    assert request.headers["authorization"] == "Bearer the-key"
    assert "the-key" not in str(request.url)
    assert "gzip" in request.headers["accept-encoding"]


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key no header is sent: `/health` needs none."""
    monkeypatch.delenv("PTN_API_KEY", raising=False)
    script = Script(answer(body=HEALTH))
    with PTNClient(URL, transport=httpx.MockTransport(script)) as api:
        api.health()
    monkeypatch.setenv("PTN_API_KEY", "from-environment")
    with PTNClient(URL, transport=httpx.MockTransport(script)) as api:
        api.health()
    assert [r.headers.get("authorization") for r in script.requests] == [None, "Bearer from-environment"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_an_authentication_error(status: int) -> None:
    """With the server's message, and without a retry."""
    script = Script(answer(status, {"error": "Unauthorized access", "code": "unauthorized"}))
    error = raised(script)
    assert isinstance(error, AuthenticationError)
    assert (str(error), error.code, error.status) == (f"{URL}: Unauthorized access", "unauthorized", status)
    assert "key" in error.remedy
    assert len(script.requests) == 1


def test_an_error_has_the_status_and_the_servers_message() -> None:
    """From the response body."""
    error = raised(Script(answer(404, {"error": "Miner ID not found"})), lambda api: api.miner("5A"))
    assert isinstance(error, APIStatusError)
    assert (error.status, str(error)) == (404, "Miner ID not found: '5A'")
    assert error.hotkey == "5A"
    assert "hotkeys() lists" in error.remedy
    other = raised(Script(answer(404, {"error": "No endpoint found"})), lambda api: api.entity_endpoint())
    assert str(other) == "No endpoint found"


def test_a_stopped_server_is_named_without_a_login() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        place = f"127.0.0.1:{unused.getsockname()[1]}"
    with (
        PTNClient(f"http://user:word@{place}", "k", retries=QUICK, trust_env=False) as api,
        pytest.raises(ServerUnreachableError) as caught,
    ):
        api.hotkeys()
    assert str(caught.value) == f"http://{place} does not answer: Connection refused"


def test_https_by_mistake_suggests_http() -> None:
    error = httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1016)")
    with (
        PTNClient("https://server", "k", retries=QUICK, transport=httpx.MockTransport(Script(error))) as api,
        pytest.raises(ServerUnreachableError, match=r"wrong version number; is it http://server\?$"),
    ):
        api.hotkeys()


def test_a_proxys_error_page_is_an_error_with_its_status() -> None:
    """And says that it is not the API's: a proxy's 403 page has nothing to do with the key."""
    for status in (401, 403, 404, 407, 502, 504):
        for content in (b"<html>", b'{"message": "Forbidden"}', b""):
            page = httpx.Response(status, content=content, headers={"server": "cloudflare"})
            error = raised(Script(page))
            assert isinstance(error, APIStatusError)
            assert (error.status, error.code) == (status, "foreign")
            assert f"status {status} from cloudflare" in str(error)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://api.example.com/miner-hotkeys", "https://api.example.com"),
        ("https://api.example.com/v2/miner-hotkeys?token=x", "https://api.example.com/v2"),
        ("/login?next=miner-hotkeys", "http://server/login"),
        ("https://user:word@sso.example.com/", "https://sso.example.com/"),
        ("http://[", "a malformed address"),
    ],
)
def test_a_redirect_names_the_address_to_use(location: str, expected: str) -> None:
    """It is not followed with the key. No query or login of the target is repeated."""
    error = raised(Script(httpx.Response(308, headers={"location": location})))
    assert isinstance(error, APIStatusError)
    assert (error.status, error.code) == (308, "redirect")
    assert str(error).removesuffix("; use that address") == f"it redirects to {expected}"


@pytest.mark.parametrize("location", ["http://xn--/", "data:,x", "http://server:port/"])
def test_a_redirect_that_cannot_be_read_is_no_traceback(location: str) -> None:
    """Though httpx raises errors of other libraries for it."""
    error = raised(Script(httpx.Response(308, headers={"location": location})))
    assert isinstance(error, (APIStatusError, ServerUnreachableError))


@pytest.mark.parametrize("status", [200, 404])
def test_deeply_nested_json_is_malformed(status: int) -> None:
    """It would take the decoder beyond the interpreter's limit."""
    nested = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    error = raised(Script(httpx.Response(status, content=nested)))
    assert error.code in ("bad_answer", "foreign")


def test_an_unreachable_server_behind_a_proxy_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting that it comes from, and without its login."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        proxy = f"http://user:word@127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with PTNClient(URL, "k", retries=QUICK) as api, pytest.raises(ServerUnreachableError) as caught:
        api.hotkeys()
    assert "through the proxy http://127.0.0.1:" in str(caught.value)
    assert "HTTP_PROXY; NO_PROXY=server avoids it" in str(caught.value)
    assert "word" not in str(caught.value)
    with (
        PTNClient(URL, "k", retries=QUICK, proxy=proxy) as api,
        pytest.raises(ServerUnreachableError, match=r"through the proxy http://127.0.0.1:\d+/?\)$"),
    ):
        api.hotkeys()


@pytest.mark.parametrize(
    ("variables", "named"),
    [({"SSL_CERT_FILE": "/nowhere.pem"}, "/nowhere.pem"), ({"ALL_PROXY": "gopher://x:1"}, "gopher")],
)
def test_unusable_settings_of_the_environment_are_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    """When the client is made, by both clients."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for kind in (PTNClient, AsyncPTNClient):
        with pytest.raises(SettingsError, match=named):
            kind("https://server", "k")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_retried(status: int) -> None:
    """After its Retry-After."""
    script = Script(answer(status, {"error": "later"}, **{"retry-after": "0"}), answer(body=[]))
    with client(script) as api:
        assert api.hotkeys() == []
    assert len(script.requests) == 2


def test_retries_end() -> None:
    """The last response is raised as an error."""
    script = Script(answer(503, {"error": "starting"}))
    error = raised(script)
    assert isinstance(error, APIStatusError)
    assert (error.status, len(script.requests)) == (503, 3)


def test_a_retry_after_beyond_the_limit_is_not_waited_for() -> None:
    """The error is raised at once."""
    script = Script(answer(429, {"error": "later"}, **{"retry-after": "3600"}))
    raised(script)
    assert len(script.requests) == 1


def test_a_lost_connection_is_retried() -> None:
    """After the last retry it is ServerUnreachableError."""
    script = Script(httpx.ConnectError("refused"), answer(body=["5A"]))
    with client(script) as api:
        assert api.hotkeys() == ["5A"]
    error = raised(Script(httpx.ReadTimeout("slow")))
    assert isinstance(error, ServerUnreachableError)


@pytest.mark.parametrize("content", [b"[1}", b"<html>", b'{"a": 1}', b"\xff"])
def test_a_malformed_response_is_a_client_error(content: bytes) -> None:
    """Not an exception of the JSON library."""
    assert raised(Script(httpx.Response(200, content=content))).code == "bad_answer"


def test_a_snapshot_without_its_headers_is_malformed() -> None:
    """As a key of a lower tier gets it."""
    error = raised(Script(answer(body={})), lambda api: api.call(snapshot()))
    assert error.code == "bad_answer"


def test_a_miner_without_positions_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The hotkey may be misspelt. With other filters an empty result is usual; a kept one is not repeated."""
    body = {"5A": {"positions": []}}
    script = Script(answer(body=body, etag='"1"'), answer(304, etag='"1"'), answer(body={}))
    with client(script) as api:
        for _ in range(2):
            assert list(api.miner_positions(miner=["5A", "5B", "5C"])) == ["5A"]
        api.miner_positions(miner="5D", status="open")
        api.miner_positions(miner="5D", trade_pair="BTCUSD")
        api.miner_positions()
    assert [record.args for record in caplog.records if record.name == "ptn_api.client"] == [("5B",), ("5C",)]


def test_only_parameters_that_were_passed_are_sent() -> None:
    """Several values repeat the parameter; a hotkey is quoted."""
    script = Script(answer(body={}))
    with client(script) as api:
        api.miner_positions()
        api.miner_positions(tier=0, miner=["a", "b"], trade_pair="BTCUSD", status="open")
        api.call(Call("/x", lambda body, headers: None))
        api.statistics(checkpoints=False)
        api.perf_ledger("a/b")
    assert [r.url.raw_path.decode() for r in script.requests] == [
        "/miner-positions",
        "/miner-positions?tier=0&miner=a&miner=b&trade_pair=BTCUSD&status=open",
        "/x",
        "/statistics?checkpoints=false",
        "/perf-ledger/a%2Fb",
    ]


def test_an_unhealthy_servers_health_is_returned() -> None:
    """`/health` has status 503 and a body."""
    script = Script(answer(503, HEALTH | {"status": "starting", "problems": ["starting"]}))
    with client(script) as api:
        health = api.health()
    assert (health.status, health.problems) == ("starting", ["starting"])
    assert len(script.requests) == 1


def test_the_ledgers_and_pairs_of_older_servers_are_read() -> None:
    """Ledgers by trade pair, and 0.1.0's plain list of pairs."""
    ledger, hotkey = {"cps": [{"last_update_ms": 5}]}, "5Miner"
    pair = {"id": "BTCUSD", "display": "BTC/USD", "category": "crypto"}
    pair |= {"fee_rate": 0.001, "min_leverage": 0.01, "max_leverage": 0.5}  # type: ignore[dict-item]
    shapes = ({"portfolio": ledger, "BTCUSD": ledger}, {hotkey: ledger}, ledger)
    script = Script(*(answer(body=body) for body in (*shapes, [pair])))
    with client(script) as api:
        read = [api.perf_ledger(hotkey) for _ in shapes]
        assert [sorted(ledgers) for ledgers in read] == [
            ["BTCUSD", "portfolio"],
            ["portfolio"],
            ["portfolio"],
        ]
        assert {ledgers["portfolio"].cps[0].last_update_ms for ledgers in read} == {5}
        (listed,) = api.trade_pairs().allowed
        assert (listed.trade_pair_id, listed.trade_pair, listed.max_leverage) == ("BTCUSD", "BTC/USD", 0.5)


def test_a_newer_servers_health_is_decoded() -> None:
    """With unknown words and fields."""
    newer = {"status": "shaky", "problems": ["gremlins"], "processes": {"rest": "dozing"}, "mood": 3}
    with client(Script(answer(body=HEALTH | newer))) as api:
        health = api.health()
    assert (health.status, health.problems, health.processes) == ("shaky", ["gremlins"], {"rest": "dozing"})


def test_a_401_without_a_key_names_the_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than the server's message. A line break after a key is stripped."""
    monkeypatch.delenv("PTN_API_KEY", raising=False)
    script = Script(answer(401, {"error": "Unauthorized access"}))
    with (
        PTNClient(URL, transport=httpx.MockTransport(script)) as api,
        pytest.raises(AuthenticationError, match="set PTN_API_KEY"),
    ):
        api.me()
    with (
        PTNClient(URL, " a-key\n", transport=httpx.MockTransport(script)) as api,
        pytest.raises(AuthenticationError, match="Unauthorized access"),
    ):
        api.me()
    assert script.requests[-1].headers["authorization"] == "Bearer a-key"


@pytest.mark.parametrize(
    "ask",
    [
        *(PTNClient.miner, PTNClient.miner_statistics, PTNClient.perf_ledger, PTNClient.debt_ledger),
        *(PTNClient.orders, PTNClient.entity),
    ],
)
def test_an_empty_hotkey_is_refused(ask: Callable[[PTNClient, str], object]) -> None:
    """Its path would be that of another document."""
    script = Script(answer(body={}))
    with client(script) as api, pytest.raises(InvalidInputError, match="hotkey is empty"):
        ask(api, "")
    assert script.requests == []


@pytest.mark.parametrize("url", ["", "server:1", "ws://server", "ftp://server", "http://[::1", "http://"])
def test_an_invalid_url_is_refused_at_once(url: str) -> None:
    """No request is sent."""
    with pytest.raises(SettingsError):
        PTNClient(url, "k")


# --- unchanged documents ----------------------------------------------------------------------------------


def unchanged() -> httpx.Response:
    return httpx.Response(304)


def test_an_unchanged_document_is_the_same_object() -> None:
    """It is requested with its ETag, and neither sent nor decoded again."""
    script = Script(
        answer(body=["5A"], etag='"1"'), unchanged(), answer(body=["5B"], etag='"2"'), unchanged()
    )
    with client(script) as api:
        first, second, third, fourth = (api.hotkeys() for _ in range(4))
    assert first is second
    assert third is fourth
    assert (first, third) == (["5A"], ["5B"])
    requested = [r.headers.get("if-none-match") for r in script.requests]
    assert requested == [None, '"1"', '"1"', '"2"']


def test_cached_results_are_distinguished_by_path_and_parameters() -> None:
    """And by their decoder."""
    script = Script(answer(body={}, etag='"1"'))
    with client(script) as api:
        api.miner_positions(status="open")
        api.miner_positions(status="closed")
        api.statistics()
        api.perf_ledger("a")
        api.perf_ledger("b")
        api.miner_positions(status="open")
        api.perf_ledger("a")
    requested = [r.headers.get("if-none-match") for r in script.requests]
    assert requested == [None] * 5 + ['"1"', '"1"']


def test_the_cache_is_bounded() -> None:
    """It keeps the most recently used results; with size 0 none."""
    for size, expected in ((0, [None] * 5), (2, [None, None, '"1"', None, None])):
        script = Script(answer(body={}, etag='"1"'))
        with PTNClient(URL, "k", cache=size, transport=httpx.MockTransport(script)) as api:
            for hotkey in ("a", "b", "a", "c", "b"):
                api.perf_ledger(hotkey)
        assert [r.headers.get("if-none-match") for r in script.requests] == expected


def test_an_unexpected_304_is_an_error() -> None:
    """As from a faulty proxy, if it stays. It is asked again first."""
    error = raised(Script(unchanged()))
    assert isinstance(error, APIStatusError)
    assert error.status == 304
    script = Script(unchanged(), answer(body=["5A"]))
    with client(script) as api:
        assert api.hotkeys() == ["5A"]


def test_many_threads_share_a_small_cache() -> None:
    """More documents at once than the cache keeps: a 304 always finds the result it is about."""

    def respond(request: httpx.Request) -> httpx.Response:
        tag = f'"{request.url.path}"'
        if request.headers.get("if-none-match") == tag:
            return httpx.Response(304)
        return httpx.Response(200, json={"thirty_day_returns": 2.0}, headers={"etag": tag})

    transport = httpx.MockTransport(respond)
    with PTNClient(URL, "k", cache=2, transport=transport) as api, ThreadPoolExecutor(12) as pool:
        read = pool.map(lambda n: api.miner(f"m{n % 6}").thirty_day_returns, range(600))
        assert set(read) == {2.0}


async def test_many_documents_at_once() -> None:
    """Also of the asynchronous client."""

    async def respond(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        tag = f'"{request.url.path}"'
        known = request.headers.get("if-none-match") == tag
        return httpx.Response(304) if known else httpx.Response(200, json={}, headers={"etag": tag})

    async with AsyncPTNClient(URL, "k", cache=8, transport=httpx.MockTransport(respond)) as api:
        for _ in range(3):
            await asyncio.gather(*(api.miner(f"m{n}") for n in range(40)))


# --- downloads --------------------------------------------------------------------------------------------


def test_a_download_is_streamed_to_its_file(tmp_path: Path) -> None:
    """The file appears when it is complete; progress is in bytes received."""
    progress: list[tuple[int, int | None]] = []
    body = b'{"positions":{}}'
    stream = httpx.Response(200, stream=httpx.ByteStream(body), headers={"content-length": "16"})
    target = tmp_path / "checkpoint.json"
    with PTNClient(URL, "k", transport=httpx.MockTransport(lambda request: stream)) as api:
        assert api.validator_checkpoint(target, lambda *now: progress.append(now)) == target
    assert target.read_bytes() == body
    assert progress == [(16, 16)]
    assert list(tmp_path.iterdir()) == [target]


class Torn(httpx.SyncByteStream):
    """A body whose connection breaks."""

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"posi'
        raise httpx.ReadError("broken")


def test_a_response_that_ends_early_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    """Nothing but the content tells if the transport states no length. It is requested again."""
    target, half = tmp_path / "checkpoint.json", httpx.Response(200, content=b'{"positions": {"a": {}')
    whole = httpx.Response(200, content=b'{"positions": {}}')
    with client(Script(half, whole)) as api:
        api.validator_checkpoint(target)
    assert target.read_bytes() == whole.content
    with client(Script(half, whole)) as api:
        assert api.validator_checkpoint().positions == {}
    for script in (Script(half), Script(httpx.Response(200))):
        error = raised(script, lambda api: api.validator_checkpoint(target))
        assert isinstance(error, ServerUnreachableError)
        assert "ended early" in str(error)
        assert isinstance(raised(script, lambda api: api.miner_positions()), ServerUnreachableError)
    assert raised(
        Script(httpx.Response(200, content=b"<html>")), lambda api: api.validator_checkpoint(target)
    )
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == whole.content


def test_two_downloads_to_one_file_may_overlap(tmp_path: Path) -> None:
    """Neither writes into the other's file: the target is always one complete response."""
    target = tmp_path / "checkpoint.json"
    between: list[str] = []

    def progress(done: int, total: int | None) -> None:  # the second download runs within the first
        with client(Script(answer(body="second"))) as other:
            other.validator_checkpoint(target)
        between.append(target.read_text())

    with client(Script(answer(body="the first"))) as api:
        api.validator_checkpoint(target, progress)
    assert [*between, target.read_text()] == ['"second"', '"the first"']
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_replaces_regular_files_only(tmp_path: Path) -> None:
    """Devices, pipes and folders are refused; the target of a link is replaced, not the link."""
    pipe, link, folder = tmp_path / "pipe", tmp_path / "link", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to("file")
    script = Script(answer(body={}))
    with client(script) as api:
        for target in (pipe, folder):
            with pytest.raises(SettingsError, match="not a regular file"):
                api.validator_checkpoint(target)
        assert script.requests == []
        api.validator_checkpoint(link)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert (tmp_path / "file").read_text() == "{}"


def test_a_broken_download_leaves_nothing_and_is_retried(tmp_path: Path) -> None:
    """An existing file stays until the new one is complete."""
    target = tmp_path / "checkpoint.json"
    target.write_text("before")
    bodies: list[httpx.Response] = [httpx.Response(200, stream=Torn()) for _ in range(4)]
    transport = httpx.MockTransport(lambda request: bodies.pop(0))
    with PTNClient(URL, "k", retries=QUICK, transport=transport) as api:
        with pytest.raises(ServerUnreachableError):
            api.validator_checkpoint(target)
        assert target.read_text() == "before"
        assert list(tmp_path.iterdir()) == [target]
        bodies.append(httpx.Response(200, content=b"{}"))
        api.validator_checkpoint(target)
    assert target.read_text() == "{}"


def test_a_refused_download_is_an_error_like_any(tmp_path: Path) -> None:
    """With the server's message, and without a file."""
    script = Script(answer(403, {"error": "Validator checkpoint data requires tier 100 access"}))
    error = raised(script, lambda api: api.validator_checkpoint(tmp_path / "file"))
    assert isinstance(error, AuthenticationError)
    assert "tier 100" in str(error)
    assert list(tmp_path.iterdir()) == []


async def test_the_asynchronous_client_downloads_too(tmp_path: Path) -> None:
    """In the same way."""
    transport = httpx.MockTransport(Script(answer(body={})))
    async with AsyncPTNClient(URL, "k", transport=transport) as api:
        assert (await api.validator_checkpoint(tmp_path / "file")).read_text() == "{}"


# --- both clients -----------------------------------------------------------------------------------------


async def test_the_asynchronous_client_retries_and_fails_alike() -> None:
    """Both clients share `exchange`."""
    script = Script(answer(503), httpx.ConnectError("refused"), answer(404, {"error": "no"}))
    transport = httpx.MockTransport(script)
    async with AsyncPTNClient(URL, "k", retries=QUICK, transport=transport) as api:
        with pytest.raises(APIStatusError, match="no"):
            await api.eliminations()
    assert len(script.requests) == 3


def test_both_clients_have_the_same_methods() -> None:
    """With the same parameters."""
    import inspect

    def methods(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(cls).items()
            if inspect.isfunction(member) and not name.startswith("_")
        }

    assert methods(PTNClient) == methods(AsyncPTNClient)


def test_delays_double_with_full_jitter() -> None:
    """Up to the longest; the server's Retry-After is the minimum."""
    retries = Retries(times=9, first=1, longest=4)
    for attempt, longest in enumerate([1, 2, 4, 4, 4]):
        pauses = [retries.pause(attempt, None) for _ in range(200)]
        assert all(p is not None and 0 <= p <= longest for p in pauses)
    requested = retries.pause(0, 3)
    assert requested is not None
    assert 3 <= requested <= 3.25
    assert retries.pause(9, None) is None
    assert Retries(times=1_000_000).pause(100_000, None) is not None


def test_all_orders_follow_the_pages() -> None:
    """Each page is requested when it is needed; filters go along."""
    row = {
        "miner_hotkey": "5A",
        "position_uuid": "p",
        "trade_pair": "BTCUSD",
        "sequence": None,
        "order": {"order_type": "LONG", "processed_ms": 1, "order_uuid": "o"},
    }
    pages = [answer(body={"orders": [row, row], "next": "c"}), answer(body={"orders": [row], "next": None})]
    script = Script(*pages)
    with client(script) as api:
        rows = api.all_orders(miner="5A")
        assert next(rows).miner_hotkey == "5A"
        assert len(script.requests) == 1
        assert [one.order.order_uuid for one in rows] == ["o", "o"]
    assert [request.url.params.get("before") for request in script.requests] == [None, "c"]
    assert {request.url.params["miner"] for request in script.requests} == {"5A"}

    async def count() -> int:
        transport = httpx.MockTransport(Script(*pages))
        async with AsyncPTNClient(URL, "the-key", transport=transport) as api:
            return len([one async for one in api.all_orders()])

    assert asyncio.run(count()) == 3


def test_a_page_of_orders_with_too_many_miners_is_filtered_here() -> None:
    """A request line has a limit; a miner that was not chosen is left out."""
    order = {"order_type": "LONG", "processed_ms": 1, "order_uuid": "o"}
    rows = [
        {"miner_hotkey": miner, "position_uuid": "p", "trade_pair": "BTCUSD", "sequence": 7, "order": order}
        for miner in ("5Miner3", "5Other")
    ]
    script = Script(answer(body={"orders": rows, "next": "c"}))
    with client(script) as api:
        page = api.order_page(miner=[f"5Miner{n}" + "x" * 40 for n in range(200)] + ["5Miner3"])
    assert ([row.miner_hotkey for row in page.orders], page.next) == (["5Miner3"], "c")
    assert "miner" not in script.requests[0].url.params
