"""What importing the client costs, compared with the WebSocket library that it uses."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.contest import alternate
from benchmarks.figures import Figures

__all__ = ["run"]

_LIBRARY = "websockets.asyncio.client"


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    modules = ("ptn_api.websocket_client", "ptn_api.client", "msgspec", _LIBRARY)
    contestants = {module: partial(_cpu_ms, f"import {module}") for module in modules}
    contestants["both libraries"] = partial(_cpu_ms, f"import {_LIBRARY}, msgspec")
    rounds = alternate(contestants, rounds=11)
    for ours, most in (("ptn_api.websocket_client", 1.2), ("ptn_api.client", 1.2), ("both libraries", None)):
        figures.ratio(
            f"import {ours} / {_LIBRARY}, CPU ms", rounds, ours, _LIBRARY, value=float, at_most=most
        )


def _cpu_ms(program: str) -> float:
    """Returns the CPU time of a new interpreter, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
