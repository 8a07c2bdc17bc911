"""Running coroutines without a task as far as they do not wait."""

from __future__ import annotations

import asyncio
import types
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
    task = asyncio.get_running_loop().create_task(_rest_of(coroutine, waits_for))
    task.add_done_callback(lambda _: coroutine.close())  # one that is cancelled before it runs knows nothing
    return task


@types.coroutine
def _rest_of(coroutine: Coroutine[Any, None, None], waits_for: Any) -> Generator[Any, None, None]:
    """Goes on with a coroutine that was begun; what it waits for and what that brings are passed on."""
    while True:
        try:
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 - whatever it is, the coroutine's to handle
                waits_for = coroutine.throw(error)
            else:
                waits_for = coroutine.send(None)
        except StopIteration:
            return
