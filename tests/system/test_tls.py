"""TLS on both servers: `--tls-cert` and `--tls-key`, for those without a proxy."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization

from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.rest import PTNClient
from ptn_api.websocket_client import PTNWebSocketClient
from ptn_api.wire.close_codes import SHUTTING_DOWN
from tests.system.api import ROOT, api
from tests.system.certificates import Files, certificates
from tests.system.test_start import run
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return certificates(tmp_path / "tls")


def trusting(files: Files) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(files.authority))


def first_order(port: int, key: str, trust: ssl.SSLContext, validator: Validator, state_dir: Path) -> str:
    """Follows with the library's client, places an order, and returns the uuid that arrives."""
    seen: list[PTNWebSocketMessage] = []

    def take(messages: list[PTNWebSocketMessage]) -> None:
        seen.extend(messages)
        client.stop()

    client = PTNWebSocketClient(
        key,
        "localhost",
        port,
        secure=True,
        ssl=trust,
        state_dir=state_dir,
        on_state=lambda state: validator.place() if state == "live" else None,
    )
    client.run(take)
    return seen[0].new_order.order_uuid


def test_both_servers_speak_tls(
    validator: Validator, data_dir: Path, keys: dict[int, str], files: Files, tmp_path: Path
) -> None:
    """The ready line shows it, our clients work through it, and plain connections fail."""
    validator.place()
    settings = {"tls_cert": files.certificate, "tls_key": files.key}
    with api(data_dir, validator_dir=validator.root, **settings) as server:
        assert server.rest.startswith("https://")
        assert server.stream.startswith("wss://")
        with PTNClient(server.rest, keys[100], verify=trusting(files)) as client:
            assert client.me().tier == 100
            assert client.hotkeys()
        uuid = first_order(server.ws_port, keys[100], trusting(files), validator, tmp_path / "state")
        assert uuid == validator.placed[1]
        with pytest.raises(httpx.TransportError):
            httpx.get(server.rest.replace("https", "http") + "/health", timeout=PATIENCE_S)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(server.rest + "/health", timeout=PATIENCE_S)
        assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def test_the_command_line_trusts_what_the_environment_says(
    validator: Validator, data_dir: Path, keys: dict[int, str], files: Files, tmp_path: Path
) -> None:
    """SSL_CERT_FILE, as other programs do."""
    validator.place()
    environment = os.environ | {"PTN_API_KEY": keys[100], "SSL_CERT_FILE": str(files.authority)}
    environment["XDG_STATE_HOME"] = str(tmp_path / "state")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from ptn_api.cli.app import main; main()"
    with api(data_dir, validator_dir=validator.root, tls_cert=files.certificate, tls_key=files.key) as server:

        def ptn(*arguments: str) -> subprocess.Popen[str]:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
            return subprocess.Popen([sys.executable, "-c", code, *arguments], **pipes)  # type: ignore[call-overload, no-any-return]

        positions, _ = ptn("positions", "--url", server.rest, "--json").communicate(timeout=PATIENCE_S)
        assert len(json.loads(positions)) == 1
        stream = ptn("stream", "--url", server.stream, "--json", "--count", "1")
        assert stream.stderr is not None
        until(lambda: "live" in stream.stderr.readline(), what="the stream is live")
        validator.place()
        printed, _ = stream.communicate(timeout=PATIENCE_S)
        assert validator.placed[1] in printed
        if shutil.which("curl") is not None:
            asked = ["curl", "-sf", "--cacert", str(files.authority), server.rest + "/health"]
            assert subprocess.run(asked, capture_output=True, check=False).returncode == 0


def test_a_renewed_certificate_needs_no_restart(
    validator: Validator, data_dir: Path, files: Files, tmp_path: Path
) -> None:
    """Half a renewal is reported and changes nothing; new connections get the complete one."""
    with api(data_dir, validator_dir=validator.root, tls_cert=files.certificate, tls_key=files.key) as server:

        def trusted(authority: Path, port: int) -> bool:
            context = ssl.create_default_context(cafile=str(authority))
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain:
                try:
                    with context.wrap_socket(plain, server_hostname="127.0.0.1"):
                        return True
                except ssl.SSLCertVerificationError:
                    return False

        ports = [int(url.rpartition(":")[2]) for url in (server.rest, server.stream)]
        renewed = certificates(tmp_path / "renewed")
        os.replace(renewed.certificate, files.certificate)
        until(lambda: server.log.read_text().count("certificate_not_read") == 2)
        assert all(trusted(files.authority, port) for port in ports)
        os.replace(renewed.key, files.key)
        for port in ports:
            until(lambda port=port: trusted(renewed.authority, port))  # type: ignore[misc]
            assert not trusted(files.authority, port)


def test_a_connection_that_never_greets_is_dropped(
    validator: Validator, data_dir: Path, files: Files
) -> None:
    """A TLS handshake has the timeout of headers and logins."""
    times = {"header_timeout_ms": 300, "auth_timeout_ms": 300}
    settings = {"tls_cert": files.certificate, "tls_key": files.key} | times
    with api(data_dir, validator_dir=validator.root, **settings) as server:
        for url in (server.rest, server.stream):
            with socket.create_connection(
                ("127.0.0.1", int(url.rpartition(":")[2])), timeout=PATIENCE_S
            ) as silent:
                assert silent.recv(1) == b""


def test_a_stop_says_goodbye_through_tls(
    validator: Validator, data_dir: Path, keys: dict[int, str], files: Files, tmp_path: Path
) -> None:
    """A follower gets SHUTTING_DOWN, and an idle connection does not delay the stop."""
    states: list[str] = []
    settings = {"tls_cert": files.certificate, "tls_key": files.key, "stop_timeout_ms": 60_000}
    settings["heartbeat_ms"] = 5_000  # a stall of the test itself must not end the connection
    with api(data_dir, validator_dir=validator.root, **settings) as server:
        client = PTNWebSocketClient(
            keys[100],
            "127.0.0.1",
            server.ws_port,
            secure=True,
            ssl=trusting(files),
            resume=False,
            state_dir=tmp_path / "state",
            on_state=lambda state: states.append(state),
        )
        thread = threading.Thread(target=client.run)
        thread.start()
        try:
            until(lambda: "live" in states)
            with httpx.Client(verify=trusting(files), timeout=PATIENCE_S) as idle:
                assert idle.get(server.rest + "/health").status_code == 200
                server.process.terminate()
                assert server.process.wait(90) == 0
            until(lambda: states.count("connecting") > 1)
        finally:
            client.stop()
            thread.join(PATIENCE_S)
    assert "process_killed" not in server.log.read_text()
    closed = [line for line in server.log.read_text().splitlines() if "connection_closed" in line]
    assert len(closed) == 1, closed
    assert f'"code": {SHUTTING_DOWN.code}' in closed[0]


def encrypted(files: Files) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda files: files.certificate.unlink(), "--tls-cert"),
        (lambda files: files.key.unlink(), "--tls-key"),
        (lambda files: files.certificate.write_text("nothing"), "PEM"),
        (lambda files: certificates(files.key.parent / "o").key.replace(files.key), "key values mismatch"),
        (encrypted, "passphrase"),
    ],
    ids=["no certificate", "no key", "nonsense", "another's key", "encrypted key"],
)
def test_files_that_cannot_be_used(
    harm: object, told: str, validator: Validator, data_dir: Path, files: Files
) -> None:
    """One clear line and exit status 1, before anything is served."""
    harm(files)  # type: ignore[operator]
    result = run(
        "--serve",
        f"--validator-dir={validator.root}",
        f"--data-dir={data_dir}",
        f"--tls-cert={files.certificate}",
        f"--tls-key={files.key}",
    )
    assert result.returncode == 1
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_one_without_the_other(validator: Validator, data_dir: Path, files: Files) -> None:
    """A server that was asked for TLS never serves in the clear."""
    result = run(
        "--serve", f"--validator-dir={validator.root}", f"--data-dir={data_dir}", f"--tls-cert={files.key}"
    )
    assert result.returncode == 1
    assert "--tls-key" in result.stderr
