"""From the log to the live subscribers: one step takes whatever is new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from ptn_api.errors import LogError, LogPrunedError
from ptn_api.event_log.contract import Event, EventLog
from ptn_api.stream.audience import Audience
from ptn_api.stream.outbound import PositionUpdates
from ptn_api.stream.state_sum import StateSum

__all__ = ["Feed"]

STEP_EVENTS = 100
"""How many orders one step sends at most; further behind, a step per turn of the loop.

A burst must not fill the buffer of a client that reads in time.
"""

logger = structlog.get_logger()


class Feed:
    """Where the stream stands in the log. The audience has been sent everything up to `last` and `revision`.

    It starts at the log's head and may be started at any time: subscribers who missed something are caught
    up from the log. `on_overtaken` is called when the log was pruned below `last`: nobody who is live can go
    on without a hole; `on_summed` when the checksum became known.
    """

    def __init__(
        self,
        log: EventLog,
        audience: Audience,
        *,
        on_overtaken: Callable[[], None],
        on_summed: Callable[[], None],
    ) -> None:
        self._events_log = log
        self._audience = audience
        self._on_overtaken = on_overtaken
        self._on_summed = on_summed
        self._announced: list[Event] = []  # since `revision`, for those who take changes as well
        self._sum: StateSum | None = None
        self._summing: asyncio.Task[None] | None = None
        self.started = False
        self.last = 0
        self.revision = 0

    async def run(self, after_each: Callable[[], None]) -> None:
        """Follows until cancelled, calling `after_each` whenever the log rang."""
        bell = self._events_log.bell()
        try:
            while not self._events_log.ready():
                await bell.wait()
            self._start()
            while True:
                while self.step():  # noqa: ASYNC110 - work in pieces, not waiting
                    await asyncio.sleep(0)  # far behind: the others first
                after_each()
                await bell.wait()
        finally:
            bell.close()
            self._forget_sum()

    def _start(self) -> None:
        head = self._events_log.head()
        self.last, self.revision = head.sequence, head.revision
        self.started = True

    def step(self) -> bool:
        """Sends what is new, a bounded piece of it; whether there is more."""
        try:
            return self._step()
        except LogPrunedError:
            logger.warning("feed_overtaken", last=self.last)
            self._announced.clear()
            self._forget_sum()  # it is of what was before, and would be taken for what is now
            self._start()
            self._on_overtaken()
        except LogError as error:
            logger.warning("log_unreadable", code=error.code, reason=str(error))
        return False

    def _step(self) -> bool:
        head = self._events_log.head()
        if head.sequence - self.last > STEP_EVENTS:
            self._send_orders(STEP_EVENTS)
            return True
        if head.revision == self.revision and head.sequence == self.last:
            return False
        if self._audience.wants_updates or self._sum is not None:
            self._step_with_updates()
        else:
            self._send_orders(head.sequence - self.last)
            self._announced.clear()
            self.revision = head.revision
        return False

    def _step_with_updates(self) -> None:
        """Orders first, then what else changed, all of one instant of the log."""
        head, changed, removed = self._events_log.changes(self.revision)
        self._send_orders(head.sequence - self.last)
        made = PositionUpdates(since_revision=self.revision, after=self.last, announced=self._announced)
        if self._audience.wants_updates:
            updates = [update for position in changed if (update := made.changed(position))]
            self._audience.send_updates(made, updates, removed)
        if self._sum is not None:
            self._sum.keep_up(head.revision, changed, removed)
        self._announced.clear()
        self.revision = head.revision

    def _send_orders(self, limit: int) -> None:
        if limit <= 0:
            return
        events = self._events_log.read(self.last, limit, orders=self._audience.wants_orders_of_positions)
        self._audience.send_orders(events)
        self.last = events[-1].sequence
        if self._audience.wants_updates:
            self._announced += events

    # --- the checksum ---

    def checksum(self) -> str | None:
        """Of the state at `revision`; None while it is not known."""
        return None if self._sum is None else self._sum.hexadecimal(self.revision)

    def look_after_sum(self) -> None:
        """Begins to build the checksum when somebody can use it, drops it when nobody can any more."""
        if not self._audience.wants_checksum:
            self._forget_sum()
        elif self._sum is None:
            self._sum = StateSum(self._events_log)
            self._summing = asyncio.create_task(self._build(self._sum))

    async def _build(self, state_sum: StateSum) -> None:
        try:
            while not state_sum.build():  # noqa: ASYNC110 - work in pieces, not waiting
                await asyncio.sleep(0)
            self._on_summed()
        except LogError as error:
            logger.warning("checksum_not_built", code=error.code, reason=str(error))
            self._sum = None  # the next heartbeat begins it anew
        except Exception:  # whatever it is: rather none than one that is not kept up
            logger.exception("checksum_not_built")
            self._sum = None

    def _forget_sum(self) -> None:
        if self._summing is not None:
            self._summing.cancel()
        self._sum = self._summing = None
