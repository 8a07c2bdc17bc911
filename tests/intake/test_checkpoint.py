"""A checkpoint file is a baseline, read once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import Document, DocumentWritten, PositionWritten
from ptn_api.intake.checkpoint import read_checkpoint
from tests import newest
from tests.factories import MINER, OTHER_MINER, T0, order, position, uuid
from tests.intake.running import running

REAL = Path(__file__).parents[3] / "shared/data/real"


def checkpoint(**fields: Any) -> dict[str, Any]:
    return {
        "version": "6.0.0",
        "created_timestamp_ms": 1,
        "challengeperiod": {"testing": {MINER: 1}, "success": {}},
        "eliminations": [{"hotkey": OTHER_MINER, "dd": None, "reason": "ZOMBIE"}],
        "positions": {
            MINER: {"positions": [position(1, [order(1)]), position(2, [order(2)], closed=True)]},
            OTHER_MINER: {"positions": [position(3, [order(3)], miner=OTHER_MINER)], "tier": 100},
        },
        "perf_ledgers": {MINER: {"cps": []}},
    } | fields


def plain(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def zipped(path: Path, content: dict[str, Any]) -> Path:
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


Write = Callable[[Path, dict[str, Any]], Path]


@pytest.mark.parametrize("write", [plain, zipped])
def test_its_content_becomes_state(tmp_path: Path, write: Write) -> None:
    """Positions first, then the documents in the shape of their files, then the miners."""
    changes = list(read_checkpoint(write(tmp_path / "checkpoint", checkpoint())))
    positions = [c for c in changes if isinstance(c, PositionWritten)]
    documents = {
        c.document: json.loads(c.content or b"") for c in changes[3:] if isinstance(c, DocumentWritten)
    }
    assert [c.position.position_uuid for c in positions] == [uuid(1), uuid(2), uuid(3)]
    assert json.loads(positions[0].text.json()) == position(1, [order(1)])
    assert documents == {
        Document.ELIMINATIONS: {"eliminations": checkpoint()["eliminations"]},
        Document.CHALLENGEPERIOD: checkpoint()["challengeperiod"],
        Document.PERF_LEDGERS: checkpoint()["perf_ledgers"],
        Document.MINERS: sorted([MINER, OTHER_MINER]),
    }


def test_malformed_entries_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is logged; the rest is read."""
    entries: list[Any] = [position(1, [order(1)]), {}, 5, position(2, [order(2, at=-1)])]
    entries.append(position(3, [order(3)], miner=OTHER_MINER))
    positions = {MINER: {"positions": entries}, "../x": {"positions": []}, "odd": 7, "none": {}}
    changes = list(read_checkpoint(plain(tmp_path / "c", {"positions": positions})))
    kept = [c.position.position_uuid for c in changes if isinstance(c, PositionWritten)]
    assert kept == [uuid(1)]
    assert capsys.readouterr().out.count("checkpoint_entry_skipped") == 7


def test_every_part_of_a_checkpoint_of_today_is_read(tmp_path: Path) -> None:
    """Into the documents that its validator's files make; miners without a position are kept too."""
    content = newest.expected()["checkpoint"]
    changes = list(read_checkpoint(zipped(tmp_path / "c", content)))
    documents = {
        (change.document, change.miner_hotkey): json.loads(change.content or b"")
        for change in changes
        if isinstance(change, DocumentWritten)
    }
    files = {
        (change.document, change.miner_hotkey): json.loads(change.content or b"")
        for change in newest.changes()
        if isinstance(change, DocumentWritten)
    }
    for document in (
        *(Document.ELIMINATIONS, Document.CHALLENGEPERIOD, Document.PERF_LEDGERS, Document.ACCOUNT_SIZES),
        *(Document.ASSET_SELECTIONS, Document.ENTITIES, Document.MINERS),
    ):
        assert documents[document, ""] == files[document, ""], document
    uuids = {change.position.position_uuid for change in changes if isinstance(change, PositionWritten)}
    assert uuids == {
        change.position.position_uuid for change in newest.changes() if isinstance(change, PositionWritten)
    }
    for (document, miner), listed in files.items():
        if document is Document.LIMIT_ORDERS:
            waiting = {
                (file["trade_pair_id"], file["order"]["order_uuid"])
                for file in listed
                if file["folder"] == "unfilled"
            }
            read = documents.get((document, miner), [])
            assert {(file["trade_pair_id"], file["order"]["order_uuid"]) for file in read} == waiting
            assert {file["folder"] for file in read} <= {"unfilled"}
        if document is Document.ARCHIVED_POSITIONS:
            ids = {body["position_uuid"] for body in listed}
            assert {body["position_uuid"] for body in documents[document, miner]} == ids


def test_a_checkpoint_with_values_that_are_no_numbers_is_read(tmp_path: Path) -> None:
    """An older validator without an order writes Infinity for the time of the oldest."""
    path = tmp_path / "c"
    text = json.dumps(
        checkpoint(oldest_order_processed_ms=float("inf"), asset_selections={"a": float("nan")})
    )
    path.write_text(text)
    documents = {c.document: c.content for c in read_checkpoint(path) if isinstance(c, DocumentWritten)}
    assert documents[Document.ASSET_SELECTIONS] == b'{"a": null}'


@pytest.mark.parametrize(
    "fields",
    [
        {"limit_orders": [1]},
        {"limit_orders": {"BTCUSD": [1]}},
        {"limit_orders": {"BTCUSD": {MINER: {}}}},
        {"limit_orders": {"BTCUSD": {MINER: [1]}}},
        {"limit_orders": {"BTCUSD": {MINER: [order(1) | {"processed_ms": None}]}}},
        {"limit_orders": {"BTCUSD": {"../x": [order(1)]}}},
        {"archived_positions": {MINER: {"positions": [{}]}}},
        {"archived_positions": {MINER: 1}},
        {"archived_positions": "x"},
        {"entities": []},
    ],
)
def test_a_malformed_part_hides_no_other(
    tmp_path: Path, fields: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is logged and skipped."""
    content = checkpoint(miner_account_sizes={MINER: []}) | fields
    changes = list(read_checkpoint(plain(tmp_path / "c", content)))
    documents = {c.document for c in changes if isinstance(c, DocumentWritten)}
    assert documents == {
        *(Document.ELIMINATIONS, Document.CHALLENGEPERIOD, Document.PERF_LEDGERS),
        *(Document.ACCOUNT_SIZES, Document.MINERS),
    }
    assert capsys.readouterr().out.count("checkpoint_entry_skipped") == 1


def test_the_older_schema_is_accepted(tmp_path: Path) -> None:
    """No bid, ask, slippage or src; initial_entry_price instead of newer sums; no documents; plain lists."""
    old = position(1, [order(1)], initial_entry_price=5.0)
    for key in ("cumulative_entry_value", "realized_pnl"):
        del old[key]
    for key in ("bid", "ask", "slippage", "src"):
        del old["orders"][0][key]
    changes = list(read_checkpoint(plain(tmp_path / "c", {"positions": {MINER: [old]}})))
    assert isinstance(changes[0], PositionWritten)
    assert json.loads(changes[0].text.json()) == old
    assert len(changes) == 2


def test_an_open_position_taken_from_rest_is_open(tmp_path: Path) -> None:
    """REST answers have close_ms 0; in the log it is null, as in the validator's files."""
    content = {"positions": {MINER: {"positions": [position(1, [order(1)], close_ms=0)]}}}
    change = next(read_checkpoint(plain(tmp_path / "c", content)))
    assert isinstance(change, PositionWritten)
    assert change.position.close_ms is None
    assert json.loads(change.text.json()) == position(1, [order(1)])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (json.dumps(checkpoint()).encode()[:-20], "not_json"),
        (gzip.compress(json.dumps(checkpoint()).encode())[:-20], "damaged"),
        (b"\x1f\x8bnonsense", "damaged"),
        (b"{}", "not_a_checkpoint"),
        (b'{"positions": []}', "not_a_checkpoint"),
        (b'{"positions": {}, "x": "\xff"}', "not_utf8"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, body: bytes, code: str) -> None:
    """Before the first change."""
    path = tmp_path / "checkpoint"
    path.write_bytes(body)
    with pytest.raises(InvalidInputError) as refused:
        next(read_checkpoint(path))
    assert refused.value.code == code


def test_a_missing_file_is_reported_as_missing(tmp_path: Path) -> None:
    """The error does not contain its path."""
    with pytest.raises(InvalidInputError, match="No such file") as refused:
        next(read_checkpoint(tmp_path / "nowhere"))
    assert str(tmp_path) not in str(refused.value)


async def test_only_a_new_log_reads_the_checkpoint(tmp_path: Path, data: Path) -> None:
    """As a baseline, without events. The queue adds orders to it."""
    path = zipped(tmp_path / "c.json.gz", checkpoint())
    async with running(data, checkpoint=str(path), created_ms=T0 + 8_000) as intake:
        assert len(intake.state()) == 3
        assert intake.events() == []
        intake.enqueue({"position": position(1, [order(1), order(9)])})
        intake.enqueue({"position": position(7, [order(10)], miner="newcomer")})
        await intake.until(lambda: len(intake.events()) == 2)
        await intake.until(
            lambda: (
                json.loads(intake.log.document(Document.MINERS) or b"")
                == sorted([MINER, OTHER_MINER, "newcomer"])
            )
        )
    path.unlink()
    async with running(data, checkpoint=str(path)) as intake:
        assert len(intake.state()) == 4


async def test_an_unusable_checkpoint_ends_intake(tmp_path: Path, data: Path) -> None:
    """With the reason, and with a log that is not ready."""
    with pytest.raises(InvalidInputError):
        async with running(data, checkpoint=plain(tmp_path / "c", {})) as intake:
            assert not intake.log.ready()
            await intake.ended()


def test_real_positions_pass_through_unchanged(tmp_path: Path) -> None:
    """Positions of the live network, in the older and the newer schema."""
    if not REAL.exists():
        pytest.skip("real data is not part of the project")
    old = json.loads(gzip.decompress((REAL / "positions_2024.json.gz").read_bytes()))
    content = {"positions": {old[0]["miner_hotkey"]: {"positions": old}}}
    changes = list(read_checkpoint(zipped(tmp_path / "c", content)))
    texts = [json.loads(c.text.json()) for c in changes if isinstance(c, PositionWritten)]
    assert [text | {"close_ms": text["close_ms"] or 0} for text in texts] == [
        body | {"close_ms": body["close_ms"] or 0} for body in old
    ]
