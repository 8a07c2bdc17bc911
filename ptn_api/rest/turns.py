"""Heavy requests, which take turns: those whose answer costs more than a few milliseconds or kilobytes.

- To be worked on, a request needs a place, and keeps it until its answer has been sent. A user has few places
  and all users together have a fixed number, which bounds the memory. The others wait, a bounded number of
  them; beyond that, requests are refused with 503 and Retry-After.
- The work itself is done in steps of about 5 ms, one at a time. Between two steps, for up to 20 ms, others
  have their turn: small answers, new connections.
- A request keeps its place while its client reads. With all places taken, a user without any waits for a
  while; then the user with the most gives way. Nobody waits longer than a limit, beyond which it is a 503.

Places and steps are granted to the users in turn, so one user's many requests delay another's by one.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

from ptn_api.clock import Monotonic
from ptn_api.http.connection_limit import newest_of_greatest
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
        self._waiting: dict[str, deque[asyncio.Future[bool]]] = {}
        """By user, those first whose last grant is longest ago."""

    def try_acquire(self, user: str) -> bool:
        """Takes a slot if one is free for this user."""
        if user in self._waiting or not self._is_free(user):
            return False
        self._take(user)
        return True

    async def acquire(self, user: str, *, timeout_ms: float | None = None) -> None:
        """Waits for a slot and takes it. Raises TimeoutError."""
        if self.try_acquire(user):
            return
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[bool] = loop.create_future()
        self._waiting.setdefault(user, deque()).append(granted)

        def leave() -> None:
            if granted in (queue := self._waiting.get(user, deque())):
                queue.remove(granted)
                if not queue:
                    del self._waiting[user]
            if not granted.done():
                granted.set_result(False)

        timer = None if timeout_ms is None else loop.call_later(timeout_ms / 1000, leave)
        try:
            if not await granted:
                raise TimeoutError
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.result():
                self.release(user)  # it was granted in this turn of the loop
            else:
                leave()
            raise
        finally:
            if timer is not None:
                timer.cancel()

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
                    granted.set_result(True)
                    break

    def is_crowded_out(self, user: str) -> bool:
        """Returns whether other users hold all slots."""
        return not self._free and not self._held[user]

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
        self._working: dict[Turn, str] = {}
        """The requests that have a place, each with its user, the oldest first."""
        self.places = FairQueue(options.heavy_requests, options.heavy_requests_per_user)
        self.steps = FairQueue(1, 1)
        self._worked = TimeSlice()
        problems.watch(lambda: {"work_refused": self._refused.total})

    def begin(self, user: str, route: str, abort: Callable[[], None]) -> Turn:
        """Returns the request's turns, to be closed when it has been answered.

        `abort` ends the request, which is then closed too. Raises HTTPError `busy` if too many wait already.
        """
        if self.places.try_acquire(user):
            turn = Turn(self, user, "held", route, abort)
            self._working[turn] = user
            return turn
        options = self._options
        if (
            self._waiting[user] >= options.heavy_waiting_per_user
            or self._waiting.total() >= options.heavy_waiting
        ):
            raise self._refusal(route)
        self._counters.heavy[route, "queued"] += 1
        self._waiting[user] += 1
        return Turn(self, user, "awaited", route, abort)

    async def wait_for_place(self, turn: Turn, user: str, route: str) -> None:
        """Waits for a place of the request that `begin` has let wait. Raises HTTPError `busy`."""

        def make_room() -> None:
            greatest = newest_of_greatest(self._working) if self.places.is_crowded_out(user) else None
            if greatest is not None:
                del self._working[greatest]  # now: it is closed in a later turn of the loop
                self._counters.heavy[greatest.route, "ended"] += 1
                greatest.abort()

        options, loop = self._options, asyncio.get_running_loop()
        timer = loop.call_later(options.heavy_yield_ms / 1000, make_room)
        try:
            await self.places.acquire(user, timeout_ms=options.heavy_wait_ms)
        except TimeoutError:
            raise self._refusal(route) from None
        finally:
            timer.cancel()
        self._working[turn] = user
        self.no_longer_waits(user)

    def give_back(self, turn: Turn, user: str) -> None:
        """Returns the place of a request that has been answered or ended."""
        self._working.pop(turn, None)
        self.places.release(user)

    def _refusal(self, route: str) -> HTTPError:
        self._counters.heavy[route, "refused"] += 1
        self._refused.note()
        sentence = "Too many expensive requests at the moment; they are answered one after the other"
        return HTTPError("busy", sentence, headers=_RETRY_AFTER)

    def step(self, user: str) -> Turn:
        """Returns turns for work that needs no place: it makes what is kept for others, too."""
        return Turn(self, user, "none", "", lambda: None)

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

    def __init__(
        self,
        turns: Turns,
        user: str,
        place: Literal["awaited", "held", "none"],
        route: str,
        abort: Callable[[], None],
    ) -> None:
        super().__init__()
        self.route = route
        self.abort = abort
        self._turns = turns
        self._user = user
        self._place = place
        self._running = False

    async def __aenter__(self) -> Turn:
        if self._place == "awaited":
            try:
                await self._turns.wait_for_place(self, self._user, self.route)
            except HTTPError:
                self.close()  # so that the error itself is sent without a place
                raise
            self._place = "held"
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
            self._turns.give_back(self, self._user)
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
