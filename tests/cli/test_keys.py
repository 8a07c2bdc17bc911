"""`ptn keys`: what is typed, and what is told; `tests/system/test_keys.py` has it beside a running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ptn_api.cli.keys import keys_app
from ptn_api.errors import SettingsError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api_keys.json"


def keys(path: Path, *arguments: str) -> Any:
    return CliRunner().invoke(keys_app, [*arguments, f"--api-keys-file={path}"])


@pytest.mark.parametrize("expires", ["999999w", "2020-01-01T00:00:00Z", "2020-01-01", "5y", "1_0d", "-1d"])
def test_an_end_that_cannot_be_meant_makes_no_key(path: Path, expires: str) -> None:
    """Over already, after the end of time, or no time: wrong usage, and nothing is written."""
    result = keys(path, "add", "alice", "--tier=100", f"--expires={expires}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert not path.exists()


def test_an_end_is_utc_unless_it_says_otherwise(path: Path) -> None:
    """As every moment on the command line."""
    assert keys(path, "add", "alice", "--tier=100", "--expires=2130-01-01").exit_code == 0
    assert keys(path, "add", "bob", "--tier=100", "--expires=2130-01-01T02:00:00+02:00").exit_code == 0
    entries = json.loads(path.read_text())
    assert entries["alice"]["expires"] == entries["bob"]["expires"] == "2130-01-01T00:00:00Z"


def test_long_times_are_fine(path: Path) -> None:
    """Up to a hundred years."""
    assert keys(path, "add", "alice", "--tier=100", "--expires=5200w").exit_code == 0
    assert keys(path, "rotate", "alice", "--grace=999999w").exit_code == 2


def test_a_data_directory_that_is_not_there_is_not_taken_for_an_idle_server(
    path: Path, tmp_path: Path
) -> None:
    """Whoever forgets --data-dir must not read that nobody ever used a key."""
    nowhere = f"--data-dir={tmp_path / 'nowhere'}"
    keys(path, "add", "alice", "--tier=100")
    assert "alice\t100" in (listed := keys(path, "list", nowhere).stdout)
    assert listed.splitlines()[-1].endswith("\tunknown")
    usage = CliRunner().invoke(keys_app, ["usage", nowhere])
    assert isinstance(usage.exception, SettingsError)
    assert usage.stdout == ""
