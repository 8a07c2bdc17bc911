"""A minute of the soak, as part of every test run; `make soak` runs longer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.system.api import ROOT


@pytest.mark.timeout(1_200)  # a minute of faults; catching up takes as long as the machine needs
def test_a_minute_of_everything_at_random_ends_with_zeros() -> None:
    """Every count is 0: nothing lost or repeated, every mirror equal to the files, every trouble shown."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "tests.soak", "--minutes", "1"),
            *("--clients", "30", "--orders-per-second", "20", "--trouble-every", "1", "--seed", "7"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
