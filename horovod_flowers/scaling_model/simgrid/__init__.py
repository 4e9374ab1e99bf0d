"""SimGrid as a second engine: the same calls and the same network as the formula's, simulated message by message.

    topology.py     star, fat tree, dragonfly: the platform that SimGrid reads
    rounds.py       each algorithm of a collective operation as rounds of messages between ranks
    step_trace.py   one step of every rank as a time-independent trace: compute, and Horovod's serial thread beside it
    engine.py       what the model asks: seconds of calls, and of whole steps
    replay.py       finds smpirun, lets it replay the trace, and reads the simulated time

SimGrid (Casanova et al. 2014, doi 10.1016/j.jpdc.2014.06.008) shares the bandwidth of links that messages have in
common, so it knows what a formula does not: oversubscribed trees, few links between groups of a dragonfly.
"""
