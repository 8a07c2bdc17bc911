"""For every test: properties have no deadline, since how long an example takes is the machine's business."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_library = settings.get_profile(settings.get_current_profile_name())  # Hypothesis has one of its own for CI
settings.register_profile("ptn", _library, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ptn")
