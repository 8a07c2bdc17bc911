"""`ptn keys` without a server; `tests/system/test_keys.py` runs it next to one."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from ptn_api.access import KeyFile, KeyRing, check_keys, parse_keys
from tests.cli.ptn import Ptn
from tests.live import bare_environment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api_keys.json"


@pytest.fixture
def ptn(tmp_path: Path, path: Path) -> Ptn:
    """`ptn` of an operator whose key file is in the environment."""
    return Ptn(tmp_path, bare_environment(tmp_path) | {"PTN_API_KEYS_FILE": str(path)})


@pytest.mark.parametrize("expires", ["999999w", "2020-01-01T00:00:00Z", "2020-01-01", "5y", "1_0d", "-1d"])
def test_an_impossible_expiry_creates_no_key(ptn: Ptn, path: Path, expires: str) -> None:
    """In the past, beyond 100 years or malformed: wrong usage, and nothing is written."""
    ended = ptn("keys", "add", "alice", "--tier=100", f"--expires={expires}")
    assert (ended.status, ended.stdout) == (2, "")
    assert "--expires" in ended.stderr
    assert not path.exists()


@pytest.mark.parametrize(("tier", "stored"), [("200", 200), ("42", 42), ("99.5", 99.5), ("0", 0)])
def test_a_tier_is_any_number_from_0_on(ptn: Ptn, path: Path, tier: str, stored: float) -> None:
    """It is stored as typed, and counts as the next lower tier."""
    assert ptn("keys", "add", "alice", f"--tier={tier}").status == 0
    assert repr(json.loads(path.read_text())["alice"]["tier"]) == repr(stored)


@pytest.mark.parametrize("tier", ["-1", "nan", "inf", "x"])
def test_what_is_no_tier_creates_no_key(ptn: Ptn, path: Path, tier: str) -> None:
    ended = ptn("keys", "add", "alice", f"--tier={tier}")
    assert (ended.status, ended.stdout) != (0, "")
    assert "tier" in ended.stderr
    assert not path.exists() or path.read_text() == "{}\n"


def test_without_a_key_file_the_servers_default_places_are_used(tmp_path: Path) -> None:
    """The file in the working directory is made where there is none; the validator's is found."""
    ptn = Ptn(tmp_path, bare_environment(tmp_path))
    validators = tmp_path / "validator" / "vanta_api" / "api_keys.json"
    validators.parent.mkdir(parents=True)
    validators.write_text('\ufeff{"entity": {"key": "k", "tier": 200}, "bob": null}')
    validators.chmod(0o600)
    listed = ptn("keys", "list", "--validator-dir=validator", f"--data-dir={tmp_path}")
    assert "\t200\t" in listed.lines[1]
    assert "entries left out: 1; see `ptn keys check`" in listed.stderr
    checked = ptn("keys", "check", "--validator-dir=validator")
    sentence = 'user "bob": expected a key, or an object with key and tier; the entry is left out'
    assert (checked.status, checked.lines) == (1, [f"{validators}:1: {sentence}"])
    own = tmp_path / "ptn_api" / "api_keys.json"
    assert f"to {own}." in ptn("keys", "add", "alice", "--tier=30").stderr
    assert [*json.loads(own.read_text())] == ["alice"]
    assert "alice" in ptn("keys", "list", "--validator-dir=validator", f"--data-dir={tmp_path}").stdout


def test_an_expiry_is_utc_unless_it_has_an_offset(ptn: Ptn, path: Path) -> None:
    """Like every time on the command line."""
    assert ptn("keys", "add", "alice", "--tier=100", "--expires=2130-01-01").status == 0
    assert ptn("keys", "add", "bob", "--tier=100", "--expires=2130-01-01T02:00:00+02:00").status == 0
    entries = json.loads(path.read_text())
    assert entries["alice"]["expires"] == entries["bob"]["expires"] == "2130-01-01T00:00:00Z"


def test_long_durations_are_accepted(ptn: Ptn) -> None:
    """Up to a hundred years."""
    assert ptn("keys", "add", "alice", "--tier=100", "--expires=5200w").status == 0
    assert ptn("keys", "rotate", "alice", "--grace=999999w").status == 2


def test_the_key_alone_is_on_standard_output(ptn: Ptn) -> None:
    """So that it can be piped; sentences go to standard error."""
    added = ptn("keys", "add", "alice", "--tier=100")
    assert len(added.stdout.split()) == 1
    assert added.stderr.startswith("Added alice with tier 100 to ")
    rotated = ptn("keys", "rotate", "alice", "--grace=0")
    assert rotated.stdout != added.stdout
    assert "the old one is revoked" in rotated.stderr
    assert "stays valid for 12h" in ptn("keys", "rotate", "alice", "--grace=12h").stderr


@pytest.mark.parametrize("words", [("add", "alice", "--tier=100"), ("rotate", "bob")])
def test_a_new_key_is_written_to_a_file_when_it_is_valid(
    ptn: Ptn, path: Path, words: tuple[str, ...]
) -> None:
    """Only the user can read it, and it is not printed. A failure leaves no file, and none is replaced."""
    path.write_text('{"bob": "a key of many characters"}')
    target = path.parent / "my.key"
    failed = ptn("keys", words[0], words[1], "--key-file", target, *words[2:], PTN_API_KEYS_FILE="/proc/none")
    assert (failed.status, target.exists()) != (0, True)
    assert {*path.parent.iterdir()} == {path}
    target.touch()  # what `>` leaves after a failure
    added = ptn("keys", *words, "--key-file", target)
    assert (added.status, added.stdout) == (0, "")
    assert f"The key is in {target}." in added.stderr
    assert target.stat().st_mode & 0o777 == 0o600
    key = target.read_text().strip()
    assert key not in added.stderr
    grants = parse_keys(path.read_bytes()).grants
    assert words[1] in {grant.alias for grant in grants if grant.digest == sha256(key.encode()).digest()}
    before = path.read_bytes()
    again = ptn("keys", "rotate", words[1], "--key-file", target)
    assert again.status == 2
    assert f"--key-file {target} exists already" in again.stderr
    assert (path.read_bytes(), target.read_text().strip()) == (before, key)


def test_a_missing_key_file_is_told_alike(tmp_path: Path) -> None:
    """With all places where it may be, by every command, as wrong usage like a missing data directory."""
    ptn = Ptn(tmp_path, bare_environment(tmp_path))
    places = [f"ptn_api/{'api_keys.json'}", "v/vanta_api/api_keys.json", "v/ptn_api/api_keys.json"]
    sentence = f"key file not found: {', '.join(str(tmp_path / place) for place in places)}"
    for words in (["list"], ["check"], ["rotate", "alice"], ["revoke", "alice"]):
        ended = ptn("keys", *words, "--validator-dir=v")
        assert (ended.status, ended.stdout) == (2, "")
        assert ended.stderr == f"ptn: {sentence} (see --api-keys-file)\n"
    ports = ("--api-rest-port=0", "--api-ws-port=0")
    assert f"{sentence}; all requests" in ptn("doctor", "--validator-dir=v", *ports).stdout


def test_a_damaged_key_file_is_named(ptn: Ptn, path: Path) -> None:
    path.write_text('{"alice": ')
    for words in (["list"], ["add", "bob", "--tier=0"], ["rotate", "alice"]):
        ended = ptn("keys", *words)
        assert ended.status == 1
        assert ended.stderr.startswith(f"ptn: {path}: the key file is not a JSON object: line 1")


def test_problems_are_counted_as_they_are_printed(ptn: Ptn, path: Path) -> None:
    """Unknown fields are among them, in the list, the check and the server's log."""
    entry = {"key": "a key of many characters", "tier": "high", "colour": "red"}
    path.write_text(json.dumps({"alice": entry}))
    path.chmod(0o600)
    assert "2 problems in" in ptn("keys", "list").stderr
    assert len(ptn("keys", "check").lines) == 2
    key_file = KeyFile(path, KeyRing())
    key_file.refresh()
    checked = check_keys(path.read_bytes())
    assert [problem.line for problem in key_file.entry_problems] == [problem.line for problem in checked]
    assert any(problem.sentence == 'user "alice": unknown field' for problem in key_file.entry_problems)
    assert any(problem.sentence.endswith('unknown field "colour"') for problem in checked)
    path.write_text(json.dumps({"alice": entry | {"tier": 30}}))
    assert "1 problem in" in ptn("keys", "list").stderr


def test_a_short_key_is_warned_about(ptn: Ptn, path: Path) -> None:
    """It is valid all the same."""
    path.write_text('{"alice": "123456789012345", "bob": "1234567890123456"}')
    path.chmod(0o600)
    ended = ptn("keys", "check")
    assert (ended.status, ended.stdout) == (0, f"{path}: 2 keys, no problems\n")
    assert ended.stderr.startswith(
        f'ptn: warning: {path}: user "alice": the key has fewer than 16 characters'
    )
    assert "bob" not in ended.stderr
    assert "12345" not in ended.stderr


def test_usage_names_where_it_is_recorded(ptn: Ptn) -> None:
    assert "so there is no --api-keys-file" in " ".join(
        ptn("keys", "usage", "--help", COLUMNS="200").stdout.split()
    )


def test_a_missing_data_directory_is_not_an_idle_server(ptn: Ptn, tmp_path: Path) -> None:
    """A forgotten --data-dir must not read as "no key was ever used"."""
    missing = f"--data-dir={tmp_path / 'missing'}"
    ptn("keys", "add", "alice", "--tier=100")
    listed = ptn("keys", "list", missing)
    assert listed.lines[1].startswith("alice\t100")
    assert listed.lines[1].endswith("\tunknown")
    used = ptn("keys", "usage", missing)
    assert (used.status, used.stdout) == (2, "")
    assert "--data-dir" in used.stderr


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}]
)
def test_characters_that_the_locale_lacks_are_replaced(
    ptn: Ptn, path: Path, variables: dict[str, str]
) -> None:
    """In names and in messages; the output is complete, and the key usable."""
    for name in ("j\u00fcrgen", "\u5b89\u5168", "\U0001f600"):
        added = ptn.process("keys", "add", name, "--tier=100", "--note=\u00e9", **variables)
        assert added.status == 0, added.stderr
        assert added.stdout.strip().isascii()
    listed = ptn.process("keys", "list", **variables)
    assert (listed.status, len(listed.lines)) == (0, 4), listed.stderr
    assert "Traceback" not in ptn.process("keys", "check", **variables).stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, as under sudo")
def test_a_key_file_for_another_user_is_said(ptn: Ptn, path: Path) -> None:
    """With sudo it belongs to its directory's user. One that root made before is warned about."""
    os.chown(path.parent, 4321, 8765)
    added = ptn("keys", "add", "alice", "--tier=100")
    assert added.stderr.startswith(f"Created {path}, which belongs to uid 4321.\n")
    assert "warning" not in added.stderr
    os.chown(path, 0, 0)
    warned = ptn("keys", "add", "bob", "--tier=100").stderr
    assert "Created" not in warned
    assert f"chown --reference={path.parent} {path}" in warned
