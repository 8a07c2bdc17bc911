"""Turns: which machine's intake writes the log, and when the next one takes over.

Each machine that can write beats once a second. A standby takes over when the active one has been silent for
some time, or announces that it leaves. Time is this machine's monotonic clock; no clocks are compared. A
mistake costs a needless take-over and no order: the stream alone decides whose commits count (chain.py), so
the former active machine's next commit is refused, and it stands by.

    state      what happens                                              becomes
    STANDBY    no sign of life of the active one for `takeover_ms`,      ACTIVE, if its first commit counts
               a beat that announces its leaving, no writer yet,
               the operator's request
    ACTIVE     a commit of another machine                               STANDBY
               its disk stays full, or it stops                          STANDBY, after such a beat

Silence means something only to a machine that can hear: it also hears its own beats. One that was suspended
or cut off does not, so its silence begins when it hears again.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from ptn_api.clock import Monotonic, monotonic_ms
from ptn_api.cluster.broker import Beat, Broker
from ptn_api.cluster.chain import START, Tip
from ptn_api.errors import LogError, LogUnusableError, LogUnwritableError, SettingsError
from ptn_api.tasks import wait_for_event

if TYPE_CHECKING:
    from ptn_api.cluster.writer import ClusterWriter

__all__ = ["TurnKeeper", "Turns", "request_takeover"]

logger = structlog.get_logger()

_DEAF_BEATS = 3
"""After this many beats of its own that it has not heard, a machine cannot hear others either."""
_REQUEST_FILE = "takeover"
_RETRY_MS = 250


class Turns:
    """Whose turn it is, as one machine sees it. Pure: it is told times, tips and beats."""

    def __init__(
        self, writer: bytes, *, takeover_ms: int, beat_ms: int, now_ms: int, former: bytes = b""
    ) -> None:
        """`former` is the id of this machine's previous writer: a process that has certainly ended."""
        self._writer = writer
        self._former = former
        self._takeover_ms = takeover_ms
        self._deaf_ms = _DEAF_BEATS * beat_ms
        self._tip = START
        self._silent_since = now_ms
        self._echo_ms = now_ms
        self._vacant_term = START.term
        """The last term that is known to be over; no machine writes as long as the tip is of this term."""
        self._left_term = -1
        self._requested = False

    @property
    def active(self) -> bool:
        return self._tip.writer == self._writer and self._tip.term != self._left_term

    @property
    def ending(self) -> int | None:
        """The term that a take-over would end; None for any, since the operator demands it."""
        return None if self._requested else self._tip.term

    def see(self, tip: Tip, now_ms: int) -> None:
        """Takes this copy's tip. A commit of another machine is a sign of life."""
        if tip != self._tip:
            self._tip = tip
            self._silent_since = now_ms
            if tip.writer and tip.writer == self._former:
                self._vacant_term = tip.term
        if self.active:
            self._requested = False

    def hear(self, beat: Beat, now_ms: int) -> None:
        if beat.writer == self._writer:
            self._echo_ms = now_ms
        elif beat.term < self._tip.term:
            pass  # of a former active machine that does not know of its successor yet
        elif beat.leaving:
            self._vacant_term = beat.term
        elif beat.active:
            self._silent_since = now_ms

    def request(self, wanted: bool = True) -> None:
        """Makes this machine take over as soon as it can, for as long as that is wanted."""
        self._requested = wanted and not self.active

    def due_in_ms(self, now_ms: int) -> int:
        """How long until this machine takes over if it hears nothing more; at most 0: now."""
        if self.active:
            return self._takeover_ms
        if now_ms - self._echo_ms > self._deaf_ms:
            self._silent_since = now_ms
        if self._requested or self._tip.term <= self._vacant_term:
            return 0
        return self._silent_since + self._takeover_ms - now_ms

    def due(self, now_ms: int) -> bool:
        """Whether to take over now."""
        return not self.active and self.due_in_ms(now_ms) <= 0

    def beat(self) -> Beat:
        tip = self._tip
        return Beat(writer=self._writer, term=tip.term, index=tip.index, active=self.active)

    def leave(self, now_ms: int) -> Beat:
        """Ends this machine's turn. If no other one takes over, it is this one's again after the silence."""
        beat = Beat(
            writer=self._writer, term=self._tip.term, index=self._tip.index, active=False, leaving=True
        )
        self._left_term = self._tip.term
        self._silent_since = now_ms
        return beat


class TurnKeeper:
    """Keeps the turns of a writer: beats, listens and takes over. The turn that intake waits for."""

    def __init__(
        self,
        writer: ClusterWriter,
        broker: Broker,
        data_dir: Path,
        *,
        takeover_ms: int,
        beat_ms: int,
        monotonic: Monotonic = monotonic_ms,
    ) -> None:
        self._writer = writer
        self._broker = broker
        self._request = data_dir / _REQUEST_FILE
        self._takeover_ms = takeover_ms
        self._beat_ms = beat_ms
        self._monotonic = monotonic
        self._turns = Turns(
            writer.writer_id,
            takeover_ms=takeover_ms,
            beat_ms=beat_ms,
            now_ms=monotonic(),
            former=writer.former_id,
        )
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._reason = ""
        self.active = False
        """Whether it is this machine's turn, as of the last look, beat or take-over."""

    async def changed(self, timeout_ms: float) -> bool:
        """Waits until the turn begins or ends, or for the timeout; returns whether it is this machine's."""
        await wait_for_event(self._changed, timeout_ms)
        return self.active

    async def run(self) -> None:
        """Keeps the turns until cancelled. Raises LogError if the log fails for good."""
        loop = asyncio.get_running_loop()

        def hear(beat: Beat) -> None:
            self._turns.hear(beat, self._monotonic())
            if beat.leaving:
                self._wake.set()

        def heard(beat: Beat) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(hear, beat)

        self._broker.listen(heard)
        next_beat_ms = self._monotonic()
        while True:
            self._wake.clear()
            self._note()
            now_ms = self._monotonic()
            if now_ms >= next_beat_ms:
                next_beat_ms = now_ms + self._beat_ms
                await asyncio.to_thread(self._broker.announce, self._turns.beat())
                wanted = self._request.exists()  # no longer once the command has given up
                self._turns.request(wanted)
                if wanted and self.active:
                    self._request.unlink(missing_ok=True)
                failing_since = self._writer.failing_since
                failing_ms = 0 if failing_since is None else now_ms - failing_since
                if self.active and failing_ms >= self._takeover_ms:
                    logger.warning("cluster_turn_handed_over", reason="the log cannot be written here")
                    await self.leave()
            if self._turns.due(self._monotonic()) and not await self._take_over():
                await asyncio.sleep(min(_RETRY_MS, self._beat_ms) / 1000)
                continue
            now_ms = self._monotonic()
            pause_ms = min(next_beat_ms - now_ms, self._turns.due_in_ms(now_ms))
            await wait_for_event(self._wake, max(pause_ms, 1))

    async def leave(self) -> None:
        """Hands over at once, if it is this machine's turn."""
        self._note()
        if self.active:
            await asyncio.to_thread(self._broker.announce, self._turns.leave(self._monotonic()))
            self._note()

    async def _take_over(self) -> bool:
        """Returns whether the turn has been decided; it may be that of a machine that was faster."""
        try:
            await asyncio.to_thread(self._writer.take_over, self._turns.ending)
        except (LogUnwritableError, LogUnusableError) as error:
            # Unusable: the task that follows the stream repairs this copy, or gives it up.
            self._note()
            fenced = error.code == "log_fenced"
            if str(error) != self._reason and not fenced:
                self._reason = str(error)
                logger.warning("cluster_turn_not_taken", reason=self._reason)
            return fenced
        self._reason = ""
        self._note()
        self._request.unlink(missing_ok=True)
        return True

    def _note(self) -> None:
        """Looks whose turn it is, and tells those who wait."""
        with contextlib.suppress(LogError):  # an outage, which whoever writes the log reports
            self._turns.see(self._writer.tip(), self._monotonic())
        if self._turns.active != self.active:
            self.active = self._turns.active
            if not self.active:
                logger.info("cluster_standing_by", term=self._writer.term)
            self._changed.set()
            self._changed = asyncio.Event()


def request_takeover(data_dir: Path) -> Path:
    """Asks the intake that runs on this data directory to take over. Raises SettingsError.

    Returns the request's file, which the intake removes once it is the active one.
    """
    request = data_dir / _REQUEST_FILE
    try:
        request.touch(mode=0o600)
    except OSError as error:
        raise SettingsError(f"data directory: {error.strerror}", code="bad_data_dir") from None
    return request
