"""The service against its own descriptions: every route, every frame of both versions."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ptn_api.access import add_key
from ptn_api.clock import wall_ms
from ptn_api.rest.routes import ROUTES
from ptn_api.simulator.options import SimulatorOptions
from ptn_api.simulator.simulator import Simulator
from tests.contract import answer_problems, frame_kinds, problems
from tests.system.api import Api, api
from tests.waiting import PATIENCE_S, until

TIERS = (0, 30, 50, 100, 200)
TEMPLATES = list(dict.fromkeys(route.path for route in ROUTES))
NOT_SIMULATED = {"/entity/endpoint"}
"""Routes of whose content a simulated validator has none; test_newest.py requests them."""

CHANGING = ("/health", "/api/health", "/validator-checkpoint", "/me")
"""Routes whose response may change between two requests."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contracts")


@pytest.fixture(scope="module")
def keys(home: Path) -> dict[int, str]:
    return {tier: add_key(home / "api_keys.json", f"user-{tier}", tier) for tier in TIERS}


@pytest.fixture(scope="module")
def validator(home: Path) -> Iterator[Simulator]:
    """A validator with history and documents, which acts only on request."""
    options = SimulatorOptions(seed=5, miners=4, positions=6, history_ms=20 * 86_400_000, close_gap_ms=0)
    simulated = Simulator(home / "validator", options)
    simulated.prepare(wall_ms())
    yield simulated
    simulated.close()


@pytest.fixture(scope="module")
def server(home: Path, keys: dict[int, str], validator: Simulator) -> Iterator[Api]:
    # No process is down because it has to wait for a busy machine.
    times = {"header_timeout_ms": 3_000, "process_silent_ms": 60_000}
    with api(home / "data", validator_dir=home / "validator", **times) as running:
        yield running


@pytest.fixture
def simulator(validator: Simulator, server: Api) -> Simulator:
    """The validator at the present time: an order from before the server's start is no event."""
    validator.skip_to(wall_ms())
    return validator


@pytest.fixture(scope="module")
def openapi(server: Api) -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(server.rest + "/openapi.json", timeout=PATIENCE_S).json()
    return document


@pytest.fixture(scope="module")
def asyncapi(server: Api) -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(server.rest + "/asyncapi.json", timeout=PATIENCE_S).json()
    return document


# --- REST -------------------------------------------------------------------------------------------------


class Asker:
    """Sends requests, checks every response against the document, and records the statuses."""

    def __init__(self, server: Api, document: dict[str, Any], client: httpx.Client) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._server = server
        self._document = document
        self._client = client

    def __call__(
        self,
        template: str,
        query: str = "",
        *,
        key: str = "",
        hotkey: str = "",
        method: str = "GET",
        **headers: str,
    ) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        url = self._server.rest + template.replace("{hotkey}", hotkey) + query
        with self._client.stream(method, url, headers=sent) as response:
            if method == "GET" and response.headers.get("content-type") == "text/event-stream":
                start = next(response.iter_bytes())  # it has no end
                response = httpx.Response(response.status_code, headers=response.headers, content=start)
            else:
                response.read()
        assert answer_problems(self._document, template, method, response) == [], (method, url, response.text)
        self.seen.add((template, response.status_code))
        return response


@pytest.fixture
def ask(server: Api, openapi: dict[str, Any]) -> Iterator[Asker]:
    with httpx.Client(timeout=PATIENCE_S) as client:
        yield Asker(server, openapi, client)


def test_every_route_is_described(openapi: dict[str, Any]) -> None:
    assert set(openapi["paths"]) == set(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_route_answers_as_described(
    ask: Asker, openapi: dict[str, Any], keys: dict[int, str], template: str
) -> None:
    """Every tier, coding and method: statuses, headers and bodies match the document."""
    hotkeys = [
        *ask("/miner-hotkeys", key=keys[100]).json(),
        *ask("/entities", key=keys[200]).json()["entities"],
    ]
    hotkey = ""
    if "{hotkey}" in template:
        hotkey = next(h for h in hotkeys if ask(template, key=keys[200], hotkey=h).status_code == 200)
    tiered = f"?subaccount={hotkeys[0]}" if template == "/entity/endpoint" else ""
    for tier, coding in itertools.product(TIERS, ("identity", "gzip", "zstd")):
        if template == "/miner-positions":
            tiered = f"?tier={min(tier, 100)}"
        ways: dict[str, Any] = {"key": keys[tier], "hotkey": hotkey, "Accept_Encoding": coding}
        answer = ask(template, tiered, **ways)
        assert answer.status_code in (200, 403) or (answer.status_code == 404 and template in NOT_SIMULATED)
        head = ask(template, tiered, method="HEAD", **ways)
        assert head.status_code == answer.status_code
        assert not head.content
        if answer.status_code == 200 and template != "/stream":
            assert {"etag", "vary", "cache-control"} <= set(answer.headers)
            unchanged = ask(template, tiered, If_None_Match=answer.headers["ETag"], **ways)
            assert unchanged.status_code == 304 or template in CHANGING
    if template not in NOT_SIMULATED or _keyed(openapi, template):
        without = ask(template, hotkey=hotkey).status_code
        assert without == (401 if _keyed(openapi, template) else 200)
    assert (template, 200) in ask.seen or template in NOT_SIMULATED


def _keyed(document: dict[str, Any], template: str) -> bool:
    return bool(document["paths"][template]["get"]["security"])


def test_errors_are_as_described(ask: Asker, server: Api, keys: dict[int, str]) -> None:
    """Wrong parameters and cursors, unknown miners, targets and headers that are too long."""
    everything = ask("/miner-positions", key=keys[100])
    cursor = f"{everything.headers['X-PTN-Epoch']}:{everything.headers['X-PTN-Revision']}"
    best = {"key": keys[100]}
    assert ask("/miner-positions", f"?since={cursor}", **best).status_code == 200
    assert ask("/miner-positions", "?miner=5x&status=open&trade_pair=BTCUSD", **best).status_code == 200
    assert ask("/miner-positions", "?tier=7", **best).status_code == 400
    assert ask("/miner-positions", "?since=elsewhere:1", **best).status_code == 410
    assert ask("/miner-positions", key=keys[30]).status_code == 403
    assert ask("/miner-positions/{hotkey}", hotkey="5nobody", **best).status_code == 404
    assert ask("/me", "?" + "x" * 9_000, **best).status_code == 414
    assert ask("/me", X_Long="x" * 40_000, **best).status_code == 431
    for template in ("/statistics/{hotkey}", "/perf-ledger/{hotkey}"):
        assert ask(template, hotkey="5nobody", **best).status_code == 404
    for query in ("?limit=0", "?limit=x", "?format=none", "?after=-2"):
        assert ask("/messages", query, **best).status_code == 400
    assert ask("/messages", "?after=1", **best).status_code == 410
    assert ask("/statistics", "?checkpoints=perhaps", **best).status_code == 400
    other_method = httpx.post(server.rest + "/me", timeout=PATIENCE_S)
    assert (other_method.status_code, other_method.headers["Allow"]) == (405, "GET, HEAD")


def test_messages_are_those_of_the_stream(
    ask: Asker, asyncapi: dict[str, Any], keys: dict[int, str], simulator: Simulator
) -> None:
    """As one document and as lines, in both formats, each message matches the stream's document."""
    before = int(ask("/messages", key=keys[100]).json()["head"])
    simulator.burst(3)
    until(lambda: ask("/messages", key=keys[100]).json()["head"] >= before + 3, what="three orders")
    order = asyncapi["components"]["messages"]["order"]["payload"]["schema"]
    for form in ("full", "delta"):
        query = f"?after={before}&format={form}"
        assert len(ask("/messages", query, key=keys[100]).json()["messages"]) >= 3
        lines = ask("/messages", query, key=keys[100], Accept="application/x-ndjson")
        assert int(lines.headers["X-PTN-Next"]) <= int(lines.headers["X-PTN-Head"])
        for line in lines.text.splitlines():
            assert problems(asyncapi, order, json.loads(line)) == []


def test_a_rate_limit_is_as_described(ask: Asker, home: Path, keys: dict[int, str]) -> None:
    """A key beyond its own limit gets 429 with Retry-After."""
    path = home / "api_keys.json"
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps(content | {"busy": {"key": "key-of-busy", "tier": 0, "requests_per_minute": 2}})
    )
    until(lambda: ask("/trade-pairs", key="key-of-busy").status_code == 200, what="the new key")
    until(lambda: ask("/me", key="key-of-busy").status_code == 429, what="the limit")
    assert int(ask("/me", key="key-of-busy").headers["Retry-After"]) > 0


def test_a_request_timeout_is_as_described(server: Api, openapi: dict[str, Any]) -> None:
    """408 after the header timeout, in the shape of every error."""
    with socket.create_connection(("127.0.0.1", int(server.rest.rpartition(":")[2]))) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        raw.settimeout(PATIENCE_S)
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    content = openapi["paths"]["/health"]["get"]["responses"]["408"]["content"]["application/json"]
    assert problems(openapi, content["schema"], json.loads(body)) == []


# --- the stream -------------------------------------------------------------------------------------------


class Talk:
    """A connection that checks all frames, both ways, against the document of its version."""

    seen: set[tuple[int, str]]

    def __init__(self, url: str, document: dict[str, Any], version: int, seen: set[tuple[int, str]]) -> None:
        self.version = version
        self.seen = seen
        self._document = document
        self._url = url
        self._connection: ClientConnection

    def __enter__(self) -> Talk:
        self._connecting = connect(self._url, max_size=None, open_timeout=PATIENCE_S)
        self._connection = self._connecting.__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        self._connecting.__exit__(*why)

    def send(self, **frame: Any) -> None:
        kinds = frame_kinds(self._document, self.version, "receive", frame)
        assert len(kinds) == 1, frame
        self.seen.add((self.version, kinds[0]))
        self._connection.send(json.dumps(frame))

    def send_badly(self, text: str) -> None:
        self._connection.send(text)

    def receive(self) -> tuple[str, dict[str, Any]]:
        """The next frame and its kind, which must be exactly one that this version may receive."""
        frame = json.loads(self._connection.recv(timeout=PATIENCE_S))
        kinds = frame_kinds(self._document, self.version, "send", frame)
        assert len(kinds) == 1, (kinds, json.dumps(frame)[:500])
        messages = frame["messages"] if kinds[0] == "batch" else [frame]
        assert self.version == 2 or not any({"late", "replay"} & set(message) for message in messages)
        self.seen.add((self.version, kinds[0]))
        return kinds[0], frame

    def wait_for(self, *kinds: str) -> dict[str, Any]:
        """The next frame of one of these kinds."""
        while True:
            kind, frame = self.receive()
            if kind in kinds:
                return frame

    def login(self, key: str, **fields: Any) -> dict[str, Any]:
        self.send(api_key=key, **fields)
        return self.wait_for("loginAccepted", "loginRefused")

    def orders(self, count: int) -> list[dict[str, Any]]:
        """The next `count` orders, alone or in batches."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            frame = self.wait_for("order", "batch")
            found += frame.get("messages", [frame])
        return found

    def subscribe(self, **fields: Any) -> dict[str, Any]:
        self.send(type="subscribe", **fields)
        return self.wait_for("subscriptionStatus")

    def close_code(self) -> int:
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                self.receive()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code


def test_every_frame_is_as_described(
    server: Api, asyncapi: dict[str, Any], keys: dict[int, str], simulator: Simulator
) -> None:
    """Both versions: logins, orders, batches, replays, resumes, updates, heartbeats, errors.

    Every message of the document occurs.
    """
    seen: set[tuple[int, str]] = set()
    codes = {row["code"] for row in asyncapi["channels"]["version1"]["x-close-codes"]}

    def talk(version: int) -> Talk:
        return Talk(server.stream, asyncapi, version, seen)

    for version in (1, 2):
        _refusals(talk, version, keys, codes)
    _old_client(talk, keys, simulator)
    _mirror(talk, keys, simulator)
    _resumes(talk, keys, simulator)
    described = {
        (version, message)
        for version in (1, 2)
        for message in asyncapi["channels"][f"version{version}"]["messages"]
    }
    assert seen == described


def _refusals(talk: Any, version: int, keys: dict[int, str], codes: set[int]) -> None:
    """Malformed JSON, a wrong key, a low tier, one connection too many."""
    fields = {"version": 2} if version == 2 else {}
    with talk(version) as one:
        one.send_badly("no JSON")
        assert one.close_code() in codes
    for key, code in (("wrong", 4101), (keys[50], 4102)):
        with talk(version) as one:
            assert one.login(key, **fields)["status"] == "error"
            assert one.close_code() == code
            assert code in codes
    with contextlib.ExitStack() as stack:
        six = [stack.enter_context(talk(version)) for _ in range(6)]
        for one in six:
            one.login(keys[100], **fields)
        assert six[0].wait_for("loginRefused")["code"] == "MAX_CONNECTIONS_EXCEEDED"
        assert six[0].close_code() == 4004


def _old_client(talk: Any, keys: dict[int, str], simulator: Simulator) -> None:
    """Version 1: orders, a batch, a ping, subaccounts, and a replay after the last sequence."""
    with talk(1) as one:
        last = one.login(keys[100], last_sequence=-1)["current_sequence"]
        one.subscribe(all=True, sender_timestamp=1)
        simulator.place_order()
        one.wait_for("order")
        simulator.burst(5)
        one.orders(5)
        one.send(type="ping", timestamp=1)
        one.wait_for("pong")
        for kind in ("subscribe_subaccount", "unsubscribe_subaccounts"):
            one.send(type=kind)
            assert one.wait_for("subaccountStatus")["status"] == "error"
        one.send(type="unsubscribe", all=True, sender_timestamp=1)
        one.wait_for("subscriptionStatus")
    with talk(1) as one:
        assert one.login(keys[100], last_sequence=last)["current_sequence"] == last
        one.subscribe(all=True, sender_timestamp=1)
        replayed = [message["sequence"] for message in one.orders(6)]  # the first one may be alone
        assert replayed == [*range(last + 1, last + 1 + len(replayed))]


def _mirror(talk: Any, keys: dict[int, str], simulator: Simulator) -> None:
    """Version 2 with all other messages, and the errors for malformed frames."""
    with talk(2) as one:
        one.login(keys[100], version=2)
        one.subscribe(updates=True)
        simulator.skip_to(wall_ms())  # to other prices
        simulator.refresh_all()
        assert one.wait_for("positionChanged")["position"]
        simulator.remove_one()
        assert one.wait_for("positionsRemoved")["positions"]
        simulator.place_order()
        one.wait_for("order")
        assert one.wait_for("heartbeat")["checksum"]
        one.send(type="ping", timestamp="now")
        one.wait_for("pong")
        for text in ("{", '{"type": "subscribe", "miner": []}', '{"type": "dance"}', "[1]"):
            one.send_badly(text)
            assert one.wait_for("error")["code"] in ("not_json", "bad_frame")
        one.send(type="unsubscribe")
        one.wait_for("subscriptionStatus")


def _resumes(talk: Any, keys: dict[int, str], simulator: Simulator) -> None:
    """Missed orders as marked deltas, and the reasons why a resume fails."""
    with talk(2) as one:
        success = one.login(keys[100], version=2)
    now, epoch = success["current_sequence"], success["epoch"]
    simulator.burst(4)
    with talk(2) as one:
        one.login(keys[100], version=2, last_sequence=now, epoch=epoch)
        one.subscribe(format="delta", trade_pairs=["BTCUSDC"])
        assert one.wait_for("resumed")["after"] == now
    with talk(2) as one:
        one.login(keys[100], version=2, last_sequence=now, epoch=epoch)
        one.subscribe(format="delta")
        one.wait_for("resumed")
        assert one.orders(4)[0]["sequence"] == now + 1
    for last, of, reason in (
        (now, "elsewhere", "epoch"),
        (now + 10**6, epoch, "future"),
        (1, epoch, "too_old"),
    ):
        with talk(2) as one:
            one.login(keys[100], version=2, last_sequence=last, epoch=of)
            one.subscribe()
            assert one.wait_for("resumeFailed")["reason"] == reason
