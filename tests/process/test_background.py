"""Periodic tasks of rest and stream."""

from __future__ import annotations

import asyncio
import time

from ptn_api.histogram import Histogram
from ptn_api.problems import ProblemRegister
from ptn_api.process.background import watch_loop
from ptn_api.tasks import cancel_and_wait
from tests.waiting import until_async


async def test_a_loop_that_stays_late_is_a_problem_until_it_is_no_longer() -> None:
    """Every delay is in the metric."""
    lag, problems = Histogram(), ProblemRegister()
    task = asyncio.create_task(watch_loop(lag, problems, every_ms=20, window_ms=2_000))
    await until_async(lambda: sum(lag.counts) > 2)
    before = lag.sum
    deadline = time.monotonic() + 45
    while "event_loop_busy" not in problems.look():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # as long as a callback that does too much
        await asyncio.sleep(0)
    await until_async(lambda: "event_loop_busy" not in problems.look())
    await cancel_and_wait([task])
    assert lag.sum - before > 0.6
