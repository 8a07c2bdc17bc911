from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import server_packages
from tests.cli.ptn import Ptn
from tests.live import Live, bare_environment, serving
from tests.system.api import api


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


@pytest.fixture(scope="package")
def of_today(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of a server on a directory of 2026, and a key of tier 200, as in the environment."""
    if not server_packages.INSTALLED:
        pytest.skip(server_packages.MISSING)
    from tests import newest

    home = tmp_path_factory.mktemp("newest")
    root = newest.unpack(home)
    with api(home / "data", validator_dir=root, keys=root / "vanta_api/api_keys.json") as server:
        yield {"PTN_API_KEY": "synth-key-200", "PTN_REST_URL": server.rest, "PTN_WS_URL": server.stream}
