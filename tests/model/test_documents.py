"""The challenge period in all its forms."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ptn_api.model.documents import periods


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (
            [{"bucket": "CHALLENGE", "bucket_start_time": 5}, {"bucket": "MAINCOMP", "start_time_ms": 9.0}],
            [("CHALLENGE", 5), ("MAINCOMP", 9)],
        ),
        (
            {"entries": [{"bucket": "PROBATION", "bucket_start_time": 5}], "drawdown": {}, "rank": 3},
            [("PROBATION", 5)],
        ),
        (
            {
                "bucket": "MAINCOMP",
                "bucket_start_time": 9,
                "previous_bucket": "CHALLENGE",
                "previous_bucket_start_time": 5,
            },
            [("CHALLENGE", 5), ("MAINCOMP", 9)],
        ),
        (
            {"bucket": "CHALLENGE", "bucket_start_time": 5, "previous_bucket": None},
            [("CHALLENGE", 5)],
        ),
        ([{"bucket": "NEWER"}, {"rank": 1}, 7], [("NEWER", None)]),
        ({"entries": 7}, None),
        ([], None),
        ("MAINCOMP", None),
    ],
)
def test_a_miners_buckets(state: Any, wanted: list[tuple[str, int | None]] | None) -> None:
    """Oldest first; a miner without any is left out."""
    found = {
        hotkey: [msgspec.structs.astuple(p)[:2] for p in p_list]
        for hotkey, p_list in periods({"a": state}).items()
    }
    assert found == ({} if wanted is None else {"a": wanted})


def test_the_form_of_the_whole_file() -> None:
    """The oldest one, which names the miners by bucket."""
    found = periods({"testing": {"a": 5}, "success": {"b": 9, "c": None}})
    assert msgspec.to_builtins(found) == {
        "a": [{"bucket": "CHALLENGE", "start_time_ms": 5}],
        "b": [{"bucket": "MAINCOMP", "start_time_ms": 9}],
        "c": [{"bucket": "MAINCOMP", "start_time_ms": None}],
    }
    assert periods({}) == periods([]) == periods({"testing": []}) == {}
