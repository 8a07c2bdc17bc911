"""A simulated validator: a market, miners, and a directory with the files that a real validator writes.

`ptn serve --demo`, the system tests and the benchmarks use it. It changes its files in every way a real one
does (docs/architecture.md, "The source"), driven by a seed, and journals each change.
"""

from ptn_api.simulator.options import SimulatorOptions
from ptn_api.simulator.simulator import Simulator, run_simulator

__all__ = ["Simulator", "SimulatorOptions", "run_simulator"]
