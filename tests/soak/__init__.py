"""Everything that can go wrong, at random, with a printed seed; and an independent checker (`make soak`).

validator   a simulated one, writing its directory and a journal of what it did
server      the real API, whose processes are killed
fleet       processes of bots, following through a proxy that cuts, stalls, truncates and delays
bots, plain our client library, and followers that know the protocol only
trouble     what goes wrong, and when
load        how busy the machine was with all that
report      what every bot has to say at the end
checker     reads the validator's side and the bots' side, and compares
"""
