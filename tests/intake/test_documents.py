"""The validator's documents are served whole, in their last good version."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest

from ptn_api import file_version
from ptn_api.event_log.contract import Document
from ptn_api.intake import documents
from ptn_api.intake.documents import DOCUMENT_FILES, DocumentFiles
from ptn_api.intake.files import read_bytes
from tests.factories import MINER, order, position, uuid
from tests.intake.running import NEVER_MS, WATCH_ALONE, running
from tests.intake.validator_dir import ValidatorDir


async def test_documents_are_in_the_baseline_and_follow_their_files(
    validator: ValidatorDir, data: Path
) -> None:
    """By the watch alone, byte for byte."""
    names = [name for files in DOCUMENT_FILES.values() for name in files[:1]]
    for name in names:
        validator.document(name, b'{"first": 1}')
    async with running(data, validator, **WATCH_ALONE) as intake:
        assert {intake.log.document(document) for document in DOCUMENT_FILES} == {b'{"first": 1}'}
        for document, name in zip(DOCUMENT_FILES, names, strict=True):
            validator.document(name, b'{"second": 2}')
            await intake.until(
                lambda document=document: intake.log.document(document) == b'{"second": 2}', document.value
            )


# --- several files of one document ------------------------------------------------------------------------

LEDGERS = Document.PERF_LEDGERS
ZIPPED, PKL, PLAIN = DOCUMENT_FILES[LEDGERS]
PICKLE = b"\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00}\x94."


class Ledgers:
    """The files of the performance ledgers, written with the given ages in seconds."""

    def __init__(self, validator: ValidatorDir, limit: int = 1 << 20) -> None:
        self.validator = validator
        self.files = DocumentFiles(validator.path, {}, limit=limit, confirm_ms=0)

    def write(self, name: str, content: bytes, age: int = 0) -> None:
        path = self.validator.document(name, content)
        then = time.time_ns() - age * 10**9
        os.utime(path, ns=(then, then))

    def check(self) -> bytes | None:
        change = self.files.check(LEDGERS, 0)
        return change.content if change else None


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, 1)


@pytest.fixture
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 50 ms had passed since each change."""
    monkeypatch.setattr(file_version, "_SETTLE_NS", -1)


@pytest.mark.usefixtures("_settled")
def test_the_newest_file_counts(validator: ValidatorDir) -> None:
    """Of equally old ones the first: gzipped JSON, then the same under a wrong name, then plain JSON."""
    ledgers = Ledgers(validator)
    then = time.time_ns()
    for name, content in (
        (PLAIN, b'{"plain":1}'),
        (PKL, zipped(b'{"pkl":1}')),
        (ZIPPED, zipped(b'{"gz":1}')),
    ):
        os.utime(validator.document(name, content), ns=(then, then))
        assert ledgers.check() == (content if name == PLAIN else gzip.decompress(content))
    assert ledgers.check() is None
    ledgers.write(PLAIN, b'{"plain":2}', age=-1)
    assert ledgers.check() == b'{"plain":2}'
    for name in (PLAIN, ZIPPED):
        (validator.path / name).unlink()
    assert ledgers.check() == b'{"pkl":1}'
    assert ledgers.files.refused == 0


@pytest.mark.usefixtures("_settled")
def test_a_document_that_memory_does_not_suffice_for_is_skipped(
    validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Orders matter more: the process goes on, and does not try the same version for ever."""
    ledgers = Ledgers(validator)
    ledgers.write(PLAIN, b"{}")
    tries = []

    def too_large(body: bytes, limit: int) -> bytes:
        tries.append(body)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(documents, "json_object", too_large)
        for _ in range(8):
            assert ledgers.check() is None
    assert ledgers.files.refused == 1
    assert len(tries) == 5
    assert capsys.readouterr().out.count("no_memory") == 1
    ledgers.write(PLAIN, b'{"next": 1}')
    assert ledgers.check() == b'{"next": 1}'
    assert ledgers.files.refused == 0


@pytest.mark.usefixtures("_settled")
def test_a_pickle_is_never_loaded(validator: ValidatorDir, capsys: pytest.CaptureFixture[str]) -> None:
    """It is counted and named once, and an older file is served; nor is gzip of anything but an object."""
    ledgers = Ledgers(validator)
    ledgers.write(PKL, PICKLE)
    ledgers.write(PLAIN, b"{}", age=1)
    assert ledgers.check() == b"{}"
    for _ in range(8):
        assert ledgers.check() is None
    assert ledgers.files.refused == 1
    output = capsys.readouterr().out
    assert output.count("document_skipped") == 1
    assert "perf_ledgers.pkl" in output
    assert str(validator.path) not in output
    ledgers.write(PKL, zipped(PICKLE))
    assert ledgers.check() is None
    assert ledgers.files.refused == 1
    ledgers.write(PKL, zipped(b" \n{}"))
    assert ledgers.check() == b" \n{}"
    assert ledgers.files.refused == 0


def test_a_damaged_file_is_not_replaced_by_an_older_one(validator: ValidatorDir) -> None:
    """It may be half written: the last content stays until it is whole."""
    ledgers = Ledgers(validator)
    ledgers.write(PLAIN, b'{"old":1}', age=5)
    assert ledgers.check() == b'{"old":1}'
    whole = zipped(b'{"new":1}')
    for half in (b"", whole[:5], whole[:-3]):
        ledgers.write(ZIPPED, half)
        assert ledgers.check() is None
        assert ledgers.files.refused == 1
    ledgers.write(ZIPPED, whole)
    assert ledgers.check() == b'{"new":1}'
    assert ledgers.files.refused == 0


def test_inflated_content_is_limited(validator: ValidatorDir) -> None:
    """However small the file, and whatever comes first in it."""
    ledgers = Ledgers(validator, limit=1 << 20)
    for content in (b"{" + b" " * (8 << 20) + b"}", b" " * (8 << 20), b"0" * (16 << 20)):
        ledgers.write(ZIPPED, zipped(content))
        tracemalloc.start()
        assert ledgers.check() is None
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()
    assert ledgers.files.refused == 1


def test_statistics_are_read_from_the_gzipped_file(validator: ValidatorDir) -> None:
    """The validator writes it after the plain one, which counts only if it is clearly newer."""
    files = DocumentFiles(validator.path, {}, limit=1 << 20, confirm_ms=0)
    first, second = (validator.path / name for name in DOCUMENT_FILES[Document.STATISTICS])
    validator.put(first, zipped(b'{"gz":1}'))
    validator.put(second, b'{"plain":1}')
    change = files.check(Document.STATISTICS, 0)
    assert change is not None
    assert change.content == b'{"gz":1}'
    past = time.time_ns() - 3_600 * 10**9
    os.utime(first, ns=(past, past))
    change = files.check(Document.STATISTICS, 0)
    assert change is not None
    assert change.content == b'{"plain":1}'


async def test_account_sizes_are_read_at_most_once_in_a_while(validator: ValidatorDir, data: Path) -> None:
    """They change with every order; the last version is read in the end."""
    sizes = "validation/miner_account_sizes.json"
    async with running(data, validator, account_sizes_ms=NEVER_MS) as intake:
        validator.document(sizes, b'{"n":1}')
        await intake.until(lambda: intake.log.document(Document.ACCOUNT_SIZES) == b'{"n":1}')
        validator.document(sizes, b'{"n":2}')
        validator.document("runnable/minerstatistics.json", b"{}")
        await intake.until(lambda: intake.log.document(Document.STATISTICS) == b"{}")
        assert intake.log.document(Document.ACCOUNT_SIZES) == b'{"n":1}'
    async with running(data, validator, account_sizes_ms=100, **WATCH_ALONE) as intake:
        for n in range(9):
            validator.document(sizes, b'{"n":%d}' % n)
            await asyncio.sleep(0)
        await intake.until(lambda: intake.log.document(Document.ACCOUNT_SIZES) == b'{"n":8}')


@pytest.mark.parametrize(
    ("written", "served"),
    [
        (b'{"dd": NaN, "x": [-Infinity]}', b'{"dd": null, "x": [null]}'),
        (b'{"dd": 1e999}', b'{"dd": null}'),
    ],
)
async def test_a_document_is_served_as_json(
    validator: ValidatorDir, data: Path, written: bytes, served: bytes
) -> None:
    """Null for what is not a number."""
    validator.document("runnable/minerstatistics.json", written)
    async with running(data, validator) as intake:
        assert intake.log.document(Document.STATISTICS) == served


# --- every document ---------------------------------------------------------------------------------------


async def test_a_document_that_appears_later_is_read(validator: ValidatorDir, data: Path) -> None:
    """Even in a folder that did not exist before, by the sweep."""
    (validator.path / "runnable").rmdir()
    async with running(data, validator) as intake:
        assert intake.log.document(Document.STATISTICS) is None
        validator.document("runnable/minerstatistics.json", b'{"data": []}')
        await intake.until(lambda: intake.log.document(Document.STATISTICS) == b'{"data": []}')


async def test_a_bad_document_leaves_the_last_good_one(
    validator: ValidatorDir, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half-written or malformed: logged once, counted, and read again when it changes."""
    contents = [b"", b'{"eliminations": [', b"[]", b'{"dd": NaN', b'{"x": "\xff"}', b"null"]
    bad = dict(zip(DOCUMENT_FILES, contents, strict=False))
    for document in bad:
        validator.document(DOCUMENT_FILES[document][0], b'{"good": 1}')
    async with running(data, validator) as intake:
        for document, content in bad.items():
            validator.document(DOCUMENT_FILES[document][0], content)
        await intake.until(lambda: intake.log.source().invalid == len(bad))
        await intake.swept(8)
        assert {intake.log.document(document) for document in bad} == {b'{"good": 1}'}
        for document in bad:
            validator.document(DOCUMENT_FILES[document][0], b'{"good": 2}')
        await intake.until(lambda: {intake.log.document(document) for document in bad} == {b'{"good": 2}'})
        await intake.until(lambda: intake.log.source().invalid == 0)
    assert capsys.readouterr().out.count("document_skipped") == len(bad)


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


def test_inflated_content_up_to_the_limit_is_read(validator: ValidatorDir) -> None:
    """A byte more is refused, although the file itself is small."""
    ledgers = Ledgers(validator, limit=1_000)
    whole = b'{"a":"' + b"x" * 992 + b'"}'
    ledgers.write(ZIPPED, zipped(whole))
    assert ledgers.check() == whole
    ledgers.write(ZIPPED, zipped(whole + b" "))
    assert ledgers.check() is None
    assert ledgers.files.refused == 1
