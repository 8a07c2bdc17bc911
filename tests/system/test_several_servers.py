"""One client of two validators' servers that get the same orders; each of them fails in every way."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from ptn_api.access import add_key
from ptn_api.client import Gap, PTNWebSocketMessage, Stream, StreamState
from tests.chaos import ChaosProxy
from tests.processes import suspend
from tests.system.api import Api, api
from tests.system.test_faults import QUICK
from tests.system.validator import Validator
from tests.waiting import until_async

pytestmark = pytest.mark.timeout(600)

_START_S = 180
"""Time for the start of a server on a busy machine."""
TIMING = msgspec.structs.replace(QUICK, apart=0.2, fill=60.0)


class Site:
    """A validator with its server, whose address stays the same whatever happens to it."""

    def __init__(self, folder: Path, key: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.validator = Validator(folder / "validator")
        self.logs = 0
        self.proxy: ChaosProxy
        self.server: Api
        self._stack = ExitStack()
        (folder / "api_keys.json").write_text((folder.parent / "api_keys.json").read_text())
        (folder / "api_keys.json").chmod(0o600)

    def start(self, *, new_log: bool = False) -> None:
        self.logs += new_log
        data_dir = self.folder / f"data-{self.logs}"
        self.server = self._stack.enter_context(
            api(data_dir, validator_dir=self.validator.root, keys=self.folder / "api_keys.json", wait=False)
        )
        self.server.wait_ready(_START_S)
        self.proxy.retarget(self.server.ws_port)

    def stop(self) -> None:
        self._stack.close()

    def kill(self) -> None:
        """kill -9 of the supervisor; its children end with it."""
        self.server.process.kill()
        self.server.process.wait()
        self.stop()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspends every process."""
        family = [psutil.Process(self.server.process.pid), *self.server.children().values()]
        for process in family:
            suspend(process.pid)
        try:
            yield
        finally:
            for process in family:
                process.send_signal(signal.SIGCONT)


class Orders(threading.Thread):
    """Places the same orders at both validators until it is stopped."""

    def __init__(self, sites: list[Site]) -> None:
        super().__init__()
        self._sites = sites
        self._stopping = threading.Event()
        self.placed: list[str] = []

    def run(self) -> None:
        while not self._stopping.wait(0.1):
            self.place()

    def place(self) -> None:
        first, *others = (site.validator for site in self._sites)
        position = first.place()
        for other in others:
            other.write(position)
        self.placed.append(position["orders"][-1]["order_uuid"])

    def end(self) -> None:
        self._stopping.set()
        self.join()


class Bot:
    def __init__(self, sites: list[Site], key: str, state_dir: Path) -> None:
        self.uuids: list[str] = []
        self.gaps: list[Gap] = []
        self.states: list[StreamState] = []
        self._options = {
            "state_dir": state_dir,
            "timing": TIMING,
            "on_gap": self.gaps.append,
            "on_state": self.states.append,
        }
        self._urls = [site.proxy.url for site in sites]
        self._key = key

    async def start(self) -> None:
        self.stream = Stream(self._urls, self._key, **self._options)  # type: ignore[arg-type]

        async def read() -> None:
            async with self.stream:
                async for message in self.stream:
                    self.take(message)

        self._task = asyncio.create_task(read())

    def take(self, message: PTNWebSocketMessage) -> None:
        self.uuids.append(message.new_order.order_uuid)

    async def stop(self) -> None:
        self.stream.stop()
        await self._task

    async def live(self, count: int) -> None:
        def enough() -> bool:
            return bool(self.states) and [*self.states[-1].servers.values()].count("live") == count  # type: ignore[arg-type]

        await until_async(enough, seconds=_START_S, what=f"{count} live servers")

    async def more(self, count: int) -> None:
        """Waits for that many more orders, which proves that none is delayed by the failure."""
        wanted = len(self.uuids) + count
        await until_async(lambda: len(self.uuids) >= wanted, what="more orders")


@pytest.fixture
def key(tmp_path: Path) -> str:
    return add_key(tmp_path / "api_keys.json", "bot", 100)


@pytest.fixture
def sites(tmp_path: Path, key: str) -> Iterator[list[Site]]:
    made = [Site(tmp_path / name, key) for name in ("a", "b")]
    with ExitStack() as stack:
        for site in made:
            site.proxy = stack.enter_context(ChaosProxy(1))
            stack.callback(site.stop)
            site.start()
        yield made


@asynccontextmanager
async def flowing(sites: list[Site], bot: Bot) -> AsyncIterator[None]:
    """Orders are placed within the block; afterwards the bot has each once, and no gap was told."""
    await bot.start()
    await bot.live(2)
    orders = Orders(sites)
    orders.start()
    try:
        await bot.more(3)
        yield
    finally:
        await asyncio.to_thread(orders.end)
    await until_async(lambda: len(bot.uuids) >= len(orders.placed), what="all orders")
    await bot.stop()
    assert sorted(bot.uuids) == sorted(orders.placed)
    assert bot.gaps == []


async def test_killed_and_frozen_servers_cost_nothing(sites: list[Site], key: str, tmp_path: Path) -> None:
    """kill -9 of a process or of all, SIGSTOP, and a restart of the client, while orders flow."""
    first, second = sites
    bot = Bot(sites, key, tmp_path / "cursors")
    async with flowing(sites, bot):
        for site in sites:
            site.server.kill("stream")
            await bot.more(3)
            await bot.live(2)
        with first.frozen():
            await bot.more(5)
        await bot.live(2)
        await asyncio.to_thread(second.kill)
        await bot.more(3)
        await bot.stop()
        await asyncio.to_thread(second.start)
        await bot.start()
        await bot.live(2)
        await bot.more(3)


async def test_a_new_log_costs_nothing(sites: list[Site], key: str, tmp_path: Path) -> None:
    """A server that begins anew, and a restart of the client after it: the other one has everything."""
    first, _ = sites
    bot = Bot(sites, key, tmp_path / "cursors")
    async with flowing(sites, bot):
        await asyncio.to_thread(first.kill)
        await bot.more(3)
        await asyncio.to_thread(first.start, new_log=True)
        await bot.live(2)
        await bot.more(3)
        await bot.stop()
        await bot.start()
        await bot.live(2)
        await bot.more(3)
