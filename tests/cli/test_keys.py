"""`ptn keys` without a server; `tests/system/test_keys.py` runs it next to one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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


def test_an_unknown_tier_creates_no_key(ptn: Ptn, path: Path) -> None:
    ended = ptn("keys", "add", "alice", "--tier=31")
    assert ended == (2, "", "ptn: --tier: expected 0, 30, 50 or 100, not 31\n")
    assert not path.exists()


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
