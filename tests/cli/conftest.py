from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.ptn import Ptn
from tests.live import Live, bare_environment, serving


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("live")) as server:
        yield server


@pytest.fixture
def ptn(live: Live, tmp_path: Path) -> Ptn:
    """`ptn` with the live server's key and addresses in the environment."""
    return Ptn(tmp_path, live.environment(tmp_path))


@pytest.fixture
def stranger(tmp_path: Path) -> Ptn:
    """`ptn` without configuration or server."""
    return Ptn(tmp_path, bare_environment(tmp_path))
