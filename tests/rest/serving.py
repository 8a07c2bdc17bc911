"""A real server over a memory log, and documents to fill it with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import httpx

from ptn_api.access.key_ring import KeyRing
from ptn_api.access.usage import Usage
from ptn_api.event_log import Change, Document, DocumentWritten
from ptn_api.fanout.options import StreamOptions
from ptn_api.fanout.presence import Peers
from ptn_api.http.body import Body, Coding, EncodedStream
from ptn_api.http.request import ConnectionInfo, Request
from ptn_api.http.response import Exchange
from ptn_api.rest.app import App
from ptn_api.rest.context import AppContext
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.options import RestOptions
from ptn_api.rest.run import run_rest
from tests.factories import MINER, OTHER_MINER, order, position, written
from tests.memory_log import MemoryLog
from tests.waiting import PATIENCE_S

DAY = 86_400_000
HOUR = 3_600_000
NOW = 1_760_400_000_000
"""The fake clock's time at the start of a test; a full hour."""

ARCHIVED = position(90, [order(90, at=NOW - 5 * DAY), order(91, -0.1, at=NOW - 4 * DAY)], closed=True)
"""An archived position of `some_changes()`."""

ENTITY = {
    "entity_hotkey": MINER,
    "subaccounts": {
        "0": {"synthetic_hotkey": f"{MINER}_0", "status": "active", "hl_address": "0xAb"},
        "1": {"synthetic_hotkey": f"{MINER}_1", "status": "eliminated", "hl_address": "0xCd"},
    },
    "endpoint_url": "https://gateway.example.com",
}

KEYS = {"k0": 0, "k30": 30, "k50": 50, "k100": 100, "k200": 200}


class FakeClock:
    """A clock that tests set."""

    def __init__(self, now_ms: int = NOW) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def key_ring() -> KeyRing:
    ring = KeyRing()
    ring.replace([(f"user{tier}", key, tier) for key, tier in KEYS.items()])
    return ring


def document(kind: Document, value: Any, miner: str = "") -> DocumentWritten:
    content = None if value is None else json.dumps(value).encode()
    return DocumentWritten(document=kind, content=content, miner_hotkey=miner)


def limit_order(n: int, *, pair: str = "BTCUSDC", src: int = 5, **fields: Any) -> dict[str, Any]:
    """Returns limit order number n as intake stores it."""
    body = order(n, price=0.0, src=src, trade_pair=[pair, pair], execution_type="LIMIT") | fields
    folder = "unfilled" if src == 5 else "closed"
    return {"trade_pair_id": pair, "folder": folder, "order": body}


def filled_log(
    changes: Iterable[Change] = (),
    *,
    now_ms: int = NOW,
    created_ms: int | None = None,
    epoch: str = "e" * 32,
) -> MemoryLog:
    """A log whose baseline holds these changes, created just now unless `created_ms` is given."""
    log = MemoryLog(created_ms=now_ms - 1 if created_ms is None else created_ms, epoch=epoch)
    log.baseline(list(changes), now_ms)
    return log


def some_changes() -> list[Change]:
    """Two miners: closed, open and fresh positions, and every document."""
    ledger = {"initialization_time_ms": 1, "cps": [{"last_update_ms": 5}]}
    return [
        written(position(1, [order(1, at=NOW - 9 * DAY), order(2, -0.1, at=NOW - 8 * DAY)], closed=True)),
        written(position(2, [order(3, at=NOW - 30 * HOUR), order(4, at=NOW - HOUR)])),
        written(position(3, [order(5, at=NOW - 2 * HOUR)], miner=OTHER_MINER)),
        document(Document.MINERS, [MINER, OTHER_MINER, "5Nobody"]),
        document(Document.ELIMINATIONS, {"eliminations": [{"hotkey": OTHER_MINER, "dd": 0.9}]}),
        document(
            Document.STATISTICS,
            {
                "version": "9.1.0",
                "data": [
                    {"hotkey": MINER, "weight": 1.0, "checkpoints": [1, 2]},
                    {"hotkey": OTHER_MINER, "checkpoints": []},
                ],
                "constants": {},
            },
        ),
        document(Document.PERF_LEDGERS, {MINER: {"portfolio": ledger, "BTCUSD": ledger}, "older": ledger}),
        document(Document.CHALLENGEPERIOD, {"testing": {MINER: 7}, "success": {}}),
        document(Document.ACCOUNT_SIZES, {MINER: [{"account_size": 5.0, "update_time_ms": 7}]}),
        document(Document.ASSET_SELECTIONS, {MINER: "crypto"}),
        document(Document.ENTITIES, {MINER: ENTITY}),
        *(
            document(kind, {"ledgers": {MINER: {"hotkey": MINER, "checkpoints": []}}})
            for kind in (Document.DEBT_LEDGERS, Document.EMISSIONS_LEDGERS, Document.PENALTY_LEDGERS)
        ),
        document(Document.LIMIT_ORDERS, [limit_order(60), limit_order(61, src=7)], MINER),
        document(Document.ARCHIVED_POSITIONS, [ARCHIVED], MINER),
        document(
            Document.SNAPSHOTS,
            [{"snapshot_ms": NOW, "account_size": 5.0, "balance": 5.0, "equity": 6.0}],
            MINER,
        ),
    ]


async def context_over(log: MemoryLog, clock: FakeClock, **options: Any) -> AppContext:
    """Returns a context with built views, without a server; `follower.catch_up()` applies changes."""
    context = AppContext.over(log, clock, RestOptions(**{"refresh_coalesce_ms": 0, **options}))
    await context.follower.catch_up()
    return context


def encoded(body: Body, coding: Coding = "identity") -> bytes:
    """Returns the body as sent in this coding."""
    while (result := body.encode(coding)) is None:
        pass
    return b"".join(result.parts)


async def body_of(context: AppContext, tier: Any) -> Any:
    """Returns a tier's document, parsed."""
    return json.loads(encoded(context.views.snapshot(tier)))


class FakeResponse(NamedTuple):
    """A response as it would be sent; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


async def respond(app: App, target: str, key: str | None = None, **headers: str) -> FakeResponse:
    """Returns the response to a GET, without a connection."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    exchange = Exchange(Request(b"GET", target.encode(), sent, ConnectionInfo("127.0.0.1")))
    pending = app.handle(exchange)
    if pending is not None:
        await pending
    body = b"".join(exchange.body.chunks())
    if isinstance(exchange.body, EncodedStream) and exchange.body.length is None:
        body = _joined(body)
    exchange.sent_bytes = len(body)
    app.finished(exchange)
    lines = exchange.head(close=False).decode().split("\r\n")[1:-2]
    return FakeResponse(exchange.status, dict(line.split(": ", 1) for line in lines), body)


def _joined(chunks: bytes) -> bytes:
    """A body that is sent in chunks (RFC 9112, 7.1)."""
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        body += chunks[: int(size, 16)]
        chunks = chunks[int(size, 16) + 2 :]
    return body


class Served:
    """A running server. `get` uses the key of tier 100 by default."""

    def __init__(
        self,
        log: MemoryLog,
        clock: FakeClock,
        monotonic: FakeClock,
        port: int,
        client: httpx.AsyncClient,
        stopped: Callable[[], Awaitable[None]],
        keys: KeyRing,
        counters: RestCounters,
    ) -> None:
        self.log = log
        self.keys = keys
        self.counters = counters
        self.stopped = stopped
        """Stops the server and waits until it has."""
        self.clock = clock
        self.monotonic = monotonic
        """The clock of the rate limits."""
        self.port = port
        self.client = client
        self.url = f"http://127.0.0.1:{port}"

    async def get(self, path: str, key: str | None = "k100", **headers: str) -> httpx.Response:
        return await self.ask("GET", path, key, **headers)

    async def ask(
        self, method: str, path: str, key: str | None = "k100", content: bytes | None = None, **headers: str
    ) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        return await self.client.request(method, path, headers=sent, content=content)

    async def until(self, holds: Callable[[], Awaitable[bool]], timeout_s: float = PATIENCE_S) -> None:
        """Waits for a condition."""

        async def poll() -> None:
            while not await holds():
                await asyncio.sleep(0.01)

        await asyncio.wait_for(poll(), timeout_s)


@contextlib.asynccontextmanager
async def serving(
    log: MemoryLog | None = None,
    *,
    clock: Any = None,
    usage: Usage | None = None,
    tls: ssl.SSLContext | None = None,
    stream: dict[str, Any] | None = None,
    peers: Peers | None = None,
    keys: KeyRing | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    """Serves the log (by default `some_changes()`) on a free port; `stream` are options of event streams."""
    keys, counters = keys or key_ring(), RestCounters()
    log = filled_log(some_changes()) if log is None else log
    clock, monotonic = clock or FakeClock(), FakeClock(1_000)
    stop, ready = asyncio.Event(), asyncio.Event()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        running = asyncio.create_task(
            run_rest(
                log=log,
                keys=keys,
                counters=counters,
                stream_options=StreamOptions(**stream or {}),
                peers=peers,
                sock=sock,
                options=RestOptions(**{"refresh_coalesce_ms": 0, "stop_timeout_ms": 1_000, **options}),
                stop=stop,
                ready=ready.set,
                clock=clock,
                monotonic=monotonic,
                usage=usage,
                tls=tls,
            )
        )

        async def stopped() -> None:
            stop.set()
            await asyncio.wait_for(asyncio.shield(running), PATIENCE_S)

        try:
            if log.ready():
                await asyncio.wait_for(ready.wait(), PATIENCE_S)
            # httpx would accept compressed responses by default. verify: loading certificates takes 25 ms.
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"accept-encoding": "identity"},
                timeout=PATIENCE_S,
                verify=False,
            ) as client:
                yield Served(log, clock, monotonic, port, client, stopped, keys, counters)
        finally:
            await stopped()
