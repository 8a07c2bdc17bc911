"""A validator's directory of 2026 is read whole, and followed while it changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.event_log.contract import PER_MINER, Document, DocumentWritten, PositionWritten
from tests import newest
from tests.factories import order, position, uuid
from tests.intake.running import WATCH_ALONE, Intake, running
from tests.intake.validator_dir import ValidatorDir


@pytest.fixture
def validator(tmp_path: Path) -> ValidatorDir:
    return ValidatorDir.newest(tmp_path / "validator")


def _documents(intake: Intake) -> dict[tuple[Document, str], Any]:
    found = {}
    for document in Document:
        miners = intake.log.document_revisions(document) if document in PER_MINER else [""]
        for miner in miners:
            content = intake.log.document(document, miner)
            assert content is not None, document
            found[document, miner] = _by_uuid(json.loads(content))
    return found


def _by_uuid(content: Any) -> Any:
    """Orders and positions of a miner, whatever the order of their files."""
    if isinstance(content, list) and content and isinstance(content[0], dict) and "balance" not in content[0]:
        return sorted(content, key=lambda item: item.get("position_uuid") or item["order"]["order_uuid"])
    return content


async def test_every_file_is_read(validator: ValidatorDir, data: Path) -> None:
    """All positions, and all documents, as an independent reading finds them; nothing is refused."""
    expected = newest.changes()
    async with running(data, validator) as intake:
        assert {uuid for _, uuid in intake.state()} == {
            change.position.position_uuid for change in expected if isinstance(change, PositionWritten)
        }
        assert intake.log.source().invalid == 0
        assert intake.events() == []
        assert _documents(intake) == {
            (change.document, change.miner_hotkey): _by_uuid(json.loads(change.content or b""))
            for change in expected
            if isinstance(change, DocumentWritten)
        }


async def test_nothing_is_written_again_by_a_restart(validator: ValidatorDir, data: Path) -> None:
    """Neither by a sweep; every ETag stays."""
    async with running(data, validator) as intake:
        before = intake.log.head()
    async with running(data, validator, miner_files_ms=5) as intake:
        await intake.swept(3)
        assert intake.log.head() == before


def _sourced(n: int, start_ms: float | None, **fields: Any) -> dict[str, Any]:
    sources = [
        {"source": "Tiingo", "start_ms": start_ms, "websocket": True, "lag_ms": 12.0, "bid": None},
        None,
    ]
    return order(n, price_sources=sources, value=None, quantity=0.5) | fields


@pytest.mark.parametrize("watching", [True, False])
async def test_a_day_of_changes_is_followed(validator: ValidatorDir, data: Path, watching: bool) -> None:
    """Odd price sources, a close, an archive of many positions, a ledger that moves: nothing is missed."""
    miner = "5EntF8LjeU56zqG625LCRKjpGB2jyEH2av14rbJTmmBppUaG_4"
    many = [position(n, [order(n)], miner=miner, closed=True) for n in range(100, 130)]
    for body in many:
        validator.write(body)
    (validator.path / "validation/perf_ledgers.json.gz").unlink()
    validator.document("validation/perf_ledgers.json", b'{"older": {"portfolio": {}}}')
    periods: dict[str, Any] = WATCH_ALONE | {"miner_files_ms": 10} if watching else {"miner_files_ms": 10}
    async with running(data, validator, **periods) as intake:
        assert len(intake.state()) == 96
        now = intake.log.created_ms
        opened = position(1, [_sourced(1, float(now), processed_ms=now + 1)], miner=miner, fee_history=[])
        validator.write(opened)
        await intake.until(lambda: (miner, uuid(1)) in intake.state())
        flat = _sourced(2, None, order_type="FLAT", leverage=None, quantity=-0.5, processed_ms=now + 2)
        closed = opened | {"orders": [*opened["orders"], flat]}
        closed |= {"is_closed_position": True, "close_ms": now + 2, "position_type": "FLAT"}
        validator.delete(opened)
        validator.write(closed)
        await intake.until(lambda: intake.state().get((miner, uuid(1))) == closed, "the close")
        for body in many[:20]:
            validator.archive(body)
        validator.zipped("validation/perf_ledgers.json.gz", {"newer": {"cps": []}})
        (validator.path / "validation/perf_ledgers.json").unlink()
        await intake.until(lambda: len(intake.state()) == 77, "the archive")
        await intake.until(lambda: b"newer" in (intake.log.document(Document.PERF_LEDGERS) or b""))
        await intake.until(
            lambda: len(json.loads(intake.log.document(Document.ARCHIVED_POSITIONS, miner) or b"[]")) == 20
        )
        assert intake.announced() == [order(n)["order_uuid"] for n in (1, 2)]
        assert not intake.log.source().stale
        assert intake.log.source().invalid == 0


_READ_AS_ANOTHER_USER = """
import asyncio, os, sys
from pathlib import Path
from ptn_api.event_log.contract import Document
from tests.intake.running import running
from tests.intake.validator_dir import ValidatorDir

async def main():
    validator = ValidatorDir(Path(sys.argv[1]))
    async with running(Path(sys.argv[2]), validator, miner_files_ms=10) as intake:
        await intake.until(lambda: intake.log.source().invalid == int(sys.argv[3]))
        print("positions:", len(intake.state()), flush=True)
        sys.stdin.readline()
        await intake.until(lambda: intake.log.source().invalid == 0 and len(intake.state()) == 66)
        await intake.until(lambda: len(intake.log.document_revisions(Document.LIMIT_ORDERS)) == 3)

os.setgid(65534)
os.setuid(65534)
asyncio.run(main())
"""


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


def test_files_of_another_user_are_counted_until_they_can_be_read(public_path: Path) -> None:
    """They have mode 0600; once the permissions are put right, everything is served."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    validator = ValidatorDir.newest(public_path / "validator")
    data = public_path / "data"
    data.mkdir()
    os.chown(data, 65534, 65534)
    files = [path for path in (validator.path / "validation").rglob("*") if path.is_file()]
    read = [path for path in files if _is_read(path.relative_to(validator.path / "validation"))]
    with subprocess.Popen(
        [sys.executable, "-c", _READ_AS_ANOTHER_USER, validator.path, data, str(len(read) + 1)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        first = next((line for line in child.stdout if line.startswith("positions:")), "the child ended")
        assert first == "positions: 0\n"
        for path in (*files, validator.path / "runnable/minerstatistics.json"):
            path.chmod(0o644)
        child.communicate("\n")
    assert child.returncode == 0


def _is_read(path: Path) -> bool:
    ignored = ("transactions", "departed", "perf_ledger_eliminations", "entity_", "hl_", "timestamp")
    return not path.name.startswith(ignored)
