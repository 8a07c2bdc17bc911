"""Every change of a file is another version, once the version is settled; and whose the file is."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest

from ptn_api.file_version import is_settled, owner_of, version_of


def test_every_replacement_is_another_version(tmp_path: Path) -> None:
    """Even with the same size within one tick of the clock: the inode differs."""
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"1")
    other.write_bytes(b"2")
    before = version_of(os.stat(path))
    os.replace(other, path)
    assert version_of(os.stat(path)) != before


def test_a_fresh_change_is_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next change might carry the same time. A clock that is wrong by hours does not block forever."""
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    assert not is_settled(now_ns - 10_000_000)
    assert not is_settled(now_ns + 10_000_000)
    assert is_settled(now_ns - 3_600 * 10**9)
    assert is_settled(now_ns + 3_600 * 10**9)


def test_the_owner_of_what_is_out_of_reach(tmp_path: Path) -> None:
    """That of the nearest folder that can be reached; a user without a name is a number."""
    me = os.geteuid()
    assert owner_of(tmp_path / "missing" / "file") == f"{pwd.getpwuid(me).pw_name} (uid {me})"
    if me == 0:
        os.chown(tmp_path, 54_321, -1)
        assert owner_of(tmp_path) == "uid 54321"
