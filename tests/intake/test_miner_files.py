"""The files of each miner besides its positions become one document per miner and kind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ptn_api import file_version
from ptn_api.event_log.contract import PER_MINER, Document
from ptn_api.intake import miner_files
from ptn_api.intake.miner_files import KEPT_SNAPSHOTS, MinerFiles
from ptn_api.intake.watch import NullWatch
from ptn_api.model.limit_order import ListedOrder
from tests.factories import MINER, OTHER_MINER, order, position, uuid
from tests.intake.running import WATCH_ALONE, Intake, running
from tests.intake.validator_dir import ValidatorDir

ORDERS, ARCHIVED, SNAPSHOTS = Document.LIMIT_ORDERS, Document.ARCHIVED_POSITIONS, Document.SNAPSHOTS


class Files:
    """A `MinerFiles` whose documents the test can see, with a known state of a log."""

    def __init__(self, validator: ValidatorDir, known: dict[Any, str] | None = None, limit: int = 1 << 20):
        self.reader = MinerFiles(validator.miners, known or {}, position_limit=limit, document_limit=limit)
        self.documents: dict[tuple[Document, str], Any] = {}
        self.fingerprints: dict[tuple[Document, str], str] = {}

    def look(self, *, full: bool = False) -> list[tuple[Document, str]]:
        """Takes the changes, and returns whose documents changed."""
        changes = list(self.reader.changes(full=full))
        for change in changes:
            key = (change.document, change.miner_hotkey)
            if change.content is None:
                del self.documents[key], self.fingerprints[key]
            else:
                self.documents[key] = json.loads(change.content)
                self.fingerprints[key] = change.fingerprint
        return [(change.document, change.miner_hotkey) for change in changes]

    def orders(self, miner: str = MINER) -> list[tuple[str, str, str]]:
        """Returns pair, folder and uuid of the miner's limit orders."""
        return [
            (file["trade_pair_id"], file["folder"], file["order"]["order_uuid"])
            for file in self.documents.get((ORDERS, miner), [])
        ]


@pytest.fixture
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 50 ms had passed since each change."""
    monkeypatch.setattr(file_version, "_SETTLE_NS", -1)


def snapshot(n: int, **fields: Any) -> str:
    return json.dumps({"snapshot_ms": n, "account_size": 1e5, "balance": 1e5, "equity": 1e5 + n} | fields)


def write_snapshots(validator: ValidatorDir, *lines: str, miner: str = MINER) -> Path:
    return validator.put(validator.miners / miner / "snapshots.jsonl", "".join(lines).encode())


# --- what becomes of the files ----------------------------------------------------------------------------


def test_files_become_documents_of_their_miners(validator: ValidatorDir) -> None:
    """Orders with pair and folder, archived positions and snapshots as they are."""
    validator.limit_order(order(1), miner=MINER, pair="kPEPEUSDC")
    validator.limit_order(order(2), miner=MINER, pair="BRK_B", folder="closed")
    validator.limit_order(order(3), miner=OTHER_MINER)
    body = position(1, [order(4)])
    validator.put(validator.archived(body), json.dumps(body).encode())
    write_snapshots(validator, snapshot(1) + "\n", snapshot(2) + "\n")
    files = Files(validator)
    files.look()
    assert files.orders() == [
        ("BRK_B", "closed", order(2)["order_uuid"]),
        ("kPEPEUSDC", "unfilled", order(1)["order_uuid"]),
    ]
    assert files.documents[ORDERS, OTHER_MINER] == [
        {"trade_pair_id": "BTCUSD", "folder": "unfilled", "order": order(3)}
    ]
    assert files.documents[ARCHIVED, MINER] == [body]
    assert [line["snapshot_ms"] for line in files.documents[SNAPSHOTS, MINER]] == [1, 2]


@pytest.mark.usefixtures("_settled")
def test_only_the_miner_that_changed_is_read(
    validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing if nothing changed, not even at a full look."""
    for miner in (MINER, OTHER_MINER):
        validator.limit_order(order(1), miner=miner)
        validator.limit_order(order(2), miner=miner, folder="closed")
        write_snapshots(validator, snapshot(1), miner=miner)
    files = Files(validator)
    assert len(files.look()) == 4
    reads: list[str] = []
    real = miner_files.read_bytes

    def reading(path: str, *args: Any, **kwargs: Any) -> Any:
        reads.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(miner_files, "read_bytes", reading)
    assert files.look() == files.look(full=True) == []
    assert reads == []
    validator.limit_order(order(3), miner=OTHER_MINER)
    assert files.look() == [(ORDERS, OTHER_MINER)]
    assert {MINER in path for path in reads} == {False}


@pytest.mark.usefixtures("_settled")
def test_an_order_rewritten_in_place_is_seen(validator: ValidatorDir) -> None:
    """A trailing stop moves; no folder's time shows it."""
    path = validator.limit_order(order(1, trailing_stop={"trailing_percent": 0.1}), miner=MINER)
    files = Files(validator)
    files.look()
    path.write_text(json.dumps(order(1, trailing_stop={"trailing_percent": 0.05, "best": 1})))
    assert files.look() == [(ORDERS, MINER)]
    assert files.documents[ORDERS, MINER][0]["order"]["trailing_stop"]["best"] == 1


def test_a_cancelled_order_changes_its_folder(validator: ValidatorDir) -> None:
    """While it has files in both, the closed one counts."""
    path = validator.limit_order(order(1), miner=MINER)
    files = Files(validator)
    files.look()
    validator.limit_order(order(1, src=7), miner=MINER, folder="closed")
    files.look()
    assert [folder for _, folder, _ in files.orders()] == ["closed"]
    path.unlink()
    files.look()
    assert [folder for _, folder, _ in files.orders()] == ["closed"]


@pytest.mark.usefixtures("_settled")
def test_a_document_without_files_is_deleted(validator: ValidatorDir) -> None:
    """At the second look: in between, the file may be on its way to another folder."""
    path = validator.limit_order(order(1), miner=MINER)
    write_snapshots(validator, snapshot(1), miner=OTHER_MINER)
    files = Files(validator)
    files.look()
    path.unlink()
    validator.delete_miner(OTHER_MINER)
    assert files.look() == []
    assert files.look() == [(ORDERS, MINER), (SNAPSHOTS, OTHER_MINER)]
    assert files.documents == {}
    assert files.look(full=True) == []
    validator.limit_order(order(1), miner=MINER)
    assert files.look() == [(ORDERS, MINER)]


def test_a_missing_root_deletes_nothing(validator: ValidatorDir) -> None:
    """An unmounted disk says nothing about any miner."""
    validator.limit_order(order(1), miner=MINER)
    files = Files(validator)
    files.look()
    os.rename(validator.miners, validator.miners.with_name("away"))
    for _ in range(3):
        assert files.look(full=True) == []


@pytest.mark.usefixtures("_settled")
def test_a_restart_reads_only_what_changed_meanwhile(validator: ValidatorDir) -> None:
    """By the fingerprints in the log; a document whose files are gone is deleted."""
    validator.limit_order(order(1), miner=MINER)
    gone = validator.limit_order(order(2), miner=OTHER_MINER)
    write_snapshots(validator, snapshot(1))
    before = Files(validator)
    before.look()
    gone.unlink()
    write_snapshots(validator, snapshot(1) + "\n", snapshot(2))
    after = Files(validator, before.fingerprints)
    after.documents, after.fingerprints = before.documents, before.fingerprints
    assert after.look(full=True) == [(SNAPSHOTS, MINER)]
    assert after.look() == [(ORDERS, OTHER_MINER)]


# --- what cannot be read ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_settled")
@pytest.mark.parametrize("half", [b"", b'{"order_uuid": "1', b"\x80\x04"])
def test_a_half_written_file_is_not_gone(validator: ValidatorDir, half: bytes) -> None:
    """The document waits until the file is whole; for a file that stays malformed, a few looks."""
    validator.limit_order(order(1), miner=MINER)
    path = validator.limit_order(order(2), miner=MINER)
    files = Files(validator)
    files.look()
    content = path.read_bytes()
    path.write_bytes(half)
    assert [files.look() for _ in range(3)] == [[], [], []]
    assert files.reader.refused == 1
    path.write_bytes(content)
    files.look()
    assert len(files.orders()) == 2
    assert files.reader.refused == 0
    path.write_bytes(half)
    while not files.look():
        continue
    assert len(files.orders()) == 1
    assert files.reader.refused == 1
    path.unlink()
    files.look()
    assert files.reader.refused == 0


def test_a_refused_file_is_logged_once_and_read_when_it_changes(
    validator: ValidatorDir, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the path; a link to itself, a folder and a bad name are refused alike."""
    path = validator.limit_order(order(1), miner=MINER)
    (path.parent / "loop").symlink_to("loop")
    (path.parent / "folder").mkdir()
    (path.parent / "q'q").write_text("{}")
    path.write_text("[]")
    validator.limit_order(order(2), miner=MINER)
    files = Files(validator)
    for _ in range(8):
        files.look(full=True)
    assert len(files.orders()) == 1
    assert files.reader.refused == 4
    path.write_text(json.dumps(order(1)))
    for _ in range(8):
        files.look(full=True)
    assert len(files.orders()) == 2
    assert files.reader.refused == 3
    output = capsys.readouterr().out
    assert output.count("miner_file_skipped") == 4
    assert str(validator.path) not in output


def test_values_that_are_no_numbers_become_null(validator: ValidatorDir) -> None:
    """The content of the log is JSON; where null does not fit, the default takes their place."""
    path = validator.limit_order(order(1), miner=MINER)
    path.write_text(path.read_text().replace("101.0", "NaN").replace("0.1", "1e999"))
    files = Files(validator)
    files.look()
    stored = files.documents[ORDERS, MINER][0]["order"]
    assert (stored["price"], stored["leverage"]) == (0.0, None)


def test_clients_can_decode_every_limit_order(validator: ValidatorDir) -> None:
    """Odd values are repaired and counted; an order without uuid, time or type is refused."""
    odd = {"price": "5", "trailing_stop": [], "bracket_orders": {}, "src": 5.0, "stop_loss": True}
    validator.limit_order(order(1) | odd, miner=MINER)
    for n, change in enumerate([{"processed_ms": "5"}, {"order_type": 7}, {"order_uuid": None}]):
        path = validator.limit_order(order(n + 2), miner=MINER)
        path.write_text(json.dumps(order(n + 2) | change))
    files = Files(validator)
    while not files.look():
        continue
    (file,) = files.documents[ORDERS, MINER]
    decoded = msgspec.convert(file["order"], ListedOrder)
    assert (decoded.price, decoded.trailing_stop, decoded.bracket_orders) == (0.0, None, None)
    assert (decoded.src, decoded.stop_loss) == (5, None)
    assert files.reader.refused == 4


def test_an_archived_position_is_checked_like_a_position(validator: ValidatorDir) -> None:
    """Another miner's is refused; an order that cannot be served is left out and counted."""
    good = position(1, [order(1), order(4, order_uuid="")])
    for body in (good, position(2, [order(2)])):
        validator.put(validator.archived(body), json.dumps(body | {"odd": body["miner_hotkey"]}).encode())
    wrong = position(3, [order(3)]) | {"miner_hotkey": OTHER_MINER}
    validator.put(validator.archived(position(3, [])), json.dumps(wrong).encode())
    files = Files(validator)
    while not files.look():
        continue
    assert [len(body["orders"]) for body in files.documents[ARCHIVED, MINER]] == [1, 1]
    assert files.reader.refused == 2


def test_a_document_that_would_be_too_large_is_refused(validator: ValidatorDir) -> None:
    """The last one stays until the files are fewer again."""
    paths = [validator.limit_order(order(n), miner=MINER) for n in range(3)]
    files = Files(validator, limit=600)
    files.look()
    assert files.documents == {}
    assert files.reader.refused == 1
    paths[0].unlink()
    paths[1].unlink()
    files.look()
    assert len(files.orders()) == 1
    assert files.reader.refused == 0


@pytest.mark.usefixtures("_settled")
def test_a_folder_that_cannot_be_listed_keeps_its_document(
    validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted until it can be."""
    validator.limit_order(order(1), miner=MINER)
    files = Files(validator)
    files.look()
    real = os.scandir

    def refusing(path: str) -> Any:
        if "limit_orders" in path:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [files.look(full=True) for _ in range(3)] == [[], [], []]
    assert files.reader.refused == 1
    monkeypatch.setattr(os, "scandir", real)
    files.look(full=True)
    assert len(files.orders()) == 1
    assert files.reader.refused == 0


# --- snapshots --------------------------------------------------------------------------------------------


def test_malformed_lines_are_skipped(validator: ValidatorDir) -> None:
    """Older lines have another name for their time; the last one may be half written."""
    older = json.dumps({"day_open_ms": 2, "account_size": 1, "balance": 2, "equity": 3})
    bad = ["", "{", "null", "[1]", snapshot(9, equity="x"), snapshot(9, balance=None), "\x00"]
    timeless = snapshot(9, snapshot_ms=None)
    lines = [snapshot(1), *bad, older, timeless, snapshot(3), snapshot(4)[:-9]]
    path = write_snapshots(validator, "\n".join(lines))
    files = Files(validator)
    files.look()
    kept = files.documents[SNAPSHOTS, MINER]
    assert [line.get("snapshot_ms", line.get("day_open_ms")) for line in kept] == [1, 2, 3]
    with path.open("a") as file:
        file.write(snapshot(4)[-9:] + "\n")
    files.look()
    assert files.documents[SNAPSHOTS, MINER][-1] == json.loads(snapshot(4))


def test_a_long_file_is_read_from_its_end(validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only as far back as needed, over malformed lines too."""
    path = validator.miners / MINER / "snapshots.jsonl"
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        file.writelines(snapshot(n) + "\n" for n in range(KEPT_SNAPSHOTS))
        file.write("x" * 3_000_000 + "\n")
        file.writelines(snapshot(n) + "\n" for n in range(KEPT_SNAPSHOTS, KEPT_SNAPSHOTS + 10))
    read = 0
    real = miner_files.read_bytes

    def reading(*args: Any, **kwargs: Any) -> Any:
        nonlocal read
        body, status = real(*args, **kwargs)
        read += len(body)
        return body, status

    monkeypatch.setattr(miner_files, "read_bytes", reading)
    files = Files(validator, limit=8 << 20)
    files.look()
    kept = files.documents[SNAPSHOTS, MINER]
    assert [line["snapshot_ms"] for line in kept] == list(range(10, KEPT_SNAPSHOTS + 10))
    with path.open("ab") as tail:
        tail.truncate(20 << 20)  # a hole, as after a crash, before the next lines
        tail.seek(0, os.SEEK_END)
        tail.writelines((f"\n{snapshot(n)}".encode()) for n in range(KEPT_SNAPSHOTS))
    read = 0
    files.look()
    assert len(files.documents[SNAPSHOTS, MINER]) == KEPT_SNAPSHOTS
    assert read < 1 << 20


# --- in a running intake ----------------------------------------------------------------------------------


async def until_orders(intake: Intake, count: int) -> None:
    await intake.until(
        lambda: len(json.loads(intake.log.document(ORDERS, MINER) or b"[]")) == count, f"{count} orders"
    )


async def test_changes_are_followed_without_watches(validator: ValidatorDir, data: Path) -> None:
    """And no watch is missed: the positions have those that there are."""
    validator.write(position(1, [order(1)]))
    validator.limit_order(order(2), miner=MINER)
    async with running(data, validator, miner_files_ms=5, **WATCH_ALONE) as intake:
        await until_orders(intake, 1)
        for n in range(3, 6):
            validator.limit_order(order(n), miner=MINER, pair=f"PAIR{n}")
        await until_orders(intake, 4)
        assert intake.log.source().watching
        assert intake.events() == []
        assert set(intake.state()) == {(MINER, uuid(1))}


async def test_the_baseline_has_the_documents_of_miners(validator: ValidatorDir, data: Path) -> None:
    """They are there when intake is ready, however rarely it looks."""
    validator.limit_order(order(1), miner=MINER)
    write_snapshots(validator, snapshot(1))
    async with running(data, validator, watch=NullWatch(), miner_files_ms=3_600_000) as intake:
        found = {document: intake.log.document_revisions(document) for document in PER_MINER}
        assert {document.value: list(miners) for document, miners in found.items()} == {
            "limit_orders": [MINER],
            "snapshots": [MINER],
            "archived_positions": [],
        }


def test_a_snapshot_up_to_the_limit_is_read(validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer line is malformed, and left out."""
    monkeypatch.setattr(miner_files, "_LINE_BYTES", len(snapshot(10)))
    write_snapshots(validator, snapshot(10) + "\n", snapshot(100) + "\n", snapshot(11) + "\n")
    files = Files(validator)
    files.look()
    assert [line["snapshot_ms"] for line in files.documents[SNAPSHOTS, MINER]] == [10, 11]
