"""deploy/nginx/ptn-api.conf in front of a real server: one TLS address for REST and WebSocket."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from ptn_api.client.rest import PTNClient
from tests import factories
from tests.system.api import Api, api
from tests.system.certificates import Files, certificates
from tests.system.nginx import NGINX, nginx
from tests.system.test_tls import first_order, trusting
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]


ORIGIN = "https://app.example.com"


class Proxied:
    """A server behind nginx."""

    def __init__(self, server: Api, ports: tuple[int, int], files: Files, folder: Path) -> None:
        self.server = server
        self.http, self.https = ports
        self.files = files
        self.folder = folder
        self.url = f"https://localhost:{self.https}"

    def curl(self, path: str, *options: str) -> bytes:
        command = ["curl", "-s", "--cacert", str(self.files.authority), *options, self.url + path]
        return subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_S).stdout


@pytest.fixture
def proxied(validator: Validator, data_dir: Path, keys: dict[int, str], tmp_path: Path) -> Iterator[Proxied]:
    validator.place(2)
    files = certificates(tmp_path / "tls")
    with (
        api(
            data_dir, validator_dir=validator.root, trusted_proxies="127.0.0.1", cors_origins=ORIGIN
        ) as server,
        nginx(tmp_path / "nginx", files, server.rest, server.stream) as ports,
    ):
        yield Proxied(server, ports, files, tmp_path / "nginx")


def test_curl_through_tls(proxied: Proxied, keys: dict[int, str]) -> None:
    """The same bytes as without the proxy, compressed by the API; unchanged documents are 304s."""
    header = ("-H", f"Authorization: Bearer {keys[100]}")
    plain = proxied.curl("/miner-positions", *header)
    assert factories.MINER in json.loads(plain)
    assert proxied.curl("/miner-positions", *header, "--compressed") == plain
    raw = proxied.curl("/miner-positions", *header, "-H", "Accept-Encoding: gzip")
    assert gzip.decompress(raw) == plain
    head = proxied.curl("/miner-positions", *header, "-I", "-o", "-").decode().lower()
    assert "strict-transport-security:" in head
    tag = next(line.split(": ", 1)[1].strip() for line in head.splitlines() if line.startswith("etag"))
    again = proxied.curl(
        "/miner-positions", *header, "-H", f"If-None-Match: {tag}", "-w", "%{http_code}", "-o", "/dev/null"
    )
    assert again == b"304"
    body = json.dumps({"api_key": keys[100]})
    asked = proxied.curl("/me", "-X", "GET", "-H", "Content-Type: application/json", "-d", body)
    assert json.loads(asked)["tier"] == 100


def test_our_clients_through_tls(
    proxied: Proxied, keys: dict[int, str], validator: Validator, tmp_path: Path
) -> None:
    """One name and one port for REST and WebSocket, on any path."""
    trust = trusting(proxied.files)
    with PTNClient(proxied.url, keys[100], verify=trust) as client:
        assert client.hotkeys() == [factories.MINER]
        until(lambda: client.health().status == "ok")
    uuid = first_order(proxied.https, keys[100], trust, validator, tmp_path / "state")
    assert uuid == validator.placed[2]
    login = {"api_key": keys[100], "last_sequence": -1}

    async def answer() -> str | bytes:
        # Not with threads, which Python's TLS does not support: a request can be lost.
        url = f"wss://localhost:{proxied.https}/stream"
        async with connect(url, ssl=trust, open_timeout=PATIENCE_S) as socket:
            await socket.send(json.dumps(login))
            return await socket.recv()

    assert json.loads(asyncio.run(answer()))["status"] == "success"


def test_a_websites_requests(proxied: Proxied, keys: dict[int, str]) -> None:
    """Preflight, response and error keep the API's headers on the way to the browser, the page its policy."""
    asked = ("-H", f"Origin: {ORIGIN}", "-D", "-", "-o", "/dev/null")
    method = ("-X", "OPTIONS", "-H", "Access-Control-Request-Method: GET")
    key = ("-H", f"Authorization: Bearer {keys[100]}")
    for status, options in ((204, method), (200, key), (401, ())):
        head = proxied.curl("/miners", *asked, *options).decode().lower().split("\r\n")
        assert head[0].startswith(f"http/1.1 {status}")
        assert head.count(f"access-control-allow-origin: {ORIGIN}") == 1
        assert any(line.startswith("vary:") and "origin" in line for line in head)
    other = proxied.curl("/miners", "-H", "Origin: https://evil.example.com", "-D", "-", *key)
    assert b"access-control-allow-origin" not in other.lower()
    page = proxied.curl("/", "-H", "Accept: text/html", "-D", "-", "-o", "/dev/null").lower()
    assert b"content-security-policy: default-src 'none'" in page


def test_nothing_is_served_in_the_clear(proxied: Proxied, keys: dict[int, str]) -> None:
    """Not even a redirect, which would hide that a key was sent in the clear."""
    command = ["curl", "-s", "-w", "%{http_code}", "-H", f"Authorization: Bearer {keys[100]}"]
    url = f"http://localhost:{proxied.http}/miner-positions"
    answer = subprocess.run([*command, url], capture_output=True, check=True).stdout
    assert answer == b'{"error": "https only"}403'


def test_no_key_in_the_proxys_logs(proxied: Proxied, keys: dict[int, str]) -> None:
    """Its access log has path and address; a client's own X-Forwarded-For does not reach the API."""
    headers = ("-H", f"Authorization: Bearer {keys[100]}", "-H", "X-Forwarded-For: 203.0.113.9")
    proxied.curl("/me", *headers)
    log = proxied.folder / "access.log"
    until(lambda: "GET /me" in log.read_text(), what="nginx's line, written after the answer")
    access = log.read_text()
    assert keys[100] not in access
    assert (proxied.folder / "error.log").read_text().count("[error]") == 0
    assert "203.0.113.9" not in proxied.server.log.read_text()
