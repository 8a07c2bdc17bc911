"""What every system test starts from: a validator's directory, keys, and a place for the server's data."""

from __future__ import annotations

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
def keys(tmp_path: Path) -> dict[int, str]:
    """Tier -> a key of that tier, in the key file that the server is given."""
    return {tier: add_key(tmp_path / "api_keys.json", f"user-{tier}", tier) for tier in (0, 30, 50, 100)}  # type: ignore[arg-type]
