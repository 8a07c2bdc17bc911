"""A file is read completely or not at all, and names are safe to pass on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.file_version import version_of
from ptn_api.intake.files import LONGEST_NAME, check_name, read_file
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
