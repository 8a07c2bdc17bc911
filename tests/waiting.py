"""Waiting for a condition, bounded, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 45.0
"""Far longer than it takes, on a busy machine too; a test that passes does not wait for it."""


def until(condition: Callable[[], T], *, seconds: float = PATIENCE_S, what: str = "") -> T:
    """The first true value of `condition()`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.005)


async def until_async(condition: Callable[[], T], *, seconds: float = PATIENCE_S, what: str = "") -> T:
    """The same for a condition that other tasks of this loop bring about."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        await asyncio.sleep(0.005)
