"""Rings over Unix sockets: heard, lost, and cleaned up after."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from ptn_api.errors import LogError
from ptn_api.event_log import open_reader, open_writer
from ptn_api.event_log.bell import Ringer, SocketBell, bell_folder
from tests.event_log.writer_process import text_with
from tests.factories import T0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Short enough for a socket, wherever pytest keeps its folders."""
    monkeypatch.chdir(tmp_path)
    return Path("bells")


async def rings(bell: SocketBell) -> None:
    await asyncio.wait_for(bell.wait(600_000), 20)


async def test_every_bell_rings(folder: Path) -> None:
    """One ring reaches all readers."""
    bells = [SocketBell(folder) for _ in range(3)]
    ringer = Ringer(folder)
    ringer.ring(7)
    for bell in bells:
        await rings(bell)
        bell.close()
    ringer.close()
    assert os.listdir(folder) == []


async def test_many_rings_wake_once_and_never_block(folder: Path) -> None:
    """A reader that does not listen costs the writer nothing, and wakes once for all it missed."""
    bell, ringer = SocketBell(folder), Ringer(folder)
    for head in range(5_000):
        ringer.ring(head)
    await rings(bell)
    waiting = asyncio.ensure_future(bell.wait(600_000))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    ringer.ring(5_000)
    await asyncio.wait_for(waiting, 20)
    bell.close()
    ringer.close()


async def test_dead_readers_sockets_are_removed(folder: Path) -> None:
    """The socket file of a killed reader goes with the next ring; the living one stays."""
    dead, alive, ringer = SocketBell(folder), SocketBell(folder), Ringer(folder)
    asyncio.get_running_loop().remove_reader(dead._socket)
    dead._socket.close()
    ringer.ring(1)
    await rings(alive)
    assert len(os.listdir(folder)) == 1
    alive.close()
    ringer.close()


async def test_a_bell_whose_name_was_cleaned_away_binds_again(folder: Path) -> None:
    """A lost ring costs the timeout, not every ring after it."""
    bell, ringer = SocketBell(folder), Ringer(folder)
    (name,) = os.listdir(folder)
    (folder / name).unlink()
    ringer.ring(1)
    await bell.wait(10)
    ringer.ring(2)
    await rings(bell)
    bell.close()
    ringer.close()


def test_ringing_without_any_reader(folder: Path) -> None:
    """No folder, no readers: nothing happens."""
    ringer = Ringer(folder)
    ringer.ring(1)
    ringer.close()
    assert not folder.exists()


async def test_the_folder_is_private(folder: Path) -> None:
    """Only the owner may find the sockets."""
    bell = SocketBell(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    bell.close()


async def test_a_folder_open_to_others_is_refused(folder: Path) -> None:
    """A folder that others may write, or that is a link, is not trusted."""
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(LogError) as caught:
        SocketBell(folder)
    assert caught.value.code == "no_bell"
    Path("link").symlink_to(folder)
    with pytest.raises(LogError):
        SocketBell(Path("link"))


async def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    """Another user's folder under the shared temporary directory could be a trap."""
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65_534, -1)
    with pytest.raises(LogError):
        SocketBell(folder)


def test_the_folder_is_in_the_data_directory_where_the_path_is_short(tmp_path: Path) -> None:
    """A name of 107 bytes is the longest that a socket takes; a longer one goes elsewhere."""
    root = Path("/d")
    short = root / ("x" * (107 - len("/d/") - len("/bells/") - 17))
    assert bell_folder(short) == short / "bells"
    long = short.with_name(short.name + "x")
    assert bell_folder(long) != long / "bells"
    assert bell_folder(long) == bell_folder(long)
    assert bell_folder(long) != bell_folder(long.with_name(long.name + "y"))
    assert len(os.fsencode(bell_folder(long))) < 107 - 18


async def test_rings_cross_a_long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reader and writer of a log in a deep directory find each other."""
    data_dir = tmp_path / ("d" * 120) / "data"
    log = open_writer(data_dir, clock=lambda: T0)
    reader = open_reader(data_dir)
    bell = reader.bell()
    log.append([text_with(1)], T0)
    await asyncio.wait_for(bell.wait(600_000), 20)
    assert not (data_dir / "bells").exists()
    bell.close()
    reader.close()
    log.close()
    bell_folder(data_dir).rmdir()
