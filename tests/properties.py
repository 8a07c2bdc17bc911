"""Hypothesis profiles of the property tests.

`quick` is the default, `full` is what `make test` runs, `fuzz` what `make fuzz` runs. The first two derive
their examples from the tests' source, so that a run repeats; only `fuzz` draws a new seed each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["register_profiles", "tries"]

_FUZZ_EFFORT = int(os.environ.get("PTN_FUZZ_EFFORT", "20"))
# Slowness is the machine's business; the hostile tests attack one server from nested properties.
_SUPPRESSED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.nested_given]


def register_profiles() -> None:
    """Registers the profiles and selects `quick`; pytest's --hypothesis-profile selects another one.

    No example database and no deadline: what an earlier run found and how busy the machine is must not
    change a result.
    """
    for name, max_examples in [("quick", 20), ("full", 100), ("fuzz", 100 * _FUZZ_EFFORT)]:
        settings.register_profile(
            name,
            max_examples=max_examples,
            derandomize=name != "fuzz",
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=_SUPPRESSED,
        )
    settings.load_profile("quick")


def tries(count: int, **others: int) -> settings:
    """Settings for `count` examples in the `full` profile; the other profiles scale the count."""
    return settings(max_examples=max(5, count * settings().max_examples // 100), **others)
