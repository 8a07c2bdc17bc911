"""`ptn serve`, `ptn doctor` and `ptn resync` before any server runs: options, help, errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptn_api.options import SECTIONS
from ptn_api.process.data_dir import check_apart
from ptn_api.process.settings import SETTINGS, load_settings
from tests.cli.ptn import Ptn
from tests.live import ROOT, bare_environment
from tests.waiting import PATIENCE_S


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_help_lists_every_setting_in_its_section(stranger: Ptn, command: str) -> None:
    """With its unit (none for a switch), description and default, on a wide terminal in one line each."""
    shown = stranger(command, "--help", COLUMNS="300", TERMINAL_WIDTH="300").stdout
    sections = re.split(r"╭─ (\w+) ─+╮", shown)
    assert sections[3::2] == list(SECTIONS)
    for setting in SETTINGS.values():
        panel = sections[sections.index(setting.section, 3) + 1]
        (row,) = [line for line in panel.splitlines() if line.split()[1:2] == [setting.flag]]
        assert setting.unit in row
        assert setting.description in row
        assert f"(default: {setting.default_text})" in row or not setting.default_text
    assert "default: )" not in shown
    assert "bool" not in shown.lower()
    assert "PTN_API_HOST" in shown


def test_a_bad_setting_is_one_line_with_status_2(stranger: Ptn) -> None:
    """It names the flag or the variable, and what is accepted."""
    expected = "expected a whole number from 0 to 65535"
    ended = stranger("serve", "--demo", "--api-rest-port", "x")
    assert ended == (2, "", f"ptn: --api-rest-port 'x': {expected}\n")
    ended = stranger("doctor", "--demo", PTN_API_REST_PORT="x")
    assert ended == (2, "", f"ptn: PTN_API_REST_PORT 'x': {expected}\n")


def test_an_unknown_option_is_wrong_usage(stranger: Ptn) -> None:
    ended = stranger("serve", "--demo", "--api-rest-prt", "1")
    assert ended.status == 2
    assert "--api-rest-port" in ended.stderr


def test_an_unknown_variable_is_named(stranger: Ptn) -> None:
    """It is most likely a misspelt setting, which would have no effect."""
    ended = stranger("serve", PTN_API_PORT="1", PTN_NODE_NKEY="of nats.conf")
    assert ended.stderr.startswith("ptn: unknown environment variable PTN_API_PORT")
    assert "PTN_NODE_NKEY" not in ended.stderr


def test_a_directory_without_a_validator(stranger: Ptn) -> None:
    ended = stranger("serve")
    assert (ended.status, len(ended.stderr.splitlines())) == (2, 1)
    assert "--validator-dir" in ended.stderr
    assert "--demo" in ended.stderr


@pytest.mark.parametrize("script", ["api_manager.py", "main.py"])
def test_both_scripts_take_the_same_options(tmp_path: Path, script: str) -> None:
    """`--serve` starts, everything else is as with `ptn serve`."""
    done = subprocess.run(
        [sys.executable, ROOT / script, "--serve", "--sweep-ms=0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=tmp_path,
        env=bare_environment(tmp_path) | {"PATH": os.environ["PATH"]},
        check=False,
    )
    expected = f"{script} --serve: --sweep-ms '0': expected a whole number of 1 or more\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_doctor_names_the_option_of_an_address_that_is_not_local(stranger: Ptn) -> None:
    """Another port would not help."""
    ended = stranger("doctor", "--demo", "--api-rest-port=0", "--api-ws-port=0", "--api-ws-host=192.0.2.1")
    (line,) = [line for line in ended.stdout.splitlines() if "192.0.2.1" in line]
    assert line.startswith("bad   ports")
    assert line.endswith("choose another with --api-ws-host")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--demo", "--validator-dir=v"), "--demo simulates a validator: omit"),
        (("--demo", "--checkpoint=c.json"), "--demo simulates a validator: omit"),
        (("--validator-dir=v", "--checkpoint=c.json"), "omit --validator-dir"),
        (
            ("--demo", "--api-rest-port=9000", "--api-ws-port=9000"),
            "REST and the WebSocket cannot share port 9000",
        ),
        (("--demo", "--api-rest-port=8765", "--api-ws-host=0.0.0.0"), "cannot share port 8765"),
    ],
)
def test_settings_that_contradict_each_other(stranger: Ptn, arguments: tuple[str, ...], said: str) -> None:
    """Wrong usage, before anything starts; none of them is ignored. The doctor says the same."""
    ended = stranger("serve", *arguments)
    assert (ended.status, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    assert said in ended.stderr
    assert re.search(
        rf"^bad   settings .*{re.escape(said)}", stranger("doctor", *arguments).stdout, re.MULTILINE
    )


def test_the_same_port_on_two_addresses() -> None:
    """They do not conflict; neither do free ports."""
    load_settings({"api_rest_port": 9000, "api_ws_port": 9000, "api_ws_host": "127.0.0.2"}, {}).check()
    load_settings({"api_rest_port": 0, "api_ws_port": 0}, {}).check()


@pytest.mark.parametrize("data_dir", ["", "validation", "validation/miners/data", "link/runnable/data"])
def test_a_data_directory_of_the_validator(stranger: Ptn, tmp_path: Path, data_dir: str) -> None:
    """The server writes nothing there; in a checkout, the default directory stays possible."""
    checkout = tmp_path / "validator"
    (checkout / "validation" / "miners").mkdir(parents=True)
    (tmp_path / "link").symlink_to(checkout)
    place = tmp_path / data_dir if data_dir.startswith("link") else checkout / data_dir
    arguments = (f"--validator-dir={checkout}", f"--data-dir={place}")
    before = sorted(checkout.rglob("*"))
    ended = stranger("serve", *arguments)
    assert (ended.status, ended.stdout) == (2, "")
    assert f"--data-dir {place} belongs to the validator" in ended.stderr
    assert f"bad   settings    --data-dir {place} belongs to" in stranger("doctor", *arguments).stdout
    assert sorted(checkout.rglob("*")) == before
    check_apart(checkout / ".ptn", checkout)
    check_apart(tmp_path, checkout)


def test_doctor_checks_the_keys_of_the_demo(stranger: Ptn, tmp_path: Path) -> None:
    """Those of a real server in the working directory are not the demo's."""
    ports = ("--api-rest-port=0", "--api-ws-port=0")
    for place, key in (("ptn_api/api_keys.json", "real"), ("demo/demo_api_keys.json", "demo")):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text(json.dumps({key: {"key": f"the key of {key}", "tier": 100}}))
    shown = stranger("doctor", "--demo", "--data-dir=demo", *ports).stdout
    assert f"1 key in {tmp_path}/demo/demo_api_keys.json is valid" in shown
    assert "ptn_api/api_keys.json" not in shown


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"positions": {}}', "ok    validator   checkpoint c.json is usable, with 0 positions"),
        ('{"positions": {', "bad   validator   --checkpoint c.json cannot be used: "),
        (None, "bad   validator   --checkpoint c.json cannot be used: "),
    ],
)
def test_doctor_reads_the_checkpoint(stranger: Ptn, tmp_path: Path, content: str | None, said: str) -> None:
    """As `ptn serve` does, which ends if it is damaged."""
    if content is not None:
        (tmp_path / "c.json").write_text(content)
    ended = stranger("doctor", "--checkpoint=c.json", "--api-rest-port=0", "--api-ws-port=0")
    assert said in ended.stdout
    assert (ended.status == 1) is said.startswith("bad")


def test_doctor_suggests_the_validators_directory(stranger: Ptn, tmp_path: Path) -> None:
    """As `ptn serve` does."""
    (tmp_path / "here" / "validation" / "miners").mkdir(parents=True)
    ended = stranger("doctor", "--validator-dir=nowhere", "--api-rest-port=0", "--api-ws-port=0")
    assert f"see --validator-dir; did you mean {tmp_path / 'here'}? it is next to this one" in ended.stdout


def test_findings_are_broken_between_words(stranger: Ptn, tmp_path: Path) -> None:
    """Below their own column, on a terminal."""
    words = ("doctor", "--demo", "--data-dir=demo", "--api-rest-port=0", "--api-ws-port=0")
    whole = [line.split() for line in stranger(*words).stdout.splitlines()]
    shown = stranger.on_terminal(*words, columns=70, statuses=(0, 1)).replace("\r", "").splitlines()
    longest = max(len(word) for line in whole for word in line)
    assert max(map(len, shown)) <= max(70, 18 + longest)
    continued = [line for line in shown if line.startswith(" " * 18)]
    assert continued
    parts = "\n".join(shown).replace("\n" + " " * 18, " ")
    assert {" ".join(line[:2]) for line in whole} == {
        " ".join(line.split()[:2]) for line in parts.splitlines()
    }
    assert {word for line in shown for word in line.split()} <= {word for line in whole for word in line}


def test_resync_wants_a_confirmation_and_a_data_directory(stranger: Ptn, tmp_path: Path) -> None:
    ended = stranger("resync")
    assert (ended.status, "--accept-removals" in ended.stderr) == (2, True)
    ended = stranger("resync", "--accept-removals", f"--data-dir={tmp_path / 'missing'}")
    assert (ended.status, "--data-dir" in ended.stderr) == (2, True)


def test_resync_without_a_server_leaves_no_consent(stranger: Ptn, tmp_path: Path) -> None:
    """It would be taken for consent to what is missing at some later start."""
    ended = stranger("resync", "--accept-removals", f"--data-dir={tmp_path}")
    assert (ended.status, ended.stdout) == (4, "")
    assert f"no server runs on {tmp_path}" in ended.stderr
    assert list(tmp_path.iterdir()) == []
