"""The table of close codes."""

from __future__ import annotations

import pytest

from ptn_api.wire import close_codes
from ptn_api.wire.close_codes import CLOSE_CODES, STANDARD_CODES, CloseCode, should_return


def test_every_close_code_is_in_the_table_once() -> None:
    """No constant is missing, no code used twice."""
    named = [value for value in vars(close_codes).values() if isinstance(value, CloseCode)]
    tables = CLOSE_CODES | STANDARD_CODES
    assert sorted(tables.values()) == sorted(named)
    assert all(code == row.code for code, row in tables.items())


@pytest.mark.parametrize("row", CLOSE_CODES.values(), ids=lambda row: row.reason)
def test_a_reason_fits_into_a_close_frame_and_the_code_tells_whether_to_reconnect(row: CloseCode) -> None:
    """A control frame has 125 bytes, two of them the code; 41xx means "do not reconnect"."""
    assert 4000 <= row.code <= 4199
    assert 0 < len(row.reason.encode()) <= 123
    assert should_return(row.code) == (row.code < 4100)


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006, 1009, 1011, 3000, 4200, 4999])
def test_any_other_code_or_none_means_reconnect(code: int | None) -> None:
    """A proxy's close, a crash, a future code."""
    assert should_return(code)
