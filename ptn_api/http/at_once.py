"""Running coroutines without a task as far as they do not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

__all__ = ["at_once"]


def at_once(coroutine: Coroutine[Any, None, None]) -> asyncio.Task[None] | None:
    """Begins at once; what is left where it first waits is a task. None: it is done.

    A task costs more than most answers. (From Python 3.12 on there are eager tasks, which still are tasks.)
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    task = asyncio.get_running_loop().create_task(_go_on(_Rest(coroutine, waits_for)))
    task.add_done_callback(lambda _: coroutine.close())  # one that is cancelled before it runs knows nothing
    return task


async def _go_on(rest: _Rest) -> None:
    await rest


class _Rest:
    """A coroutine that was begun. Awaiting it passes on what it waits for, and what that brings."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, None, None]:
        waits_for = self._waits_for
        while True:
            try:
                try:
                    yield waits_for
                except BaseException as error:  # noqa: BLE001 - whatever it is, the coroutine's to handle
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(None)
            except StopIteration:
                return
