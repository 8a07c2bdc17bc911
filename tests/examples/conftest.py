from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live import Live, serving


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("live")) as server:
        yield server
