"""Names that may become part of keys, URLs and log lines."""

from __future__ import annotations

import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.intake.names import LONGEST_NAME, check_name
from tests.factories import MINER


@pytest.mark.parametrize("name", [MINER, "a", "BTCUSD", "x" * LONGEST_NAME, "miner 7", "名前", "a-b_c.d"])
def test_ordinary_names_pass(name: str) -> None:
    """Hotkeys, and whatever else is harmless."""
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".git", "a/b", "a\\b", 'a"', "a'", "a`"),
        *("a\n", "a\x00", "a\x7f", "\udce9", "a\u202eb", "x" * (LONGEST_NAME + 1)),
    ],
)
def test_others_are_refused(name: str) -> None:
    """Paths, quotes, control and direction characters, undecodable bytes, too long ones."""
    with pytest.raises(InvalidInputError) as refused:
        check_name(name)
    assert refused.value.code == "bad_name"
