from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notify.receiver import Receiver, receiving


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path / "receiver") as running:
        yield running
