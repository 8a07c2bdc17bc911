"""Fixtures for tests of a running intake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.intake.validator_dir import ValidatorDir


@pytest.fixture
def validator(tmp_path: Path) -> ValidatorDir:
    return ValidatorDir(tmp_path / "validator")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"
