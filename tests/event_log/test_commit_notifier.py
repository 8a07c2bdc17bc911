"""Commit notifications over Unix sockets: delivered, lost, and cleaned up after."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ptn_api.event_log import open_reader, open_writer
from ptn_api.event_log.commit_notifier import CommitNotifier, SocketCommitListener, listener_folder
from tests.event_log.writer_process import text_with
from tests.factories import T0
from tests.waiting import PATIENCE_S


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path short enough for a socket, wherever pytest keeps its folders."""
    monkeypatch.chdir(tmp_path)
    return Path("listeners")


async def notified(commits: SocketCommitListener) -> None:
    await asyncio.wait_for(commits.wait_for_commit(600_000), PATIENCE_S)


async def test_every_listener_is_notified(folder: Path) -> None:
    """One call reaches all readers; closed listeners leave no file."""
    listeners = [SocketCommitListener(folder) for _ in range(3)]
    notifier = CommitNotifier(folder)
    notifier.notify()
    for commits in listeners:
        await notified(commits)
        commits.close()
    notifier.close()
    assert os.listdir(folder) == []


async def test_many_notifications_wake_once_and_never_block(folder: Path) -> None:
    """A reader that does not wait costs the writer nothing, and wakes once for all that it missed."""
    commits, notifier = SocketCommitListener(folder), CommitNotifier(folder)
    for _ in range(5_000):
        notifier.notify()
    await notified(commits)
    waiting = asyncio.ensure_future(commits.wait_for_commit(600_000))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    notifier.notify()
    await asyncio.wait_for(waiting, PATIENCE_S)
    commits.close()
    notifier.close()


async def test_dead_readers_sockets_are_removed(folder: Path) -> None:
    """The next notification removes the socket file of a killed reader; a live one's stays."""
    dead, alive, notifier = SocketCommitListener(folder), SocketCommitListener(folder), CommitNotifier(folder)
    assert dead._socket is not None
    asyncio.get_running_loop().remove_reader(dead._socket)
    dead._socket.close()
    notifier.notify()
    await notified(alive)
    assert len(os.listdir(folder)) == 1
    alive.close()
    notifier.close()


async def test_a_listener_whose_file_was_removed_binds_again(folder: Path) -> None:
    """One notification is lost, at the cost of a timeout; later ones arrive."""
    commits, notifier = SocketCommitListener(folder), CommitNotifier(folder)
    (name,) = os.listdir(folder)
    (folder / name).unlink()
    notifier.notify()
    await commits.wait_for_commit(10)
    notifier.notify()
    await notified(commits)
    commits.close()
    notifier.close()


def test_notifying_without_a_reader(folder: Path) -> None:
    """Without a folder nothing happens, and none is created."""
    notifier = CommitNotifier(folder)
    notifier.notify()
    notifier.close()
    assert not folder.exists()


async def test_the_folder_is_private(folder: Path) -> None:
    """Only the owner may list the sockets."""
    commits = SocketCommitListener(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    commits.close()


async def test_a_folder_open_to_others_is_not_used(folder: Path) -> None:
    """A folder that others may write, or a symbolic link, is not trusted: commits are looked for."""
    folder.mkdir()
    folder.chmod(0o777)
    Path("link").symlink_to(folder)
    for unsafe in (folder, Path("link")):
        with capture_logs() as logs:
            commits = SocketCommitListener(unsafe)
            await commits.wait_for_commit(1)
            commits.close()
        assert [(line["event"], line["reason"][:20]) for line in logs] == [
            ("commits_not_notified", "not a private folder")
        ]
    assert os.listdir(folder) == []


async def test_another_users_folder_is_not_used(folder: Path) -> None:
    """Another user's folder under the shared temporary directory could be a trap."""
    if os.getuid() != 0:
        pytest.skip("only root can change a folder's owner")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65_534, -1)
    SocketCommitListener(folder).close()
    assert os.listdir(folder) == []


async def test_where_no_socket_can_be_bound_it_is_tried_again(folder: Path) -> None:
    """As on a full disk, at the start as well as after the folder was cleaned: no reader ends for it."""
    folder.write_text("in its place")
    with capture_logs() as logs:
        commits, notifier = SocketCommitListener(folder), CommitNotifier(folder)
        for _ in range(2):
            for _ in range(2):
                await commits.wait_for_commit(1)
            folder.unlink()
            await commits.wait_for_commit(1)
            notifier.notify()
            await notified(commits)
            shutil.rmtree(folder)
            folder.write_text("in its place again")
    assert [line["event"] for line in logs] == ["commits_not_notified"] * 2
    commits.close()
    await commits.wait_for_commit(1)
    notifier.close()


def test_the_folder_is_in_the_data_directory_if_the_path_is_short(tmp_path: Path) -> None:
    """A socket's path holds at most 107 bytes; a longer one is replaced."""
    root = Path("/d")
    short = root / ("x" * (107 - len("/d/") - len("/bells/") - 17))
    assert listener_folder(short) == short / "bells"
    long = short.with_name(short.name + "x")
    assert listener_folder(long) != long / "bells"
    assert listener_folder(long) == listener_folder(long)
    assert listener_folder(long) != listener_folder(long.with_name(long.name + "y"))
    assert len(os.fsencode(listener_folder(long))) < 107 - 18


async def test_notifications_of_a_log_with_a_long_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reader and writer of a log in a deep directory use the same folder."""
    data_dir = tmp_path / ("d" * 120) / "data"
    log = open_writer(data_dir, clock=lambda: T0)
    reader = open_reader(data_dir)
    commits = reader.commit_listener()
    log.append([text_with(1)], T0)
    await asyncio.wait_for(commits.wait_for_commit(600_000), PATIENCE_S)
    assert not (data_dir / "bells").exists()
    commits.close()
    reader.close()
    log.close()
    listener_folder(data_dir).rmdir()
