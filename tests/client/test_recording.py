"""Recordings: written, read, interrupted and damaged."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ptn_api.client.recording import Recording, is_recording, read_recording
from ptn_api.client.stream import Stream
from ptn_api.client.testing import FakeServer
from ptn_api.errors import ClientError, InvalidInputError
from ptn_api.wire.client_session import Cursor, Gap, StreamItem
from ptn_api.wire.server_frames import OrderMessage
from tests.waiting import until

NAMES = ["orders.ndjson", "orders.ndjson.zst"]
EPOCH = "e1"


@pytest.fixture(params=NAMES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Uncompressed and compressed."""
    return tmp_path / str(request.param)


def step(sequence: int, *, epoch: str = EPOCH, **marks: bool) -> StreamItem:
    data = msgspec.Raw(b'{"position":{"n":%d}}' % sequence)
    message = OrderMessage(sequence=sequence, timestamp=1_000 + sequence, data=data, **marks)
    return StreamItem(message, Cursor(sequence, epoch))


def write(path: Path, *steps: StreamItem) -> None:
    recording = Recording(path)
    for one in steps:
        recording.take(one)
    recording.close()


def place(path: Path) -> Cursor:
    recording = Recording(path)
    recording.close()
    return recording.load()


def sequences(path: Path) -> list[int]:
    return [what.sequence for what in read_recording(path) if isinstance(what, OrderMessage)]


def test_a_recording_is_read_as_written(path: Path) -> None:
    """Messages with their marks, and gaps, in order."""
    gap = Gap(2, 9, "too_old")
    write(path, step(1), step(2, late=True), StreamItem(gap, Cursor(8, EPOCH)), step(9, replay=True))
    first, second, third, fourth = read_recording(path)
    assert first == step(1).value
    assert second == step(2, late=True).value
    assert third == gap
    assert fourth == step(9, replay=True).value
    assert is_recording(path)


def test_a_recording_is_its_own_cursor(path: Path) -> None:
    """Across any number of runs."""
    assert place(path) == Cursor()
    write(path, StreamItem(None, Cursor(41, EPOCH)))
    recording = Recording(path)
    assert recording.load() == Cursor(41, EPOCH)
    recording.take(step(42))
    recording.close()
    recording = Recording(path)
    assert recording.load() == Cursor(42, EPOCH)
    recording.save(Cursor(50, EPOCH))  # a filtered stream moves on without a message
    recording.close()
    assert place(path) == Cursor(50, EPOCH)
    assert sequences(path) == [42]


def test_another_log_is_marked(path: Path) -> None:
    """Sequences mean nothing without their epoch."""
    write(path, step(7), StreamItem(Gap(7, 101, "epoch"), Cursor(100, "e2")), step(101, epoch="e2"))
    assert place(path) == Cursor(101, "e2")


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_an_incomplete_end_is_dropped(path: Path, cut: int) -> None:
    """Readers ignore it; appending truncates it first."""
    write(path, step(1), step(2))
    write(path, step(3))
    path.write_bytes(path.read_bytes()[:-cut])
    assert sequences(path) in ([1, 2], [1, 2, 3])
    recording = Recording(path)
    assert recording.load() == Cursor(2, EPOCH)
    recording.take(step(3))
    recording.take(step(4))
    recording.close()
    assert sequences(path) == [1, 2, 3, 4]


def test_one_writer_at_a_time(path: Path) -> None:
    """A second process is refused until the first has closed the file."""
    first = Recording(path)
    with pytest.raises(ClientError) as refused:
        Recording(path)
    assert refused.value.code == "in_use"
    first.close()
    Recording(path).close()


def test_a_file_that_is_not_a_recording_is_refused(tmp_path: Path) -> None:
    """The error names the line, and the file is unchanged."""
    path = tmp_path / "notes.txt"
    path.write_text('{"sequence": 1, "timestamp": 2, "data": {}}\n\nsome notes\n')
    with pytest.raises(InvalidInputError, match="line 3"):
        list(read_recording(path))
    with pytest.raises(InvalidInputError, match="line 3"):
        Recording(path)
    assert path.read_text().endswith("some notes\n")
    with pytest.raises(InvalidInputError, match="cannot read"):
        list(read_recording(tmp_path / "nowhere"))


@pytest.mark.parametrize("content", ['{"version": 1, "positions": {}}', "notes", "\n"])
def test_a_file_of_another_kind_is_not_modified(tmp_path: Path, content: str) -> None:
    """Not even one without a line break, which could pass for an incomplete line."""
    path = tmp_path / "validator_checkpoint.json"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match="not a recording"):
        Recording(path)
    assert path.read_text() == content


@pytest.mark.parametrize("content", ["{", '{"ty', '{"type":"recording"', '{"sequence": 7, '])
def test_an_incomplete_first_line_is_a_recording(tmp_path: Path, content: str) -> None:
    """The writer was killed during its first write."""
    path = tmp_path / "orders.ndjson"
    path.write_text(content)
    write(path, step(1))
    assert sequences(path) == [1]


def test_a_message_without_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "orders.ndjson"
    path.write_text('{"sequence": 1}\n')
    with pytest.raises(InvalidInputError, match="line 1"):
        list(read_recording(path))


def test_unknown_lines_are_ignored(tmp_path: Path) -> None:
    """A later version may add types."""
    path = tmp_path / "orders.ndjson"
    write(path, step(1))
    with path.open("a") as file:
        file.write('{"type": "weather", "sequence": [1]}\n'.replace("[1]", "7"))
    assert sequences(path) == [1]


def test_a_damaged_file_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "orders.ndjson.zst"
    write(path, step(1), step(2))
    content = bytearray(path.read_bytes())
    content[4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InvalidInputError):
        list(read_recording(path))


@contextlib.contextmanager
def full_disk(path: Path, room: int = 10) -> Iterator[None]:
    """The file can grow by so many bytes."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_leaves_no_incomplete_line(path: Path) -> None:
    """The partial write is truncated, and the error raised."""
    write(path, step(1))
    recording = Recording(path)
    with full_disk(path):
        with pytest.raises(ClientError) as refused:
            recording.take(step(2))
            recording.flush()
        assert sequences(path) == [1]
        with pytest.raises(ClientError):
            recording.close()
    assert refused.value.code == "unwritable"
    assert sequences(path) == [1]
    assert place(path) == Cursor(1, EPOCH)


def test_orders_that_found_no_space_are_written_later(path: Path) -> None:
    """The next line must not appear without them."""
    write(path, step(1))
    recording = Recording(path)
    with full_disk(path), pytest.raises(ClientError):
        recording.take(step(2))
        recording.flush()
    recording.take(step(3))
    recording.close()
    assert sequences(path) == [1, 2, 3]


def test_a_gap_is_recorded_together_with_its_log(tmp_path: Path) -> None:
    """A header of the new log alone would hide that messages are missing."""
    path = tmp_path / "orders.ndjson"
    write(path, step(1))
    recording = Recording(path)
    header = b'{"type":"recording","epoch":"e2","after":8}\n'
    with full_disk(path, len(header)):
        with pytest.raises(ClientError):
            recording.take(StreamItem(Gap(1, 9, "epoch"), Cursor(8, "e2")))
        with pytest.raises(ClientError):
            recording.close()
    assert place(path) == Cursor(1, EPOCH)


def test_without_zstandard_the_error_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compression is not part of the basic installation."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ClientError, match="pip install zstandard"):
        Recording(tmp_path / "orders.ndjson.zst")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_new_recording_is_removed(path: Path) -> None:
    """An empty file that existed before stays."""
    Recording(path).close()
    assert not path.exists()
    path.touch()
    Recording(path).close()
    assert path.exists()


async def test_a_stream_is_recorded_without_a_gap_across_runs(path: Path) -> None:
    """Orders between two runs are in the file, each once."""
    with FakeServer() as server:
        server.order()
        for run in range(3):
            recording = Recording(path)
            async with Stream(server.url, server.api_key, cursor_store=recording) as stream:
                if run == 0:
                    await _connected(stream, recording)
                server.order()
                async for one in stream.steps():
                    recording.take(one)
                    if one.cursor.sequence == server.head:
                        break
            server.order()
        assert sequences(path) == list(range(2, server.head))


async def _connected(stream: Stream, recording: Recording) -> None:
    async for one in stream.steps():
        recording.take(one)
        return


def write_until_killed(path: Path) -> None:
    recording = Recording(path)
    for n in itertools.count(recording.load().sequence + 1 or 1):
        recording.take(step(n))


@pytest.fixture
def writers() -> Iterator[list[multiprocessing.process.BaseProcess]]:
    started: list[multiprocessing.process.BaseProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_it_survives_kill_9(path: Path, writers: list[multiprocessing.process.BaseProcess]) -> None:
    """Every sequence once and in order, however often the writer is killed."""
    path.touch()
    for _ in range(4):
        size = path.stat().st_size
        # Forked: starting Python takes much longer than what is tested.
        writers.append(multiprocessing.get_context("fork").Process(target=write_until_killed, args=(path,)))
        writers[-1].start()
        until(lambda size=size: path.stat().st_size > size + 20_000, what="lines are written")  # type: ignore[misc]
        writers[-1].kill()
        writers[-1].join()
    numbers = sequences(path)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
