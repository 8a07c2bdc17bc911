"""GET /stream of a real server: with curl, through nginx, over kills, with the socket's limit."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from ptn_api.access import add_key, revoke_key
from tests.events import Event, parse
from tests.system.api import Api, api
from tests.system.certificates import certificates
from tests.system.nginx import NGINX, nginx
from tests.system.test_keys import rest_status
from tests.system.test_watching import scrape, value
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Curl:
    """`curl -N` on a stream: the events so far, and everything else that came."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[Event] = []
        self.others: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith((":", "retry")):
                self.others.append(line.strip())
            elif line != "\n":
                lines.append(line.rstrip("\n"))
            elif lines:
                self.events.append(parse(lines))
                lines = []

    @property
    def orders(self) -> list[Event]:
        return [event for event in self.events if event.kind == "order"]

    @property
    def uuids(self) -> list[str]:
        return [event.data["data"]["position"]["orders"][-1]["order_uuid"] for event in self.orders]

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.orders) >= count, what=f"{count} orders")

    def wait_ended(self) -> None:
        """Waits until the server has ended the stream, and everything of it was read."""
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)


@contextmanager
def curl(url: str, key: str, *options: str) -> Iterator[Curl]:
    """Open once the first event is there."""
    command = ["curl", "-sN", "-H", f"Authorization: Bearer {key}", *options, f"{url}/stream"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        stream = Curl(process)
        until(lambda: stream.events or process.poll() is not None, what="the first event")
        yield stream
    finally:
        process.kill()
        process.wait()
        stream.wait_ended()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def server(validator: Validator, data_dir: Path, keys: dict[int, str]) -> Iterator[Api]:
    validator.place()
    with api(data_dir, validator_dir=validator.root, metrics_port=0) as running:
        until(lambda: len(running.stdout) == 2, what="the line about metrics")
        yield running


def test_a_killed_rest_process_loses_and_repeats_nothing(
    server: Api, keys: dict[int, str], validator: Validator
) -> None:
    """The client goes on after its last id, as browsers do by themselves, once REST is back."""
    found: list[str] = []
    with curl(server.rest, keys[100]) as stream:
        validator.place(3)
        stream.wait_for(3)
        pid = server.kill("rest")
        stream.wait_ended()
        found += stream.uuids
        last = stream.events[-1].cursor
    validator.place(2)
    server.wait_restarted("rest", pid)
    with curl(server.rest, keys[100], "--retry", "60", "-H", f"Last-Event-ID: {last}") as stream:
        stream.wait_for(2)
        validator.place()
        stream.wait_for(3)
        found += stream.uuids
        assert "gap" not in {event.kind for event in stream.events}
    assert found == validator.placed[1:]


def test_the_end_of_a_key_and_of_the_server(server: Api, data_dir: Path, validator: Validator) -> None:
    """Both end the stream at once; only the second asks for a reconnect. Metrics count the streams."""
    key_file = data_dir.parent / "api_keys.json"
    first, second = add_key(key_file, "first", 100), add_key(key_file, "second", 100)
    until(lambda: rest_status(server, first) == rest_status(server, second) == 200)  # the file has been read
    with (
        curl(server.rest, second, "--retry", "60", "--retry-all-errors") as stream,
        curl(server.rest, first) as another,
    ):
        until(lambda: value(scrape(server), "ptn_rest_event_streams") == 2, what="both streams have begun")
        validator.place()
        stream.wait_for(1)
        another.wait_for(1)
        until(lambda: value(scrape(server), "ptn_rest_event_deliveries_total") == 2, what="both are counted")
        revoke_key(key_file, "first")
        another.wait_ended()
        assert another.others == [": key revoked or downgraded"]
        server.stop()
        stream.wait_ended()
        assert stream.others == ["retry: 1000", ": server is shutting down"]


def test_the_limit_is_shared_with_the_socket(server: Api, keys: dict[int, str]) -> None:
    """Five connections of either kind; the sixth ends the oldest, in another process."""
    with curl(server.rest, keys[100]) as oldest, contextlib.ExitStack() as stack:
        for _ in range(5):
            socket = stack.enter_context(connect(server.stream, open_timeout=PATIENCE_S))
            socket.send(json.dumps({"api_key": keys[100]}))
            assert json.loads(socket.recv())["status"] == "success"
        oldest.wait_ended()
        assert oldest.others[-1] == ": replaced by a newer connection of the same user"


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_through_nginx_each_event_arrives_at_once(
    server: Api, keys: dict[int, str], validator: Validator, tmp_path: Path
) -> None:
    """With the project's configuration: no buffering, no compression, and a client that leaves is noticed."""
    files = certificates(tmp_path / "tls")
    with nginx(tmp_path / "nginx", files, server.rest, server.stream) as (_, https):
        trusting = ("--cacert", str(files.authority), "--compressed", "-D", str(tmp_path / "head"))
        with curl(f"https://localhost:{https}", keys[100], *trusting) as stream:
            for n in range(1, 4):
                validator.place()
                stream.wait_for(n)
            head = (tmp_path / "head").read_text().lower()
            assert "content-type: text/event-stream" in head
            assert "content-encoding" not in head
            assert "cache-control: no-store" in head
        gone = lambda: value(scrape(server), "ptn_rest_event_streams") == 0  # noqa: E731
        until(gone, what="the server has noticed that the client left")
