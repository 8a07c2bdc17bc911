"""Errors are one line, with an exit status for the kind of error."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from ptn_api.cli.client import rest_url, ws_url
from ptn_api.cli.exit_status import EXIT_STATUSES, exit_status
from ptn_api.errors import AuthenticationError, ClientError, ServerUnreachableError, SettingsError
from tests.cli.ptn import Ptn
from tests.live import ROOT, Live
from tests.waiting import PATIENCE_S

SECRET = "secret-key-1234"


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address without a listener for the duration of the test."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def serving_each(meet: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that handles every connection with `meet` and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    meet(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


@pytest.fixture
def mute() -> Iterator[str]:
    """A mail server, which closes every connection."""

    def meet(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(b"220 mail.example.org ESMTP\r\n")

    with serving_each(meet) as address:
        yield address


@pytest.fixture
def tls() -> Iterator[str]:
    """A server that only does TLS handshakes, with an untrusted certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def meet(connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) == b"\x16":  # a handshake
            context.wrap_socket(connection, server_side=True).close()
        else:
            connection.recv(65536)

    with serving_each(meet) as address:
        yield address


COMMANDS = [
    ("positions", "http"),
    ("orders", "http"),
    ("me", "http"),
    ("checkpoint -o x", "http"),
    ("replay", "http"),
    ("stream", "ws"),
    ("record x", "ws"),
]


@pytest.mark.parametrize(("words", "scheme"), COMMANDS)
def test_a_server_that_is_down(stranger: Ptn, closed_port: str, words: str, scheme: str) -> None:
    ended = stranger(*words.split(), "--url", f"{scheme}://{closed_port}", PTN_API_KEY=SECRET)
    assert ended.status == 4
    assert ended.stderr == f"ptn: {scheme}://{closed_port} does not answer: Connection refused\n"


@pytest.mark.parametrize(("words", "scheme"), [("positions", "http"), ("stream", "ws")])
def test_an_address_with_a_plain_scheme_for_tls(stranger: Ptn, tls: str, words: str, scheme: str) -> None:
    """Only one side uses TLS: the other scheme is suggested."""
    ended = stranger(words, "--url", f"{scheme}://{tls}", PTN_API_KEY=SECRET)
    assert ended.status == 4
    assert ended.stderr.endswith(f"; is it {scheme}s://{tls}?\n")


@pytest.mark.parametrize(("words", "scheme"), [("positions", "http"), ("stream", "ws")])
def test_an_address_with_tls_for_a_plain_server(stranger: Ptn, mute: str, words: str, scheme: str) -> None:
    ended = stranger(words, "--url", f"{scheme}s://{mute}", PTN_API_KEY=SECRET)
    assert ended.status == 4
    assert ended.stderr.endswith(f": wrong version number; is it {scheme}://{mute}?\n")


@pytest.mark.parametrize(("words", "scheme"), [("positions", "https"), ("stream", "wss")])
def test_an_untrusted_certificate(stranger: Ptn, tls: str, words: str, scheme: str) -> None:
    ended = stranger(words, "--url", f"{scheme}://{tls}", PTN_API_KEY=SECRET)
    assert ended.status == 4
    assert f"{tls} does not answer: certificate verify failed: " in ended.stderr
    assert "_ssl" not in ended.stderr
    assert ended.stderr.count("SSL_CERT_FILE") == 1


@pytest.mark.parametrize(("words", "scheme"), [("positions", "http"), ("stream", "ws")])
def test_a_proxy_that_demands_tls(stranger: Ptn, words: str, scheme: str) -> None:
    """As deploy/nginx answers without TLS: the key is not at fault."""
    body = b'{"error": "https only"}'
    head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()

    def meet(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head + body)

    with serving_each(meet) as address:
        ended = stranger(words, "--url", f"{scheme}://{address}", PTN_API_KEY=SECRET)
    assert ended.status in (1, 4)
    assert ended.stderr.endswith(f"it accepts only TLS; use {scheme}s://{address}\n")
    assert "PTN_API_KEY" not in ended.stderr


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, "http://127.0.0.1:48888"),
        ({"PTN_API_REST_PORT": "0"}, "http://127.0.0.1:48888"),
        ({"PTN_API_HOST": "0.0.0.0", "PTN_API_REST_PORT": "8001"}, "http://127.0.0.1:8001"),
        ({"PTN_API_HOST": "::", "PTN_TLS_CERT": "c.pem"}, "https://[::1]:48888"),
        ({"PTN_API_HOST": "10.0.0.1", "PTN_REST_URL": "http://there:1"}, "http://there:1"),
    ],
)
def test_the_usual_address_is_that_of_the_environments_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], address: str
) -> None:
    """In the environment of a service, `ptn health` must not ask another server."""
    for name in ("PTN_API_HOST", "PTN_API_REST_PORT", "PTN_TLS_CERT", "PTN_REST_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"XDG_CONFIG_HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    assert rest_url(variables.get("PTN_REST_URL")) == address


def test_the_streams_usual_address_has_its_own_host_and_port(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PTN_API_HOST", "10.0.0.1")
    monkeypatch.setenv("PTN_API_WS_PORT", "8002")
    assert ws_url(None) == "ws://10.0.0.1:8002"
    monkeypatch.setenv("PTN_API_WS_HOST", "10.0.0.2")
    assert ws_url(None) == "ws://10.0.0.2:8002"


def test_health_asks_the_server_of_the_environment(stranger: Ptn, closed_port: str) -> None:
    ended = stranger("health", PTN_API_REST_PORT=closed_port.partition(":")[2])
    assert ended.stderr == f"ptn: http://{closed_port} does not answer: Connection refused\n"


def test_a_refused_key_is_told_once(stranger: Ptn, live: Live) -> None:
    ended = stranger.process("stream", "--url", live.stream, PTN_API_KEY=SECRET)
    assert ended.status == 3
    assert ended.stderr.lower().count("authentication failed") == 1
    assert "unknown or expired API key (check PTN_API_KEY)" in ended.stderr


@pytest.mark.parametrize(("words", "scheme"), [("positions", "http"), ("stream", "ws")])
def test_a_server_that_is_something_else(stranger: Ptn, mute: str, words: str, scheme: str) -> None:
    ended = stranger(words, "--url", f"{scheme}://{mute}", PTN_API_KEY=SECRET)
    assert ended.status in (1, 4)
    assert ended.stderr.startswith(f"ptn: {scheme}://{mute} ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://host:port", "ftp://host", "//host"])
@pytest.mark.parametrize("word", ["positions", "stream"])
def test_a_malformed_address(stranger: Ptn, word: str, url: str) -> None:
    ended = stranger(word, "--url", url, PTN_API_KEY=SECRET)
    assert ended.status == 2
    assert "is not an address like" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_two_addresses_mixed_up(ptn: Ptn, live: Live) -> None:
    """The error suggests it in both directions."""
    assert "ws://127.0.0.1:8765" in ptn("stream", "--url", live.rest).stderr
    assert "http://127.0.0.1:48888" in ptn("positions", "--url", live.stream).stderr
    swapped = ptn("stream", "--url", live.rest.replace("http", "ws"))
    assert (swapped.status, "is that the WebSocket address?" in swapped.stderr) == (4, True)
    swapped = ptn("positions", "--url", live.stream.replace("ws", "http"))
    assert (swapped.status, "WebSocket" in swapped.stderr) == (1, True)


@pytest.mark.parametrize("word", ["positions", "stream"])
def test_a_wrong_key(ptn: Ptn, word: str) -> None:
    ended = ptn(word, PTN_API_KEY=SECRET)
    assert ended.status == 3
    assert SECRET not in ended.stderr + ended.stdout
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("ptn: ")
    assert last.endswith(" (check PTN_API_KEY)")
    assert ended.stderr.count("API key") == 1


def test_a_recording_that_never_started(ptn: Ptn, tmp_path: Path) -> None:
    """A wrong key leaves no empty file behind."""
    assert ptn("record", "orders.ndjson", PTN_API_KEY=SECRET).status == 3
    assert not (tmp_path / "orders.ndjson").exists()


def test_too_low_a_tier(ptn: Ptn, live: Live) -> None:
    keys = json.loads(live.keys_file.read_text())
    low = next(entry["key"] for entry in keys.values() if entry["tier"] == 30)
    for words in (["stream"], ["positions", "--tier", "100"], ["checkpoint", "-o", "x"]):
        ended = ptn(*words, PTN_API_KEY=low)
        assert ended.status == 3, words
        assert "tier" in ended.stderr
    assert ptn("positions", PTN_API_KEY=low).status == 0


# --- where the key comes from -----------------------------------------------------------------------------


def test_no_key_at_all(stranger: Ptn) -> None:
    ended = stranger("me")
    assert ended.status == 3
    assert "--api-key-file" in ended.stderr
    assert "config.json" in ended.stderr


def test_the_sources_of_a_key(stranger: Ptn, live: Live, tmp_path: Path) -> None:
    """Each works alone. The command line wins over the environment, the environment over the config file."""
    (tmp_path / "key").write_text(f"{live.key}\n")
    stranger.environment["PTN_REST_URL"] = live.rest
    assert stranger("me", "--api-key-file", "key", PTN_API_KEY=SECRET).status == 0
    assert stranger("me", "--api-key-file", live.keys_file).status == 0
    assert stranger("me", "--api-key-file", "-", stdin=f"{live.key}\n").status == 0
    config(tmp_path, api_key=live.key)
    assert stranger("me").status == 0
    assert stranger("me", PTN_API_KEY=SECRET).status == 3
    config(tmp_path, api_key_file=str(tmp_path / "key"))
    assert stranger("me").status == 0


def test_addresses_in_the_config_file(stranger: Ptn, live: Live, tmp_path: Path) -> None:
    config(tmp_path, api_key=live.key, rest_url=live.rest, ws_url=live.stream)
    assert stranger("me").status == 0
    assert stranger("stream", "--count", 1).status == 0


def test_a_config_file_that_others_can_read(stranger: Ptn, live: Live, tmp_path: Path) -> None:
    """A warning with the remedy, but only if the file holds a key."""
    path = config(tmp_path, api_key=live.key, rest_url=live.rest)
    path.chmod(0o644)
    assert f"chmod 600 {path}" in stranger("me").stderr
    config(tmp_path, rest_url=live.rest).chmod(0o644)
    assert stranger("me", PTN_API_KEY=live.key).stderr == ""


@pytest.mark.parametrize("content", ["{", "[]", '{"api-key": "x"}', "\x00"])
def test_a_malformed_config_file(stranger: Ptn, tmp_path: Path, content: str) -> None:
    path = config(tmp_path)
    path.write_text(content)
    ended = stranger("me")
    assert ended.status == 2
    assert str(path) in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [["--api-key", SECRET], [f"--api-key={SECRET}"], ["--api-key-file", SECRET]]
)
def test_a_key_on_the_command_line_is_not_repeated(stranger: Ptn, words: list[str]) -> None:
    """Neither for an unknown option nor for a key given instead of a file name."""
    ended = stranger("me", *words)
    assert ended.status == 2
    assert SECRET not in ended.stderr + ended.stdout


@pytest.mark.parametrize("content", ["", "two words", "{}", "{broken", "schlüssel"])
def test_a_key_file_without_a_key(stranger: Ptn, tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    ended = stranger("me", "--api-key-file", "key")
    assert ended.status in (2, 3)
    assert len(ended.stderr.splitlines()) == 1
    assert not content or content not in ended.stderr


def test_a_key_file_is_named_unless_it_may_be_the_key(stranger: Ptn, tmp_path: Path) -> None:
    """An empty one is what a failed redirection leaves; one that is missing is in an existing folder."""
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "key").touch()
    ended = stranger("me", "--api-key-file", "my/key")
    assert ended == (3, "", "ptn: no usable API key in --api-key-file: my/key is empty\n")
    missing = "cannot be read: No such file or directory"
    for name, shown in (("my/other", "my/other"), ("my.key", "my.key"), (f"x/{SECRET}", "the file")):
        ended = stranger("me", "--api-key-file", name)
        assert ended == (2, "", f"ptn: --api-key-file: {shown} {missing}\n")


# --- the rest ---------------------------------------------------------------------------------------------


def test_unusable_files(ptn: Ptn, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("notes\n")
    assert "neither a recording nor a checkpoint" in ptn("replay", "notes").stderr
    assert "not a recording" in ptn("record", "notes").stderr
    assert (tmp_path / "notes").read_text() == "notes\n"
    assert ptn("replay", "nowhere").stderr == "ptn: cannot read nowhere: No such file or directory\n"
    assert "cannot write" in ptn("record", "nowhere/orders.ndjson").stderr


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "x", "--speed", "fast"],
        ["replay", "x", "--speed", "0"],
        ["replay", "x", "--from", "yesterday"],
        ["positions", "--tier", "7"],
        ["positions", "--status", "half"],
        ["stream", "--output", "xml"],
        ["checkpoint"],
        ["miner"],
        ["nonsense"],
    ],
)
def test_wrong_usage(ptn: Ptn, words: list[str]) -> None:
    assert ptn(*words).status == 2


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["stream", "--on-error", "retry"], "--on-error: only with --exec"),
        (["stream", "--name", "x"], "--name: only with --resume or --exec"),
        (["stream", "--exec", "true", "--output", "csv"], "--output: not with --exec"),
        (["replay", "x", "--exec", "true", "--json"], "--json: not with --exec"),
        (["replay", "x", "--serve", "--exec", "true"], "--exec: not with --serve"),
    ],
)
def test_an_option_without_effect_is_an_error(ptn: Ptn, words: list[str], refused: str) -> None:
    ended = ptn(*words)
    assert (ended.status, ended.stderr.startswith(f"ptn: {refused}")) == (2, True), ended.stderr


def test_the_status_in_a_shell(stranger: Ptn, closed_port: str) -> None:
    """One line on standard error, no output, no traceback."""
    ended = stranger.process("me", "--url", f"http://{closed_port}", PTN_API_KEY=SECRET)
    assert ended == (4, "", f"ptn: http://{closed_port} does not answer: Connection refused\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_job_with_closed_streams(ptn: Ptn, closed: str) -> None:
    """Closed standard streams do not make it fail."""
    ended = ptn.shell(f"ptn me --json {closed}")
    assert ended.status == 0, ended.stderr
    assert ended.stderr == ""


def test_a_key_from_a_closed_standard_input(stranger: Ptn) -> None:
    ended = stranger.shell("ptn me --api-key-file - <&-")
    assert ended == (3, "", "ptn: no usable API key in --api-key-file\n")


def test_a_full_disk(ptn: Ptn) -> None:
    assert ptn.shell("ptn me --json > /dev/full") == (1, "", "ptn: No space left on device\n")


def test_every_kind_of_error_has_a_documented_status() -> None:
    """The documentation has the complete table."""
    kinds = [SettingsError, AuthenticationError, ServerUnreachableError, ClientError]
    assert [exit_status(kind("x")) for kind in kinds] == [2, 3, 4, 1]
    page = (ROOT / "docs" / "cli.md").read_text()
    for status, meaning in EXIT_STATUSES.items():
        assert f"| {status} | {meaning} |" in page


def config(home: Path, **values: str) -> Path:
    path = home / "config" / "ptn-api" / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    path.chmod(0o600)
    return path
