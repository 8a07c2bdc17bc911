"""The API for a validator that embeds it.

    from ptn_api.api_manager import APIManager
    manager = APIManager(shared_queue=queue, ws_host="127.0.0.1", ws_port=8765,
                         rest_host="127.0.0.1", rest_port=48888)
    threading.Thread(target=manager.run, daemon=True).start()

The API runs in separate processes; a thread of the validator starts them and copies the queue to them. No
signal handler is installed in the validator, and when the validator ends, however it ends, they end too.

The queue makes an order visible sooner; the validator's directory remains the truth. Without a directory
(`validator_dir=""` in a folder that holds none), orders that were taken from the queue and not appended to
the log yet are lost if intake is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import logging
import os
import queue
import select
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.backoff import Backoff
from ptn_api.clock import monotonic_ms
from ptn_api.errors import InvalidInputError, SettingsError
from ptn_api.process.settings import SETTINGS, load_settings

__all__ = ["APIManager"]

logger = logging.getLogger("ptn_api.api_manager")
_PIPE_BYTES = 1 << 20
_ORPHANS_MS = 2_000
"""Longer than the processes of a killed supervisor take to end."""

_PAUSE_S = 0.05
"""After an item that could not be read, so that a broken queue does not take a whole core."""


class APIManager:
    """Runs the API for a validator process. `run()` blocks, so give it a thread.

    `shared_queue` is anything with `get(timeout=seconds)` that raises `queue.Empty`; its items are
    `{"position": {...}}`. Keywords that are settings (`data_dir`, `api_keys_file`, ...) take effect; others
    are logged and ignored. `refresh_interval` is ignored too, since nothing is polled.
    Raises SettingsError for an invalid setting or queue.
    """

    def __init__(
        self,
        shared_queue: Any = None,
        *,
        ws_host: str | None = None,
        ws_port: int | None = None,
        rest_host: str | None = None,
        rest_port: int | None = None,
        refresh_interval: float | None = None,
        **keywords: Any,
    ) -> None:
        if shared_queue is not None and not _can_wait(shared_queue):
            raise SettingsError("shared_queue needs get(timeout=...), as queue.Queue has")
        ignored = sorted(keywords.keys() - SETTINGS.keys())
        if ignored:
            logger.warning("unknown keywords are ignored: %s", ", ".join(ignored))
        values = {name: value for name, value in keywords.items() if name in SETTINGS}
        values.setdefault("validator_dir", str(Path.cwd()))
        names = {
            "api_ws_host": ws_host,
            "api_ws_port": ws_port,
            "api_host": rest_host,
            "api_rest_port": rest_port,
        }
        values.update({name: value for name, value in names.items() if value is not None})
        settings = load_settings(values)
        if not (Path(settings.validator_dir) / "validation").is_dir():
            logger.warning("no validator directory: serving orders from the queue only")
            settings = msgspec.structs.replace(settings, validator_dir="")
        self._settings = settings
        self._queue = shared_queue
        self._trouble: type[Exception] | None = None
        """The last read of the queue raised this; it is logged once, however often it repeats."""
        self._line: bytes | None = None
        """An item taken from the queue and not written to the pipe yet."""
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Starts the API and feeds it until `stop()`; restarts it if its supervisor is killed.

        Returns as well, after logging why, if the API cannot run from the start. It retries that long enough
        for the processes of an earlier API, whose validator was killed, to release ports and log.
        """
        from ptn_api.process.control import FATAL

        settings = self._settings
        give_up_ms = monotonic_ms() + settings.parent_check_ms + _ORPHANS_MS
        backoff = Backoff(first_ms=settings.restart_backoff_ms, max_ms=settings.restart_backoff_max_ms)
        has_run = False
        with _Pipe() as pipe:
            while not self._stopping.is_set():
                started_ms = monotonic_ms()
                self._process = self._start(pipe.reading)
                if self._stopping.is_set():  # stop() was called while there was no process yet
                    self._process.terminate()
                self._pump(pipe, self._process)
                status = self._process.wait()
                has_run |= status != FATAL
                if status == 0 or (not has_run and monotonic_ms() > give_up_ms):
                    return
                logger.error("the API's supervisor ended with status %s, starting it again", status)
                if monotonic_ms() - started_ms >= settings.restart_backoff_max_ms:
                    backoff.reset()
                self._stopping.wait(backoff.next_ms() / 1000)

    def stop(self) -> None:
        """Stops the API in order; `run()` returns when it has stopped."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()

    def _start(self, queue_fd: int) -> subprocess.Popen[bytes]:
        """Starts the supervisor.

        With `close_fds=False` Popen uses posix_spawn. Otherwise it waits for the end of a pipe, and a worker
        that the validator forks at this moment would hold it open. The supervisor closes what it inherits.
        """
        from ptn_api.cli.serve import Embedding
        from ptn_api.process.child import python_command

        embedding = Embedding(settings=self._settings, parent=os.getpid(), queue=queue_fd)
        with open(os.memfd_create("ptn-api-settings"), "w+b") as stdin:
            stdin.write(msgspec.json.encode(embedding))
            stdin.seek(0)
            return subprocess.Popen(  # noqa: S603 - this interpreter, this package
                python_command("ptn_api.cli.serve:embedded", "ptn-api-supervisor"),
                stdin=stdin,
                close_fds=False,
            )

    def _pump(self, pipe: _Pipe, process: subprocess.Popen[bytes]) -> None:
        """Copies the queue to the pipe while the process lives; a line that it did not take is kept."""
        from ptn_api.queue_item import encode_item

        while process.poll() is None:
            if self._line is None:
                item = self._next_item()
                if item is None:
                    continue
                try:
                    self._line = encode_item(item)
                except InvalidInputError as error:
                    logger.warning("an item on the queue is not a position: %s", error)
                    continue
            if pipe.write(self._line, lambda: process.poll() is None):
                self._line = None

    def _next_item(self) -> Any:
        """The queue's next item; None if none came for a second, or without a queue."""
        if self._queue is None:
            self._stopping.wait(1)
            return None
        try:
            item = self._queue.get(timeout=1)
        except queue.Empty:
            return None
        except (EOFError, OSError) as error:  # a manager's queue whose manager is gone
            logger.warning("the queue is gone (%s); still reading the validator's directory", error)
            self._queue = None
            return None
        except Exception as error:  # noqa: BLE001 - an item that raises when it is unpickled costs itself only
            if self._trouble is not type(error):
                logger.warning("an item on the queue cannot be read: %s", type(error).__name__)
            self._trouble = type(error)
            self._stopping.wait(_PAUSE_S)
            return None
        self._trouble = None
        return item


def _can_wait(shared_queue: Any) -> bool:
    """Whether it has `get(timeout=...)`; a signature that cannot be inspected counts as one."""
    get = getattr(shared_queue, "get", None)
    if get is None:
        return False
    try:
        inspect.signature(get).bind(timeout=1)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


class _Pipe:
    """A pipe that outlives its reader; a line is cut short only where the reader ended."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()
        os.set_inheritable(self.reading, True)
        self._space = select.poll()
        self._space.register(self._writing, select.POLLOUT)
        self._cut = False
        with contextlib.suppress(OSError):  # over the user's pipe quota: the default size works too
            fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(self._writing, False)

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reading)
        os.close(self._writing)

    def write(self, line: bytes, wanted: Callable[[], bool]) -> bool:
        """Writes the line, waiting for space while `wanted()`; returns whether all of it is written.

        A line that was cut short is ended before the next one.
        """
        rest = memoryview(b"\n" + line if self._cut else line)
        length = len(rest)
        while rest and wanted():
            if self._space.poll(1_000):
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self._writing, rest) :]
        self._cut = 0 < len(rest) < length
        return not rest
