"""The stream's orders, delivered to one target at least once and in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from ptn_api.backoff import Backoff
from ptn_api.client.message import OrderType, PTNWebSocketMessage
from ptn_api.client.stream import Stream
from ptn_api.notify.targets import NotDeliveredError, Sender

__all__ = ["Notifier", "NotifyOptions"]


class NotifyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent, how often, and how failures are retried."""

    min_leverage: float = 0.0
    """Smallest leverage of an order; those that close a position, or state no leverage, are always sent."""
    per_minute: int = 10
    """Messages per minute to a target that people read; further orders are summed up in one message."""
    window_s: float = 60.0
    """The minute of `per_minute`, which tests shorten."""
    retry_first_s: float = 1.0
    retry_max_s: float = 300.0


class Notifier:
    """Delivers a stream's orders to one target, and moves the cursor after each delivery.

    A failed delivery is retried until it succeeds, with increasing delays. Meanwhile the stream fills its
    inbox, and then waits; further orders stay on the server. `report` gets a sentence when the target begins
    to fail, and when it works again.
    """

    def __init__(
        self,
        stream: Stream,
        sender: Sender,
        options: NotifyOptions,
        *,
        report: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._sender = sender
        self._options = options
        self._report = report
        self._monotonic = monotonic
        self._sent: deque[float] = deque()
        """When the messages of the last minute were sent."""
        self._trouble = ""

    async def run(self) -> None:
        """Returns when the stream is stopped. Raises NotDeliveredError if the target is gone."""
        try:
            async with self._stream:
                async for batch in self._stream.batches():
                    # The iterator would commit the rest of the batch, so it must not be asked again.
                    if not await self._deliver_all([m for m in batch if self._is_wanted(m)]):
                        return
                    self._stream.commit()
                    # Orders that arrive during the wait are in the next batch, and so in one digest.
                    if self._sender.is_limited and await self._stream.pause(self._wait_s()):
                        return
        finally:
            await self._sender.close()

    def _is_wanted(self, message: PTNWebSocketMessage) -> bool:
        order = message.new_order
        small = order.leverage is not None and abs(order.leverage) < self._options.min_leverage
        return not small or order.order_type == OrderType.FLAT

    async def _deliver_all(self, messages: list[PTNWebSocketMessage]) -> bool:
        """Returns False if the stream was stopped first."""
        single = len(messages)
        if self._sender.is_limited:
            self._wait_s()
            free = self._options.per_minute - len(self._sent)
            single = single if single <= free else max(0, free - 1)
        groups = [[message] for message in messages[:single]] + [messages[single:]]
        for group in filter(None, groups):
            if not await self._deliver(group):
                return False
        return True

    def _wait_s(self) -> float:
        """Returns the time until another message may be sent; 0 if it may be sent now."""
        now = self._monotonic()
        while self._sent and self._sent[0] <= now - self._options.window_s:
            self._sent.popleft()
        if len(self._sent) < self._options.per_minute:
            return 0.0
        return self._sent[0] + self._options.window_s - now

    async def _deliver(self, messages: Sequence[PTNWebSocketMessage]) -> bool:
        backoff = Backoff(
            first_ms=1000 * self._options.retry_first_s, max_ms=1000 * self._options.retry_max_s, jitter=0.5
        )
        while True:
            fresh = [message for message in messages if not self._stream.is_stale(message)]
            if not fresh:
                break
            try:
                await self._sender.send(fresh)
            except NotDeliveredError as error:
                if error.gone:
                    raise
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    self._report(f"not delivered: {error}; trying again until it succeeds")
                if await self._stream.pause(max(backoff.next_ms() / 1000, error.retry_after_s)):
                    return False
                continue
            if self._sender.is_limited:
                self._sent.append(self._monotonic())
            if self._trouble:
                self._trouble = ""
                self._report("delivered again")
            break
        for message in messages:
            if message not in fresh:
                await self._stream.report_stale(message)
        self._stream.commit(messages[-1])
        return True
