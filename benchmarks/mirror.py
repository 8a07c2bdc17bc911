"""A mirror's start, compared with the download and decoding of the document that it loads."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

from benchmarks.contest import alternate
from benchmarks.figures import Figures
from benchmarks.server import DEFAULT_PERIODS, prepared
from ptn_api.access import add_key
from ptn_api.client import PositionMirror
from ptn_api.model.position import Position
from tests.system.api import Api, api

__all__ = ["run"]

_WATCH_S = 0.001


class _Round(NamedTuple):
    cpu_ms: float
    longest_pause_ms: float


class _Entry(msgspec.Struct):
    positions: list[Position]


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    with api(folder / "data", validator_dir=validator.root, wait=False, **DEFAULT_PERIODS) as server:
        server.wait_ready(300)
        rounds = alternate(
            {
                "loaded": partial(_timed, lambda: _mirror(server, key, PositionMirror.loaded)),
                "verified": partial(_timed, lambda: _mirror(server, key, PositionMirror.until_verified)),
                "decoded": partial(_timed, lambda: _decode(server, key)),
            }
        )
    size = f"mirror of {arguments.miners * arguments.positions:,} positions"
    compared = partial(figures.ratio, rounds=rounds, beside="decoded", value=lambda one: one.cpu_ms)
    compared(f"{size}: load / download and decode, CPU ms", ours="loaded", at_most=2)
    compared(f"{size}: until verified / download and decode, CPU ms", ours="verified")
    pauses = rounds.values("verified", lambda one: one.longest_pause_ms)
    figures.add_times(f"{size}: longest pause of the event loop", pauses)
    if rounds.quiet:
        figures.target(f"{size}: longest pause, ms", statistics.median(pauses), at_most=30)


def _timed(work: Callable[[], Coroutine[Any, Any, None]]) -> _Round:
    return asyncio.run(_watched(work()))


async def _watched(work: Coroutine[Any, Any, None]) -> _Round:
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_WATCH_S)
            longest_s = max(longest_s, time.perf_counter() - began - _WATCH_S)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    began = time.process_time()
    await work
    cpu_s = time.process_time() - began
    await asyncio.sleep(2 * _WATCH_S)  # a pause is noticed at its end
    watching.cancel()
    return _Round(1000 * cpu_s, 1000 * longest_s)


async def _mirror(
    server: Api, key: str, until: Callable[[PositionMirror], Coroutine[Any, Any, None]]
) -> None:
    async with PositionMirror(server.stream, server.rest, key) as mirror:
        await until(mirror)


async def _decode(server: Api, key: str) -> None:
    """What a program would do with the document at least."""
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=60) as http:
        answer = await http.get(f"{server.rest}/miner-positions")
    msgspec.json.decode(answer.content, type=dict[str, _Entry])
