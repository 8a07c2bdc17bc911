"""Catching up: what a subscriber missed, from the log, in pieces, until it stands where the live ones do."""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Callable
from itertools import islice

import structlog

from ptn_api.errors import LogError, LogPrunedError
from ptn_api.event_log.contract import EventLog
from ptn_api.stream.connection import Connection, Progress
from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.feed import Feed
from ptn_api.stream.outbound import FrameMaker, MessageMaker, PositionUpdates, pack
from ptn_api.wire.close_codes import INTERNAL_ERROR, KEY_REVOKED, REPLAY_OVERTAKEN, SLOW_CONSUMER
from ptn_api.wire.server_session import State

__all__ = ["Replayer"]

PIECE_BYTES = 128 * 1024
"""About how much one piece of a replay holds, so that it delays the live ones by a few ms at most."""
MAX_PIECE_EVENTS = 128
PIECE_POSITIONS = 25

logger = structlog.get_logger()


class Replayer:
    """Serves those who are catching up in turn, a piece each, the live ones in between.

    A piece is read only when the connection's buffer is low. The hand-over is one step without a wait in
    it: who stands exactly where the feed stands joins its audience, so there is neither gap nor repeat.
    """

    def __init__(
        self,
        log: EventLog,
        feed: Feed,
        counters: StreamCounters,
        *,
        key_holds: Callable[[Connection], bool],
        stall_ms: int,
    ) -> None:
        self._events_log = log
        self._feed = feed
        self._counters = counters
        self._key_holds = key_holds
        self._stall_ms = stall_ms
        self._queue: deque[Connection] = deque()
        self._queued: set[Connection] = set()
        self._work = asyncio.Event()

    def add(self, connection: Connection) -> None:
        """Starts or goes on with a connection's catch-up; at once if nothing is missing."""
        progress = connection.progress
        if progress is None or connection in self._queued:
            return
        if self._is_there(progress):
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

    def close_stalled(self, connection: Connection, now_ms: int) -> None:
        """A replay that is not read at all would wait for ever."""
        since = connection.congested_since
        if connection.progress is not None and since is not None and now_ms - since > self._stall_ms:
            self._counters.slow_closes += 1
            connection.close(SLOW_CONSUMER)

    def _serve(self, connection: Connection) -> None:
        progress = connection.progress
        if progress is None or connection.session.state is not State.CATCHING:
            return
        if connection.congested_since is not None:
            return  # goes on when the socket flows again
        if not self._key_holds(connection):
            connection.close(KEY_REVOKED)
            return
        try:
            self._piece(connection, progress)
        except LogPrunedError:
            connection.close(REPLAY_OVERTAKEN)
        except LogError as error:
            logger.warning("replay_failed", code=error.code, reason=str(error))
            connection.close(INTERNAL_ERROR)
        except Exception:  # noqa: BLE001 - protects the other replays from one that meets a fault
            logger.error("replay_failed", traceback=traceback.format_exc())
            connection.close(INTERNAL_ERROR)
        else:
            self.add(connection)

    def _is_there(self, progress: Progress) -> bool:
        """Whether the connection stands exactly where the feed stands."""
        if progress.cursor != self._feed.last:
            return False
        return progress.since_revision is None or progress.revision == self._feed.revision

    def _piece(self, connection: Connection, progress: Progress) -> None:
        if progress.cursor < self._feed.last:
            self._orders(connection, progress)
        elif progress.cursor > self._feed.last:
            self._feed.step()  # the log was ahead of the feed at the login
        else:
            self._changes(connection, progress)

    def _orders(self, connection: Connection, progress: Progress) -> None:
        if not progress.replaying:
            progress.replaying = True
            self._counters.replays += 1
        subscription = connection.subscription
        limit = min(progress.limit, self._feed.last - progress.cursor)
        events = self._events_log.read(progress.cursor, limit, orders=subscription.format == "full")
        progress.cursor = events[-1].sequence
        messages = MessageMaker(events).matching(subscription, replay_until=progress.replay_until)
        self._send(connection, list(pack(messages)), len(messages))
        progress.limit = _next_limit(progress.limit, sum(map(len, messages)))

    def _changes(self, connection: Connection, progress: Progress) -> None:
        """One frame per position changed or removed since the client's revision (docs/protocol.md, 5).

        Only positions as old as the feed are sent: what changed since may hold an order that was not sent
        yet. Then the feed goes first, and this connection catches up with it.
        """
        assert progress.since_revision is not None
        made = PositionUpdates(since_revision=progress.since_revision, after=progress.cursor)
        found = list(islice(self._events_log.positions(since_revision=progress.revision), PIECE_POSITIONS))
        settled = [position for position in found if position.revision <= self._feed.revision]
        subscription = connection.subscription
        updates = [update for position in settled if (update := made.changed(position))]
        payloads = [u.payload for u in updates if subscription.matches(u.miner_hotkey, u.trade_pair)]
        if settled:
            progress.revision = settled[-1].revision
        if len(settled) < len(found):
            self._feed.step()
        elif len(found) < PIECE_POSITIONS and self._removals(made, connection, progress, payloads):
            progress.revision = self._feed.revision
        self._send(connection, payloads, 0)

    def _removals(
        self, made: PositionUpdates, connection: Connection, progress: Progress, payloads: list[bytes]
    ) -> bool:
        """Adds the frame for what was removed; False if the feed must go first."""
        assert progress.since_revision is not None
        removed = self._events_log.removed(progress.since_revision)
        if removed and removed[-1].revision > self._feed.revision:
            self._feed.step()
            return False
        gone = made.removed(removed, connection.subscription)
        if gone is not None:
            payloads.append(gone)
        return True

    def _send(self, connection: Connection, payloads: list[bytes], messages: int) -> None:
        framed = FrameMaker()
        frames = [framed(payload, deflate=connection.deflate) for payload in payloads]
        connection.replay(frames, messages)
        self._counters.deliveries += messages
        self._counters.sent_bytes += sum(map(len, frames))


def _next_limit(limit: int, size: int) -> int:
    if size > 2 * PIECE_BYTES:
        return max(1, limit // 2)
    return min(MAX_PIECE_EVENTS, limit * 2) if size < PIECE_BYTES // 2 else limit
