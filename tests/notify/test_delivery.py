"""`ptn notify` as its user runs it: processes of a server, the command and a receiver, all of which fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from ptn_api.client import PTNClient
from tests.cli.ptn import Ptn
from tests.live import Live, bare_environment, serving
from tests.notify.receiver import Receiver
from tests.waiting import until

SECRET = "tokenThatNobodyMaySee"
KEY = "a webhook secret of some length"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("live")) as server:
        yield server


@pytest.fixture
def ptn(live: Live, tmp_path: Path) -> Ptn:
    return Ptn(tmp_path, live.environment(tmp_path) | {"PTN_WEBHOOK_SECRET": KEY})


def targets_file(folder: Path, receiver: Receiver) -> Path:
    """A webhook and a chat, both with a secret in their addresses."""
    file = folder / "targets"
    address = f"user:{SECRET}@127.0.0.1:{receiver.port}"
    file.write_text(f"desk = webhook+http://{address}/desk\nteam = json://{address}/team\n")
    file.chmod(0o600)
    return file


@contextmanager
def running(ptn: Ptn, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = ptn.begin("notify", *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


PATIENCE_S = 120.0
"""Several processes start, each of which imports what a server does not."""


def taken_more(receiver: Receiver, path: str, count: int) -> None:
    before = len(receiver.taken(path))
    until(lambda: len(receiver.taken(path)) >= before + count, seconds=PATIENCE_S)


@pytest.mark.timeout(500)
def test_no_order_is_lost_and_none_overtakes_another(
    live: Live, ptn: Ptn, receiver: Receiver, tmp_path: Path
) -> None:
    """While the receiver fails, hangs, closes and recovers, and the command is killed at any point."""
    options = ("--targets-file", targets_file(tmp_path, receiver), "--timeout", 1, "--retry-max", 0.1)
    command = (*options, "--per-minute", 1000)
    printed = ""
    for failures in (["503", "hang"], ["close", "200"]):
        receiver.answer("200")
        with running(ptn, *command) as process:
            taken_more(receiver, "/desk", 3)
            for failure in failures:
                receiver.answer(failure)
                failed = receiver.answers("/desk").count(failure)
                repeated = lambda word=failure, n=failed: receiver.answers("/desk").count(word) > n + 1  # noqa: E731
                until(repeated, seconds=PATIENCE_S)
            command_line = " ".join(psutil.Process(process.pid).cmdline())
            assert SECRET not in command_line
            assert KEY not in command_line
            process.kill()
            printed += process.communicate()[0]
    with running(ptn, *command) as process:
        taken_more(receiver, "/desk", 3)
        taken_more(receiver, "/team", 3)
        process.terminate()
        printed += process.communicate(timeout=PATIENCE_S)[0]
        assert process.returncode == 0
    assert "desk: not delivered: status 503; trying again until it succeeds" in printed
    assert "desk: not delivered: no response within 1 s" in printed
    assert SECRET not in printed
    assert KEY not in printed
    assert live.key not in printed

    sequences = [body["sequence"] for body in receiver.taken("/desk")]
    assert set(expected(live, sequences)) == set(sequences)
    first_time = list(dict.fromkeys(sequences))
    assert first_time == sorted(first_time)
    # Of a repeated order, the receiver knows the key.
    requests = [r for r in receiver.requests if r["path"] == "/desk"]
    by_sequence = {(json.loads(r["body"])["sequence"], r["headers"]["idempotency-key"]) for r in requests}
    assert len(by_sequence) == len({sequence for sequence, _ in by_sequence})
    times = [int(re.match(r"t=(\d+)", r["headers"]["x-ptn-signature"])[1]) for r in requests]  # type: ignore[index]
    assert all(a <= b for a, b in pairwise(times))


def expected(live: Live, sequences: list[int]) -> list[int]:
    """What the server sent from the first to the last of them."""
    found: list[int] = []
    with PTNClient(live.rest, live.key) as api:
        after = min(sequences) - 1
        while True:
            page = api.messages(after=after)
            found += [message.sequence for message in page.messages]
            after = page.next
            if not page.messages or found[-1] >= max(sequences):
                return [sequence for sequence in found if sequence <= max(sequences)]


@pytest.mark.timeout(300)
def test_a_target_that_fails_does_not_hold_up_the_other(
    ptn: Ptn, receiver: Receiver, live: Live, tmp_path: Path
) -> None:
    """And one that is gone is left alone until the next start."""
    file = tmp_path / "targets"
    file.write_text(f"dead = json://127.0.0.1:1/\ndesk = webhook+http://127.0.0.1:{receiver.port}/desk\n")
    file.chmod(0o600)
    with running(ptn, "--targets-file", file, "--retry-max", 0.1) as process:
        taken_more(receiver, "/desk", 3)
        receiver.answer("410")
        until(lambda: "410" in receiver.answers("/desk"), seconds=PATIENCE_S)
        receiver.answer("200")
        taken = len(receiver.taken("/desk"))
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("desk: status 410: it wants no more orders" in line for line in lines)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    assert len(receiver.taken("/desk")) == taken
    receiver.answer("410")
    ended = ptn.process("notify", "--targets-file", file, "desk")
    assert ended.status == 1
    assert ended.stderr.splitlines()[-1] == "ptn: no target is left: each has answered with status 410"


def test_the_test_tells_which_targets_work(ptn: Ptn, receiver: Receiver, tmp_path: Path) -> None:
    """Without a server or a key; the exit status is 1 if one failed."""
    alone = Ptn(tmp_path, bare_environment(tmp_path) | {"PTN_WEBHOOK_SECRET": KEY})
    file = targets_file(tmp_path, receiver)
    ended = alone("notify", "--test", "--targets-file", file)
    assert (ended.status, ended.lines) == (0, ["desk: delivered", "team: delivered"])
    receiver.answer("403")
    ended = alone("notify", "--test", "--targets-file", file, "team", "desk")
    assert ended.lines == ["team: failed: status 403", "desk: failed: status 403"]
    assert (ended.status, ended.stderr) == (1, "ptn: 2 of 2 targets failed\n")


def test_targets_in_the_environment(ptn: Ptn, receiver: Receiver) -> None:
    """Separated by spaces."""
    address = f"127.0.0.1:{receiver.port}"
    targets = f"a=json://{address}/a b=webhook+http://{address}/b"
    assert ptn("notify", "--test", PTN_NOTIFY_TARGETS=targets).lines == ["a: delivered", "b: delivered"]
    ended = ptn("notify", "--test", f"json://{address}/plain")
    assert ended.status == 0
    assert len(receiver.taken("/plain")) == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "problem"),
    [
        (["discord://417421/" + SECRET], {}, "argument 1: every process list"),
        ([f"json://x:{SECRET}@h"], {}, "argument 1: every process list"),
        ([], {}, "no targets"),
        ([], {"PTN_NOTIFY_TARGETS": SECRET}, "PTN_NOTIFY_TARGETS: entry 1"),
        (
            [],
            {"PTN_NOTIFY_TARGETS": "a=webhook+https://h", "PTN_WEBHOOK_SECRET": "short"},
            "PTN_WEBHOOK_SECRET",
        ),
    ],
)
def test_wrong_usage(ptn: Ptn, arguments: list[str], environment: dict[str, str], problem: str) -> None:
    """One line and status 2, without a secret."""
    ended = ptn("notify", *arguments, **environment)
    assert ended.status == 2
    assert ended.stderr.startswith(f"ptn: {problem}")
    assert SECRET not in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_wrong_key_ends_the_command(ptn: Ptn, receiver: Receiver) -> None:
    ended = ptn("notify", f"json://127.0.0.1:{receiver.port}/x", PTN_API_KEY="wrong")
    assert ended.status == 3
    assert "unknown or expired API key (check PTN_API_KEY)" in ended.stderr


def test_the_extra_is_named_if_it_is_missing(ptn: Ptn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed webhooks do without it."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.delitem(sys.modules, "ptn_api.notify.services", raising=False)
    ended = ptn("notify", "json://127.0.0.1:1/x")
    assert (ended.status, ended.stderr.count("pip install 'ptn-api[notify]'")) == (2, 1)
    ended = ptn("notify", "--test", "webhook+http://127.0.0.1:1/x")
    assert (ended.status, ended.lines[0].split(": ")[1]) == (1, "failed")
