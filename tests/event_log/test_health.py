"""An unreadable log is logged once per outage and retried; other errors pass."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from ptn_api.errors import LogError, LogPrunedError, LogReplacedError, LogUnusableError
from ptn_api.event_log.health import LogHealth


def test_an_outage_is_logged_at_its_beginning_and_its_end() -> None:
    """However many reads fail in between, and again for the next outage."""
    health = LogHealth()
    with capture_logs() as lines:
        for error in (None, LogError("disk"), LogUnusableError("disk", code="corrupt"), None, None):
            with health:
                if error:
                    raise error
            assert health.failing == (error is not None)
    assert [(line["event"], line.get("code")) for line in lines] == [
        ("log_unreadable", "log_error"),
        ("log_readable_again", None),
    ]
    with capture_logs() as lines, health:
        raise LogError("disk again")
    assert [line["event"] for line in lines] == ["log_unreadable"]


@pytest.mark.parametrize("error", [LogPrunedError("gone"), LogReplacedError("other"), ValueError("bug")])
def test_errors_that_a_retry_does_not_help_against_pass(error: Exception) -> None:
    """They say nothing about whether the log is readable."""
    health = LogHealth()
    with capture_logs() as lines, pytest.raises(type(error)), health:
        raise error
    assert not health.failing
    assert lines == []
