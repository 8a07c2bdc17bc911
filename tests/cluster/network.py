"""The network between NATS servers, and between them and machines, which tests may interrupt.

Every connection goes through a proxy of its direction, so a server or machine can be cut off from the others.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from types import TracebackType

from tests.chaos import ChaosProxy
from tests.cluster.servers import Servers

__all__ = ["Link", "Network"]


class Link:
    """The connections in some directions."""

    def __init__(self, proxies: list[ChaosProxy]) -> None:
        self.proxies = proxies

    @property
    def urls(self) -> str:
        """The addresses of the servers behind it."""
        return ",".join(f"nats://127.0.0.1:{proxy.port}" for proxy in self.proxies)

    def interrupt(self, *, abrupt: bool) -> None:
        """Lets nothing pass; with `abrupt`, connections are reset first. New ones stay silent."""
        for proxy in self.proxies:
            proxy.stall()
        for proxy in self.proxies if abrupt else ():
            proxy.cut()

    def restore(self) -> None:
        for proxy in self.proxies:
            proxy.flow()

    @contextlib.contextmanager
    def interrupted(self, *, abrupt: bool) -> Iterator[None]:
        self.interrupt(abrupt=abrupt)
        yield
        self.restore()


class Network:
    """Proxies for `count` servers, and for each machine that asks for a link."""

    def __init__(self, count: int = 3) -> None:
        self._stack = contextlib.ExitStack()
        self._routes = {
            pair: self._stack.enter_context(ChaosProxy(0)) for pair in itertools.permutations(range(count), 2)
        }

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def routes(self, ports: list[int]) -> list[list[int]]:
        """The ports at which each server reaches the others, which listen at `ports`."""
        for (_, server), proxy in self._routes.items():
            proxy.retarget(ports[server])
        return [
            [proxy.port for (client, _), proxy in self._routes.items() if client == number]
            for number in range(len(ports))
        ]

    def around(self, server: int) -> Link:
        """All connections of the server with this number to the others."""
        return Link([proxy for pair, proxy in self._routes.items() if server in pair])

    def link(self, servers: Servers) -> Link:
        """A link of one machine to all servers."""
        return Link([self._stack.enter_context(ChaosProxy(server.port)) for server in servers])
