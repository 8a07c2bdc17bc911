"""The tail of the event log: sends new events to the live subscribers and keeps the state's checksum."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice

import structlog

from ptn_api.clock import Monotonic, monotonic_ms
from ptn_api.errors import LogError, LogPrunedError, LogReplacedError
from ptn_api.event_log.contract import Event, EventLog, LoggedPosition, RemovedPosition, SourceStatus
from ptn_api.event_log.outage import LogOutage
from ptn_api.fanout.encoding import UpdateEncoder
from ptn_api.fanout.groups import SubscriberGroups
from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum

__all__ = ["RETRY_MS", "LogTail", "StateChecksum"]

STEP_EVENTS = 100
"""Orders sent in one step; when further behind, one step per turn of the loop.

A burst must not fill the buffer of a client that reads in time.
"""
CHECKSUM_POSITIONS = 25
"""Positions summed without a pause: a few ms."""
RETRY_MS = 250
"""The pause before an unreadable log is read again."""

_LOOK_MS = 1_000
"""The log is read this often even if no commit is announced."""
_NOWHERE = -1
"""A sequence and revision that no connection has."""

logger = structlog.get_logger()


class StateChecksum:
    """The checksum of all positions (docs/protocol.md, 4), built in parts, then kept up to date.

    It is valid for exactly one revision.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._building_since: int | None = None
        self._cursor = 0
        self._parts: dict[tuple[str, str], int] = {}
        self._total = 0
        self._revision: int | None = None

    def build(self) -> bool:
        """Adds the next positions. Returns whether the checksum is complete. Raises LogError."""
        if self._building_since is None:
            self._building_since = self._log.head().revision
        part = list(islice(self._log.positions(since_revision=self._cursor), CHECKSUM_POSITIONS))
        for position in part:
            self._put(position)
            self._cursor = position.revision
        if len(part) < CHECKSUM_POSITIONS:
            # The parts are of different revisions: apply what changed meanwhile, read in one transaction.
            head, changed, removed = self._log.changes(self._building_since)
            self._revision = self._building_since
            self.apply(head.revision, changed, removed)
        return self._revision is not None

    def apply(
        self, revision: int, changed: Iterable[LoggedPosition], removed: Iterable[RemovedPosition]
    ) -> None:
        """Applies all changes up to `revision`; applying one twice is harmless."""
        if self._revision is None:
            return
        for position in changed:
            self._put(position)
        for removal in removed:
            self._total -= self._parts.pop((removal.miner_hotkey, removal.position_uuid), 0)
        self._revision = max(self._revision, revision)

    def hexadecimal(self, revision: int) -> str | None:
        """Returns 16 hex digits, or None if the checksum is not valid for this revision."""
        return f"{self._total % CHECKSUM_MODULUS:016x}" if revision == self._revision else None

    def _put(self, position: LoggedPosition) -> None:
        key = (position.miner_hotkey, position.position_uuid)
        part = position_checksum(position.text)
        self._total += part - self._parts.get(key, 0)
        self._parts[key] = part


class LogTail:
    """The stream's place in the log, up to which live subscribers have been sent everything.

    It starts at the log's head, whenever that is: connections that missed something catch up from the log.
    `on_overtaken` is called when the log was pruned beyond `sequence`, so that live subscribers would have a
    gap; `on_checksum` when the checksum has become available; `on_stale` when the data has become stale or
    current again. Data is stale if its source says so, or if the log is unreadable for `stale_after_ms`.
    """

    def __init__(
        self,
        log: EventLog,
        groups: SubscriberGroups,
        outage: LogOutage,
        *,
        on_overtaken: Callable[[], None],
        on_checksum: Callable[[], None],
        on_stale: Callable[[], None],
        stale_after_ms: int,
        monotonic: Monotonic = monotonic_ms,
    ) -> None:
        self._event_log = log
        self._groups = groups
        self._outage = outage
        self._on_overtaken = on_overtaken
        self._on_checksum = on_checksum
        self._on_stale = on_stale
        self._stale_after_ms = stale_after_ms
        self._monotonic = monotonic
        self._unreadable_since: int | None = None
        self._announced: list[Event] = []  # since `revision`, for the subscriptions with updates
        self._checksum: StateChecksum | None = None
        self._building: asyncio.Task[None] | None = None
        self.started = False
        self.sequence = _NOWHERE
        self.revision = _NOWHERE
        self.source = SourceStatus()
        self.stale = False

    async def run(self) -> None:
        """Follows the log until cancelled. Raises LogReplacedError."""
        commits = self._event_log.commit_listener()
        try:
            while True:
                while self.step():  # noqa: ASYNC110 - work in parts, not waiting
                    await asyncio.sleep(0)  # far behind: other tasks first
                if self.started and self.read_source():
                    self._on_stale()
                await commits.wait_for_commit(_LOOK_MS if self.readable else RETRY_MS)
        finally:
            commits.close()
            self._drop_checksum()

    def step(self) -> bool:
        """Sends the next events, a bounded number. Returns whether there are more.

        If the log cannot be read, the next step tries again. Raises LogReplacedError, which ends the stream:
        what it knows is of another log.
        """
        try:
            more = self._advance() if self.started else self._start()
        except LogReplacedError:
            raise
        except LogPrunedError:
            logger.warning("log_tail_overtaken", sequence=self.sequence)
            self._restart()
            return True
        except LogError as error:
            if self._unreadable_since is None:
                self._unreadable_since = self._monotonic()
            self._outage.failed("tail", error)
            return False
        self._unreadable_since = None
        if self._outage.failing:
            self._outage.succeeded("tail")
        return more

    def read_source(self) -> bool:
        """Reads the source's status. Returns whether `stale` has changed since the last call."""
        try:
            self.source = self._event_log.source()
        except LogError as error:
            self._outage.failed("source", error)  # the last known status stands
        else:
            if self._outage.failing:
                self._outage.succeeded("source")
        unreadable_ms = 0 if self._unreadable_since is None else self._monotonic() - self._unreadable_since
        before, self.stale = self.stale, self.source.stale or unreadable_ms > self._stale_after_ms
        return self.stale != before

    @property
    def readable(self) -> bool:
        return self._unreadable_since is None

    def _start(self) -> bool:
        if self._event_log.ready():
            head = self._event_log.head()
            self.sequence, self.revision = head.sequence, head.revision
            self.started = True
        return False

    def _restart(self) -> None:
        """Starts again at the head, with the next step; live subscribers would have a gap."""
        self.started = False
        # A connection that has caught up to the old place must not join: it would miss what was pruned.
        self.sequence = self.revision = _NOWHERE
        self._announced.clear()
        self._drop_checksum()  # it would be taken for the one of the new revision
        self._on_overtaken()

    def _advance(self) -> bool:
        head = self._event_log.head()
        if head.sequence - self.sequence > STEP_EVENTS:
            self._send_orders(STEP_EVENTS)
            return True
        if head.revision == self.revision and head.sequence == self.sequence:
            return False
        if self._groups.wants_updates or self._checksum is not None:
            self._send_with_updates()
        else:
            self._send_orders(head.sequence - self.sequence)
            self._announced.clear()
            self.revision = head.revision
        return False

    def _send_with_updates(self) -> None:
        """Sends orders first, then the other changes, all of the same state of the log."""
        head, changed, removed = self._event_log.changes(self.revision)
        self._send_orders(head.sequence - self.sequence)
        encoder = UpdateEncoder(since_revision=self.revision, after=self.sequence, announced=self._announced)
        if self._groups.wants_updates:
            updates = [update for position in changed if (update := encoder.changed(position))]
            self._groups.send_updates(encoder, updates, removed, head.revision)
        if self._checksum is not None:
            self._checksum.apply(head.revision, changed, removed)
        self._announced.clear()
        self.revision = head.revision

    def _send_orders(self, limit: int) -> None:
        if limit <= 0:
            return
        if not self._groups:
            self.sequence += limit
            return
        events = self._event_log.read(self.sequence, limit, orders=self._groups.wants_full_positions)
        self._groups.send_orders(events, self.revision)
        self.sequence += limit  # not the last event's: damaged ones are left out
        if self._groups.wants_updates:
            self._announced += events

    # --- the checksum ---

    def checksum(self) -> str | None:
        """Returns the checksum of the state at `revision`, or None while it is not known."""
        return None if self._checksum is None else self._checksum.hexadecimal(self.revision)

    def update_checksum_demand(self) -> None:
        """Starts building the checksum when a subscription can use it; drops it when none can any more."""
        if not self._groups.wants_checksum:
            self._drop_checksum()
        elif self._checksum is None:
            self._checksum = StateChecksum(self._event_log)
            self._building = asyncio.create_task(self._build(self._checksum))

    async def _build(self, checksum: StateChecksum) -> None:
        try:
            while not checksum.build():  # noqa: ASYNC110 - work in parts, not waiting
                await asyncio.sleep(0)
            self._outage.succeeded("checksum")
            self._on_checksum()
        except LogError as error:
            self._outage.failed("checksum", error)
            self._checksum = None  # the next heartbeat starts again
        except Exception:  # no checksum is better than one that is not kept up to date
            logger.exception("checksum_not_built")
            self._checksum = None

    def _drop_checksum(self) -> None:
        if self._building is not None:
            self._building.cancel()
        self._checksum = self._building = None
        self._outage.forget("checksum")
