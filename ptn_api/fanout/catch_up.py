"""Catch-ups: what a subscriber missed is sent from the log in parts, until it can join the live ones."""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import NamedTuple

import structlog

from ptn_api.clock import Clock, Monotonic, monotonic_ms
from ptn_api.errors import LogError, LogPrunedError
from ptn_api.event_log.contract import EventLog, RemovedPosition
from ptn_api.event_log.outage import LogOutage
from ptn_api.fanout.connection import CatchUpProgress, Connection
from ptn_api.fanout.counters import StreamCounters
from ptn_api.fanout.encoding import MessageEncoder, UpdateEncoder, join_frames
from ptn_api.fanout.log_tail import RETRY_MS, LogTail
from ptn_api.wire.close_codes import INTERNAL_ERROR, KEY_REVOKED, REPLAY_OVERTAKEN
from ptn_api.wire.server_session import State

__all__ = ["KEPT_BYTES", "CatchUps", "KeptParts", "Part"]

PART_BYTES = 128 * 1024
"""The size a part aims at, so that it delays live orders by a few ms at most."""
MAX_PART_EVENTS = 128
PART_POSITIONS = 25
KEPT_BYTES = 16 * 1024 * 1024
"""The size of the parts that are kept for other connections: more than 10,000 orders of 1 KB."""
_LEAST_PART_BYTES = 4 * 1024
"""What a part is counted as besides its bytes: a filter may leave it none."""
_NAME_BYTES = 512
"""The same for each name in its filters, which stay in memory as part of its key."""

logger = structlog.get_logger()


class Part(NamedTuple):
    """Consecutive orders as they are written."""

    writes: tuple[bytes, ...]
    messages: int
    message_bytes: int
    revision: int
    """A revision up to which every change was taken into account."""
    names: int = 0
    """The number of names in the filters that it was made for."""

    @property
    def size(self) -> int:
        return _LEAST_PART_BYTES + _NAME_BYTES * self.names + sum(map(len, self.writes))


class KeptParts:
    """The parts sent last, up to `KEPT_BYTES`: clients that reconnect at once need the same ones."""

    def __init__(self) -> None:
        self._parts: OrderedDict[Hashable, Part] = OrderedDict()
        self._bytes = 0

    def find(self, key: Hashable, as_of: int) -> Part | None:
        """Returns the part as it was at that revision or later."""
        part = self._parts.get(key)
        if part is None or part.revision < as_of:
            return None
        self._parts.move_to_end(key)
        return part

    def keep(self, key: Hashable, part: Part) -> None:
        replaced = self._parts.pop(key, None)
        self._parts[key] = part
        self._bytes += part.size - (0 if replaced is None else replaced.size)
        while self._bytes > KEPT_BYTES:
            self._bytes -= self._parts.popitem(last=False)[1].size

    def clear(self) -> None:
        self._parts.clear()
        self._bytes = 0


class CatchUps:
    """Connections that are catching up, served in turn, one part each, with live orders in between.

    A part is read only when the connection's buffer is low. The hand-over has no await in it: a connection
    that has been sent exactly what the live ones have joins them, so there is neither a gap nor a repeat.
    """

    def __init__(
        self,
        log: EventLog,
        tail: LogTail,
        outage: LogOutage,
        counters: StreamCounters,
        *,
        key_is_valid: Callable[[Connection], bool],
        clock: Clock,
        stall_ms: int,
        monotonic: Monotonic = monotonic_ms,
    ) -> None:
        self._event_log = log
        self._tail = tail
        self._outage = outage
        self._counters = counters
        self._key_is_valid = key_is_valid
        self._clock = clock
        self._stall_ms = stall_ms
        self._monotonic = monotonic
        self._queue: deque[Connection] = deque()
        self._queued: set[Connection] = set()
        self._work = asyncio.Event()
        self._kept = KeptParts()

    def add(self, connection: Connection) -> None:
        """Starts or continues a catch-up; a connection that misses nothing joins the live ones at once."""
        progress = connection.progress
        if progress is None or connection in self._queued:
            return
        up_to_date = progress.since_revision is None or progress.complete == self._tail.revision
        # Everything up to `replay_until` is marked as replayed, which live orders are not.
        if progress.replay_until <= progress.cursor == self._tail.sequence and up_to_date:
            connection.caught_up()
            return
        self._queue.append(connection)
        self._queued.add(connection)
        self._work.set()

    async def run(self) -> None:
        while True:
            await self._work.wait()
            while self._queue:
                connection = self._queue.popleft()
                self._queued.discard(connection)
                self._serve(connection)
                await asyncio.sleep(0)
            self._work.clear()

    def forget_parts(self) -> None:
        """Frees the memory of parts that were kept for further connections."""
        self._kept.clear()

    def close_stalled(self, connection: Connection, now_ms: int) -> None:
        """Closes a connection whose client has stopped reading: its catch-up would wait forever."""
        if connection.progress is not None and connection.stalled_ms(now_ms) > self._stall_ms:
            connection.close_slow()

    def _serve(self, connection: Connection) -> None:
        """Sends the next part."""
        progress = connection.progress
        if progress is None or connection.session.state is not State.CATCHING_UP:
            return
        if connection.congested_since is not None:
            return  # continues when the socket has drained
        if not self._key_is_valid(connection):
            connection.close(KEY_REVOKED)
            return
        try:
            if progress.cursor < self._tail.sequence:
                self._send_orders(connection, progress)
            elif self._tail.sequence < max(progress.cursor, progress.replay_until):
                self._tail.step()  # the log was ahead of the tail when the client logged in
            else:
                self._send_changes(connection, progress)
        except LogPrunedError:
            connection.close(REPLAY_OVERTAKEN)
        except LogError as error:
            # Nothing was sent and `progress` has not moved: the same part can be read again.
            self._retry(connection, progress, error)
        except Exception:  # noqa: BLE001 - a fault in one catch-up must not end the others
            logger.error("catch_up_failed", traceback=traceback.format_exc())
            connection.close(INTERNAL_ERROR)
        else:
            progress.failing_since = None
            self._outage.succeeded(connection)
            if self._tail.readable:  # else a connection that waits for the tail would spin
                self.add(connection)
            else:
                self._add_later(connection)

    def _retry(self, connection: Connection, progress: CatchUpProgress, error: LogError) -> None:
        """Tries again later; gives up only where this one read fails for long and the others work."""
        now = self._monotonic()
        if progress.failing_since is None:
            progress.failing_since = now
        self._outage.failed(connection, error)
        if self._tail.readable and now - progress.failing_since > self._stall_ms:
            connection.close(INTERNAL_ERROR)
        else:
            self._add_later(connection)

    def _add_later(self, connection: Connection) -> None:
        connection.later(RETRY_MS, lambda: self.add(connection))

    def _send_orders(self, connection: Connection, progress: CatchUpProgress) -> None:
        if not progress.replaying:
            progress.replaying = True
            self._counters.replays += 1
        if progress.as_of is None:
            progress.as_of = self._event_log.head().revision
        replay = progress.cursor < progress.replay_until
        until = min(self._tail.sequence, progress.replay_until) if replay else self._tail.sequence
        # Parts end at multiples of their size, wherever a client began: others then need the same ones.
        limit = min(progress.part_events - progress.cursor % progress.part_events, until - progress.cursor)
        revision = self._tail.revision if progress.since_revision is None else progress.since_revision
        subscription, variant = connection.subscription, connection.framing.variant(revision)
        key = (progress.cursor, limit, replay, subscription, variant)
        part = self._kept.find(key, progress.as_of)
        if part is None:
            events = self._event_log.read(progress.cursor, limit, orders=subscription.format == "full")
            encoder, replay_until = MessageEncoder(events), progress.replay_until
            messages = encoder.matching(subscription, self._clock(), replay_until=replay_until)
            writes = tuple(join_frames(connection.framing.orders(messages, revision, None)))
            size = sum(len(message) for _, message in messages)
            names = len(subscription.miners or ()) + len(subscription.trade_pairs or ())
            part = Part(writes, len(messages), size, self._tail.revision, names)
            ageing = subscription.late_window_ms is not None and any(event.late for event in events)
            if len(events) == limit and not ageing:  # a damaged event may be repaired
                self._kept.keep(key, part)
        progress.cursor += limit  # not the last event's: damaged ones are left out
        self._send(connection, part.writes, part.messages)
        if part.message_bytes > 2 * PART_BYTES:
            progress.part_events = max(1, progress.part_events // 2)
        elif part.message_bytes < PART_BYTES // 2:
            progress.part_events = min(MAX_PART_EVENTS, progress.part_events * 2)

    def _send_changes(self, connection: Connection, progress: CatchUpProgress) -> None:
        """Sends a frame for each position changed since the client's revision, then one for the removed ones.

        (docs/protocol.md, 5.) A change newer than the tail may belong to an order that the tail has not sent
        yet, and orders go before changes. So the tail advances first, and this connection catches up with it.
        """
        assert progress.since_revision is not None
        encoder = UpdateEncoder(since_revision=progress.since_revision, after=progress.cursor)
        changed = list(islice(self._event_log.positions(since_revision=progress.revision), PART_POSITIONS))
        sendable = [position for position in changed if position.revision <= self._tail.revision]
        removed: list[RemovedPosition] = []
        last_part = len(sendable) == len(changed) < PART_POSITIONS
        if last_part:
            removed = self._event_log.removed(progress.since_revision)
            last_part = not removed or removed[-1].revision <= self._tail.revision
        subscription = connection.subscription
        updates = [update for position in sendable if (update := encoder.changed(position))]
        # Both reads have succeeded: only now may the progress move.
        complete = progress.since_revision  # until the removals have been sent
        if sendable:
            progress.revision = sendable[-1].revision
        if last_part:
            progress.revision = progress.complete = complete = self._tail.revision
        elif len(sendable) < len(changed) or removed:
            self._tail.step()
        changes = encoder.matching(subscription, updates, removed if last_part else ())
        revisions = (progress.since_revision, complete)
        self._send(connection, connection.framing.changes(changes, progress.cursor, revisions, None), 0)

    def _send(self, connection: Connection, frames: Sequence[bytes], messages: int) -> None:
        connection.send_missed(frames, messages)
        self._counters.deliveries += messages
        self._counters.sent_bytes += sum(map(len, frames))
