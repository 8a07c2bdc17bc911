"""deploy/cluster/nginx.conf and haproxy.cfg in front of two machines: real balancers over two copies."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from ptn_api.event_log import open_reader
from tests.cluster.conftest import Cluster
from tests.cluster.test_nodes import LONG, REST_KEY, SHORT, append, rest
from tests.ports import reserved_ports
from tests.rest.serving import Served
from tests.stream.live import KEY, LiveStream, running
from tests.system.api import ROOT
from tests.system.certificates import Files, certificates
from tests.system.nginx import NGINX, run_nginx
from tests.waiting import PATIENCE_S

HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def edited(name: str, *changes: tuple[str, str]) -> str:
    """A file of deploy/cluster/ with an operator's edits, each of which must be possible."""
    text = (ROOT / "deploy" / "cluster" / name).read_text()
    for before, after in changes:
        text, count = re.subn(re.escape(before), after, text)
        assert count, before
    return text


@contextlib.contextmanager
def nginx(folder: Path, port: int, files: Files, machines: list[tuple[str, str]]) -> Iterator[None]:
    with reserved_ports(1) as (plain,):
        servers = edited(
            "nginx.conf",
            ("listen 80;", f"listen 127.0.0.1:{plain};"),
            ("listen 443 ssl sndbuf=256k;", f"listen 127.0.0.1:{port} ssl sndbuf=256k;"),
            ("/etc/letsencrypt/live/api.example.com/", f"{files.key.parent}/"),
            ("server_name api.example.com;", "server_name localhost;"),
            *((f"server {before}", f"server {after}") for before, after in machines),
        )
        with run_nginx(folder / "nginx", servers, port):
            yield


@contextlib.contextmanager
def haproxy(folder: Path, port: int, files: Files, machines: list[tuple[str, str]]) -> Iterator[None]:
    pem = folder / "both.pem"
    pem.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    rest_ports = [after.rpartition(":")[2] for before, after in machines if before.endswith(":48888")]
    text = edited(
        "haproxy.cfg",
        ("bind :443", f"bind 127.0.0.1:{port}"),
        ("/etc/haproxy/certs/api.example.com.pem", str(pem)),
        ("inter 1s fall 3 rise 2", "inter 200ms fall 2 rise 2"),
        ("check port 48888", "check"),
        *machines,
    )
    for rest_port, (_, stream) in zip(rest_ports, machines[2:], strict=True):
        text = text.replace(stream, f"{stream} port {rest_port}")
    file = folder / "haproxy.cfg"
    file.write_text(text)
    assert HAPROXY is not None
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([HAPROXY, "-db", "-f", str(file)], stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


class Balanced(NamedTuple):
    cluster: Cluster
    here: Served
    """Its copy follows when the test tells it to."""
    there: Served
    lives: list[LiveStream]
    client: httpx.AsyncClient
    """Of the balancer."""
    port: int
    trusting: ssl.SSLContext

    async def statuses(self, path: str) -> set[int]:
        return {(await self.client.get(path)).status_code for _ in range(6)}

    async def answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (await self.client.get("/ready")).status_code == 200
        return False

    async def log_in(self, stack: contextlib.AsyncExitStack) -> None:
        socket = await stack.enter_async_context(
            connect(f"wss://localhost:{self.port}", ssl=self.trusting, open_timeout=PATIENCE_S)
        )
        await socket.send(f'{{"api_key": "{KEY}", "version": 2}}')
        await socket.recv()

    @property
    def logins(self) -> list[int]:
        return [live.counters.logins for live in self.lives]


@contextlib.asynccontextmanager
async def balanced(cluster: Cluster, start: object) -> AsyncIterator[Balanced]:
    folder = cluster.folder
    append(cluster, 1)
    for machine in (cluster.standby, cluster.copy):
        machine.confirm()
    files = certificates(folder / "tls")
    trusting = ssl.create_default_context(cafile=str(files.authority))
    async with contextlib.AsyncExitStack() as stack:
        readers = [open_reader(folder / name) for name in ("copy", "standby")]
        logs = [stack.enter_context(contextlib.closing(reader)) for reader in readers]
        common: dict[str, Any] = {"behind_ms": LONG, "behind_wait_ms": SHORT, "trusted_proxies": "127.0.0.1"}
        here = await stack.enter_async_context(rest(logs[0], **common))
        there = await stack.enter_async_context(rest(logs[1], **common))
        lives = [LiveStream(log=cluster.writer, reader=log) for log in logs]
        for live in lives:
            await stack.enter_async_context(running(live, trusted_proxies="127.0.0.1"))
        machines = [
            (f"node-{n}:{port}", f"127.0.0.1:{actual}")
            for port, all_ in ((48888, [here.port, there.port]), (8765, [live.port for live in lives]))
            for n, actual in enumerate(all_, 1)
        ]
        (port,) = stack.enter_context(reserved_ports(1))
        stack.enter_context(start(folder, port, files, machines))  # type: ignore[operator]
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"https://localhost:{port}",
                verify=trusting,
                headers={"authorization": f"Bearer {REST_KEY}"},
                timeout=PATIENCE_S,
            )
        )
        found = Balanced(cluster, here, there, lives, client, port, trusting)
        await here.until(found.answers)
        yield found


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_two_machines_behind_nginx(cluster: Cluster) -> None:
    """A request gets the answer of a machine that has it, and of one that runs. Both get WebSockets."""
    async with balanced(cluster, nginx) as both, contextlib.AsyncExitStack() as stack:
        assert await both.statuses("/miner-positions") == {200}
        for _ in range(4):
            await both.log_in(stack)
        assert both.logins == [2, 2]
        append(cluster, 2)
        cluster.standby.follow()
        path = f"/messages?after={cluster.writer.head().sequence}&epoch={cluster.writer.epoch}"
        assert (await both.here.get(path)).status_code == 503
        assert await both.statuses(path) == {200}
        await both.here.stopped()
        assert await both.statuses("/miner-positions") == {200}


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
async def test_two_machines_behind_haproxy(cluster: Cluster) -> None:
    """The one that is behind gets no clients, for REST or the stream, until it is complete again."""
    async with balanced(cluster, haproxy) as both, contextlib.AsyncExitStack() as stack:

        async def chosen() -> int:
            """The machine that a new client of the stream gets; -1 for none, before the first checks."""
            before = both.logins[0]
            try:
                await both.log_in(stack)
            except InvalidStatus:
                return -1
            return int(both.logins[0] == before)

        cluster.copy.prepare()  # as after a start: not known to be complete
        assert (await both.here.get("/ready")).status_code == 503

        async def only_there() -> bool:
            return {await chosen() for _ in range(3)} == {1}

        async def only_there_for_rest() -> bool:
            return await both.statuses("/miner-positions") == {200}

        await both.here.until(only_there)
        await both.here.until(only_there_for_rest)  # it has another check
        cluster.copy.confirm()

        async def here_again() -> bool:
            return await chosen() == 0

        await both.here.until(here_again)
        append(cluster, 2)
        cluster.standby.follow()
        path = f"/messages?after={cluster.writer.head().sequence}&epoch={cluster.writer.epoch}"
        assert await both.statuses(path) == {200}
        await both.here.stopped()
        assert await both.statuses("/miner-positions") == {200}
