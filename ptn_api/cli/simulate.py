"""`ptn simulate`: a validator directory without a validator."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import typer

from ptn_api.simulator.options import SimulatorOptions
from ptn_api.simulator.simulator import run_simulator

__all__ = ["run"]


def run(
    directory: Path, miners: int, positions: int, seed: int, orders_per_minute: float, *, live: bool
) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    options = SimulatorOptions(
        seed=seed, miners=miners, positions=positions, orders_per_minute=orders_per_minute
    )

    def built() -> None:
        typer.echo(f"{directory} holds {miners} miners x {positions} positions, seed {seed}", err=True)
        if not live:
            stop.set()

    run_simulator(options, directory, stop=stop, ready=built)
