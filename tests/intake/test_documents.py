"""The validator's documents are served whole, in their last good version."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ptn_api.event_log.contract import Document
from ptn_api.intake import documents
from ptn_api.intake.documents import DOCUMENT_FILES, DocumentFiles
from ptn_api.intake.files import read_bytes
from tests.factories import MINER, order, position, uuid
from tests.intake.running import WATCH_ALONE, running
from tests.intake.validator_dir import ValidatorDir


@pytest.mark.parametrize("document", DOCUMENT_FILES)
async def test_a_document_is_in_the_baseline_and_follows_its_file(
    validator: ValidatorDir, data: Path, document: Document
) -> None:
    """By the watch alone, byte for byte."""
    name = DOCUMENT_FILES[document][0]
    validator.document(name, b'{"first": 1}')
    async with running(data, validator, **WATCH_ALONE) as intake:
        assert intake.log.document(document) == b'{"first": 1}'
        validator.document(name, b'{"second": 2}')
        await intake.until(lambda: intake.log.document(document) == b'{"second": 2}')


async def test_a_document_that_appears_later_is_read(validator: ValidatorDir, data: Path) -> None:
    """Even in a folder that did not exist before, by the sweep."""
    (validator.path / "runnable").rmdir()
    async with running(data, validator) as intake:
        assert intake.log.document(Document.STATISTICS) is None
        validator.document("runnable/minerstatistics.json", b'{"data": []}')
        await intake.until(lambda: intake.log.document(Document.STATISTICS) == b'{"data": []}')


@pytest.mark.parametrize("bad", [b"", b'{"eliminations": [', b"[]", b'{"dd": NaN', b'{"x": "\xff"}', b"null"])
async def test_a_bad_document_leaves_the_last_good_one(
    validator: ValidatorDir, data: Path, bad: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half-written or malformed: logged once, counted, and read again when it changes."""
    validator.document("validation/eliminations.json", b'{"eliminations": []}')
    async with running(data, validator) as intake:
        validator.document("validation/eliminations.json", bad)
        await intake.until(lambda: intake.log.source().invalid == 1)
        await intake.swept(8)
        assert intake.log.document(Document.ELIMINATIONS) == b'{"eliminations": []}'
        validator.document("validation/eliminations.json", b'{"eliminations": [1]}')
        await intake.until(lambda: intake.log.document(Document.ELIMINATIONS) == b'{"eliminations": [1]}')
        await intake.until(lambda: intake.log.source().invalid == 0)
    assert capsys.readouterr().out.count("document_skipped") == 1


def test_a_bad_document_that_is_replaced_before_it_is_read_is_logged_once(
    validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused in the version that was read, not in the one before."""
    document = Document.ELIMINATIONS
    validator.document(DOCUMENT_FILES[document][0], b"[1]")
    files = DocumentFiles(validator.path, {}, limit=1_000, confirm_ms=0)

    def replacing(path: str, limit: int) -> tuple[bytes, os.stat_result]:
        validator.document(DOCUMENT_FILES[document][0], b"[1, 2]")
        monkeypatch.undo()
        return read_bytes(path, limit)

    monkeypatch.setattr(documents, "read_bytes", replacing)
    for _ in range(3):
        assert files.check(document, 0) is None
    assert capsys.readouterr().out.count("document_skipped") == 1


async def test_a_document_written_in_place_is_read_when_complete(validator: ValidatorDir, data: Path) -> None:
    """Not every validator moves its documents into place."""
    path = validator.document("validation/challengeperiod.json", b"{}")
    content = json.dumps({"testing": {f"miner{n}": n for n in range(1000)}})
    async with running(data, validator, **WATCH_ALONE) as intake:
        with path.open("w") as file:
            file.write(content[:3000])
            file.flush()
            await intake.until(lambda: True)
            file.write(content[3000:])
        await intake.until(lambda: intake.log.document(Document.CHALLENGEPERIOD) == content.encode())


async def test_a_document_that_stays_missing_is_removed(validator: ValidatorDir, data: Path) -> None:
    """And returns when its file does."""
    path = validator.document("validation/eliminations.json", b"{}")
    async with running(data, validator) as intake:
        path.unlink()
        await intake.until(lambda: intake.log.document(Document.ELIMINATIONS) is None)
        validator.document("validation/eliminations.json", b"{}")
        await intake.until(lambda: intake.log.document(Document.ELIMINATIONS) == b"{}")


def test_a_removal_takes_two_checks(validator: ValidatorDir) -> None:
    """Missing twice, far enough apart, from an existing folder; then reported once."""
    path = validator.document("validation/eliminations.json", b"{}")
    files = DocumentFiles(validator.path, {}, limit=100, confirm_ms=10)
    assert files.check(Document.ELIMINATIONS, 0) is not None
    path.unlink()
    assert files.check(Document.ELIMINATIONS, 1) is None
    assert files.check(Document.ELIMINATIONS, 10) is None
    validator.document("validation/eliminations.json", b"{}")
    files.check(Document.ELIMINATIONS, 10)
    path.unlink()
    assert files.check(Document.ELIMINATIONS, 11) is None
    away = path.parent.rename(path.parent.with_name("away"))
    assert files.check(Document.ELIMINATIONS, 50) is None
    away.rename(path.parent)
    removal = files.check(Document.ELIMINATIONS, 51)
    assert removal is not None
    assert removal.content is None
    assert files.check(Document.ELIMINATIONS, 100) is None


async def test_documents_of_a_vanished_directory_stay(validator: ValidatorDir, data: Path) -> None:
    """The last state is kept, as with positions."""
    validator.document("validation/eliminations.json", b"{}")
    gone = validator.path.with_name("gone")
    async with running(data, validator) as intake:
        (validator.path / "validation").rename(gone)
        await intake.until(lambda: intake.log.source().stale)
        gone.rename(validator.path / "validation")
        await intake.until(lambda: not intake.log.source().stale)
        await intake.swept(4)
        assert intake.log.document(Document.ELIMINATIONS) == b"{}"
        assert intake.log.document_revision(Document.ELIMINATIONS) <= 2


async def test_an_unchanged_document_is_not_a_new_version_after_a_restart(
    validator: ValidatorDir, data: Path
) -> None:
    """Its ETag must not change."""
    validator.document("validation/perf_ledgers.json", b'{"a": {}}')
    async with running(data, validator) as intake:
        before = intake.log.document_revision(Document.PERF_LEDGERS)
    async with running(data, validator) as intake:
        await intake.swept(4)
        assert intake.log.document_revision(Document.PERF_LEDGERS) == before


async def test_a_document_over_the_limit_is_skipped(validator: ValidatorDir, data: Path) -> None:
    """And counted."""
    validator.document("validation/perf_ledgers.json", b'{"a": "' + b"x" * 1000 + b'"}')
    async with running(data, validator, document_limit_bytes=500) as intake:
        assert intake.log.document(Document.PERF_LEDGERS) is None
        await intake.until(lambda: intake.log.source().invalid == 1)


async def test_an_order_does_not_wait_for_a_large_document(validator: ValidatorDir, data: Path) -> None:
    """Orders are announced while 40 MB are read and written."""
    async with running(data, validator, **WATCH_ALONE) as intake:
        big = b'{"ledgers": "' + b"x" * (40 << 20) + b'"}'
        validator.document("validation/perf_ledgers.json", big)
        for n in range(5):
            validator.write(position(n, [order(n)]))
        await intake.until(lambda: len(intake.events()) == 5)
        assert (MINER, uuid(4)) in intake.state()
        await intake.until(lambda: intake.log.document(Document.PERF_LEDGERS) == big)
