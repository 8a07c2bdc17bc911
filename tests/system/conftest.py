"""Fixtures of the system tests: a validator's directory, keys, and a data directory for the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ptn_api.access import add_key
from tests.system.validator import Validator


@pytest.fixture
def validator(tmp_path: Path) -> Validator:
    return Validator(tmp_path / "validator")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[dict[int, str]]:
    """A key for each tier, in the server's key file. Afterwards no log may contain one."""
    made = {tier: add_key(tmp_path / "api_keys.json", f"user-{tier}", tier) for tier in (0, 30, 50, 100)}  # type: ignore[arg-type]
    yield made
    for log in tmp_path.rglob("*.log"):
        logged = log.read_text(errors="replace")
        assert not [tier for tier, key in made.items() if key in logged], f"a key is in {log.name}"
