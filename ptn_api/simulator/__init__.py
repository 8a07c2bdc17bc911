"""A simulated validator: a market, miners, and a directory with the files that a real validator writes.

`ptn serve --demo`, the system tests and the benchmarks use it. It changes its files in every way a real one
does (docs/architecture.md, "What a validator does to its files"), driven by a seed, and journals each change.
"""
