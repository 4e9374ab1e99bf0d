"""Horovod's Keras interface, for Keras 3: `import horovod_flowers.keras as hvd` in a script that was written for
`horovod.tensorflow.keras` (or `horovod.keras`) of Horovod 0.28.1. docs/keras.md says what differs.

backend.py                the back end of Keras that this works on, checked before Keras is imported
startup.py                init, shutdown
collectives.py            allreduce, allgather, broadcast and others of values
distributed_optimizer.py  DistributedOptimizer, PartialDistributedOptimizer
gradient_reduction.py     gradients combined over ranks; agreement.py: which ones, agreed on by the ranks
equal_batches.py          ranks that do not train equally many batches
backward_passes.py        gradients added up over several backward passes before that
saved_model.py            load_model
callbacks.py              the callbacks, of learning_rate.py, metric_average.py and broadcast.py
elastic.py                KerasState, run and the callbacks of jobs whose ranks come and go
recorded_fits.py          the run log of a script that a study has started
argument_error.py         what an argument that cannot work is refused with
"""

from horovod_flowers.keras.backend import check_backend, check_horovod

check_backend()
check_horovod()

from horovod.tensorflow import (  # noqa: E402
    Adasum,
    Average,
    Max,
    Min,
    Product,
    Sum,
    allgather_object,
    ccl_built,
    cross_rank,
    cross_size,
    cuda_built,
    ddl_built,
    gloo_built,
    gloo_enabled,
    is_homogeneous,
    is_initialized,
    local_rank,
    local_size,
    mpi_built,
    mpi_enabled,
    mpi_threads_supported,
    nccl_built,
    rank,
    rocm_built,
    size,
    start_timeline,
    stop_timeline,
)
from horovod.tensorflow.compression import Compression  # noqa: E402
from horovod.tensorflow.mpi_ops import (  # noqa: E402
    ProcessSet,
    add_process_set,
    global_process_set,
    remove_process_set,
)

from horovod_flowers.keras import callbacks, elastic  # noqa: E402
from horovod_flowers.keras.collectives import (  # noqa: E402
    allgather,
    allreduce,
    broadcast,
    broadcast_global_variables,
    broadcast_object,
    broadcast_variables,
    reducescatter,
)
from horovod_flowers.keras.distributed_optimizer import (  # noqa: E402
    DistributedOptimizer,
    PartialDistributedOptimizer,
)
from horovod_flowers.keras.saved_model import load_model  # noqa: E402
from horovod_flowers.keras.startup import init, shutdown  # noqa: E402

__all__ = [
    "Adasum",
    "Average",
    "Compression",
    "DistributedOptimizer",
    "Max",
    "Min",
    "PartialDistributedOptimizer",
    "ProcessSet",
    "Product",
    "Sum",
    "add_process_set",
    "allgather",
    "allgather_object",
    "allreduce",
    "broadcast",
    "broadcast_global_variables",
    "broadcast_object",
    "broadcast_variables",
    "callbacks",
    "ccl_built",
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "elastic",
    "global_process_set",
    "gloo_built",
    "gloo_enabled",
    "init",
    "is_homogeneous",
    "is_initialized",
    "load_model",
    "local_rank",
    "local_size",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "rank",
    "reducescatter",
    "remove_process_set",
    "rocm_built",
    "shutdown",
    "size",
    "start_timeline",
    "stop_timeline",
]
