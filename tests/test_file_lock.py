"""Locks between processes, and file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ptn_api.access import add_key, revoke_key
from ptn_api.client.recording import Recording
from ptn_api.errors import ClientError, LogLockedError, LogUnusableError
from ptn_api.event_log.sqlite_log import open_writer
from ptn_api.file_lock import FileLock

NO_LOCKS = [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP]


@pytest.fixture(params=NO_LOCKS, ids=errno.errorcode.get)
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose locks fail, as NFS without its lock service does."""

    def flock(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that locks only what is open for writing, as NFS does."""
    real: Callable[[int, int], None] = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)


SECOND_WRITER = """
import errno, fcntl, sys
from pathlib import Path
from ptn_api.errors import LogLockedError
from ptn_api.event_log.sqlite_log import open_writer

def flock(*_):
    raise OSError(errno.ENOLCK, "none")

fcntl.flock = flock
try:
    open_writer(Path(sys.argv[1])).close()
except LogLockedError:
    print("locked")
"""


@pytest.mark.usefixtures("no_locks")
def test_a_second_writer_is_locked_out_without_flock(tmp_path: Path) -> None:
    """By a lock as SQLite takes them, which it needs anyway."""
    writer = open_writer(tmp_path / "data")
    command = [sys.executable, "-c", SECOND_WRITER, str(tmp_path / "data")]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout]
    writer.close()
    outputs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert outputs == ["locked\n", ""]


@pytest.mark.usefixtures("no_locks")
def test_a_log_needs_locks_of_some_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite would say forever that the database is locked; the server ends instead, and says why."""

    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(LogUnusableError, match="local disk") as error:
        open_writer(tmp_path / "data")
    assert error.value.code == "no_locks"


@pytest.mark.usefixtures("nfs")
def test_a_second_writer_is_locked_out_on_nfs(tmp_path: Path) -> None:
    """Where a directory cannot be locked, a file in it is."""
    writer = open_writer(tmp_path / "data")
    with pytest.raises(LogLockedError):
        open_writer(tmp_path / "data")
    writer.close()
    open_writer(tmp_path / "data").close()


@pytest.mark.usefixtures("no_locks")
def test_keys_are_edited_where_there_are_no_locks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and the file is right."""
    path = tmp_path / "api_keys.json"
    add_key(path, "alice", 100)
    add_key(path, "bob", 100)
    revoke_key(path, "alice")
    assert list(json.loads(path.read_text())) == ["bob"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3


@pytest.mark.usefixtures("nfs")
def test_keys_are_locked_on_nfs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file is opened for writing; one that is read-only is replaced all the same."""
    path = tmp_path / "api_keys.json"
    add_key(path, "alice", 100)
    assert caplog.records == []
    path.chmod(0o400)
    add_key(path, "bob", 100)
    assert list(json.loads(path.read_text())) == ["alice", "bob"]


@pytest.mark.usefixtures("no_locks")
def test_a_recording_is_written_where_there_are_no_locks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and no other process is blamed."""
    Recording(tmp_path / "orders.ndjson").close()
    assert len(caplog.records) == 1
    assert "another process" not in caplog.text


CHILD_LIVES_ON = """
import os, sys
from ptn_api.client.recording import Recording
recording = Recording(sys.argv[1])
if os.fork():
    os._exit(0)
print("forked", flush=True)
sys.stdin.read()
"""


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """It lives on after its parent, and another process takes the lock."""
    path = tmp_path / "orders.ndjson"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD_LIVES_ON, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == "forked\n"
        parent.wait()
        Recording(path).close()
        parent.stdin.close()
        assert parent.stdout.read() == ""  # the child has ended


def test_a_lock_that_another_holds_is_an_error(tmp_path: Path) -> None:
    """Until it is released."""
    first = Recording(tmp_path / "orders.ndjson")
    with pytest.raises(ClientError, match="another process"):
        Recording(tmp_path / "orders.ndjson")
    first.close()
    Recording(tmp_path / "orders.ndjson").close()


def test_a_released_lock_can_be_closed_again(tmp_path: Path) -> None:
    """As an interrupted caller does."""
    lock = FileLock(os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT))
    lock.close()
    lock.close()
