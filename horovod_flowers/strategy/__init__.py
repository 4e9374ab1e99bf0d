"""How ranks divide the work of a training step: the gradients' collective calls and their bytes.

interface.py             what a strategy has to offer; choice.py: a strategy by name
allreduce.py             one rank, independent ranks, and data parallelism by allreduce
sharded.py               the same, with updates and optimizer state divided over ranks (ZeRO)
tensor_parallel.py       large Dense layers divided over groups of ranks
wide_dense.py            what becomes of a large Dense layer under each of them; its calls in wide_dense_collectives.py
packing.py               several tensors in one call, the same ones in every run
step_timer.py            timestamps inside a step
layout.py                where the parts of a weight lie, so that checkpoints are the same under all
communication_volume.py  calls and bytes of each, by formula
trial.py                 the fastest by measurement ('auto')

Built on Horovod's raw collective calls: its DistributedOptimizer and DistributedGradientTape do not work under Keras 3
(horovod/horovod issue 4290).
"""
