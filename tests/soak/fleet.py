"""The bots' processes, one for each processor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

import msgspec

from tests.soak.report import BotConfig, BotReport, End
from tests.system.api import ROOT
from tests.waiting import until

__all__ = ["Fleet"]


class Fleet:
    """Starts the bots, all live when `with` begins; `end` lets them finish and reads their reports."""

    def __init__(
        self, folder: Path, *, stream_url: str, rest_url: str, api_keys: dict[int, str], processes: int
    ) -> None:
        """`api_keys` has the key of each bot by its number, which determines its kind."""
        self._folder = folder
        self._end = folder / "end.json"
        self._configs = [
            BotConfig(
                stream_url=stream_url,
                rest_url=rest_url,
                # Dealt out in tens, so that every process has bots of each kind.
                api_keys={n: key for n, key in api_keys.items() if n // 10 % processes == process},
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
        self._configs = [config for config in self._configs if config.api_keys]
        for number, config in enumerate(self._configs):
            path = self._folder / f"bots-{number}.json"
            path.write_bytes(msgspec.json.encode(config))
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
        return all(Path(config.ready).exists() for config in self._configs)

    def end(self, end: End) -> list[BotReport]:
        """Waits until every bot gets there or no further; returns their reports by number."""
        self._end.write_bytes(msgspec.json.encode(end))
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()  # bounded by each bot's own patience
        reports = [
            report
            for config in self._configs
            for report in msgspec.json.decode(Path(config.report).read_bytes(), type=list[BotReport])
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
