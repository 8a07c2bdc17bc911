"""Whose turn it is to write: the rules, and two machines with the same validator's files."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from ptn_api.cluster.broker import Beat
from ptn_api.cluster.chain import Tip
from ptn_api.cluster.commit import decode_part, decode_rows
from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.cluster.turns import TurnKeeper, Turns, request_takeover
from ptn_api.cluster.writer import ClusterWriter
from ptn_api.errors import BrokerError, LogFencedError, LogUnwritableError, SettingsError
from ptn_api.event_log import Change, Head, PositionWritten
from ptn_api.event_log.database import log_path
from tests.cluster.machines import content, machine
from tests.cluster.memory_broker import MemoryBroker
from tests.factories import T0, order, position, uuid, written
from tests.intake.running import NEVER_MS, Intake, running
from tests.intake.validator_dir import ValidatorDir
from tests.waiting import until_async

OWN, OTHER, THIRD = b"own", b"other", b"third"
TAKEOVER_MS, BEAT_MS = 5_000, 1_000


def turns(**options: Any) -> Turns:
    return Turns(OWN, takeover_ms=TAKEOVER_MS, beat_ms=BEAT_MS, now_ms=0, **options)


def tip(term: int, writer: bytes, index: int = 1) -> Tip:
    return Tip(index, b"commit%d" % index, term, writer)


def beat(writer: bytes, term: int, *, active: bool = True, leaving: bool = False) -> Beat:
    return Beat(writer=writer, term=term, index=1, active=active, leaving=leaving)


def first_due(state: Turns, start_ms: int, *, beats_until: int = 0, by: bytes = OTHER) -> int:
    """When this machine takes over, at the earliest; it hears itself, and another one for some time."""
    for now_ms in range(start_ms, start_ms + 60_000, 100):
        if now_ms % BEAT_MS == 0:
            state.hear(state.beat(), now_ms)
            if now_ms <= beats_until:
                state.hear(beat(by, 1), now_ms)
        if state.due(now_ms):
            return now_ms
    raise AssertionError("never due")


# --- the rules --------------------------------------------------------------------------------------------


def test_a_standby_takes_over_after_silence() -> None:
    state = turns()
    state.see(tip(1, OTHER), 0)
    assert first_due(state, 0, beats_until=20_000) == 25_000


def test_a_commit_is_a_sign_of_life() -> None:
    """Beats may be lost while the stream works."""
    state = turns()
    state.see(tip(1, OTHER), 0)
    for now_ms in range(0, 20_001, BEAT_MS):
        state.hear(state.beat(), now_ms)
        state.see(tip(1, OTHER, index=now_ms), now_ms)
        assert not state.due(now_ms)
    assert first_due(state, 20_100) == 25_000


def test_a_new_cluster_has_no_turn_to_wait_for() -> None:
    state = turns()
    assert state.due(0)
    state.see(tip(1, OTHER), 0)
    assert not state.due(0)


def test_a_machine_resumes_its_own_turn() -> None:
    """After a restart of the process; its predecessor is certainly gone."""
    state = turns(former=OTHER)
    state.see(tip(7, OTHER), 0)
    assert state.due(0)
    state.see(tip(8, THIRD), 0)
    assert not state.due(0)


def test_leaving_hands_over_at_once() -> None:
    state = turns()
    state.see(tip(3, OTHER), 0)
    state.hear(beat(OTHER, 3, active=False, leaving=True), 10)
    assert state.due(10)
    state.see(tip(4, THIRD, index=2), 20)  # another one was faster
    assert not state.due(20)


def test_leaving_is_heard_before_the_last_commits() -> None:
    """The copy may lag; the end of a later term is not the end of this machine's."""
    state = turns()
    state.see(tip(3, OTHER), 0)
    state.hear(beat(OTHER, 4, active=False, leaving=True), 10)
    state.see(tip(4, OTHER, index=2), 20)
    assert state.due(20)


def test_a_former_active_machine_is_not_heard() -> None:
    """It has been suspended, and does not know of its successor yet."""
    state = turns()
    state.see(tip(4, THIRD), 0)
    for now_ms in range(0, 5_000, BEAT_MS):
        state.hear(state.beat(), now_ms)
        state.hear(beat(OTHER, 3), now_ms)
        state.hear(beat(OTHER, 3, active=False, leaving=True), now_ms)
        assert not state.due(now_ms)
    assert first_due(state, 5_000) == 5_000


def test_a_machine_that_hears_nothing_waits() -> None:
    """It was suspended or cut off: what it has not heard, the active one may have sent."""
    state = turns()
    state.see(tip(1, OTHER), 0)
    state.hear(state.beat(), 0)
    assert not state.due(60_000)
    assert first_due(state, 60_000, beats_until=70_000) == 75_000


def test_the_operator_decides() -> None:
    state = turns()
    state.see(tip(1, OTHER), 0)
    state.hear(state.beat(), 0)
    state.hear(beat(OTHER, 1), 0)
    assert not state.due(0)
    state.request()
    assert state.due(0)
    state.see(tip(2, OWN, index=2), 0)
    state.see(tip(3, OTHER, index=3), 0)
    assert not state.due(0)  # the request is done
    state.request()
    assert state.due(0)
    state.request(False)
    assert not state.due(0)


def test_a_machine_that_left_returns_if_nobody_follows() -> None:
    state = turns()
    state.see(tip(1, OWN), 0)
    assert state.beat() == Beat(writer=OWN, term=1, index=1, active=True)
    state.hear(state.beat(), 0)
    assert state.leave(10_000).leaving
    assert state.beat() == Beat(writer=OWN, term=1, index=1, active=False)
    assert first_due(state, 10_000) == 15_000
    state.see(tip(2, OWN, index=2), 15_000)
    assert state.active


def test_every_short_history() -> None:
    """Each sequence of seven events, a second apart, against the rules as a sentence each.

    Due: not active, and either the term is over, or for three seconds without any sign of life this machine
    has heard itself.
    """
    events = ("own beat", "beat", "stale beat", "commit", "own commit", "leaving", "nothing")
    for history in itertools.product(events, repeat=5):
        state = Turns(OWN, takeover_ms=3_000, beat_ms=1_000, now_ms=0)
        state.see(tip(2, OTHER), 0)
        term, writer, over = 2, OTHER, 0
        sign = echo = 0
        for index, event in enumerate(history, 2):
            now = 1_000 * (index - 1)
            if event == "own beat":
                state.hear(beat(OWN, term, active=writer == OWN), now)
                echo = now
            elif event == "beat":
                state.hear(beat(OTHER, term), now)
                sign = now
            elif event == "stale beat":
                state.hear(beat(THIRD, term - 1), now)
            elif event == "commit":
                if writer == OWN:
                    term += 1
                writer, sign = OTHER, now
                state.see(tip(term, writer, index), now)
            elif event == "own commit":
                if writer != OWN:
                    term += 1
                writer, sign = OWN, now
                state.see(tip(term, writer, index), now)
            elif event == "leaving":
                state.hear(beat(OTHER, term, active=False, leaving=True), now)
                over = term
            if writer != OWN and now - echo > 3_000:
                sign = now
            expected = writer != OWN and (term <= over or now - sign >= 3_000)
            assert state.due(now) == expected, (history, index)
            assert state.active == (writer == OWN)


# --- two machines -----------------------------------------------------------------------------------------


class Line:
    """One machine's connection to the broker, which may be cut."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        if self.cut:
            if name in ("announce", "wait"):
                return lambda *_: None
            raise BrokerError("cut off")
        return getattr(self._broker, name)

    def listen(self, heard: Callable[[Beat], None]) -> None:
        self._broker.listen(lambda beat: None if self.cut else heard(beat))


class Machine(NamedTuple):
    """A running intake that shares its log, with short periods."""

    log: ClusterWriter
    keeper: TurnKeeper
    intake: Intake
    line: Line


@contextlib.asynccontextmanager
async def started(
    folder: Path, broker: MemoryBroker, validator: ValidatorDir, *, takeover_ms: int = NEVER_MS
) -> AsyncIterator[Machine]:
    line: Any = Line(broker)
    log = machine(folder, line)
    keeper = TurnKeeper(log, line, folder, takeover_ms=takeover_ms, beat_ms=50)
    stop = threading.Event()
    following = threading.Thread(target=log.run, args=(stop,))
    following.start()
    keeping = asyncio.create_task(keeper.run())
    try:
        async with running(folder, validator, log=log, turn=keeper) as intake:
            try:
                yield Machine(log, keeper, intake, line)
            finally:
                stop.set()
                await asyncio.to_thread(following.join)
                await keeper.leave()
    finally:
        keeping.cancel()
        stop.set()
        await asyncio.gather(keeping, return_exceptions=True)


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    found(broker, T0)
    return broker


@pytest.fixture
def validator(tmp_path: Path) -> ValidatorDir:
    validator = ValidatorDir(tmp_path / "validator")
    for number in range(1, 6):
        validator.write(position(number, [order(number, at=T0)]))
    validator.document("validation/eliminations.json", b'{"eliminations": []}')
    return validator


def place(validator: ValidatorDir, number: int) -> str:
    """A new order in a new position; returns its uuid."""
    validator.write(position(number, [order(number, at=T0 + number)]))
    return uuid(1000 + number)


def gone(file: Path) -> bool:
    return not file.exists()


async def until_active(keeper: TurnKeeper) -> None:
    await until_async(lambda: keeper.active, what="the take-over")


async def until_placed(machine: Machine, orders: list[str]) -> None:
    await until_async(lambda: sorted(machine.intake.announced()) == sorted(orders), what="the orders")


async def test_a_standby_takes_over_and_appends_only_what_differs(
    tmp_path: Path, broker: MemoryBroker, validator: ValidatorDir
) -> None:
    """Everything that was equal is known before; the first order is written as soon as its turn begins."""
    async with started(tmp_path / "a", broker, validator) as a:
        assert a.keeper.active
        async with started(tmp_path / "b", broker, validator, takeover_ms=1_000) as b:
            placed = [place(validator, 10)]
            await until_async(lambda: b.intake.announced() == placed, what="the first order")
            await until_async(lambda: all(b.log.fingerprints().values()), what="the comparison")
            before = len(broker.entries)
            a.line.cut = True
            await until_active(b.keeper)
            placed.append(place(validator, 11))
            await until_async(lambda: b.intake.announced() == placed, what="the second order")
            await b.intake.swept()
            a.line.cut = False
            with pytest.raises(LogFencedError):
                a.log.append([written(position(12, [order(12)]))], T0)
            await until_placed(a, placed)
            tables = {
                name
                for entry in broker.entries[before:]
                for name, *_ in decode_rows([decode_part(entry.payload).body])
            }
            assert tables == {"log", "positions", "orders", "events", "seen"}
            copy = open_copy(tmp_path / "copy", broker, Copy)
            copy.confirm()
            assert [event.order_uuid for event in copy.read(copy.floor() - 1, 10)] == placed
            copy.close()


async def test_turns_go_back_and_forth(tmp_path: Path, broker: MemoryBroker, validator: ValidatorDir) -> None:
    """On the operator's request: each order once, in one order, on both machines."""
    placed: list[str] = []
    async with (
        started(tmp_path / "a", broker, validator) as a,
        started(tmp_path / "b", broker, validator) as b,
    ):
        for number, name in enumerate("baba", 10):
            placed.append(place(validator, number))
            request_takeover(tmp_path / name)
            request = tmp_path / name / "takeover"
            await until_async(partial(gone, request), what="the take-over")
            placed.append(place(validator, 10 + number))
            for each in (a, b):
                await until_placed(each, placed)
        assert sorted(a.intake.announced()) == sorted(placed)
        assert a.intake.announced() == b.intake.announced()
        assert a.log.term == 5


async def test_an_orderly_stop_hands_over_at_once(
    tmp_path: Path, broker: MemoryBroker, validator: ValidatorDir
) -> None:
    """The standby does not wait for silence; without the beat it would wait for an hour."""
    async with contextlib.AsyncExitStack() as stack:
        async with started(tmp_path / "a", broker, validator):
            b = await stack.enter_async_context(started(tmp_path / "b", broker, validator))
        await until_async(lambda: b.keeper.active, what="the take-over")
        placed = place(validator, 10)
        await until_async(lambda: b.intake.announced() == [placed], what="the order")
    assert content(tmp_path / "b")["positions"]


async def test_a_restarted_machine_resumes_at_once(
    tmp_path: Path, broker: MemoryBroker, validator: ValidatorDir
) -> None:
    """Unless another one has taken over since; its predecessor did not say that it leaves."""
    async with started(tmp_path / "a", broker, validator):
        broker.silent = True
    broker.silent = False
    async with contextlib.AsyncExitStack() as stack:
        b = await stack.enter_async_context(started(tmp_path / "b", broker, validator))
        async with started(tmp_path / "a", broker, validator) as a:
            await until_active(a.keeper)
            request_takeover(tmp_path / "b")
            await until_active(b.keeper)
            broker.silent = True
        broker.silent = False
        async with started(tmp_path / "a", broker, validator) as a:
            placed = place(validator, 10)
            await until_placed(a, [placed])
            assert b.keeper.active
            assert a.log.term == 3


async def test_two_new_machines_at_once(
    tmp_path: Path, broker: MemoryBroker, validator: ValidatorDir
) -> None:
    """One takes the baseline, the other has it."""
    async with contextlib.AsyncExitStack() as stack:
        a, b = await asyncio.gather(
            *(stack.enter_async_context(started(tmp_path / name, broker, validator)) for name in "ab")
        )
        assert a.keeper.active != b.keeper.active
        placed = place(validator, 10)
        for each in (a, b):
            await until_placed(each, [placed])
        assert a.log.head() == b.log.head()


async def test_a_request_ends_with_its_command(tmp_path: Path, broker: MemoryBroker) -> None:
    """One that has failed does not take over later, from a machine that was chosen meanwhile."""
    first, second = machine(tmp_path / "a", broker), machine(tmp_path / "b", broker)
    first.take_over()
    broker.down = True
    keeper = TurnKeeper(second, broker, tmp_path / "b", takeover_ms=NEVER_MS, beat_ms=10)
    request = request_takeover(tmp_path / "b")
    with capture_logs() as logs:
        keeping = asyncio.create_task(keeper.run())
        await until_async(lambda: logs, what="the first attempt")
        request.unlink()
        looks = count_calls(keeper, "_note")
        await until_async(lambda: looks() > 10, what="more beats")
        broker.down = False
        looks = count_calls(keeper, "_note")
        await until_async(lambda: looks() > 10, what="more beats")
    assert first.follow() == 0
    assert first.active
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    first.close()
    second.close()


def count_calls(owner: Any, name: str) -> Callable[[], int]:
    """Counts the calls of a method from now on."""
    method, count = getattr(owner, name), itertools.count()
    calls = [next(count)]

    def counted(*arguments: Any) -> Any:
        calls[0] = next(count)
        return method(*arguments)

    setattr(owner, name, counted)
    return lambda: calls[0]


async def test_a_damaged_standby_waits_for_its_repair(tmp_path: Path, broker: MemoryBroker) -> None:
    """What makes its copy differ is damage, which is repaired; then it takes over."""
    first, second = machine(tmp_path / "a", broker), machine(tmp_path / "b", broker)
    first.take_over()
    first.baseline([], T0)
    second.follow()
    with contextlib.closing(sqlite3.connect(log_path(tmp_path / "b"))) as db:
        db.execute("UPDATE log SET sequence = 7")
        db.commit()
    first.append([written(position(1, [order(1)]))], T0)
    request_takeover(tmp_path / "b")
    keeper = TurnKeeper(second, broker, tmp_path / "b", takeover_ms=NEVER_MS, beat_ms=10)
    with capture_logs() as logs:
        keeping = asyncio.create_task(keeper.run())
        await until_async(lambda: keeping.done() or logs, what="the first attempt")
        assert not keeping.done()
        second.repair()
        await until_active(keeper)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    first.close()
    second.close()


async def test_a_full_disk_hands_over(
    tmp_path: Path, broker: MemoryBroker, validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other machine writes what this one could not."""
    async with (
        started(tmp_path / "a", broker, validator, takeover_ms=300) as a,
        started(tmp_path / "b", broker, validator) as b,
    ):
        full = threading.Event()
        committed = a.log.committed

        def refuse(db: Any) -> Any:
            if full.is_set():
                raise LogUnwritableError("disk full")
            return committed(db)

        monkeypatch.setattr(a.log, "committed", refuse)
        full.set()
        placed = place(validator, 10)
        await until_async(lambda: b.keeper.active, what="the take-over")
        await until_async(lambda: b.intake.announced() == [placed], what="the order")
        full.clear()
        await until_async(lambda: a.intake.announced() == [placed], what="the copy")
        assert not a.keeper.active


async def test_while_standing_by_nothing_is_published(
    tmp_path: Path, broker: MemoryBroker, validator: ValidatorDir
) -> None:
    """A machine whose validator differs keeps its own orders for its turn, and only those."""
    other = ValidatorDir(tmp_path / "other")
    for number in range(1, 5):
        other.write(position(number, [order(number, at=T0)], note="another refresh"))
    async with (
        started(tmp_path / "a", broker, validator),
        started(tmp_path / "b", broker, other) as b,
    ):
        kept = place(other, 20)
        await b.intake.swept(3)
        assert b.intake.announced() == []
        request_takeover(tmp_path / "b")
        await until_async(lambda: b.intake.announced() == [kept], what="its order")
        await until_async(
            lambda: all("another refresh" in text for text in texts(b.intake)), what="its own texts"
        )


async def test_what_differed_is_written_when_the_turn_begins(
    tmp_path: Path, broker: MemoryBroker, validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a new text of a position whose former one was equal to the log's, and nobody has written."""
    async with (
        started(tmp_path / "a", broker, validator) as a,
        started(tmp_path / "b", broker, validator) as b,
    ):
        await until_async(lambda: all(b.log.fingerprints().values()), what="the comparison")
        refused: list[str] = []
        append = b.log.append

        def noting(changes: Iterable[Change], now_ms: int) -> Head:
            changes = list(changes)
            try:
                return append(changes, now_ms)
            except LogFencedError:
                refused.extend(c.position.position_uuid for c in changes if isinstance(c, PositionWritten))
                raise

        monkeypatch.setattr(b.log, "append", noting)
        a.line.cut = True
        validator.write(position(1, [order(1, at=T0)], note="another refresh"))
        await until_async(lambda: refused.count(uuid(1)) > 1, what="the comparison of the new text")
        request_takeover(tmp_path / "b")
        await until_async(
            lambda: any("another refresh" in text for text in texts(b.intake)), what="the new text"
        )


def texts(intake: Intake) -> list[str]:
    """The positions that both validators have."""
    return [str(text) for (_, key), text in intake.state().items() if key in {uuid(n) for n in range(1, 5)}]


def test_a_request_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        request_takeover(tmp_path / "missing")
