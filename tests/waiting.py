"""Bounded waits for conditions, in place of sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 90.0
"""Long enough for a busy machine; a passing test never waits that long."""


def until(condition: Callable[[], T], *, seconds: float = PATIENCE_S, what: str = "") -> T:
    """Returns the first true value of `condition()`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.005)


async def until_async(condition: Callable[[], T], *, seconds: float = PATIENCE_S, what: str = "") -> T:
    """Like `until`, for a condition that depends on other tasks of this loop."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        await asyncio.sleep(0.005)
