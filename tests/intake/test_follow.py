"""Changes in the validator's directory reach the log: at once by the watch, or else by the sweep."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ptn_api import file_version
from ptn_api.event_log.contract import Change, Document, EventLogWriter, Head, PositionWritten
from ptn_api.intake import position_files, scan
from ptn_api.intake.scan import DirectoryScanner
from ptn_api.intake.watch import FsEvent, InotifyWatch, NullWatch
from tests.factories import EURUSD, MINER, OTHER_MINER, T0, order, position, uuid
from tests.intake.running import NEVER_MS, WATCH_ALONE, running
from tests.intake.validator_dir import ValidatorDir
from tests.waiting import PATIENCE_S


async def test_existing_positions_are_the_baseline(validator: ValidatorDir, data: Path) -> None:
    """Old orders become state and are not announced. The list of miners is complete at once."""
    body = position(1, [order(1), order(2)])
    validator.write(body)
    (validator.miners / OTHER_MINER).mkdir()
    async with running(data, validator) as intake:
        assert intake.state() == {(MINER, uuid(1)): body}
        assert intake.events() == []
        assert json.loads(intake.log.document(Document.MINERS) or b"") == sorted([MINER, OTHER_MINER])


async def test_an_order_younger_than_the_log_is_announced_from_the_baseline(
    validator: ValidatorDir, data: Path
) -> None:
    """An order that is placed while the first scan runs is news."""
    validator.write(position(1, [order(1), order(2, at=2**50)]))
    async with running(data, validator) as intake:
        assert intake.announced() == [order(2)["order_uuid"]]


async def test_the_watch_alone_sees_a_new_order(validator: ValidatorDir, data: Path) -> None:
    """An order in a replaced file needs no sweep."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator, **WATCH_ALONE) as intake:
        validator.write(position(1, [order(1), order(2)]))
        await intake.until(lambda: intake.announced() == [order(2)["order_uuid"]])


async def test_first_orders_in_new_folders_are_announced(validator: ValidatorDir, data: Path) -> None:
    """By the watch alone, even if folder and file appear together."""
    async with running(data, validator, **WATCH_ALONE) as intake:
        for n in range(100):
            validator.write(position(n, [order(n)], miner=f"miner{n}"))
            if n % 7 == 0:
                await asyncio.sleep(0)
        await intake.until(lambda: len(intake.events()) == 100)
        assert json.loads(intake.log.document(Document.MINERS) or b"") == sorted(
            f"miner{n}" for n in range(100)
        )


async def test_a_tree_moved_into_place_is_read(validator: ValidatorDir, data: Path, tmp_path: Path) -> None:
    """One rename brings a miner with all positions."""
    other = ValidatorDir(tmp_path / "elsewhere")
    for n in range(20):
        other.write(position(n, [order(n)], trade_pair=EURUSD if n % 2 else ["X", "X/Y", 1, 1, 1]))
    async with running(data, validator, **WATCH_ALONE) as intake:
        os.rename(other.miners / MINER, validator.miners / MINER)
        await intake.until(lambda: len(intake.events()) == 20)


async def test_orders_in_rapid_succession_are_all_announced(validator: ValidatorDir, data: Path) -> None:
    """Several versions before the first is read: every order once, in list order."""
    async with running(data, validator, **WATCH_ALONE) as intake:
        for n in range(1, 6):
            validator.write(position(1, [order(k) for k in range(1, n + 1)]))
        await intake.until(lambda: len(intake.events()) == 5)
        assert intake.announced() == [order(n)["order_uuid"] for n in range(1, 6)]


async def test_refreshes_and_corrections_change_the_state_only(validator: ValidatorDir, data: Path) -> None:
    """Refreshed returns or a corrected price make a revision and no event."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator, **WATCH_ALONE) as intake:
        before = intake.log.head()
        corrected = position(1, [order(1, price=99.5)], current_return=1.02)
        validator.write(corrected)
        await intake.until(lambda: intake.state()[MINER, uuid(1)] == corrected)
        assert intake.log.head().revision > before.revision
        assert intake.events() == []


class BlockedLog:
    """A log that blocks in append once `armed`, until released, and records these appends."""

    def __init__(self, log: EventLogWriter) -> None:
        self._log = log
        self.armed = False
        self.released = threading.Event()
        self.appended: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        changes = list(changes)
        if self.armed:
            self.released.wait(PATIENCE_S)
            positions = [change for change in changes if isinstance(change, PositionWritten)]
            self.appended.append([change.position.position_uuid for change in positions])
        return self._log.append(changes, now_ms)


class CountingWatch(InotifyWatch):
    """inotify that counts its events by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    async def events(self) -> AsyncIterator[FsEvent | None]:
        async for event in super().events():
            yield event
            # Counted when the next one is requested: this one has been taken.
            self.seen[event.name if event else ""] += 1


async def test_an_order_does_not_wait_for_hundreds_of_refreshes(validator: ValidatorDir, data: Path) -> None:
    """Though seen last, the order is appended with few of them; and every refresh arrives."""
    for n in range(300):
        validator.write(position(n, [order(n)]))
    logs: list[BlockedLog] = []

    def blocked(log: EventLogWriter) -> EventLogWriter:
        logs.append(BlockedLog(log))
        return logs[0]  # type: ignore[return-value]

    watch = CountingWatch()
    async with running(data, validator, wrap=blocked, watch=watch, **WATCH_ALONE) as intake:
        logs[0].armed = True
        for n in range(300):
            validator.write(position(n, [order(n)], current_return=1.02))
            await asyncio.sleep(0)
        validator.write(position(299, [order(299), order(400)]))
        await intake.until(lambda: watch.seen[uuid(299)] >= 2)
        logs[0].released.set()
        await intake.until(lambda: intake.announced() == [order(400)["order_uuid"]])
        await intake.until(
            lambda: all(
                body["current_return"] == (1.01 if key[1] == uuid(299) else 1.02)
                for key, body in intake.state().items()
            )
        )
    before = next(i for i, uuids in enumerate(logs[0].appended) if uuid(299) in uuids)
    assert sum(map(len, logs[0].appended[: before + 1])) < 150


async def test_an_unchanged_rewrite_changes_nothing(validator: ValidatorDir, data: Path) -> None:
    """The same text in a new file makes no revision."""
    body = position(1, [order(1)])
    validator.write(body)
    async with running(data, validator) as intake:
        before = intake.log.head()
        validator.write(body)
        await intake.swept(4)
        assert intake.log.head() == before


async def test_closing_is_not_a_removal(validator: ValidatorDir, data: Path) -> None:
    """open/ is deleted first and closed/ written later: one event, and no removal in between."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator, removal_confirm_ms=60_000) as intake:
        closed = position(1, [order(1), order(2, -0.1, order_type="FLAT")], closed=True)
        validator.delete(position(1, []), folder="open")
        await intake.swept()
        assert (MINER, uuid(1)) in intake.state()
        validator.write(closed)
        await intake.until(lambda: intake.state()[MINER, uuid(1)] == closed)
        assert intake.announced() == [order(2)["order_uuid"]]
        assert intake.log.removed(0) == []


async def test_closed_wins_over_open(validator: ValidatorDir, data: Path) -> None:
    """With a file in both folders, the closed one is served, even if the open one changes."""
    closed = position(1, [order(1), order(2, -0.1)], closed=True)
    validator.write(closed)
    validator.write(position(1, [order(1)]))
    async with running(data, validator) as intake:
        assert intake.state()[MINER, uuid(1)] == closed
        validator.write(position(1, [order(1)], current_return=1.5))
        await intake.swept(3)
        assert intake.state()[MINER, uuid(1)] == closed


async def test_the_open_file_counts_when_closed_is_gone(validator: ValidatorDir, data: Path) -> None:
    """A synchronisation may take back a close."""
    validator.write(position(1, [order(1), order(2, -0.1)], closed=True))
    reopened = position(1, [order(1)])
    validator.write(reopened)
    async with running(data, validator, **WATCH_ALONE) as intake:
        validator.delete(reopened, folder="closed")
        await intake.until(lambda: intake.state()[MINER, uuid(1)] == reopened)


async def test_without_watches_the_sweep_finds_everything(validator: ValidatorDir, data: Path) -> None:
    """Orders arrive with the next sweep, and the source reports that nothing is watched."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator, watch=NullWatch(), sweep_ms=60_000) as intake:
        assert not intake.log.source().watching
        validator.write(position(1, [order(1), order(2)]))
        validator.write(position(2, [order(3)], miner=OTHER_MINER))
        await intake.until(lambda: len(intake.events()) == 2)


class FewWatches(InotifyWatch):
    """inotify with a limited number of watches."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def add(self, path: str, *, files: bool = False, folders: bool = False) -> int:
        if self.left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        self.left -= 1
        return super().add(path, files=files, folders=folders)


async def test_running_out_of_watches_is_reported_and_survived(validator: ValidatorDir, data: Path) -> None:
    """Watches run out in the middle of the tree; sweeps replace them; more watches are used when granted."""
    for n in range(10):
        validator.write(position(n, [order(n)], miner=f"miner{n}"))
    watch = FewWatches(13)
    async with running(data, validator, watch=watch) as intake:
        assert not intake.log.source().watching
        for n in range(10):
            validator.write(position(n, [order(n), order(100 + n)], miner=f"miner{n}"))
        await intake.until(lambda: len(intake.events()) == 10)
        watch.left = 1_000
        await intake.until(lambda: intake.log.source().watching)


async def test_an_overflow_is_followed_by_a_full_sweep(
    validator: ValidatorDir, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With more events than the kernel's queue holds, the changes whose events were lost are found."""
    with open("/proc/sys/fs/inotify/max_queued_events") as file:
        limit = int(file.read())
    if limit > 100_000:
        pytest.skip("the kernel's queue is too long to be filled in a test")
    validator.write(position(1, [order(1)]))
    async with running(data, validator, **WATCH_ALONE) as intake:
        noise = [f"{validator.file(position(1, [])).parent}/noise{n}" for n in range(2)]
        Path(noise[0]).touch()
        for _ in range(limit // 4 + 100):  # four events each, unread meanwhile
            os.rename(*noise)
            os.rename(*reversed(noise))
        validator.write(position(2, [order(2)], miner=OTHER_MINER))
        await intake.until(lambda: intake.announced() == [order(2)["order_uuid"]])
    assert "watch_overflowed" in capsys.readouterr().out


class HeldWatch(InotifyWatch):
    """inotify whose events are held back until `holds` is cleared, and then all arrive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = True
        self.held: list[FsEvent | None] = []

    async def events(self) -> AsyncIterator[FsEvent | None]:
        async for event in super().events():
            self.held.append(event)
            while self.held and not self.holds:
                yield self.held.pop(0)


async def test_an_order_that_a_sweep_read_first_does_not_wait_for_its_end(
    validator: ValidatorDir, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event delivers it, ahead of orders that were written after it."""
    validator.write(position(1, [order(1)]))
    advance, lingering, over = DirectoryScanner.advance, threading.Event(), threading.Event()

    def linger(scanner: DirectoryScanner) -> bool:
        ended = advance(scanner)
        if scanner.swept:
            lingering.set()
        return ended and (over.is_set() or not lingering.is_set())

    monkeypatch.setattr(DirectoryScanner, "advance", linger)
    # As if 50 ms had passed since each change: the version of the baseline is not read again.
    monkeypatch.setattr(file_version, "_SETTLE_NS", -1)
    watch = HeldWatch()
    async with running(data, validator, watch=watch) as intake:
        validator.write(position(1, [order(1), order(2)]))
        await intake.until(lingering.is_set)
        before = len(watch.held)
        validator.write(position(2, [order(3)]))
        await intake.until(lambda: len(watch.held) > before)
        watch.holds = False
        validator.write(position(3, [order(4)]))
        expected = [order(n)["order_uuid"] for n in (2, 3, 4)]
        await intake.until(lambda: len(intake.announced()) == 3)
        assert intake.announced() == expected
        over.set()


class LossyWatch(InotifyWatch):
    """inotify that reports an overflow in place of every event."""

    async def events(self) -> AsyncIterator[FsEvent | None]:
        async for _ in super().events():
            yield None


async def test_changes_whose_events_were_lost_are_found(validator: ValidatorDir, data: Path) -> None:
    """Folders that are deleted and recreated meanwhile are watched and listed again."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator, watch=LossyWatch(), **WATCH_ALONE) as intake:
        for n in range(2, 6):
            validator.delete_miner(MINER)
            validator.write(position(1, [order(k) for k in range(1, n)]))
            validator.write(position(1, [order(k) for k in range(1, n + 1)]))
            await intake.until(lambda n=n: len(intake.events()) == n - 1)


async def test_a_restart_announces_missed_orders_and_none_twice(
    validator: ValidatorDir, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only files that changed while intake was down are read."""
    for n in range(30):
        validator.write(position(n, [order(n)]))
    async with running(data, validator) as intake:
        validator.write(position(1, [order(1), order(101)]))
        await intake.until(lambda: len(intake.events()) == 1)
        await intake.swept(3)
    validator.write(position(2, [order(2), order(102)]))
    validator.write(position(50, [order(103)], miner=OTHER_MINER))
    validator.delete(position(3, []), folder="open")
    read: list[str] = []
    real = position_files.read_file

    def counting(path: str, limit: int) -> Any:
        read.append(Path(path).name)
        return real(path, limit)

    monkeypatch.setattr(position_files, "read_file", counting)
    async with running(data, validator) as intake:
        await intake.until(lambda: (MINER, uuid(3)) not in intake.state())
        assert intake.announced() == [order(n)["order_uuid"] for n in (101, 102, 103)]
    assert set(read) == {uuid(2), uuid(50)}


async def test_unknown_pairs_and_unordered_lists_are_accepted(validator: ValidatorDir, data: Path) -> None:
    """Neither is an error."""
    strange = position(1, [order(5), order(1)], trade_pair=["NEWUSD", "NEW/USD", 0.5, 1, 2], extra="kept")
    validator.write(strange)
    async with running(data, validator) as intake:
        assert intake.state()[MINER, uuid(1)] == strange
        assert intake.log.source().invalid == 0


def _bad_files(n: int) -> dict[str, bytes]:
    """Returns contents that cannot be those of position n."""
    good = position(n, [order(n), order(50 + n)])
    text = json.dumps(good).encode()
    return {
        "empty": b"",
        "truncated": text[: len(text) // 2],
        "no JSON": b"Traceback (most recent call last):",
        "negative time": json.dumps(position(n, [order(n, at=-5)])).encode(),
        "no orders": json.dumps({k: v for k, v in good.items() if k != "orders"}).encode(),
        "a list": b"[]",
        "no UTF-8": text.replace(b"BTC/USD", b"\xff\xfe"),
        "another miner's": json.dumps(position(n, [order(n)], miner=OTHER_MINER)).encode(),
        "another uuid": json.dumps(position(100, [order(n)])).encode(),
    }


async def test_a_bad_file_is_skipped_and_retried_when_it_changes(
    validator: ValidatorDir, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logged once, counted, the last good state stays; a good version is read."""
    kinds = list(_bad_files(0))
    good = {(MINER, uuid(n)): position(n, [order(n)]) for n in range(len(kinds))}
    for body in good.values():
        validator.write(body)
    async with running(data, validator) as intake:
        for n, kind in enumerate(kinds):
            validator.put(validator.file(good[MINER, uuid(n)]), _bad_files(n)[kind])
        await intake.until(lambda: intake.log.source().invalid == len(kinds))
        await intake.swept(6)
        assert intake.state() == good
        for n in range(len(kinds)):
            validator.write(position(n, [order(n), order(50 + n)]))
        await intake.until(
            lambda: set(intake.announced()) == {order(50 + n)["order_uuid"] for n in range(len(kinds))}
        )
        await intake.until(lambda: intake.log.source().invalid == 0)
    assert capsys.readouterr().out.count("position_file_skipped") == len(kinds)


async def test_a_malformed_order_hides_no_other(
    validator: ValidatorDir, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is left out, counted and named, after a restart too; once it is sound it is announced."""
    bad = order(2, order_uuid="")
    async with running(data, validator) as intake:
        validator.write(position(1, [order(1), bad, order(3)], odd=float("inf")))
        await intake.until(lambda: len(intake.events()) == 2)
        await intake.until(lambda: intake.log.source().invalid == 1)
        assert intake.state()[MINER, uuid(1)]["odd"] is None
        await intake.swept(6)
    async with running(data, validator) as intake:
        await intake.until(lambda: intake.log.source().invalid == 1)
        validator.write(position(1, [order(1), order(2), order(3)]))
        await intake.until(lambda: len(intake.events()) == 3)
        assert intake.announced() == [order(n)["order_uuid"] for n in (1, 3, 2)]
        await intake.until(lambda: intake.log.source().invalid == 0)
    output = capsys.readouterr().out
    assert output.count("position_incomplete") == 2
    assert output.count("position_file_skipped") == 0


@pytest.mark.parametrize("watching", [True, False])
async def test_a_file_copied_into_place_is_read_when_it_is_whole(
    validator: ValidatorDir, data: Path, watching: bool
) -> None:
    """A move from another file system is seen empty or half written, and without watches only by a sweep."""
    content = json.dumps(position(1, [order(1), order(2)])).encode()
    periods = WATCH_ALONE if watching else {"full_sweep_ms": NEVER_MS}
    watch = None if watching else NullWatch()
    path = validator.write(position(1, [order(1)]))
    async with running(data, validator, watch=watch, **periods) as intake:
        with path.open("wb", buffering=0) as file:
            for part in (content[:10], content[10:200]):
                file.write(part)
                if not watching:
                    await intake.until(lambda: intake.log.source().invalid == 1)
                    await intake.swept(2)
            file.write(content[200:])
        await intake.until(lambda: intake.announced() == [order(2)["order_uuid"]])
        assert len(intake.state()[MINER, uuid(1)]["orders"]) == 2


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_what_is_no_file_among_the_files_is_refused(
    make: Callable[[Path], None], validator: ValidatorDir, data: Path
) -> None:
    """Only regular files are read. A position that had a file there stays, also across a restart."""
    path = validator.write(position(1, [order(1)]))
    other = validator.write(position(2, [order(2)]))
    make(path.with_name("other"))
    async with running(data, validator) as intake:
        assert intake.log.source().invalid == 1
        other.unlink()
        make(other)
        await intake.until(lambda: intake.log.source().invalid == 2)
    async with running(data, validator) as intake:
        await intake.swept(6)
        assert intake.log.source().invalid == 2
        assert set(intake.state()) == {(MINER, uuid(1)), (MINER, uuid(2))}


async def test_links_to_themselves_hide_nothing(
    validator: ValidatorDir, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At any level, they are logged once, and their neighbours are served."""
    path = validator.write(position(1, [order(1)]))
    loops = [validator.miners / "loop", path.parents[2] / "loop", path.with_name("loop")]
    for loop in loops:
        loop.symlink_to("loop")
    async with running(data, validator) as intake:
        await intake.swept(6)
        assert set(intake.state()) == {(MINER, uuid(1))}
        assert intake.log.source().invalid == 3
        for loop in loops:
            loop.unlink()
        await intake.until(lambda: intake.log.source().invalid == 0)
    output = capsys.readouterr().out
    assert (output.count("folder_skipped"), output.count("position_file_skipped")) == (2, 1)


async def test_an_unsafe_uuid_is_skipped(validator: ValidatorDir, data: Path) -> None:
    """It would become part of keys, URLs and log lines."""
    validator.write(position(1, [order(1)]))
    names = ["q'q", "a\tb", "x" * 129, ".hidden", "caf\udce9"]
    for name in names:
        validator.write(position(2, [order(2)], position_uuid=name))
    async with running(data, validator) as intake:
        assert set(intake.state()) == {(MINER, uuid(1))}
        assert intake.log.source().invalid == len(names)


async def test_a_file_over_the_limit_is_skipped(validator: ValidatorDir, data: Path) -> None:
    """Nothing is read into memory that is too large for a position."""
    validator.write(position(1, [order(1)]))
    validator.write(position(2, [order(n) for n in range(100)]))
    async with running(data, validator, position_limit_bytes=5_000) as intake:
        assert set(intake.state()) == {(MINER, uuid(1))}
        assert intake.log.source().invalid == 1


async def test_an_unsafe_hotkey_is_reported_once_and_skipped(
    validator: ValidatorDir, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its positions are not served, the others are."""
    validator.write(position(1, [order(1)]))
    names = [b"caf\xe9", b"a\nb", b'q"q', b"it's", b"x" * 129, b".hidden"]
    for name in names:
        leaf = os.fsencode(validator.miners) + b"/" + name + b"/positions/BTCUSD/open"
        os.makedirs(leaf)
        with open(leaf + b"/" + uuid(9).encode(), "w") as file:
            file.write(json.dumps(position(9, [order(9)])))
    async with running(data, validator) as intake:
        await intake.swept(8)
        assert set(intake.state()) == {(MINER, uuid(1))}
        assert intake.log.source().invalid == len(names)
    assert capsys.readouterr().out.count("folder_skipped") == len(names)


async def test_a_late_root_is_waited_for(validator: ValidatorDir, data: Path) -> None:
    """A new log gets its baseline from a directory of miners, not from its absence."""
    validator.write(position(1, [order(1, at=T0 - 1)]))
    hidden = validator.miners.with_name("elsewhere")
    os.rename(validator.miners, hidden)
    asyncio.get_running_loop().call_later(0.1, os.rename, hidden, validator.miners)
    async with running(data, validator) as intake:
        assert set(intake.state()) == {(MINER, uuid(1))}
        assert intake.events() == []


class DeafWatch(InotifyWatch):
    """Adds watches and yields no event, as on NFS and FUSE, until it `hears`."""

    def __init__(self) -> None:
        super().__init__()
        self.hears = False

    async def events(self) -> AsyncIterator[FsEvent | None]:
        async for event in super().events():
            if self.hears:
                yield event


async def test_a_file_system_without_events_is_told(
    validator: ValidatorDir, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that only a sweep found says so, and sweeps get faster; an order with an event ends it."""
    monkeypatch.setattr(scan, "EVENT_GRACE_MS", 100)
    watch = DeafWatch()
    validator.write(position(1, [order(1)]))
    options: dict[str, Any] = {
        "sweep_ms": 300,
        "full_sweep_ms": NEVER_MS,
        "blind_sweep_ms": 10,
    }
    async with running(data, validator, watch=watch, **options) as intake:
        assert intake.log.source().watching
        validator.write(position(1, [order(1), order(2)]))
        await intake.until(lambda: intake.log.source().events_missing)
        assert not intake.log.source().watching
        assert intake.announced() == [order(2)["order_uuid"]]
        watch.hears = True
        orders = [order(1), order(2)]

        def heard() -> bool:
            orders.append(order(len(orders) + 1))
            validator.write(position(1, orders))
            source = intake.log.source()  # a later order may be found by a sweep before its event is read
            return source.watching and not source.events_missing

        await intake.until(heard)


async def test_changes_that_never_have_an_event_do_not_count_as_missing_ones(
    validator: ValidatorDir, data: Path
) -> None:
    """What happened before the start, new folders, and files that became readable."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator):
        pass
    validator.write(position(1, [order(1), order(2)]))
    async with running(data, validator) as intake:
        broken = validator.write(position(2, [order(3)]))
        broken.write_text("{")
        await intake.until(lambda: intake.log.source().invalid)
        validator.write(position(2, [order(3)]))
        validator.write(position(3, [order(4)], miner=OTHER_MINER))
        await intake.until(lambda: len(intake.announced()) == 3)
        await asyncio.sleep(1.1 * scan.EVENT_GRACE_MS / 1000)
        await intake.swept()
        assert not intake.log.source().events_missing
