"""The memory log as the model: random histories must read the same from SQLite, reopened at any time."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ptn_api.event_log import (
    Change,
    Document,
    DocumentWritten,
    EventLogWriter,
    PositionRemoved,
    SourceStatus,
    open_writer,
)
from tests.factories import MINER, OTHER_MINER, T0, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.properties import tries

OPTIONS: dict[str, Any] = {"late_ms": 5_000, "retention_ms": 40_000, "retention_bytes": 20_000}

DOCUMENTS = [
    (Document.STATISTICS, ""),
    (Document.LIMIT_ORDERS, MINER),
    (Document.LIMIT_ORDERS, OTHER_MINER),
]

orders = st.builds(
    lambda n, leverage, price, at: order(n, leverage, price=price, at=T0 + at),
    st.integers(0, 9),
    st.sampled_from([0.1, 0.2, -0.1]),
    st.sampled_from([100.0, 101.0]),
    st.sampled_from([-2_000, 1_000, 5_000]),
)
positions = st.builds(
    lambda n, listed, miner, fields, fingerprint, extra: written(
        position(n, listed, miner=miner, **fields), fingerprint=fingerprint, extra=extra
    ),
    st.integers(1, 3),
    st.lists(orders, max_size=5),
    st.sampled_from([MINER, OTHER_MINER]),
    st.sampled_from([{}, {"current_return": 1.5}, {"is_closed_position": True, "close_ms": T0}]),
    st.sampled_from(["", "a"]),
    st.sampled_from([b"", b'{"x":1}']),
)
removals = st.builds(
    lambda n, miner: PositionRemoved(miner_hotkey=miner, position_uuid=uuid(n)),
    st.integers(1, 3),
    st.sampled_from([MINER, OTHER_MINER]),
)
documents = st.builds(
    lambda key, content: DocumentWritten(document=key[0], miner_hotkey=key[1], content=content),
    st.sampled_from(DOCUMENTS),
    st.sampled_from([None, b"[]", b"{}"]),
)
scans = st.lists(st.one_of(positions, positions, removals, documents), max_size=4)


class SameHistories(RuleBasedStateMachine):
    """The same calls on both logs; after each call every read must be equal."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = T0
        self.model = MemoryLog(clock=lambda: T0, **OPTIONS)
        self.log = self.reopened()
        self.identities: dict[int, tuple[str, str]] = {}

    def reopened(self) -> EventLogWriter:
        return open_writer(self.folder / "log", clock=lambda: T0, **OPTIONS)

    @rule(changes=scans)
    def baseline(self, changes: list[Change]) -> None:
        assert self.log.baseline(iter(changes), self.now) == self.model.baseline(changes, self.now)

    @rule(changes=scans)
    def append(self, changes: list[Change]) -> None:
        assert self.log.append(iter(changes), self.now) == self.model.append(changes, self.now)

    @rule(ms=st.sampled_from([1_000, 30_000]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule()
    def prune(self) -> None:
        assert self.log.prune(self.now) == self.model.prune(self.now)

    @rule(stale=st.booleans())
    def source(self, stale: bool) -> None:
        for log in (self.log, self.model):
            log.set_source(SourceStatus(swept_ms=self.now, stale=stale))

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = self.reopened()

    @invariant()
    def logs_are_equal(self) -> None:
        for name in ("ready", "head", "floor", "hotkeys", "oldest_revision", "source", "counters"):
            assert getattr(self.log, name)() == getattr(self.model, name)(), name
        assert self.log.fingerprints() == self.model.fingerprints()
        after = self.model.floor() - 1
        assert self.log.read(after, 1_000) == self.model.read(after, 1_000)
        assert self.log.first_timestamp_after(after) == self.model.first_timestamp_after(after)
        assert self.log.document_fingerprints() == self.model.document_fingerprints()
        for document, miner in DOCUMENTS:
            assert self.log.document(document, miner) == self.model.document(document, miner)
            assert self.log.document_revision(document) == self.model.document_revision(document)
            assert self.log.document_revisions(document) == self.model.document_revisions(document)
        oldest, head = self.model.oldest_revision(), self.model.head().revision
        for since in {0, max(oldest, head - 2), head}:
            assert self.log.documents_changed(since) == self.model.documents_changed(since)
            assert list(self.log.positions(since_revision=since)) == list(
                self.model.positions(since_revision=since)
            )
        assert self.log.changes(oldest) == self.model.changes(oldest)
        uuids = [uuid(1000 + n) for n in range(10)]
        for miner in (MINER, OTHER_MINER):
            assert self.log.seen(miner, uuids) == self.model.seen(miner, uuids)

    @invariant()
    def no_order_is_repeated_or_renumbered(self) -> None:
        for event in self.model.read(self.model.floor() - 1, 1_000):
            identity = (event.miner_hotkey, event.order_uuid)
            assert self.identities.setdefault(event.sequence, identity) == identity
            assert event.processed_ms > self.model.created_ms
        assert len(set(self.identities.values())) == len(self.identities)

    def teardown(self) -> None:
        self.log.close()
        shutil.rmtree(self.folder)


SameHistories.TestCase.settings = tries(60, stateful_step_count=30)
TestSameHistories = SameHistories.TestCase
