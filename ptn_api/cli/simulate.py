"""`ptn simulate`: a validator directory without a validator."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import typer

from ptn_api.simulator.options import SimulatorOptions
from ptn_api.simulator.simulator import run_simulator

__all__ = ["run"]


def run(directory: Path, options: dict[str, Any], *, live: bool, speed: float, journal: Path | None) -> None:
    """`options` are SimulatorOptions' fields."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    chosen = SimulatorOptions(**options)

    def built() -> None:
        size = f"{chosen.miners} miners x {chosen.positions} positions, seed {chosen.seed}"
        typer.echo(f"{directory} holds {size}", err=True)
        if not live:
            stop.set()

    run_simulator(chosen, directory, stop=stop, ready=built, speed=speed, journal=journal)
