"""Every change of a file is another version, once the version is settled; and whose the file is."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest

from ptn_api.file_version import is_settled, mount_of, owner_of, version_of


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


def test_the_mount_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The innermost; of several at one place, the last one. Special characters in paths are octal."""
    folder = tmp_path.resolve() / "a b"
    at = str(folder).replace(" ", "\\040")
    lines = [
        "22 1 0:21 / / rw - ext4 /dev/root rw",
        f"23 22 0:22 / {at} rw,relatime shared:1 - tmpfs tmpfs rw",
        f"24 23 0:23 /keys.json {at}/keys.json rw - ext4 /dev/other rw",
        f"25 22 0:24 / {at} rw - nfs4 server:/ rw",
        f"26 22 0:25 / {at}c rw - xfs /dev/third rw",
    ]
    monkeypatch.setattr(Path, "read_text", lambda path: "\n".join(lines))
    assert mount_of(folder / "keys.json") == (str(folder / "keys.json"), "ext4")
    assert mount_of(folder / "keys.json.bak") == (str(folder), "nfs4")
    assert mount_of(tmp_path / "other") == ("/", "ext4")
    lines.clear()
    assert mount_of(folder) == ("", "")


def test_the_owner_of_what_is_out_of_reach(tmp_path: Path) -> None:
    """That of the nearest folder that can be reached; a user without a name is a number."""
    me = os.geteuid()
    assert owner_of(tmp_path / "missing" / "file") == f"{pwd.getpwuid(me).pw_name} (uid {me})"
    if me == 0:
        os.chown(tmp_path, 54_321, -1)
        assert owner_of(tmp_path) == "uid 54321"
