"""A file is read completely or not at all, and names are safe to pass on."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.file_version import version_of
from ptn_api.intake.files import LONGEST_NAME, Refusals, check_name, json_object, read_bytes, read_file
from tests.factories import MINER


def test_content_and_version_belong_together(tmp_path: Path) -> None:
    """The status is that of the file that was read."""
    path = tmp_path / "a"
    path.write_bytes(b"content")
    body, status = read_file(str(path), 100)
    assert body == b"content"
    assert version_of(status) == version_of(os.stat(path))


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (Path.touch, "empty"),
        (Path.mkdir, "not_a_file"),
        (os.mkfifo, "not_a_file"),
        (_write(b"x" * 101), "too_large"),
        (_write(b"\xff"), "not_utf8"),
        (lambda path: path.symlink_to(path), "unreadable"),
    ],
    ids=["empty", "folder", "fifo", "too large", "not UTF-8", "link to itself"],
)
def test_a_file_that_cannot_be_a_position_is_refused(
    tmp_path: Path, make: Callable[[Path], object], code: str
) -> None:
    """With a code, and without blocking."""
    path = tmp_path / "a"
    make(path)
    with pytest.raises(InvalidInputError) as refused:
        read_file(str(path), 100)
    assert refused.value.code == code


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    """A missing file is a change, not a malformed file."""
    with pytest.raises(FileNotFoundError):
        read_file(str(tmp_path / "a"), 100)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\x80\x04.", "pickle"),
        (gzip.compress(b"{}", mtime=0)[:-4], "damaged"),
        (b"\x1f\x8bnonsense", "damaged"),
        (gzip.compress(b"[]", mtime=0), "not_json"),
        (gzip.compress(b"{" + b" " * 200, mtime=0), "too_large"),
        (gzip.compress(b'{"a": "\xff"}', mtime=0), "not_utf8"),
        (b'{"a": NaN', "not_json"),
        (b"[]", "not_an_object"),
    ],
)
def test_what_is_not_a_json_object_is_refused(body: bytes, code: str) -> None:
    """Gzipped or not; nothing is loaded that is not JSON."""
    with pytest.raises(InvalidInputError) as refused:
        json_object(body, 100)
    assert refused.value.code == code


def test_a_json_object_may_be_gzipped() -> None:
    """In several members too, with padding behind."""
    parts = [b'{"a":', b"NaN", b"}"]
    for body in (b"".join(parts), b"".join(map(gzip.compress, parts)) + b"\0\0"):
        assert json_object(body, 100) == b'{"a":null}'


def test_a_refused_version_is_tried_a_few_times() -> None:
    """It may be half written, which is logged if it lasts. One without permission is tried each time."""
    refused: Refusals[str] = Refusals()
    named = [refused.add("a", "1", "not_json") for _ in range(4)]
    assert named == [False, False, True, False]
    assert not refused.is_final("a", "1")
    assert refused.is_young("a")
    refused.add("a", "1", "not_json")
    assert refused.is_final("a", "1")
    assert not refused.is_young("a")
    assert not refused.is_final("a", "2")
    assert list(refused.to_retry()) == []
    assert not refused.add("a", "2", "not_json")
    assert list(refused.to_retry()) == ["a"]
    named = [refused.add("b", "1", "unreadable") for _ in range(9)]
    assert named == [True] + 8 * [False]
    assert not refused.is_final("b", "1")
    assert len(refused) == 2


@pytest.mark.parametrize("name", [MINER, "a", "BTCUSD", "x" * LONGEST_NAME, "miner 7", "名前", "a-b_c.d"])
def test_ordinary_names_pass(name: str) -> None:
    """Hotkeys, pairs, and any other harmless name."""
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".git", "a/b", "a\\b", 'a"', "a'", "a`"),
        *("a\n", "a\x00", "a\x7f", "\udce9", "a\u202eb", "x" * (LONGEST_NAME + 1)),
    ],
)
def test_unsafe_names_are_refused(name: str) -> None:
    """Paths, quotes, control and direction characters, undecodable bytes, names that are too long."""
    with pytest.raises(InvalidInputError) as refused:
        check_name(name)
    assert refused.value.code == "bad_name"


@pytest.mark.parametrize("tail", [None, 3])
def test_a_file_up_to_the_limit_is_read(tmp_path: Path, tail: int | None) -> None:
    """A byte more is refused, unless only its end is wanted."""
    path = tmp_path / "a"
    for size in (10, 11):
        path.write_bytes(b"x" * size)
        if size > 10 and tail is None:
            with pytest.raises(InvalidInputError) as refused:
                read_bytes(str(path), 10)
            assert refused.value.code == "too_large"
        else:
            assert len(read_bytes(str(path), 10, tail=tail)[0]) == (tail or size)
