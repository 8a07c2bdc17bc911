"""Usage by key and day: counted in memory and flushed to a small database.

Both server processes add to the same file. A killed process loses what it counted since its last flush, a few
seconds. Days are UTC.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from ptn_api.access.key_ring import KeyHolder
from ptn_api.clock import Clock, wall_ms

__all__ = ["Usage", "UsageFile", "UsageRow", "day_of"]

KEPT_DAYS = 800
"""More than two years, for last year's bill."""
_BUSY_S = 2.0
_DAY_MS = 86_400_000


class UsageRow(NamedTuple):
    """One key's usage on one day. `messages` are orders on the stream, `sent_bytes` compressed bytes."""

    alias: str
    fingerprint: str
    day: str
    requests: int
    sent_bytes: int
    messages: int
    seen_ms: int


def day_of(ms: int) -> str:
    """The UTC day of a time in epoch milliseconds: `2026-12-31`."""
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d")


class Usage:
    """Usage that is not flushed yet."""

    def __init__(self, clock: Clock = wall_ms) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, str, int], list[int]] = {}
        """(alias, fingerprint, day since 1970) -> requests, bytes, messages, last seen."""

    def add(self, holder: KeyHolder, *, requests: int = 0, sent_bytes: int = 0, messages: int = 0) -> None:
        """Counts usage. Without amounts, it only updates the time of the last use."""
        now = self._clock()
        self._add((holder.alias, holder.fingerprint, now // _DAY_MS), requests, sent_bytes, messages, now)

    def _add(
        self, key: tuple[str, str, int], requests: int, sent_bytes: int, messages: int, seen_ms: int
    ) -> None:
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0, 0, 0, 0]
        counts[0] += requests
        counts[1] += sent_bytes
        counts[2] += messages
        if seen_ms > counts[3]:
            counts[3] = seen_ms

    def take(self) -> list[UsageRow]:
        """Returns what was counted and resets the counters."""
        taken, self._counts = self._counts, {}
        return [
            UsageRow(alias, fingerprint, day_of(day * _DAY_MS), *counts)
            for (alias, fingerprint, day), counts in taken.items()
        ]

    def put_back(self, rows: Iterable[UsageRow]) -> None:
        """Adds rows back that were taken and could not be written."""
        for row in rows:
            # Not strptime, which imports a module when it is first used: files may have run out.
            day = datetime.fromisoformat(row.day).replace(tzinfo=timezone.utc)
            key = (row.alias, row.fingerprint, int(day.timestamp() * 1000) // _DAY_MS)
            self._add(key, row.requests, row.sent_bytes, row.messages, row.seen_ms)


_TABLE = """
CREATE TABLE IF NOT EXISTS usage (
    alias TEXT NOT NULL, fingerprint TEXT NOT NULL, day TEXT NOT NULL,
    requests INTEGER NOT NULL, sent_bytes INTEGER NOT NULL, messages INTEGER NOT NULL,
    seen_ms INTEGER NOT NULL,
    PRIMARY KEY (alias, fingerprint, day)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
    sent_bytes = sent_bytes + excluded.sent_bytes, messages = messages + excluded.messages,
    seen_ms = max(seen_ms, excluded.seen_ms)
"""


class UsageFile:
    """`usage.db` in the data directory, with mode 0600. Calls are seconds apart, and each opens the file."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "usage.db"

    def add(self, rows: Iterable[UsageRow]) -> None:
        """Adds all rows in one transaction. Raises sqlite3.Error or OSError."""
        rows = list(rows)
        if not rows:
            return
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        oldest_ms = max(row.seen_ms for row in rows) - KEPT_DAYS * _DAY_MS
        with self._open("rw") as db:
            db.execute(_TABLE)
            with db:
                db.executemany(_ADD, rows)
                db.execute("DELETE FROM usage WHERE day < ?", (day_of(oldest_ms),))

    def machine(self) -> str:
        """A random name of this file, by which a cluster tells its machines' records apart.

        A new file gets another one, so its sums, which begin at 0, replace none of the former file's. Raises
        sqlite3.Error or OSError.
        """
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        with self._open("rw") as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS machine (name TEXT NOT NULL)")
            db.execute(
                "INSERT INTO machine SELECT ? WHERE NOT EXISTS (SELECT * FROM machine)",
                (secrets.token_hex(6),),
            )
            return str(db.execute("SELECT name FROM machine").fetchone()[0])

    def read(self, *, since_day: str = "") -> list[UsageRow]:
        """The rows since that day, ordered by user and day. Raises sqlite3.Error."""
        if not self._path.exists():
            return []
        with self._open("ro") as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'usage'").fetchone():
                return []  # another process is creating it
            rows = db.execute(
                "SELECT * FROM usage WHERE day >= ? ORDER BY alias, day, fingerprint", (since_day,)
            )
            return [UsageRow(*row) for row in rows]

    def last_seen(self) -> dict[tuple[str, str], int]:
        """(alias, fingerprint) -> time of the key's last use. Raises sqlite3.Error."""
        return {(row.alias, row.fingerprint): row.seen_ms for row in self.read()}

    @contextlib.contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_BUSY_S)
        try:
            yield db
        finally:
            db.close()
