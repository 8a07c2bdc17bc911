"""An unreadable log is logged once per outage and retried; other errors pass."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from ptn_api.errors import LogError, LogPrunedError, LogReplacedError, LogUnusableError
from ptn_api.event_log.outage import LogOutage


def test_an_outage_is_logged_at_its_beginning_and_its_end() -> None:
    """However many reads fail in between, and again for the next outage."""
    outage = LogOutage()
    with capture_logs() as lines:
        for error in (None, LogError("disk"), LogUnusableError("disk", code="corrupt"), None, None):
            with outage.reading("tail"):
                if error:
                    raise error
            assert bool(outage.failing) == (error is not None)
    assert [(line["event"], line.get("code")) for line in lines] == [
        ("log_unreadable", "log_error"),
        ("log_readable_again", None),
    ]
    with capture_logs() as lines, outage.reading("tail"):
        raise LogError("disk again")
    assert [line["event"] for line in lines] == ["log_unreadable"]


def test_an_outage_lasts_until_every_reader_works_again() -> None:
    """Several readers of a process are one outage; a reader that gave up does not prolong it."""
    outage = LogOutage()
    with capture_logs() as lines:
        for reader in ("tail", "source", 7):
            outage.failed(reader, LogError("disk"))
        outage.succeeded("tail")
        outage.forget(7)
        assert outage.failing
        outage.succeeded("source")
    assert not outage.failing
    assert [line["event"] for line in lines] == ["log_unreadable", "log_readable_again"]


def test_an_outage_ends_when_its_last_reader_gives_up() -> None:
    """The next outage is then logged as another one."""
    outage = LogOutage()
    with capture_logs() as lines:
        for _ in range(2):
            outage.failed(7, LogError("disk"))
            outage.forget(7)
        outage.forget(8)
    assert [line["event"] for line in lines] == ["log_unreadable", "log_readable_again"] * 2


@pytest.mark.parametrize("error", [LogPrunedError("gone"), LogReplacedError("other"), ValueError("bug")])
def test_errors_that_a_retry_cannot_fix_pass(error: Exception) -> None:
    """They say nothing about whether the log is readable."""
    outage = LogOutage()
    with capture_logs() as lines, pytest.raises(type(error)), outage.reading("tail"):
        raise error
    assert not outage.failing
    assert lines == []
