"""The stream process alone, over a filled log, as measured by the fan-out benchmark.

Its arguments are the log's directory and the arrival of orders:

- `one`: one at a time, as fast as they can be sent; each is read from the log, encoded and sent by itself.
- `log`: as another process appends them.

It prints its port. With `one`, orders begin after a line on standard input, and the CPU seconds they took are
printed at the end.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
import uvloop

from ptn_api.access.key_ring import KeyRing
from ptn_api.event_log import open_reader
from ptn_api.event_log.contract import CommitListener, Head
from ptn_api.event_log.sqlite_reader import SqliteReader
from ptn_api.fanout.options import StreamOptions
from ptn_api.stream.server import run_stream

KEY = "benchmark-key"


class OneByOne(SqliteReader):
    """A view of the log that reveals one more order per read, once started."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._shown = super().head().sequence
        self._goal = self._shown
        self._cpu = 0.0

    def begin(self) -> None:
        self._goal = super().head().sequence
        self._cpu = time.process_time()

    def head(self) -> Head:
        real = super().head()
        if self._shown < self._goal:
            self._shown += 1
            if self._shown == self._goal:
                asyncio.get_running_loop().call_later(0.01, self._tell)
        return Head(sequence=self._shown, revision=real.revision)

    def commit_listener(self) -> CommitListener:
        return _Eager(super().commit_listener(), lambda: self._shown < self._goal)

    def _tell(self) -> None:
        print(f"{time.process_time() - self._cpu:.4f}", flush=True)


class _Eager:
    """A listener that returns at once while there is more."""

    def __init__(self, commits: CommitListener, more: Callable[[], bool]) -> None:
        self._commits = commits
        self._more = more

    async def wait_for_commit(self, timeout_ms: int = 1_000) -> None:
        if self._more():
            await asyncio.sleep(0)
        else:
            await self._commits.wait_for_commit(50)

    def close(self) -> None:
        self._commits.close()


async def main() -> None:
    data_dir, mode = Path(sys.argv[1]), sys.argv[2]
    log = OneByOne(data_dir) if mode == "one" else open_reader(data_dir)
    keys = KeyRing()
    keys.replace([("bench", KEY, 100)])
    sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
    options = StreamOptions(max_connections_per_key=5_000, accepts_per_second=5_000)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def listen() -> None:
        for _ in sys.stdin:
            if isinstance(log, OneByOne):
                loop.call_soon_threadsafe(log.begin)
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=listen, daemon=True).start()
    await run_stream(
        log=log,
        keys=keys,
        sock=sock,
        options=options,
        stop=stop,
        ready=lambda: print(sock.getsockname()[1], flush=True),
    )


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    uvloop.run(main())
