"""What is traded: orders, positions, trade pairs, miners, and the network's rules for them. Pure.

`accounting` and `fees` say how a position's state follows from its orders, `tiers` and `shown` what each tier
sees of it and in which words, `miner` what a miner's positions add up to, `checksum` whether two holders of
the same positions agree. The formulas are those of docs/accounting.md.
"""
