"""Random faults with a printed seed, and an independent checker (`make soak`).

validator   a simulated one, which writes its directory and a journal of its actions
server      the real API, whose processes are killed
fleet       processes of bots, which follow through a proxy that cuts, stalls, truncates and delays
bots, plain our client library, and followers that know only the protocol
trouble     the faults and their times
cluster     several machines and NATS servers (`--cluster`); cluster_trouble: their faults
readers     REST readers, which come to another machine of the cluster with each request
load        how busy the machine was
report      the results of every bot
checker     compares the validator's journal with the bots' results
surroundings  the simulated validator, and other parts of every soak
"""
