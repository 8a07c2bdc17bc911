"""Orders, positions, trade pairs and miners, and the network's rules for them. Pure.

`accounting` derives a position's state from its orders: `accounting_leverage` and `accounting_usd` have the
formulas, `fees` the fees. `tiers` and `rendering` decide what each tier shows of it, `miner` sums up a
miner's positions; `checksum` tells whether two holders of the same positions agree. `repair` makes odd JSON
fit, `documents` and `statistics` have the types of what is served besides. The formulas are those of
docs/accounting.md.
"""
