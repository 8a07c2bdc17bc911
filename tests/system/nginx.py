"""A real nginx with the project's own configuration, except for addresses and files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.ports import reserved_ports
from tests.system.api import ROOT
from tests.system.certificates import Files
from tests.waiting import PATIENCE_S, until

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


@contextlib.contextmanager
def nginx(folder: Path, files: Files, rest: str, stream: str) -> Iterator[tuple[int, int]]:
    """Runs in the foreground in its own folder; yields its plain and its TLS port."""
    with contextlib.ExitStack() as stack:
        plain, secure = stack.enter_context(reserved_ports(2))
        servers = configuration(plain, secure, files, rest, stream)
        stack.enter_context(run_nginx(folder, servers, secure))
        yield plain, secure


@contextlib.contextmanager
def run_nginx(folder: Path, servers: str, port: int) -> Iterator[None]:
    """Runs with these servers, one of which listens on the port."""
    assert NGINX is not None
    folder.mkdir()
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
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port) or process.poll() is not None, what="nginx listens")
        assert process.poll() is None, (folder / "error.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
