"""How hard to try: little in every test run, more by `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["EFFORT", "tries"]

EFFORT = int(os.environ.get("PTN_FUZZ_EFFORT", "1"))


def tries(count: int) -> settings:
    """Hypothesis settings for so many examples in a short run."""
    return settings(
        max_examples=count * EFFORT,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
