"""Heavy requests, which take turns: those whose answer costs more than a few milliseconds or kilobytes.

- To be worked on, a request needs a place, and keeps it until its answer has been sent. A user has few places
  and all users together have a fixed number, which bounds the memory. The others wait, a bounded number of
  them; beyond that, requests are refused with 503 and Retry-After.
- The work itself is done in steps of about 5 ms, one at a time. Between two steps, for up to 20 ms, others
  have their turn: small answers, new connections.

Places and steps are granted to the users in turn, so one user's many requests delay another's by one.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Literal

from ptn_api.clock import Monotonic
from ptn_api.http.errors import HTTPError
from ptn_api.problems import ProblemRegister, Recent
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.options import RestOptions
from ptn_api.tasks import TimeSlice, let_others_run

__all__ = ["FairQueue", "Turn", "Turns"]

_RETRY_AFTER = {"retry-after": "5"}


class FairQueue:
    """A number of slots that are granted to users in turn, to each at most `per_user` at a time."""

    def __init__(self, slots: int, per_user: int) -> None:
        self._free = slots
        self._per_user = per_user
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By user, those first whose last grant is longest ago."""

    def try_acquire(self, user: str) -> bool:
        """Takes a slot if one is free for this user."""
        if user in self._waiting or not self._is_free(user):
            return False
        self._take(user)
        return True

    async def acquire(self, user: str) -> None:
        """Waits for a slot and takes it."""
        if self.try_acquire(user):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(user)  # it was granted in this turn of the loop
            elif granted in (queue := self._waiting.get(user, deque())):
                queue.remove(granted)
                if not queue:
                    del self._waiting[user]
            raise

    def release(self, user: str) -> None:
        """Gives a slot back; it goes to the next user."""
        self._free += 1
        self._held[user] -= 1
        if not self._held[user]:
            del self._held[user]
        for user in [*self._waiting]:
            while self._is_free(user) and (queue := self._waiting.pop(user, None)):
                granted = queue.popleft()
                if queue:
                    self._waiting[user] = queue  # behind the others
                if not granted.cancelled():  # else its task has not run yet
                    self._take(user)
                    granted.set_result(None)
                    break

    def _is_free(self, user: str) -> bool:
        return self._free > 0 and self._held[user] < self._per_user

    def _take(self, user: str) -> None:
        self._free -= 1
        self._held[user] += 1


class Turns:
    """The heavy requests in progress, and those that wait."""

    def __init__(
        self, options: RestOptions, counters: RestCounters, problems: ProblemRegister, monotonic: Monotonic
    ) -> None:
        self._options = options
        self._counters = counters
        self._refused = Recent(options.overload_ms, monotonic)
        self._waiting: Counter[str] = Counter()
        self.places = FairQueue(options.heavy_requests, options.heavy_requests_per_user)
        self.steps = FairQueue(1, 1)
        self._worked = TimeSlice()
        problems.watch(lambda: {"work_refused": self._refused.total})

    def begin(self, user: str, route: str) -> Turn:
        """Returns the request's turns, to be closed when it has been answered.

        Raises HTTPError `busy` if too many wait already.
        """
        if self.places.try_acquire(user):
            return Turn(self, user, "held")
        options = self._options
        if (
            self._waiting[user] >= options.heavy_waiting_per_user
            or self._waiting.total() >= options.heavy_waiting
        ):
            self._counters.heavy[route, "refused"] += 1
            self._refused.note()
            sentence = "Too many expensive requests at the moment; they are answered one after the other"
            raise HTTPError("busy", sentence, headers=_RETRY_AFTER)
        self._counters.heavy[route, "queued"] += 1
        self._waiting[user] += 1
        return Turn(self, user, "awaited")

    def step(self, user: str) -> Turn:
        """Returns turns for work that needs no place: it makes what is kept for others, too."""
        return Turn(self, user, "none")

    async def let_others_run_if_due(self) -> None:
        """Called by the request whose turn it is, so that no other one works meanwhile."""
        if self._worked.due:
            await let_others_run()
            self._worked.restart()

    def no_longer_waits(self, user: str) -> None:
        self._waiting[user] -= 1
        if not self._waiting[user]:
            del self._waiting[user]


class Turn(TimeSlice):
    """A heavy request's turns to work: `async with turn` waits for one and lasts a step.

    `yield_if_due` inside of it passes the turn on after 5 ms and waits for the next one.
    """

    def __init__(self, turns: Turns, user: str, place: Literal["awaited", "held", "none"]) -> None:
        super().__init__()
        self._turns = turns
        self._user = user
        self._place = place
        self._running = False

    async def __aenter__(self) -> Turn:
        if self._place == "awaited":
            await self._turns.places.acquire(self._user)
            self._place = "held"
            self._turns.no_longer_waits(self._user)
        await self._take_turn()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    async def yield_if_due(self) -> None:
        if self.due:
            self._pass_on()
            await asyncio.sleep(0)
            await self._take_turn()

    def close(self) -> None:
        """Gives the place back, or leaves the queue. The request's task has ended."""
        if self._place == "held":
            self._turns.places.release(self._user)
        elif self._place == "awaited":
            self._turns.no_longer_waits(self._user)
        self._place = "none"

    async def _take_turn(self) -> None:
        await self._turns.steps.acquire(self._user)
        self._running = True
        try:
            await self._turns.let_others_run_if_due()
        except BaseException:  # cancelled
            self._pass_on()
            raise
        self.restart()

    def _pass_on(self) -> None:
        if self._running:
            self._running = False
            self._turns.steps.release(self._user)
