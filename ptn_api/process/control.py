"""The control channel between the supervisor and each of its child processes.

A socket pair that carries one JSON message a line; the child finds its end on standard input. The first line
is the child's configuration. End of file means that the other process is gone, however it ended.

Nothing here waits for the other side: a message that finds too much unsent data is dropped. All but the first
are repeated, or have a substitute (a signal for `Stop`), so a process that hangs delays no other. The last
messages of a process that ends may be lost; what must not be lost is its exit status.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec
import structlog

from ptn_api.clock import ClockStart, monotonic_ms, wall_ms
from ptn_api.problems import ProblemRegister, Troubles, merged
from ptn_api.process.metrics import Samples, Sources, samples_of
from ptn_api.process.settings import Settings
from ptn_api.tasks import wait_for_event

__all__ = [
    "FATAL",
    "Alive",
    "Channel",
    "FromWorker",
    "HealthReport",
    "MetricSamples",
    "MetricsRequest",
    "PeerGone",
    "PeerPresence",
    "Presence",
    "Progress",
    "Ready",
    "ReportedHealth",
    "Stop",
    "WorkerConfig",
    "WorkerControl",
    "kind_of",
    "peer_name",
    "process_names",
    "read_config",
    "take_over_stdin",
]

logger = structlog.get_logger()

FATAL = 78
"""The exit status of a process that cannot run, and that starting again would not help; it has logged why.

EX_CONFIG of sysexits.h. Python itself ends with 0, 1, 2 or 120.
"""

_UNSENT_BYTES = 1 << 16
_ORPHAN_GRACE_S = 0.5
_RESEND_S = 0.1
"""The pause before what found too much unsent data, and is not repeated, is sent again."""


def process_names(settings: Settings) -> list[str]:
    """The processes that /health and the metrics report on, in the order of their start.

    Only several of the stream have numbers.
    """
    count = settings.stream_processes
    streams = ["stream"] if count == 1 else [f"stream-{number}" for number in range(1, count + 1)]
    chosen = settings.chosen_processes()
    return [name for process in chosen for name in (streams if process == "stream" else [process])]


def kind_of(process: str) -> str:
    """What a process runs: `stream` for `stream-2`."""
    return process.partition("-")[0]


def peer_name(process: str, machine: str) -> str:
    """The name of a process of the stream among all of the cluster."""
    return f"{machine}/{process}" if machine else process


# --- messages: supervisor to child ------------------------------------------------------------------------


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, tag="config"):
    """What a child runs: one of `process_names`, or the simulator.

    `listener` and `queue` are inherited descriptors, -1 without one; `clock` is the supervisor's. `machine`
    is a name that no other machine of the cluster has; empty without a cluster.
    """

    process: str
    settings: Settings
    listener: int = -1
    queue: int = -1
    clock: ClockStart | None = None
    machine: str = ""


class HealthReport(msgspec.Struct, frozen=True, tag="health"):
    """The health of all processes. Times are monotonic milliseconds, one clock for the whole machine.

    `problems` are those that the supervisor and the other processes have found. `key_file` is the key file in
    use; empty until a default place has one. `stopping`: the server has been told to stop.
    """

    alive_until_ms: dict[str, int]
    problems: Troubles = {}
    key_file: str = ""
    stopping: bool = False


class MetricsRequest(msgspec.Struct, frozen=True, tag="metrics"):
    """Asks for the child's metrics."""


class PeerPresence(msgspec.Struct, frozen=True, tag="presence"):
    """What another process that serves the stream has told of its users (fanout/presence.py)."""

    peer: str
    update: msgspec.Raw


class PeerGone(msgspec.Struct, frozen=True, tag="gone"):
    """Another process that serves the stream has ended, and its connections with it."""

    peer: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Asks the child to stop in order, as SIGTERM does."""


ToWorker = HealthReport | MetricsRequest | PeerPresence | PeerGone | Stop


# --- messages: child to supervisor ------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child does its work from now on."""


class Progress(msgspec.Struct, frozen=True):
    """How far a process is before it is ready; a `total` of 0 is unknown."""

    doing: str
    done: int
    total: int


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """The child's event loop runs; if nothing follows until `until_ms` (monotonic), it is down."""

    until_ms: int
    problems: Troubles = {}
    """What the child has found."""
    progress: Progress | None = None


class MetricSamples(msgspec.Struct, frozen=True, tag="samples"):
    """The answer to a MetricsRequest."""

    samples: Samples


class Presence(msgspec.Struct, frozen=True, tag="own_presence"):
    """What rest or a process of the stream tells the others of its users; passed on unread."""

    update: msgspec.Raw


FromWorker = Ready | Alive | MetricSamples | Presence | PeerPresence | PeerGone
"""PeerPresence and PeerGone are about other machines, from the process that is connected to the broker."""


# --- either end -------------------------------------------------------------------------------------------

Received = TypeVar("Received")


class Channel(asyncio.Protocol, Generic[Received]):
    """One end of a control channel. `closed` is set when the other end is gone."""

    def __init__(self, kind: Any, on_message: Callable[[Received], None]) -> None:
        self.closed = asyncio.Event()
        self._decoder = msgspec.json.Decoder(kind)
        self._on_message = on_message
        self._rest = b""
        self._transport: asyncio.Transport

    async def open(self, sock: socket.socket) -> None:
        """Takes over the connected socket."""
        sock.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    def send(self, message: msgspec.Struct) -> bool:
        """Sends the message unless the other end is gone or far behind; returns whether it did."""
        if self._transport.is_closing() or self._transport.get_write_buffer_size() > _UNSENT_BYTES:
            return False
        self._transport.write(msgspec.json.encode(message) + b"\n")
        return True

    async def close(self, timeout_ms: int = 1_000) -> None:
        """Sends what is unsent, then closes."""
        self._transport.close()
        if not await wait_for_event(self.closed, timeout_ms):
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class does not derive from it

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                message = self._decoder.decode(line)
            except (msgspec.DecodeError, RecursionError) as error:
                logger.error("control_message_malformed", reason=str(error))
            else:
                self._on_message(message)

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set()


# --- the child's end --------------------------------------------------------------------------------------


def take_over_stdin() -> socket.socket:
    """The control socket from standard input, which becomes empty: nothing else reads or inherits it."""
    control = socket.socket(fileno=os.dup(0))
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return control


def read_config(control: socket.socket) -> WorkerConfig:
    """Waits for the first line. Raises EOFError if the supervisor is gone."""
    with control.makefile("rb", buffering=0) as lines:  # unbuffered: later lines are the event loop's
        line = lines.readline()
    if not line.endswith(b"\n"):
        raise EOFError("no configuration on standard input")
    return msgspec.json.decode(line, type=WorkerConfig)


class ReportedHealth:
    """The health of the processes as the supervisor last reported it.

    Without a report, the others are up for `process_silent_ms` from the start of this process. A supervisor
    that hangs sends no reports, so they are down then too: it could not restart them.
    """

    def __init__(self, own_name: str, settings: Settings) -> None:
        self._own_name = own_name
        until_ms = monotonic_ms() + settings.process_silent_ms
        self.report = HealthReport(dict.fromkeys(process_names(settings), until_ms))
        self._register = ProblemRegister()

    def processes(self) -> dict[str, bool]:
        """Name -> whether the process is up."""
        now = monotonic_ms()
        return {
            name: name == self._own_name or until_ms >= now
            for name, until_ms in self.report.alive_until_ms.items()
        }

    def problems(self) -> Troubles:
        """What the others have found, and whether any of them is down."""
        self._register.set("process_down", sum(not up for up in self.processes().values()))
        return merged(self._register.look(), self.report.problems)

    def stopping(self) -> bool:
        return self.report.stopping

    def key_file(self) -> str:
        """The key file that the supervisor has chosen; empty if none has been reported."""
        return self.report.key_file


class WorkerControl:
    """A worker's end of its channel: reports that it lives, and does what the supervisor asks.

    For rest and the processes of the stream it is also the way to the others, their `Peers`. In a cluster,
    the process that keeps the copy passes on what they tell each other.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self.stop = asyncio.Event()
        self.sources: Sources | None = None
        """Where the metrics are read, once the process has them."""
        self.problems = ProblemRegister()
        """What this process finds."""
        self.progress: Callable[[], Progress | None] = lambda: None
        """What is shown until this process is ready; called in the event loop."""
        self.health = ReportedHealth(config.process, config.settings)
        self.machine = config.machine
        self.name = peer_name(config.process, config.machine)
        self._kind = kind_of(config.process)
        self._on_presence: Callable[[str, bytes], None] = lambda _peer, _update: None
        self._on_gone: Callable[[str], object] = lambda _peer: None
        self._silent_ms = config.settings.process_silent_ms
        self._channel = Channel[ToWorker](ToWorker, self._receive)

    async def open(self, control: socket.socket) -> None:
        await self._channel.open(control)

    def ready(self) -> None:
        # The supervisor waits for it, and it is not repeated.
        if not (self._channel.send(Ready()) or self._channel.closed.is_set()):
            asyncio.get_running_loop().call_later(_RESEND_S, self.ready)

    async def close(self) -> None:
        await self._channel.close()

    def now_ms(self) -> int:
        return wall_ms() if self.machine else monotonic_ms()  # machines have only the wall clock in common

    def publish(self, update: bytes) -> None:
        self._channel.send(Presence(msgspec.Raw(update)))

    def pass_on(self, peer: str, update: bytes | None) -> None:
        """Sends this machine's processes of the stream what one elsewhere has told; None: it has ended."""
        self._channel.send(PeerGone(peer) if update is None else PeerPresence(peer, msgspec.Raw(update)))

    def listen(self, receive: Callable[[str, bytes], None], gone: Callable[[str], object]) -> None:
        self._on_presence, self._on_gone = receive, gone

    async def report_alive(self) -> None:
        """Reports five times per `process_silent_ms` that this process lives, until cancelled."""
        while True:
            until_ms = monotonic_ms() + self._silent_ms
            self._channel.send(Alive(until_ms, self.problems.look(), self.progress()))
            await asyncio.sleep(self._silent_ms / 5_000)

    async def end_with_supervisor(self) -> None:
        """Stops this process in order when the supervisor is gone, and kills it if that takes too long."""
        await self._channel.closed.wait()
        logger.error("supervisor_gone")
        self.stop.set()
        await asyncio.sleep(_ORPHAN_GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    def _receive(self, message: ToWorker) -> None:
        # What may raise goes into a separate call, since an exception raised here would close the channel.
        loop = asyncio.get_running_loop()
        later = loop.call_soon
        match message:
            case Stop():
                self.stop.set()
            case HealthReport():
                self.health.report = message
            case MetricsRequest():

                def answer() -> None:
                    samples = {} if self.sources is None else samples_of(self._kind, self.sources)
                    # The supervisor asks again only after an answer.
                    if not (self._channel.send(MetricSamples(samples)) or self._channel.closed.is_set()):
                        loop.call_later(_RESEND_S, answer)

                later(answer)
            case PeerPresence():
                later(self._on_presence, message.peer, bytes(message.update))
            case PeerGone():
                later(self._on_gone, message.peer)
