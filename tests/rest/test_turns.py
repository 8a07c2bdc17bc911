"""Expensive requests take turns by user, in a bounded number, and small answers go on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial

import httpx
import pytest

from ptn_api.http.body import body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.response import Response
from ptn_api.problems import ProblemRegister
from ptn_api.rest import about
from ptn_api.rest.context import AppContext, Heavy, RequestContext
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.options import RestOptions
from ptn_api.rest.routes import Route
from ptn_api.rest.turns import FairQueue, Turn, Turns
from ptn_api.tasks import TimeSlice
from ptn_api.wire.about import Health
from tests.rest.serving import Served, serving
from tests.waiting import PATIENCE_S, until_async

NEVER_MS = 3_600_000


def aborted(user: str) -> Callable[[], None]:
    """What must not be called."""

    def abort() -> None:
        raise AssertionError(f"a request of {user} was ended")

    return abort


# --- the queue --------------------------------------------------------------------------------------------


async def granted_order(queue: FairQueue, users: str) -> list[str]:
    """In which order waiting users get the slots, each of which is given back at once."""
    order: list[str] = []

    async def wait(user: str) -> None:
        await queue.acquire(user)
        order.append(user)
        await asyncio.sleep(0)
        queue.release(user)

    waiting = [asyncio.create_task(wait(user)) for user in users]
    await asyncio.sleep(0)
    queue.release("x")
    await asyncio.gather(*waiting)
    return order


async def test_users_are_granted_slots_in_turn() -> None:
    """However many requests one of them has, and had first."""
    queue = FairQueue(1, 1)
    assert queue.try_acquire("x")
    assert await granted_order(queue, "aaaabbc") == ["a", "b", "c", "a", "b", "a", "a"]


async def test_a_user_has_so_many_slots_at_most() -> None:
    """The others stay free for other users."""
    queue = FairQueue(3, 2)
    assert [queue.try_acquire(user) for user in "aaabb"] == [True, True, False, True, False]
    queue.release("a")
    assert queue.try_acquire("b")


async def test_who_is_cancelled_leaves_the_queue() -> None:
    """Whether it waited, or was granted the slot in the same turn of the loop; no slot is lost."""
    queue = FairQueue(1, 1)
    assert queue.try_acquire("x")
    waiting = [asyncio.create_task(queue.acquire(user)) for user in "aab"]
    await asyncio.sleep(0)
    waiting[0].cancel()
    queue.release("x")  # before the cancelled task has run
    await asyncio.wait({waiting[1]}, timeout=PATIENCE_S)
    queue.release("a")
    waiting[2].cancel()  # after it was granted, before it has run
    await asyncio.wait(waiting, timeout=PATIENCE_S)
    assert [task.cancelled() for task in waiting] == [True, False, True]
    assert queue.try_acquire("c")


async def test_waiting_and_refused_requests_are_counted_by_route() -> None:
    """Until they are closed they count towards the limit; one that has a place at once is not counted."""
    options = RestOptions(heavy_requests_per_user=1, heavy_waiting_per_user=1)
    counters, problems = RestCounters(), ProblemRegister()
    turns = Turns(options, counters, problems, lambda: 1_000)
    first, second = turns.begin("a", "/one", aborted("a")), turns.begin("a", "/two", aborted("a"))
    assert problems.look() == {}
    with pytest.raises(HTTPError, match="expensive") as refused:
        turns.begin("a", "/two", aborted("a"))
    assert (refused.value.status, refused.value.code) == (503, "busy")
    turns.begin("b", "/one", aborted("b"))
    assert counters.heavy == {("/two", "queued"): 1, ("/two", "refused"): 1}
    assert [*problems.look()] == ["work_refused"]
    second.close()
    second.close()
    third = turns.begin("a", "/two", aborted("a"))
    first.close()
    async with third:
        assert turns.begin("a", "/two", aborted("a")) is not None


async def test_a_slot_is_awaited_for_a_limited_time() -> None:
    """Whoever is next in the queue keeps the place in it; no slot is lost."""
    queue = FairQueue(1, 1)
    assert queue.try_acquire("x")
    with pytest.raises(TimeoutError):
        await queue.acquire("a", timeout_ms=1)
    waiting = asyncio.create_task(queue.acquire("b", timeout_ms=NEVER_MS))
    with pytest.raises(TimeoutError):
        await queue.acquire("b", timeout_ms=1)
    queue.release("x")
    await waiting
    queue.release("b")
    assert queue.try_acquire("c")


async def test_a_place_is_awaited_for_a_limited_time() -> None:
    """Then the response is a 503, which is counted; the request no longer counts as waiting."""
    options = RestOptions(heavy_requests_per_user=1, heavy_waiting_per_user=1, heavy_wait_ms=1)
    counters, problems = RestCounters(), ProblemRegister()
    turns = Turns(options, counters, problems, lambda: 1_000)
    first = turns.begin("a", "/one", aborted("a"))
    for _ in range(2):
        second = turns.begin("a", "/two", aborted("a"))
        with pytest.raises(HTTPError, match="expensive") as refused:
            await second.__aenter__()
        assert (refused.value.status, refused.value.code) == (503, "busy")
        second.close()
    assert counters.heavy == {("/two", "queued"): 2, ("/two", "refused"): 2}
    assert [*problems.look()] == ["work_refused"]
    first.close()
    async with turns.begin("a", "/two", aborted("a")):
        pass


async def test_the_user_with_the_most_places_gives_way() -> None:
    """Its newest request is ended for a user without any who has waited; nobody's only one is."""
    options = RestOptions(heavy_requests=4, heavy_requests_per_user=2, heavy_yield_ms=1)
    counters = RestCounters()
    turns = Turns(options, counters, ProblemRegister(), lambda: 1_000)
    held: dict[str, Turn] = {}

    def begin(name: str) -> Turn:
        def abort() -> None:
            ended.append(name)
            held.pop(name).close()

        held[name] = turns.begin(name[0], f"/{name}", abort)
        return held[name]

    async def work(name: str) -> None:
        async with begin(name):
            pass

    ended: list[str] = []
    for name in ("a1", "a2", "b1", "b2"):
        begin(name)
    for name in ("c1", "d1"):
        await work(name)
    assert ended == ["a2", "b2"]
    last, more = asyncio.create_task(work("e1")), asyncio.create_task(work("a3"))
    _, pending = await asyncio.wait({last, more}, timeout=0.05)
    assert pending == {last, more}
    assert ended == ["a2", "b2"]
    assert counters.heavy["/b2", "ended"] == 1
    held.pop("b1").close()
    await last
    held.pop("c1").close()
    await more


async def test_between_two_steps_others_have_several_turns_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new connection takes several until its response. Meanwhile no other expensive request works."""
    monkeypatch.setattr("ptn_api.tasks.SLICE_S", 0)
    monkeypatch.setattr("ptn_api.tasks._IDLE_TURN_S", 0)  # each turn counts as busy
    monkeypatch.setattr("ptn_api.tasks._OTHERS_S", 0.01)
    turns = Turns(RestOptions(), RestCounters(), ProblemRegister(), lambda: 1_000)
    events: list[str] = []

    async def work(user: str) -> None:
        async with turns.begin(user, "/one", aborted(user)) as turn:
            for _ in range(3):
                events.append("step")
                await turn.yield_if_due()

    async def connect() -> None:
        while True:
            await asyncio.sleep(0)
            events.append("other")

    connecting = asyncio.create_task(connect())
    await asyncio.gather(work("a"), work("a"), work("b"))
    connecting.cancel()
    text = "".join(event[0] for event in events)
    assert text.count("s") == 9
    assert "ss" not in text
    assert min(len(others) for others in text.split("s")[1:-1]) >= 3


async def test_who_is_cancelled_between_two_steps_passes_the_turn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptn_api.tasks.SLICE_S", 0)
    monkeypatch.setattr("ptn_api.tasks._IDLE_TURN_S", 0)
    monkeypatch.setattr("ptn_api.tasks._OTHERS_S", PATIENCE_S)
    turns = Turns(RestOptions(), RestCounters(), ProblemRegister(), lambda: 1_000)

    async def work() -> None:
        async with turns.begin("a", "/one", aborted("a")):
            pass

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not turns.steps.try_acquire("b")
    working.cancel()
    await asyncio.wait({working})
    assert turns.steps.try_acquire("b")


# --- the server -------------------------------------------------------------------------------------------


class Work:
    """A route whose expensive requests go on until they are told to end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = asyncio.Event()

    def handler(self, app: AppContext, request: RequestContext) -> Heavy:
        return Heavy(partial(self._work, request))

    async def _work(self, request: RequestContext, time_slice: TimeSlice) -> Response:
        assert request.holder is not None
        self.begun.append(request.holder.alias)
        while not self.may_end.is_set():
            await asyncio.sleep(0.001)
            await time_slice.yield_if_due()
        return Response(body_of(b'"done"'))


@contextlib.asynccontextmanager
async def working(monkeypatch: pytest.MonkeyPatch, **options: int) -> AsyncIterator[tuple[Served, Work]]:
    work = Work()
    routes = (
        Route("/heavy", work.handler, "Is expensive", str),
        Route("/me", about.me, "Is small", str),
        Route("/health", about.health, "Is small", Health, access="anyone", query=about.HealthQuery),
    )
    monkeypatch.setattr("ptn_api.rest.run.ROUTES", routes)
    async with serving(**options) as served:
        yield served, work
        work.may_end.set()


def ask(served: Served, key: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(served.get("/heavy", key))


async def test_too_many_requests_of_a_user_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 503, code and Retry-After. Other users' are worked on, and small answers are sent to all."""
    limits = {"heavy_requests_per_user": 1, "heavy_waiting_per_user": 2}
    async with working(monkeypatch, **limits) as (served, work):
        mine = [ask(served, "k100") for _ in range(5)]
        await until_async(lambda: sum(request.done() for request in mine) == 2)
        assert work.begun == ["user100"]
        for refused in (request.result() for request in mine if request.done()):
            assert (refused.status_code, refused.json()["code"]) == (503, "busy")
            assert int(refused.headers["retry-after"]) > 0
        other = ask(served, "k50")
        await until_async(lambda: work.begun == ["user100", "user50"])
        assert (await served.get("/me", "k100")).status_code == 200
        health = (await served.get("/health", None)).json()
        assert health["problems"] == ["work_refused"]
        work.may_end.set()
        answers = await asyncio.gather(*mine, other)
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 2
        served.monotonic.now_ms += 60_000
        assert (await served.get("/health", None)).json()["problems"] == []


async def test_all_users_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the number that is worked on, and in the number that waits."""
    async with working(monkeypatch, heavy_requests=1, heavy_waiting=0) as (served, work):
        first = ask(served, "k50")
        await until_async(lambda: work.begun == ["user50"])
        assert (await served.get("/heavy", "k100")).status_code == 503
        work.may_end.set()
        assert (await first).status_code == 200
        assert (await served.get("/heavy", "k100")).status_code == 200


async def test_who_disconnects_gives_the_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is worked on and while it waits."""
    async with working(monkeypatch, heavy_requests_per_user=1) as (served, work):
        lost = [ask(served, "k100"), ask(served, "k100")]
        await until_async(lambda: len(work.begun) == 1)
        for request in reversed(lost):
            request.cancel()
        await asyncio.gather(*lost, return_exceptions=True)
        last = ask(served, "k100")
        await until_async(lambda: len(work.begun) >= 2)
        work.may_end.set()
        assert (await last).json() == "done"


async def test_users_who_read_slowly_keep_no_other_user_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all places taken, the newest request of the user with the most is ended for one with none."""
    limits = {"heavy_requests": 3, "heavy_requests_per_user": 2, "heavy_yield_ms": 20}
    async with working(monkeypatch, **limits) as (served, work):
        slow = [ask(served, "k50"), ask(served, "k50"), ask(served, "k30")]
        await until_async(lambda: len(work.begun) == 3)
        mine = ask(served, "k100")
        await until_async(lambda: work.begun[-1] == "user100")
        (ended,), _ = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(ended.exception(), httpx.TransportError)
        assert ended in slow[:2]
        work.may_end.set()
        assert (await mine).status_code == 200
        assert [(await request).status_code for request in slow if request is not ended] == [200, 200]


async def test_a_request_that_waits_too_long_gets_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Retry-After."""
    async with working(monkeypatch, heavy_requests_per_user=1, heavy_wait_ms=20) as (served, work):
        first = ask(served, "k100")
        await until_async(lambda: len(work.begun) == 1)
        refused = await ask(served, "k100")
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) > 0
        work.may_end.set()
        assert (await first).status_code == 200
