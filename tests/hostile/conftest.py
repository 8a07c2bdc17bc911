"""One server for all attacks: what one of them breaks, the next one finds broken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.fortress import Fortress, fortress_in


@pytest.fixture(scope="package")  # not the session's: its threads would go on under other packages' tests
def standing_fortress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fortress]:
    with fortress_in(tmp_path_factory.mktemp("fortress")) as fortress:
        yield fortress


@pytest.fixture
def fortress(standing_fortress: Fortress) -> Iterator[Fortress]:
    """Under attack as long as the test runs."""
    with standing_fortress.under_attack():
        yield standing_fortress
