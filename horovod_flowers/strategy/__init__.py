"""How ranks divide the work of a training step: the gradients' collective calls and their bytes.

interface.py             what a strategy has to offer; choice.py: a strategy by name
allreduce.py             one rank, independent ranks, and data parallelism by allreduce
sharded.py               the same, with updates and optimizer state divided over ranks (ZeRO)
tensor_parallel.py       large Dense layers divided over groups of ranks
weight_use.py            what a model does with its weights, and so which of them may be divided
wide_dense.py            what becomes of a large Dense layer under each of them
batch_statistics.py      batch normalisation over the images of all ranks
layer_collectives.py     the collective calls of these layers
call_contents.py         which tensors go into one call; packing.py: putting them together
step_timer.py            timestamps inside a step
layout.py                where the parts of a weight lie, so that checkpoints are the same under all
communication_volume.py  bytes that each sends, by formula; step_calls.py: its calls, in the order of a step
trial.py                 the fastest by measurement ('auto')

Built on Horovod's raw collective calls: its DistributedOptimizer and DistributedGradientTape do not work under Keras 3
(horovod/horovod issue 4290).
"""
