"""Periodic tasks of rest and stream."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from pathlib import Path

from structlog.testing import capture_logs

from ptn_api.access import KeyFile, KeyRing
from ptn_api.histogram import Histogram
from ptn_api.problems import ProblemRegister
from ptn_api.process.background import collect_garbage, read_keys, watch_loop
from ptn_api.tasks import cancel_and_wait
from tests.waiting import PATIENCE_S, until_async


async def test_a_loop_that_stays_late_is_a_problem_until_it_is_no_longer() -> None:
    """Every delay is in the metric."""
    lag, problems = Histogram(), ProblemRegister()
    task = asyncio.create_task(watch_loop(lag, problems, every_ms=20, window_ms=2_000))
    await until_async(lambda: sum(lag.counts) > 2)
    before = lag.sum
    deadline = time.monotonic() + PATIENCE_S
    while "event_loop_busy" not in problems.look():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # as long as a callback that does too much
        await asyncio.sleep(0)
    await until_async(lambda: "event_loop_busy" not in problems.look())
    await cancel_and_wait([task])
    assert lag.sum - before > 0.6


class _Cyclic:
    def __init__(self) -> None:
        self.itself = self


async def test_only_the_background_task_makes_full_collections() -> None:
    """Not the growth by thousands of objects; and garbage in cycles is found."""
    generations: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            generations.append(info["generation"])

    before = gc.get_threshold()
    task = asyncio.create_task(collect_garbage(every_ms=50))
    await asyncio.sleep(0)
    gc.callbacks.append(count)
    try:
        old, kept = _Cyclic(), [[number] for number in range(400_000)]
        assert 1 in generations
        assert 2 not in generations
        gone = weakref.ref(old)
        del old
        await until_async(lambda: gone() is None)
        assert 2 in generations
        assert len(kept) == 400_000
    finally:
        gc.callbacks.remove(count)
        await cancel_and_wait([task])
    assert gc.get_threshold() == before


async def test_a_key_file_that_is_removed_is_one_warning(tmp_path: Path) -> None:
    """Its keys are revoked at the second look, and no line claims that keys were read."""
    path, ring = tmp_path / "keys.json", KeyRing()
    path.write_text('{"alice": "alices-secret-key"}')
    key_file = KeyFile(path, ring)
    with capture_logs() as logs:
        await read_keys(key_file, report_entries=False)
        path.unlink()
        for _ in range(3):
            await read_keys(key_file, report_entries=False)
    assert len(ring) == 0
    assert [(line["event"], line.get("code")) for line in logs if line["event"] != "keys_exposed"] == [
        ("keys_read", None),
        ("keys_not_read", "no_key_file"),
    ]
