"""A validator without a validator: a market, miners, and a directory written as a validator writes it.

The newcomer's first run (`--demo`), every acceptance test and every benchmark use it. It does all that a real
one does to its files (docs/architecture.md, "The source"), by a seed, and keeps a journal of what it did.
"""
