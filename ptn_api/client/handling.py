"""Calling a consumer's handlers, and what happens when one fails."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.pace import Pace
from ptn_api.client.stream import Stream
from ptn_api.wire.client_session import Gap

__all__ = ["Handler", "Handling", "OnError"]

logger = logging.getLogger("ptn_api.client")

Handler = Callable[[list[PTNWebSocketMessage]], Any]
"""Plain or async; called with a list of messages, one or more."""

OnError = Literal["retry", "skip", "stop"]


class Handling:
    """Hands lists of messages to handlers, one after the other, and commits what all of them returned from.

    A handler that raises, by `on_error`:

    - "retry": its messages are given to it again, now one at a time, so that one that it cannot bear holds
      up nothing but itself; `retries` times with doubling pauses, then the message is given up on, logged
      and told as a gap. The handler may see a message again that it had dealt with before it raised; others
      don't.
    - "skip": the messages are given up on at once, likewise logged and told. None is seen twice.
    - "stop": the error is raised, nothing is committed, and the next run begins with these messages.
    """

    def __init__(
        self, stream: Stream, handlers: Sequence[Handler], *, on_error: OnError, retries: int, pace: Pace
    ) -> None:
        self._stream = stream
        self._handlers = handlers
        self._on_error = on_error
        self._retries = retries
        self._pace = pace

    async def handle(self, messages: list[PTNWebSocketMessage]) -> bool:
        """True when the messages are done with; False if the stream was stopped first."""
        for handler in self._handlers:
            if await self._call(handler, messages) is None:
                continue
            if self._on_error == "skip":
                await self._give_up(messages)
            elif not await self._one_by_one(handler, messages):
                return False
        self._stream.commit()
        return True

    async def _one_by_one(self, handler: Handler, messages: list[PTNWebSocketMessage]) -> bool:
        for message in messages:
            if not await self._retry(handler, message):
                return False
            if handler is self._handlers[-1]:  # the others are done with all of them
                self._stream.commit(message)
        return True

    async def _retry(self, handler: Handler, message: PTNWebSocketMessage) -> bool:
        """False if the stream was stopped before the message was done with."""
        for attempt in range(self._retries):
            pause = min(self._pace.retry * 2.0**attempt, self._pace.backoff_max)
            if await self._stream.pause(pause):
                return False
            if self._stream.is_stale(message):
                await self._stream.hand_over_stale(message)
                return True
            if await self._call(handler, [message]) is None:
                return True
        await self._give_up([message])
        return True

    async def _give_up(self, messages: list[PTNWebSocketMessage]) -> None:
        first, last = messages[0].sequence, messages[-1].sequence
        await self._stream.tell_gap(Gap(first - 1, last + 1, "handler"))

    async def _call(self, handler: Handler, messages: list[PTNWebSocketMessage]) -> Exception | None:
        try:
            result = handler(messages)
            if inspect.isawaitable(result):
                await result
        except Exception as error:  # the handler is somebody else's; what to do about it is their choice
            if self._on_error == "stop":
                raise
            logger.exception("the handler failed on %s", [m.sequence for m in messages])
            return error
        return None
