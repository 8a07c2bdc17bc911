"""A real nginx with the project's own configuration, except for addresses and files."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.api import ROOT
from tests.system.certificates import Files
from tests.waiting import until

CONFIGURATION = ROOT / "deploy" / "nginx" / "ptn-api.conf"
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def configuration(http: int, https: int, files: Files, rest: str, stream: str) -> str:
    """The configuration with an operator's edits: ports, certificate and the API's addresses."""
    text = CONFIGURATION.read_text()
    for before, after in (
        (r"listen 80;", f"listen 127.0.0.1:{http};"),
        (r"listen 443 ssl sndbuf=256k;", f"listen 127.0.0.1:{https} ssl sndbuf=256k;"),
        (r"/etc/letsencrypt/live/api\.example\.com/fullchain\.pem", str(files.certificate)),
        (r"/etc/letsencrypt/live/api\.example\.com/privkey\.pem", str(files.key)),
        (r"server 127\.0\.0\.1:48888;", f"server {rest.rpartition('/')[2]};"),
        (r"server 127\.0\.0\.1:8765;", f"server {stream.rpartition('/')[2]};"),
        (r"server_name api\.example\.com;", "server_name localhost;"),
    ):
        text, n = re.subn(before, after, text)
        assert n, before
    return text


@contextmanager
def nginx(folder: Path, files: Files, rest: str, stream: str) -> Iterator[tuple[int, int]]:
    """Runs in the foreground in its own folder; yields its plain and its TLS port."""
    folder.mkdir()
    for _ in range(3):  # another program may take a free port before nginx does
        ports = _free_ports()
        process = _start(folder, ports, files, rest, stream)
        try:
            listens = lambda p=process, port=ports[1]: _listens(port) or p.poll() is not None  # noqa: E731
            until(listens, what="nginx listens")
            if process.poll() is None:
                yield ports
                return
        finally:
            process.terminate()
            process.wait(20)
    raise AssertionError((folder / "error.log").read_text())


def _start(
    folder: Path, ports: tuple[int, int], files: Files, rest: str, stream: str
) -> subprocess.Popen[bytes]:
    return _run(folder, configuration(*ports, files, rest, stream))


def _run(folder: Path, servers: str) -> subprocess.Popen[bytes]:
    assert NGINX is not None
    (folder / "ptn-api.conf").write_text(servers)
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{ }}\nhttp {{ access_log {folder}/access.log; {temporary}\n"
        f"include {folder}/ptn-api.conf; }}\n"
    )
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@contextmanager
def run_nginx(folder: Path, servers: str, port: int) -> Iterator[None]:
    """Runs with these servers, one of which listens on the port."""
    folder.mkdir()
    process = _run(folder, servers)
    try:
        until(lambda: _listens(port) or process.poll() is not None, what="nginx listens")
        assert process.poll() is None, (folder / "error.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    return _free_ports()[0]


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
