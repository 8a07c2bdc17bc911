"""Fixtures for tests of a running intake."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.intake.validator_dir import ValidatorDir

_MEMORY = "/dev/shm"


@pytest.fixture
def validator(tmp_path: Path) -> ValidatorDir:
    return ValidatorDir(tmp_path / "validator")


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data directory, in memory where that is possible: nothing here depends on a durable log."""
    if not os.access(_MEMORY, os.W_OK):
        yield tmp_path / "data"
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY) as path:
        yield Path(path) / "data"
