"""Usage records: sums, a private file, two writers, and retries of failed writes."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import Iterable
from pathlib import Path

from ptn_api.access.key_ring import KeyHolder
from ptn_api.access.usage import KEPT_DAYS, Usage, UsageFile, UsageRow
from ptn_api.problems import ProblemRegister
from ptn_api.process.background import flush_usage
from tests.waiting import until_async

ALICE = KeyHolder(alias="alice", tier=100, fingerprint="aaaaaaaa")
BOB = KeyHolder(alias="bob", tier=30, fingerprint="bbbbbbbb")
NOW = 1_760_400_000_000
DAY = 86_400_000


def test_sums_are_by_key_and_day(tmp_path: Path) -> None:
    """Both processes add to one row per key and day; only the owner can read the file."""
    now = [NOW]
    rest, stream = Usage(lambda: now[0]), Usage(lambda: now[0])
    file = UsageFile(tmp_path)
    assert file.read() == []
    rest.add(ALICE, requests=1, sent_bytes=100)
    rest.add(ALICE, requests=1, sent_bytes=50)
    stream.add(ALICE, messages=7, sent_bytes=1)
    file.add(rest.take())
    file.add(stream.take())
    now[0] += DAY
    rest.add(ALICE, requests=1)
    stream.add(BOB)
    file.add(rest.take())
    file.add(stream.take())
    assert [row[:1] + row[2:6] for row in file.read()] == [
        ("alice", "2025-10-14", 2, 151, 7),
        ("alice", "2025-10-15", 1, 0, 0),
        ("bob", "2025-10-15", 0, 0, 0),
    ]
    assert [row.alias for row in file.read(since_day="2025-10-15")] == ["alice", "bob"]
    assert file.last_seen() == {("alice", "aaaaaaaa"): NOW + DAY, ("bob", "bbbbbbbb"): NOW + DAY}
    assert stat.S_IMODE((tmp_path / "usage.db").stat().st_mode) == 0o600


def test_the_file_is_bounded(tmp_path: Path) -> None:
    """Old days are dropped when rows are added."""
    now = [NOW]
    usage, file = Usage(lambda: now[0]), UsageFile(tmp_path)
    usage.add(ALICE, requests=1)
    file.add(usage.take())
    for days, kept in ((KEPT_DAYS, ["alice", "bob"]), (1, ["bob"])):
        now[0] += days * DAY
        usage.add(BOB, requests=1)
        file.add(usage.take())
        assert sorted({row.alias for row in file.read()}) == kept


async def test_rows_that_cannot_be_written_are_retried(tmp_path: Path) -> None:
    """Nothing is lost while the directory is missing, and the rest is written at the end."""
    usage, away, attempts = Usage(), tmp_path / "away", list[int]()

    class Watched(UsageFile):
        def add(self, rows: Iterable[UsageRow]) -> None:
            attempts.append(1)
            super().add(rows)

    file = Watched(away)
    task = asyncio.create_task(flush_usage(usage, file, ProblemRegister(), every_ms=10))
    usage.add(ALICE, requests=1)
    await asyncio.sleep(0)
    usage.add(ALICE, requests=2)
    await until_async(lambda: len(attempts) >= 3)
    away.mkdir()
    await until_async(lambda: [row.requests for row in file.read()] == [3])
    usage.add(ALICE, requests=4)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert [row.requests for row in file.read()] == [7]
