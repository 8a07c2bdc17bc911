"""Files of a validator with odd values at random places: each costs no more than what it belongs to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.event_log import Change, Document, DocumentWritten, PositionWritten
from ptn_api.intake.documents import DOCUMENT_FILES
from ptn_api.intake.files import json_object
from ptn_api.intake.miner_files import MinerFiles
from ptn_api.model.position import parse_position
from ptn_api.rest.app import App
from ptn_api.rest.routes import ROUTES
from tests import newest
from tests.rest.serving import NOW, FakeClock, context_over, filled_log, key_ring, respond

ODD = [
    *("null", "true", "[]", "{}", "[null]", "[[1]]", '{"a":1,"a":2}', '["BTCUSD"]', '{"trade_pair_id":[]}'),
    *('""', '"5"', '"\\ud800"', '"\\u0000"', '["\\ud800"]', '{"\\ud800":1}', '"2026-02-30"'),
    *("NaN", "-Infinity", '{"a":NaN}', "0", "-0.0", "-1", "1.5", "1e999", "1e308", "1e-320"),
    *("9007199254740993", "9223372036854775808", "99999999999999999999"),
    *("4102444800000", "253402300800000", "1764410400000.0", "1764410400000.5"),
]
MARK = "the odd value"
AS_WRITTEN = {
    "/validator-checkpoint",
    *("/statistics", "/statistics/{hotkey}", "/eliminations", "/perf-ledger/{hotkey}", "/collateral"),
    *("/debt-ledger/{hotkey}", "/emissions-ledger/{hotkey}", "/penalty-ledger/{hotkey}", "/miner-selections"),
    *("/entities", "/entity/{hotkey}"),
}
"""Routes with values as the validator wrote them."""
MINERS = sorted({path.split("/")[2] for path in newest.files() if path.startswith("validation/miners/")})
BY_FILE = {names[0].removesuffix(".gz"): document for document, names in DOCUMENT_FILES.items()}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every place in a value: an object or list, and the key or index there."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def odd(content: bytes, random: Random) -> bytes:
    """Returns JSON with one or two odd values, or without one."""
    value = json.loads(content)
    for _ in range(random.choice((1, 1, 2))):
        parent, key = random.choice(list(places(value)))
        if random.random() < 0.1:
            del parent[key]
        else:
            parent[key] = MARK
    text = json.dumps(value)
    while f'"{MARK}"' in text:
        text = text.replace(f'"{MARK}"', random.choice(ODD), 1)
    return text.encode()


class Server:
    """The routes over a log with the sample directory."""

    def __init__(self) -> None:
        self.log = filled_log(newest.changes())
        self.clock = FakeClock()
        self.monotonic = FakeClock()

    async def start(self) -> None:
        self.context = await context_over(self.log, self.clock)
        self.app = App(self.context, key_ring(), ROUTES, monotonic=self.monotonic)

    async def check(self, changes: list[Change], miner: str, what: object) -> None:
        """Every route about all miners and this one answers, with what it promises."""
        self.log.append(changes, NOW)
        await self.context.follower.catch_up()
        for route in ROUTES:
            if route.is_endless or route.path.endswith("{name}"):
                continue
            target = route.path.replace("{hotkey}", quote(miner))
            for key in ("k30", "k200"):
                self.monotonic.now_ms += 60_000  # no rate limit
                answer = await respond(self.app, target, key)
                assert answer.status < 500 or route.also_503, (target, what, answer)
                if answer.status == 200 and route.media_type == "application/json":
                    json.loads(answer.body)
                    if route.path not in AS_WRITTEN:
                        msgspec.json.decode(answer.body, type=route.response, strict=False)


async def test_positions_and_documents() -> None:
    """What is refused is refused before it is in the log."""
    random, server = Random(1), Server()
    await server.start()
    files = {
        path: content
        for path, content in newest.files().items()
        if "/positions/" in path or path.removesuffix(".gz") in BY_FILE
    }
    for path in random.sample(sorted(files), 40):
        body = odd(files[path], random)
        change: Change
        with contextlib.suppress(InvalidInputError):
            if "/positions/" in path:
                position, text = parse_position(body, [])
                change = PositionWritten(position=position, text=text)
            else:
                document = BY_FILE[path.removesuffix(".gz")]
                change = DocumentWritten(document=document, content=json_object(body, 1 << 20))
            await server.check([change], random.choice(MINERS), (path, body))


async def test_files_of_miners(tmp_path: Path) -> None:
    """Limit orders, archived positions and snapshots."""
    random, server, root = Random(1), Server(), newest.unpack(tmp_path)
    await server.start()
    reader = MinerFiles(root / "validation/miners", {}, position_limit=1 << 20, document_limit=1 << 24)
    files = [path for path in newest.files() if "/limit_orders/" in path or "/archived_positions/" in path]
    snapshots = [path for path in newest.files() if path.endswith("snapshots.jsonl")]
    for path in [*random.sample(files, 25), *snapshots]:
        first, *lines = newest.files()[path].splitlines() if path in snapshots else [newest.files()[path]]
        (root / path).write_bytes(b"\n".join([odd(first, random), *lines]))
        changes: list[Change] = [*reader.changes(full=True)]
        await server.check(changes, path.split("/")[2], path)


@pytest.mark.parametrize("document", [Document.STATISTICS, Document.PERF_LEDGERS, Document.DEBT_LEDGERS])
async def test_one_miners_values_hide_no_other(document: Document) -> None:
    """In the documents of all miners."""
    random, server = Random(1), Server()
    await server.start()
    path = next(path for path in newest.files() if BY_FILE.get(path.removesuffix(".gz")) is document)
    routes = {Document.STATISTICS: "statistics", Document.PERF_LEDGERS: "perf-ledger"}
    route = routes.get(document, "debt-ledger")
    whole = json.loads(newest.files()[path])

    async def shown(miner: str) -> Any:
        server.monotonic.now_ms += 60_000
        return json.loads((await respond(server.app, f"/{route}/{miner}", "k0")).body)

    listed = whole["data"] if "data" in whole else whole.get("ledgers", whole)
    others = [miner for miner in MINERS if "error" not in await shown(miner)]
    before = {miner: await shown(miner) for miner in others}
    for _ in range(12):
        changed = json.loads(newest.files()[path])
        where = changed["data"] if "data" in changed else changed.get("ledgers", changed)
        key = random.choice(range(len(listed)) if isinstance(listed, list) else list(listed))
        owner = listed[key]["hotkey"] if isinstance(listed, list) else key
        element = odd(json.dumps(where[key]).encode(), random)
        where[key] = MARK
        body = json.dumps(changed).encode().replace(b'"%b"' % MARK.encode(), element)
        await server.check(
            [DocumentWritten(document=document, content=json_object(body, 1 << 20))], owner, body
        )
        for miner in others:
            assert miner == owner or await shown(miner) == before[miner], (miner, element)
