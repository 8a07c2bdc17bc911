"""The door for a validator that embeds the API.

    from ptn_api.api_manager import APIManager
    manager = APIManager(shared_queue=queue, ws_host="127.0.0.1", ws_port=8765,
                         rest_host="127.0.0.1", rest_port=48888)
    threading.Thread(target=manager.run, daemon=True).start()

The API runs in processes of its own: a thread of the validator starts them and pumps its queue to them. It
installs no signal handler in the validator, and when the validator ends, however it ends, they end too.

The queue makes an order visible sooner; the validator's directory remains the truth. Without a directory
(`validator_dir=""` in a folder that holds none), what was taken from the queue and not yet appended is lost
with a killed intake.
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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.errors import InvalidInputError, SettingsError
from ptn_api.process.settings import SETTINGS, load_settings

__all__ = ["APIManager"]

logger = logging.getLogger("ptn_api.api_manager")
_PIPE_BYTES = 1 << 20
_ORPHANS_MS = 2_000
"""Longer than the processes of a killed supervisor take to end once they have noticed."""

_PAUSE_S = 0.05
"""After an item that could not be read: a queue that is broken for good must not take a core."""


class APIManager:
    """Runs the API for a validator process; `run()` blocks and belongs into a thread.

    `shared_queue` is anything with `get(timeout=seconds)` that raises `queue.Empty`; its items are
    `{"position": {...}}`. Keywords that are settings (`data_dir`, `api_keys_file`, ...) are taken as such;
    others are accepted, logged and ignored. `refresh_interval` is one of those: nothing here is polled.
    Raises SettingsError for a setting, or a queue, that cannot be used.
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
            raise SettingsError(
                "shared_queue has no get(timeout=...), as queue.Queue and multiprocessing's have"
            )
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
            logger.warning("no validator directory: serving what comes on the queue only")
            settings = msgspec.structs.replace(settings, validator_dir="")
        self._settings = settings
        self._queue = shared_queue
        self._trouble: type[Exception] | None = None
        """What reading the queue raised the last time; told once, however often it comes again."""
        self._line: bytes | None = None
        """What was taken from the queue and is not in the pipe yet."""
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Starts the API and feeds it until `stop()`; starts it again should its supervisor be killed.

        Returns as well if the API cannot run from the start, which it has logged then. What an API before
        this one left behind (a validator that was killed, and its supervisor) has ended by then.
        """
        from ptn_api.process.supervisor import FATAL

        last_try = time.monotonic() + (self._settings.parent_check_ms + _ORPHANS_MS) / 1000
        has_run = False
        with _Pipe() as pipe:
            pause = self._settings.restart_backoff_ms / 1000
            while not self._stopping.is_set():
                self._process = self._start(pipe.reading)
                if self._stopping.is_set():  # told so while there was no process yet
                    self._process.terminate()
                self._pump(pipe, self._process)
                status = self._process.wait()
                has_run |= status != FATAL
                if status == 0 or (not has_run and time.monotonic() > last_try):
                    return
                logger.error("the API's supervisor ended with status %s, starting it again", status)
                self._stopping.wait(pause)
                pause = min(2 * pause, self._settings.restart_backoff_max_ms / 1000)

    def stop(self) -> None:
        """Stops the API in order; `run()` returns when it is done."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()

    def _start(self, queue_fd: int) -> subprocess.Popen[bytes]:
        """Without a pipe of its own: a worker that the validator forks meanwhile would hold its other end.

        That is also why descriptors are inherited here and closed there: Python makes a pipe for the rest.
        """
        from ptn_api.cli.serve import Embedding
        from ptn_api.process.supervisor import python_command

        orders = Embedding(settings=self._settings, parent=os.getpid(), queue=queue_fd)
        with open(os.memfd_create("ptn-api-orders"), "w+b") as stdin:
            stdin.write(msgspec.json.encode(orders))
            stdin.seek(0)
            return subprocess.Popen(  # noqa: S603 - this interpreter, this package
                python_command("ptn_api.cli.serve:embedded", "ptn-api-supervisor"),
                stdin=stdin,
                close_fds=False,
            )

    def _pump(self, pipe: _Pipe, process: subprocess.Popen[bytes]) -> None:
        """Empties the queue into the pipe as long as the process lives; what it did not take is kept."""
        from ptn_api.intake.queue_item import encode_item

        while process.poll() is None:
            if self._line is None:
                item = self._next_item()
                if item is None:
                    continue
                try:
                    self._line = encode_item(item)
                except InvalidInputError as error:
                    logger.warning("an item on the queue is no position: %s", error)
                    continue
            if pipe.write(self._line, lambda: process.poll() is None):
                self._line = None

    def _next_item(self) -> Any:
        """The queue's next item; None when there was none for a second, or no queue."""
        if self._queue is None:
            self._stopping.wait(1)
            return None
        try:
            item = self._queue.get(timeout=1)
        except queue.Empty:
            return None
        except (EOFError, OSError) as error:  # a manager's queue whose manager is gone
            logger.warning("the queue is gone (%s); the validator's directory goes on being read", error)
            self._queue = None
            return None
        except Exception as error:  # noqa: BLE001 - whatever an item raises when it is unpickled costs that item only
            if self._trouble is not type(error):
                logger.warning("an item on the queue cannot be read: %s", type(error).__name__)
            self._trouble = type(error)
            self._stopping.wait(_PAUSE_S)
            return None
        self._trouble = None
        return item


def _can_wait(shared_queue: Any) -> bool:
    """Whether it has what it takes. Of some kinds that cannot be told: they may."""
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
    """A pipe that outlives a restarted reader; lines are written whole, or as far as the reader lived."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()
        os.set_inheritable(self.reading, True)
        self._room = select.poll()
        self._room.register(self._writing, select.POLLOUT)
        self._cut = False
        with contextlib.suppress(OSError):  # over the user's pipe quota: the default size does as well
            fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(self._writing, False)

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reading)
        os.close(self._writing)

    def write(self, line: bytes, wanted: Callable[[], bool]) -> bool:
        """Writes the line, waiting for room as long as `wanted()`; whether it is written.

        One that was cut short is ended by the next.
        """
        rest = memoryview(b"\n" + line if self._cut else line)
        whole = len(rest)
        while rest and wanted():
            if self._room.poll(1_000):
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self._writing, rest) :]
        self._cut = 0 < len(rest) < whole
        return not rest
