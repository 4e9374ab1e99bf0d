"""How ranks divide the work of a training step. The only place besides start-up (ranks.py) that knows of Horovod.

    protocol.py      what a strategy has to offer
    replicated.py    one rank, ranks that train apart, and data parallelism by allreduce
    sharded.py       the same, with weights' updates and optimizer state divided over ranks
    tensor.py        large Dense layers divided over groups of ranks
    wide_dense.py    what becomes of a large Dense layer under each of them; exchange.py: its collective calls
    step_timer.py       timestamps inside a step
    layout.py        where the parts of a weight lie, so that checkpoints are the same under all
    communication_volume.py     calls and bytes of each, by formula
    choice.py        a strategy by name; trial.py: the fastest by measurement

Built on Horovod's raw collective calls: its DistributedOptimizer and DistributedGradientTape do not work under Keras 3
(horovod/horovod issue 4290).
"""
