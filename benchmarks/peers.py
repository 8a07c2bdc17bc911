"""Peers measured in the same run if installed: nginx, nchan, servers in Python, wrk."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.machine import SERVER, cpu_seconds, installed, start

__all__ = [
    "INSTALL",
    "INSTALL_PYTHON",
    "PYTHON_SERVERS",
    "Nchan",
    "Nginx",
    "PythonServer",
    "answers",
    "nchan_installed",
    "post",
]

INSTALL = "apt-get install nginx libnginx-mod-nchan wrk"
INSTALL_PYTHON = "pip install '.[bench]'"

_NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
_CONFIG = """
{modules}
daemon off;
worker_processes 1;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    sendfile {sendfile};
    tcp_nopush on;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ application/json json; }}
    {extra_http}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {folder}/files;
        {locations}
    }}
}}
"""


def nchan_installed() -> bool:
    return installed("nginx") and _NCHAN_MODULE.exists()


class Nginx:
    """nginx with one worker on the server's core; it serves the files in `files`."""

    modules = ""
    extra_http = ""
    sendfile = "on"
    locations = (
        "location /gzip/ { types {} default_type application/json; add_header Content-Encoding gzip; }"
    )

    def __enter__(self) -> Nginx:
        self._folder = Path(tempfile.mkdtemp(prefix="ptn-bench-nginx-"))
        self.files = self._folder / "files"
        (self.files / "gzip").mkdir(parents=True)
        self._folder.chmod(0o755)
        self.port = _free_port()
        config = self._folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                folder=self._folder,
                port=self.port,
                modules=self.modules,
                locations=self.locations,
                extra_http=self.extra_http,
                sendfile=self.sendfile,
            )
        )
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self._process = start([program, "-c", str(config), "-p", str(self._folder)], SERVER, stderr=None)
        _wait(self.port, self._folder / "error.log")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()
        shutil.rmtree(self._folder)

    def cpu(self) -> float:
        """Returns the worker's CPU seconds."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return sum(cpu_seconds(int(pid)) for pid in children)


class Nchan(Nginx):
    """An nchan WebSocket channel."""

    modules = f"load_module {_NCHAN_MODULE};"
    extra_http = "nchan_max_reserved_memory 256M;"
    locations = """
        location = /sub { nchan_subscriber websocket; nchan_channel_id one;
                          nchan_subscriber_first_message newest; nchan_websocket_ping_interval 0; }
        location = /pub { nchan_publisher; nchan_channel_id one; nchan_message_buffer_length 10000; }
    """

    def __enter__(self) -> Nchan:
        super().__enter__()
        return self

    def subscriber(self) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", self.port))
        one.sendall(
            b"GET /sub HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += one.recv(1)
        assert b" 101 " in answer, answer
        return one

    def publish(self, messages: Sequence[bytes]) -> None:
        """Publishes messages on one connection, without waiting for an answer before the next."""
        with self.publisher() as one:
            sender = threading.Thread(target=one.sendall, args=(b"".join(map(post, messages)),))
            sender.start()
            left = len(messages)
            while left > 0:
                left -= answers(one)
            sender.join()

    def publisher(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port))


PYTHON_SERVERS = {
    "uvicorn + starlette": (
        *("uvicorn", "--factory", "benchmarks.asgi_peer:make", "--port", "{port}", "--loop", "uvloop"),
        *("--http", "httptools", "--no-access-log", "--no-server-header", "--log-level", "warning"),
        *("--timeout-keep-alive", "75"),
    ),
    "granian + starlette": (
        *("granian", "--factory", "benchmarks.asgi_peer:make", "--port", "{port}", "--loop", "uvloop"),
        *("--interface", "asgi", "--workers", "1", "--log-level", "warning"),
    ),
    "waitress + flask": ("benchmarks.naive", "{file}", "{port}"),
    "fixed bytes on uvloop": ("benchmarks.fixed", "{port}"),
}
"""The arguments of `python -m` for each."""


class PythonServer:
    """A server in Python with the service's checks (checks.py), on the server's core."""

    def __init__(self, name: str, setup: Path, file: Path) -> None:
        """`setup` is a file as `checks.Setup`; `file` the whole document as identity."""
        self._arguments = PYTHON_SERVERS[name]
        self._setup = setup
        self._file = file

    def __enter__(self) -> PythonServer:
        self.port = _free_port()
        arguments = [part.format(port=self.port, file=self._file) for part in self._arguments]
        environment = os.environ | {"PTN_BENCH_SETUP": str(self._setup)}
        log = self._setup.with_name(f"{self._arguments[0]}.log")
        with log.open("w") as stderr:
            command = [sys.executable, "-m", *arguments]
            self._process = start(command, SERVER, env=environment, stderr=stderr, stdout=stderr)
        _wait(self.port, log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def pids(self) -> list[int]:
        """Returns its processes."""
        process = psutil.Process(self._process.pid)
        return [one.pid for one in (process, *process.children(recursive=True))]

    def cpu(self) -> float:
        """Returns the CPU seconds of its processes."""
        return sum(map(cpu_seconds, self.pids()))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _wait(port: int, log: Path) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server does not start: {log.read_text()}")


def post(body: bytes) -> bytes:
    """Returns the request that publishes a message."""
    return (
        b"POST /pub HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


def answers(one: socket.socket) -> int:
    """Reads answers to `post`, and returns how many there were."""
    data = one.recv(1 << 16)
    assert data, "nchan closed the publisher's connection"
    return data.count(b"HTTP/1.1 20")
