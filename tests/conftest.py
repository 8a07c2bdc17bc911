"""Settings for every test."""

from __future__ import annotations

import os
import shutil

from tests.properties import register_profiles

_MEMORY = "/dev/shm"
_ENOUGH_BYTES = 2 << 30

# Temporary directories are in memory where there is room: writing thousands of files takes a disk longer than
# it takes the tests to check them, and nothing here depends on a durable disk.
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)

register_profiles()
