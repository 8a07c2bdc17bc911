"""The bots' processes: as many as there are processors, since one Python process uses one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

import msgspec

from tests.soak.report import BotOrders, BotReport, End
from tests.system.api import ROOT
from tests.waiting import until

__all__ = ["Fleet"]


class Fleet:
    """Starts the bots, all live when `with` begins; `end` lets them finish and reads what they say."""

    def __init__(
        self, folder: Path, *, stream_url: str, rest_url: str, api_keys: list[str], processes: int
    ) -> None:
        self._folder = folder
        self._end = folder / "end.json"
        self._orders = [
            BotOrders(
                stream_url=stream_url,
                rest_url=rest_url,
                # Dealt out in tens, so that every process has bots of each kind.
                api_keys={n: key for n, key in enumerate(api_keys) if n // 10 % processes == process},
                folder=str(folder / "bots"),
                report=str(folder / f"report-{process}.json"),
                ready=str(folder / f"ready-{process}"),
                end=str(self._end),
            )
            for process in range(processes)
        ]
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Fleet:
        (self._folder / "bots").mkdir()
        self._orders = [orders for orders in self._orders if orders.api_keys]
        for number, orders in enumerate(self._orders):
            path = self._folder / f"bots-{number}.json"
            path.write_bytes(msgspec.json.encode(orders))
            with (self._folder / f"bots-{number}.log").open("w") as log:
                command = [sys.executable, "-m", "tests.soak.bots", str(path)]
                self.processes.append(subprocess.Popen(command, cwd=ROOT, stderr=log))
        try:
            until(self._ready, seconds=600, what="every bot is live")
        except BaseException:
            self._kill()
            raise
        return self

    def _ready(self) -> bool:
        ended = [process.args for process in self.processes if process.poll() is not None]
        assert not ended, f"bots ended by themselves: {ended}"
        return all(Path(orders.ready).exists() for orders in self._orders)

    def end(self, end: End) -> list[BotReport]:
        """Everybody gets there, or as far as they can; then what each of them has to say, by number."""
        self._end.write_bytes(msgspec.json.encode(end))
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()  # they have patience of their own
        reports = [
            report
            for orders in self._orders
            for report in msgspec.json.decode(Path(orders.report).read_bytes(), type=list[BotReport])
        ]
        return sorted(reports, key=lambda report: report.number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
