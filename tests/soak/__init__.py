"""Everything that can go wrong, at random, with a printed seed; and an independent checker (`make soak`).

validator   a simulated one, writing its directory and a journal of what it did
server      the real API, whose processes are killed
bots        our client library, following through a proxy that cuts, stalls, truncates and delays
trouble     what goes wrong, and when
checker     reads the validator's side and the bots' side, and compares
"""
