"""Orders, positions, trade pairs and miners, and the network's rules for them. Pure.

`accounting` and `fees` derive a position's state from its orders, `tiers` and `rendering` what each tier
shows of it, `miner` the aggregates of a miner's positions; `checksum` tells whether two holders of the same
positions agree. The formulas are those of docs/accounting.md.
"""
