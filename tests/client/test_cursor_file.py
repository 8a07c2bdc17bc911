"""The client's cursor on the disk."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE

import msgspec
import pytest

from ptn_api.client.cursor_file import CursorFile, NoCursorFile, cursor_path
from ptn_api.wire.client_session import Cursor
from tests.interrupts import interrupt
from tests.waiting import PATIENCE_S

SERVER = "localhost:8765"


def cursor_file(tmp_path: Path, server: str = SERVER) -> CursorFile:
    return CursorFile(cursor_path(tmp_path, SERVER, "secret-key"), server)


def reloaded(tmp_path: Path) -> Cursor:
    file = cursor_file(tmp_path)
    try:
        return file.load()
    finally:
        file.close()


def test_a_saved_cursor_is_loaded(tmp_path: Path) -> None:
    """Sequence and epoch; `Cursor()` before the first save."""
    file = cursor_file(tmp_path)
    assert file.load() == Cursor()
    file.save(Cursor(5, "e"))
    file.save(Cursor(6, "e"))
    file.close()
    assert reloaded(tmp_path) == Cursor(6, "e")


@pytest.mark.parametrize(("name", "warned"), [("", True), ("copier", False)])
def test_a_cursor_of_another_program_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str, warned: bool
) -> None:
    """Two scripts without names share a cursor, so the first one misses what the second one got."""
    path = cursor_path(tmp_path, SERVER, "secret-key", name)

    def run(script: str) -> list[str]:
        monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
        caplog.clear()
        file = CursorFile(path, SERVER, name=name)
        file.load()
        file.save(Cursor(next(sequences), "e"))
        file.close()
        return [record.getMessage() for record in caplog.records]

    sequences = itertools.count(5)
    assert run("/home/me/first.py") == run("/home/me/first.py") == []
    told = run("/home/me/\N{SNOWMAN}" + "x" * 300 + "/second.py")
    assert [text.partition(": ")[0] for text in told] == (
        ["continuing after message 6, where /home/me/first.py stopped"] if warned else []
    )
    assert path.stat().st_size == 512


def test_an_old_servers_cursor_has_no_epoch(tmp_path: Path) -> None:
    """It is kept nevertheless."""
    file = cursor_file(tmp_path)
    file.load()
    file.save(Cursor(5))
    file.close()
    assert reloaded(tmp_path) == Cursor(5)


def test_the_key_is_neither_in_the_name_nor_in_the_file(tmp_path: Path) -> None:
    """The file name is a hash of server, key and name."""
    file = cursor_file(tmp_path)
    file.load()
    file.save(Cursor(5, "e"))
    file.close()
    everything = "".join(p.name + p.read_text() for p in tmp_path.iterdir())
    assert "secret" not in everything


def test_each_server_key_and_name_has_its_own_cursor(tmp_path: Path) -> None:
    """They do not share cursors."""
    paths = {
        cursor_path(tmp_path, *identities)
        for identities in [("a:1", "k", ""), ("b:1", "k", ""), ("a:1", "l", ""), ("a:1", "k", "n")]
    }
    assert len(paths) == 4


def test_the_default_folder_is_the_users_state_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the platform defines it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert cursor_path(None, SERVER, "k").parent == tmp_path / "ptn-api"


def test_only_the_user_can_read_the_files(tmp_path: Path) -> None:
    """With any umask."""
    before = os.umask(0)
    try:
        file = cursor_file(tmp_path)
        file.load()
        file.save(Cursor(5, "e"))
        file.close()
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"server":"localhost:8765","epo',
        b"17",
        b"\xff\xfe",
        b'{"x":' + b"[" * 100_000,
        b'{"server":"localhost:8765","epoch":"e","sequence":"x"}',
        b'{"server":"localhost:8765","epoch":"e","sequence":-7}',
        b'{"server":"elsewhere:1","epoch":"e","sequence":7}',
    ],
)
def test_an_unreadable_file_is_logged_and_ignored(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next save replaces it."""
    file = cursor_file(tmp_path)
    file.path.write_bytes(content)
    assert file.load() == Cursor()
    assert "ignoring the" in caplog.text
    file.save(Cursor(8, "e"))
    file.close()
    assert reloaded(tmp_path) == Cursor(8, "e")


def test_a_crash_while_saving_leaves_the_old_cursor(tmp_path: Path) -> None:
    """The new content goes to a temporary file; one left by a crash does no harm."""
    file = cursor_file(tmp_path)
    file.load()
    file.save(Cursor(5, "e"))
    file.close()
    file.path.with_suffix(".new").write_bytes(b'{"ser')
    again = cursor_file(tmp_path)
    assert again.load() == Cursor(5, "e")
    again.save(Cursor(6, "e"))
    again.close()
    assert reloaded(tmp_path) == Cursor(6, "e")


HOLDER = """
import sys
from pathlib import Path
from ptn_api.client.cursor_file import CursorFile
from ptn_api.wire.client_session import Cursor
file = CursorFile(Path(sys.argv[1]), sys.argv[2])
file.load()
file.save(Cursor(5, "e"))
print("holds", flush=True)
sys.stdin.readline()
file.close()
"""


@contextmanager
def another_process(path: Path) -> Iterator[Callable[[], None]]:
    """Has the cursor 5, and releases it when told."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), SERVER], stdin=PIPE, stdout=PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"

        def release() -> None:
            process.communicate("\n")

        yield release


def test_two_processes_do_not_share_a_cursor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second is told to use another name, once, and does not touch the first one's."""
    second = cursor_file(tmp_path)
    with another_process(second.path) as release:
        assert second.load() == Cursor()
        assert second.lost == Cursor(5, "e")
        second.save(Cursor(98, "e"))
        second.save(Cursor(99, "e"))
        assert caplog.text.count("name=") == 1
        assert msgspec.json.decode(second.path.read_bytes())["sequence"] == 5
        release()
    second.close()


def test_a_cursor_that_another_process_releases_is_saved_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every save tries; so one second of a second bot does not cost the run its cursor."""
    second = cursor_file(tmp_path)
    with another_process(second.path) as release:
        second.load()
        second.save(Cursor(99, "e"))
        assert "another client" in second.trouble
        release()
    second.save(Cursor(100, "e"))
    assert second.trouble == ""
    assert "saved again" in caplog.text
    second.close()
    assert reloaded(tmp_path) == Cursor(100, "e")


async def test_a_cursor_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process that replaces another resumes where that one ends."""
    second = cursor_file(tmp_path)
    with another_process(second.path) as release:
        waiting = asyncio.create_task(second.wait_until_free(PATIENCE_S))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(release)
        await waiting
    assert second.load() == Cursor(5, "e")
    assert caplog.records == []
    second.close()


def test_a_newer_client_of_this_process_takes_the_cursor_over(tmp_path: Path) -> None:
    """At once, and the older one saves nothing any more; closing it does not release the newer one's."""
    taken: list[str] = []
    first, second = cursor_file(tmp_path), cursor_file(tmp_path)
    first.on_taken = lambda: taken.append("first")
    first.load()
    first.save(Cursor(5, "e"))
    assert second.load() == Cursor(5, "e")
    second.save(Cursor(6, "e"))
    first.save(Cursor(99, "e"))
    first.close()
    assert taken == ["first"]
    assert reload_elsewhere(second.path) == "-1"
    second.close()
    assert reload_elsewhere(second.path) == "6"


def reload_elsewhere(path: Path) -> str:
    """The sequence that another process gets; -1 if it gets none."""
    code = (
        "import sys; from pathlib import Path; from ptn_api.client.cursor_file import CursorFile;"
        "print(CursorFile(Path(sys.argv[1]), sys.argv[2]).load().sequence)"
    )
    command = [sys.executable, "-c", code, str(path), SERVER]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# --- whose cursor -----------------------------------------------------------------------------------------


def login_file(tmp_path: Path, server: str = SERVER, key: str = "k", name: str = "") -> CursorFile:
    return CursorFile(cursor_path(tmp_path, server, key, name), server, name=name)


def test_a_cursor_belongs_to_a_user_of_a_log(tmp_path: Path) -> None:
    """With another key, and at another address of the same log, it is found after the login."""
    file = login_file(tmp_path)
    file.load()
    assert file.identify("e", "alice") == Cursor()
    file.save(Cursor(5, "e"))
    file.close()
    for sequence, login in enumerate([{"key": "rotated"}, {"server": "elsewhere:443"}, {}], 5):
        again = login_file(tmp_path, **login)
        before = again.load()
        after = again.identify("e", "alice")
        assert Cursor(sequence, "e") in (before, after)
        assert again.lost is None
        again.save(Cursor(sequence + 1, "e"))
        again.close()


def test_another_user_log_or_name_has_another_cursor(tmp_path: Path) -> None:
    """Also with the same key text."""
    file = login_file(tmp_path)
    file.load()
    file.identify("e", "alice")
    file.save(Cursor(5, "e"))
    file.close()
    for name, epoch, user in [("", "e", "bob"), ("", "f", "alice"), ("n", "e", "alice")]:
        other = login_file(tmp_path, key="other", name=name)
        assert other.load() == Cursor()
        assert other.identify(epoch, user) == Cursor()
        other.close()


def test_a_file_of_an_address_and_key_is_taken_over(tmp_path: Path) -> None:
    """Once: then it names the file of the user. A server that tells no user goes on in that one."""
    old = login_file(tmp_path)
    old.load()
    old.save(Cursor(5, "e"))
    old.close()
    file = login_file(tmp_path)
    assert file.load() == Cursor(5, "e")
    assert file.identify("e", "alice") == Cursor()
    file.save(Cursor(6, "e"))
    file.close()
    assert b"moved_to" in file.path.read_bytes()
    again = login_file(tmp_path)
    assert again.load() == Cursor(6, "e")
    again.save(Cursor(7, "e"))
    again.close()
    rotated = login_file(tmp_path, key="rotated")
    rotated.load()
    assert rotated.identify("e", "alice") == Cursor(7, "e")
    rotated.close()


def test_a_damaged_file_that_only_names_another_costs_nothing(tmp_path: Path) -> None:
    """The login finds the cursor."""
    file = login_file(tmp_path)
    file.load()
    file.identify("e", "alice")
    file.save(Cursor(5, "e"))
    file.close()
    file.path.write_bytes(b"{")
    again = login_file(tmp_path)
    assert again.load() == Cursor()
    assert again.identify("e", "alice") == Cursor(5, "e")
    assert again.lost is None
    again.close()


def test_a_file_that_names_no_cursor_file_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A path elsewhere is no name of ours."""
    file = login_file(tmp_path)
    file.path.write_bytes(msgspec.json.encode({"server": SERVER, "moved_to": "../../elsewhere.json"}))
    assert file.load() == Cursor()
    assert "ignoring the" in caplog.text
    file.close()


def test_an_unusable_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client runs nevertheless."""
    (tmp_path / "file").write_text("")
    file = CursorFile(cursor_path(tmp_path / "file" / "state", SERVER, "k"), SERVER)
    assert file.load() == Cursor()
    file.save(Cursor(1, "e"))
    file.save(Cursor(2, "e"))
    file.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_partial_write_keeps_the_former_cursor(tmp_path: Path) -> None:
    """As at the end of a quota: half a record must not replace a whole one."""
    import resource
    import signal

    file = cursor_file(tmp_path)
    file.save(Cursor(5, "e"))
    file.close()
    file.load()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        file.save(Cursor(6, "e"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "No space left" in file.trouble
    assert file._read() == Cursor(5, "e")
    file.save(Cursor(7, "e"))
    assert file.trouble == ""
    file.close()
    assert reloaded(tmp_path) == Cursor(7, "e")


def test_a_full_disk_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every save tries again, the end too."""
    file = cursor_file(tmp_path)
    file.load()
    obstacle = file.path.with_suffix(".new")
    obstacle.mkdir()  # makes writing impossible
    file.save(Cursor(1, "e"))
    file.save(Cursor(2, "e"))
    assert "cannot write" in file.trouble
    assert len(caplog.records) == 1
    obstacle.rmdir()
    file.close()
    assert file.trouble == ""
    assert reloaded(tmp_path) == Cursor(2, "e")


@pytest.mark.parametrize("remove", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("away"))])
def test_a_folder_that_is_gone_is_made_again(remove: Callable[[Path], None], tmp_path: Path) -> None:
    """Within a second: until then the writes go to the old file. No other process gets the cursor."""
    seconds = [100.0]
    path = cursor_path(tmp_path / "state", SERVER, "secret-key")
    file = CursorFile(path, SERVER, monotonic=lambda: seconds[0])
    file.load()
    file.save(Cursor(1, "e"))
    remove(tmp_path / "state")
    seconds[0] += 1.0
    file.save(Cursor(2, "e"))
    assert msgspec.json.decode(path.read_bytes())["sequence"] == 2
    assert reload_elsewhere(path) == "-1"
    file.close()
    assert reload_elsewhere(path) == "2"


def test_a_folder_that_was_replaced_by_a_file_is_trouble(tmp_path: Path) -> None:
    """Until it is back, with an older cursor, which the next save replaces."""
    seconds = [100.0]
    folder, away = tmp_path / "state", tmp_path / "away"
    path = cursor_path(folder, SERVER, "secret-key")
    file = CursorFile(path, SERVER, monotonic=lambda: seconds[0])
    file.load()
    file.save(Cursor(1, "e"))
    folder.rename(away)
    folder.touch()
    seconds[0] += 1.0
    file.save(Cursor(2, "e"))
    assert "cannot write" in file.trouble
    folder.unlink()
    away.rename(folder)
    file.save(Cursor(3, "e"))
    assert file.trouble == ""
    assert reload_elsewhere(path) == "-1"
    file.close()
    assert reload_elsewhere(path) == "3"


def test_a_save_after_the_end_holds_nothing(tmp_path: Path) -> None:
    """Another process can have the cursor."""
    file = cursor_file(tmp_path)
    file.load()
    file.close()
    file.save(Cursor(3, "e"))
    assert reload_elsewhere(file.path) == "3"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, nobody is blamed, and the cursor is kept."""
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    file = cursor_file(tmp_path)
    file.load()
    file.identify("e", "alice")
    file.save(Cursor(5, "e"))
    file.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "another" not in caplog.text
    assert reloaded(tmp_path) == Cursor(5, "e")


def test_a_cursor_without_a_file_lasts_for_the_run() -> None:
    """For mirrors, which start with a snapshot."""
    store = NoCursorFile(Cursor(3, "e"))
    store.save(Cursor(4, "e"))
    store.close()
    assert store.load() == Cursor(4, "e")


class Disk:
    """Counts syncs and replacements; `seconds` is the time by the cursor file's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.seconds = 100.0
        real = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: (self._count(), real(file)))

    def _count(self) -> None:
        self.syncs += 1

    def file(self, tmp_path: Path) -> CursorFile:
        path = cursor_path(tmp_path, SERVER, "secret-key")
        return CursorFile(path, SERVER, monotonic=lambda: self.seconds)


def test_a_burst_of_saves_is_synced_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing: the kernel has its writes."""
    disk = Disk(monkeypatch)
    file = disk.file(tmp_path)
    file.load()
    for n in range(1, 1_001):
        file.save(Cursor(n, "e"))
    assert disk.syncs == 1
    assert msgspec.json.decode(file.path.read_bytes())["sequence"] == 1_000
    disk.seconds += 1.0
    file.save(Cursor(1_001, "e"))
    assert disk.syncs == 2
    file.save(Cursor(1_002, "e"))
    file.close()
    assert disk.syncs == 3
    assert reloaded(tmp_path) == Cursor(1_002, "e")


def test_saves_with_a_second_between_them_are_all_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only bursts can be repeated after a crash of the machine."""
    disk = Disk(monkeypatch)
    file = disk.file(tmp_path)
    file.load()
    for n in range(1, 6):
        disk.seconds += 2.0
        file.save(Cursor(n, "e"))
    assert disk.syncs == 5
    file.close()
    assert disk.syncs == 5


def test_a_shorter_cursor_overwrites_a_longer_one_completely(tmp_path: Path) -> None:
    """The file always has the same size."""
    file = cursor_file(tmp_path)
    file.load()
    file.save(Cursor(1_760_000_000_000, "a-long-epoch"))
    size = file.path.stat().st_size
    file.save(Cursor(7, None))
    assert file.path.stat().st_size == size
    file.close()
    assert reloaded(tmp_path) == Cursor(7, None)


def test_a_cursor_longer_than_a_sector_replaces_the_file(tmp_path: Path) -> None:
    """A server may use any epoch."""
    file = cursor_file(tmp_path)
    file.load()
    for n, epoch in enumerate(["e", "e" * 2_000, "f" * 3_000, "g"]):
        file.save(Cursor(n, epoch))
        assert msgspec.json.decode(file.path.read_bytes())["epoch"] == epoch
    file.close()
    assert reloaded(tmp_path) == Cursor(3, "g")


def test_an_interrupt_at_any_point_of_a_save(tmp_path: Path) -> None:
    """The next save succeeds, also after one that replaced the file."""

    def save(file: CursorFile, sequence: int) -> None:
        file.save(Cursor(sequence, "e"))
        file.save(Cursor(sequence + 1, "e" * 600))
        file.save(Cursor(sequence + 2, "e"))

    for step in itertools.count(1):
        file = cursor_file(tmp_path)
        file.load()
        file.save(Cursor(10 * step, "e"))
        interrupted = interrupt(step, partial(save, file, 10 * step + 1))
        file.save(Cursor(10 * step + 4, "e"))
        file.close()
        assert reloaded(tmp_path) == Cursor(10 * step + 4, "e"), step
        if not interrupted:
            break
