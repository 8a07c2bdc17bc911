"""Settings for every test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests import server_packages
from tests.properties import register_profiles

_MEMORY = "/dev/shm"
_ENOUGH_BYTES = 2 << 30

# Temporary directories are in memory where there is room: writing thousands of files takes a disk longer than
# it takes the tests to check them, and nothing here depends on a durable disk.
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)

register_profiles()


class _Skipped(pytest.Module):
    def collect(self) -> list[pytest.Item]:
        pytest.skip(f"{self.path.name}: {server_packages.MISSING}")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    name = module_path.relative_to(Path(__file__).parent).as_posix()
    if server_packages.INSTALLED or name not in server_packages.NEED_THE_SERVER:
        return None
    return _Skipped.from_parent(parent, path=module_path)
