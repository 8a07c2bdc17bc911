"""A file is read whole or not at all, and its versions are told apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.intake.file import read_whole, settled, stamp


def test_every_replacement_is_another_version(tmp_path: Path) -> None:
    """Also of the same size within the same tick of the clock: the inode is another while the old one is."""
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"1")
    other.write_bytes(b"2")
    before = stamp(os.stat(path))
    os.replace(other, path)
    assert stamp(os.stat(path)) != before


def test_content_and_version_belong_together(tmp_path: Path) -> None:
    """The status is that of the file that was read."""
    path = tmp_path / "a"
    path.write_bytes(b"content")
    body, status = read_whole(str(path), 100)
    assert body == b"content"
    assert stamp(status) == stamp(os.stat(path))


def test_a_fresh_change_is_not_settled(tmp_path: Path) -> None:
    """The next one might carry the same time; a clock that is wrong by hours makes no difference for ever."""
    (tmp_path / "a").touch()
    changed_ns = os.stat(tmp_path / "a").st_ctime_ns
    assert not settled(changed_ns + 10_000_000)
    assert settled(changed_ns - 3_600 * 10**9)
    assert settled(changed_ns + 3_600 * 10**9)


def _too_large(path: Path) -> None:
    path.write_bytes(b"x" * 101)


def _no_utf8(path: Path) -> None:
    path.write_bytes(b"\xff")


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (Path.touch, "empty"),
        (Path.mkdir, "not_a_file"),
        (os.mkfifo, "not_a_file"),
        (_too_large, "too_large"),
        (_no_utf8, "not_utf8"),
        (_loop, "unreadable"),
    ],
)
def test_what_cannot_be_a_position_is_refused(tmp_path: Path, make: object, code: str) -> None:
    """With a code, and without waiting for anybody."""
    path = tmp_path / "a"
    make(path)  # type: ignore[operator]
    with pytest.raises(InvalidInputError) as refused:
        read_whole(str(path), 100)
    assert refused.value.code == code


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    """That is news of its own, not a bad file."""
    with pytest.raises(FileNotFoundError):
        read_whole(str(tmp_path / "a"), 100)
