"""A program for N ranks: combines the gradients of an epoch's first and last global batch, evaluates one checkpoint,
and writes all of it from rank 0.

    mpirun -np N python -m tests.parallel.gradient_and_accuracy CHECKPOINT OUTPUT.npz TRAIN-OPTION...
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from horovod_flowers.config.command_line import parse
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.opening import open_data
from horovod_flowers.launch.job_environment import JobEnvironment
from horovod_flowers.ranks.startup import connect, start_tensorflow, take_cores
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.training.setup import start_horovod_if_needed


def main(words: Sequence[str]) -> None:
    checkpoint_path, output, *options = words
    with error_boundary("numbers"):
        config = parse(RunConfig, "numbers", "", options)
        ranks = connect(JobEnvironment.from_environment(os.environ), config.threads, config.bind)
        prepared, images = open_data(config, ranks)
        # As train does: both may run in one process, whose threads are made once.
        start_tensorflow(ranks, ranks.allreduce_min(take_cores(ranks, config.bind, config.threads).physical))
        ranks = start_horovod_if_needed(config, ranks)
        import tensorflow as tf

        from horovod_flowers.checkpoint.format import load_checkpoint
        from horovod_flowers.data.batches import evaluation_batches, training_batches
        from horovod_flowers.training.engine import TrainingEngine

        engine = TrainingEngine(config, ranks, prepared, images, config.strategy, "fp32")
        tensors = load_checkpoint(Path(checkpoint_path), engine.state.shapes).tensors if ranks.rank == 0 else None
        engine.state.share(tensors)
        batches = training_batches(
            prepared,
            images.training,
            global_batch=engine.global_batch,
            rank=ranks.rank,
            size=ranks.size,
            seed=config.seed,
            epoch=1,
            augmentation=None,
        )
        first, *_, last = batches

        @tf.function
        def combined(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor) -> list[tf.Tensor]:
            _, _, gradients = engine.step.local_gradients(images, labels, weights, shares)
            return engine.strategy.reduce_gradients(gradients)

        numbers = {}
        for name, batch in (("first", first), ("last", last)):
            shares = np.array([ranks.size / batch.global_images, 1], np.float32)
            for k, gradient in enumerate(combined(batch.images, batch.labels, batch.weights, shares)):
                numbers[f"{name}.{k}"] = gradient.numpy()
        evaluation = engine.evaluate(
            evaluation_batches(prepared, images.validation, batch=5, rank=ranks.rank, size=ranks.size)
        )
        if ranks.rank == 0:
            counts = [evaluation.correct, evaluation.images, evaluation.loss]
            np.savez(output, evaluation=np.array(counts), **numbers)
        ranks.barrier()


if __name__ == "__main__":
    main(sys.argv[1:])
